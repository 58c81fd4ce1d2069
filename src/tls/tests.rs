use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

use super::*;

type Holder = CertifiedIssuer<'static, KeyPair>;

/// Made with `openssl x509 -req`, which adds no extensions and so makes version 1.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBFTCBvQIUQOHTTV46bxMASPbxjDieTvJUZIgwCgYIKoZIzj0EAwIwDTELMAkG
A1UEAwwCQ0EwIBcNMjYxMTI3MTk0MzQzWhgPMjEyNjExMDMxOTQzNDNaMA0xCzAJ
BgNVBAMMAmRiMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOo6JC3FopUw4OVlT
0HWOF6GC9TgVZx3j22teP+4Cw2++fJRqS+s5vDKZ69/XSlKw2wzPp11qFfiUqv/z
/zyurzAKBggqhkjOPQQDAgNHADBEAiAZKnmfgWOa9ha9pTzrkDmyRatMSPV4ran9
0rgfBHx5PQIgP3C5jpFExXNNQa5t/UUnjs4g4enESzwiqlPUVxwFkig=
-----END CERTIFICATE-----
";

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_until(name: &str, year: i32) -> Holder {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = date_time_ymd(year, 1, 1);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn server(name: &str, issuer: &Holder) -> Holder {
    CertifiedIssuer::signed_by(params(name), KeyPair::generate().unwrap(), issuer).unwrap()
}

fn trust(pems: &[String], names: ServerNames) -> anyhow::Result<Verifier> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pems.concat()).unwrap();
    let trusted = Trusted::File(TrustedFile::read("sslrootcert", file.path().to_str().unwrap(), names)?);
    Ok(Verifier { trusted, provider: Arc::new(ring::default_provider()) })
}

/// The text for an operator, if the certificate is refused.
fn check(file: &Verifier, chain: &[&CertificateDer<'static>], name: &'static str) -> Result<(), String> {
    let intermediates: Vec<_> = chain[1..].iter().map(|one| (*one).clone()).collect();
    let name = name.try_into().unwrap();
    match file.verify_server_cert(chain[0], &intermediates, &name, &[], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(refused_certificate(&std::io::Error::other(error), "sslrootcert").expect("it is about a certificate"))
        }
    }
}

const NOT_SIGNED: &str = "no trusted authority has signed it";

#[test]
fn a_servers_own_key_signs_for_no_other_name() {
    let authority = authority_until("ca", 4000);
    let leaf = server("db", &authority);
    let forged = server("other", &leaf);
    // A server's certificate followed by its authority's, as in `fullchain.pem`.
    for (names, pems) in [
        (ServerNames::Checked, vec![leaf.pem(), authority.pem()]),
        (ServerNames::Checked, vec![leaf.pem()]),
        (ServerNames::Ignored, vec![leaf.pem(), authority.pem()]),
    ] {
        let file = trust(&pems, names).unwrap();
        assert_eq!(check(&file, &[leaf.der()], "db"), Ok(()));
        let refused = check(&file, &[forged.der(), leaf.der()], "other").unwrap_err();
        assert!(refused.contains(NOT_SIGNED) || refused.contains("not trusted"), "{refused}");
    }
    let file = trust(&[leaf.pem()], ServerNames::Checked).unwrap();
    assert!(check(&file, &[leaf.der()], "other").unwrap_err().contains("the host is not among"));
}

#[test]
fn an_authority_that_has_expired_is_none() {
    let (old, new) = (authority_until("old", 2020), authority_until("new", 4000));
    let file = trust(&[old.pem(), new.pem()], ServerNames::Checked).unwrap();
    assert!(check(&file, &[server("db", &old).der()], "db").unwrap_err().contains(NOT_SIGNED));
    assert_eq!(check(&file, &[server("db", &new).der()], "db"), Ok(()));
    let error = trust(&[old.pem()], ServerNames::Checked).unwrap_err().to_string();
    assert!(error.contains("none of which is valid today"), "{error}");
}

#[test]
fn a_certificate_of_version_1_is_called_so() {
    let server = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let file = trust(&[authority_until("CA", 4000).pem()], ServerNames::Ignored).unwrap();
    let refused = check(&file, &[&server], "db").unwrap_err();
    assert!(refused.contains("X.509 version 1: have it issued again as version 3"), "{refused}");
}

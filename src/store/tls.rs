//! Encrypts connections to the database, and checks its certificate as far as the address asks for it.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_postgres_rustls::MakeRustlsConnect;

pub(super) type Tls = MakeRustlsConnect;

/// Whose certificate a server may have.
pub(super) enum Trust<'a> {
    Anyone,
    /// For the server's name, and of an authority that the system trusts.
    System,
    /// Of an authority whose certificate is in the file.
    File {
        file: &'a str,
        name: ServerNames,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerNames {
    Checked,
    Ignored,
}

/// `direct` is a handshake that no request of the protocol comes before.
pub(super) fn connector(trust: &Trust<'_>, direct: bool) -> anyhow::Result<Tls> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let own = |verifier| builder.clone().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let mut client = match trust {
        Trust::Anyone => own(Arc::new(EncryptOnly(provider))),
        Trust::System => {
            let builder = builder.clone().with_platform_verifier();
            builder.context("the system's CA certificates cannot be read")?.with_no_client_auth()
        }
        Trust::File { file, name } => own(Arc::new(OfFile::read(file, *name, provider)?)),
    };
    if direct {
        // PostgreSQL takes no other.
        client.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(client))
}

/// Why a server's certificate was refused, if that is what an error is about.
pub(super) fn refused_certificate(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let io = error.downcast_ref::<std::io::Error>()?;
    let rustls::Error::InvalidCertificate(why) = io.get_ref()?.downcast_ref::<rustls::Error>()? else { return None };
    Some(match why {
        CertificateError::UnknownIssuer => "no trusted authority has signed it: name yours with sslrootcert".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the host is not among its subject alternative names".to_owned()
        }
        CertificateError::Other(why) => {
            format!("it is not trusted ({why}): name its authority's with sslrootcert, or itself")
        }
        other => other.to_string(),
    })
}

/// Trusts the certificates of one file.
#[derive(Debug)]
struct OfFile {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
    names: ServerNames,
}

impl OfFile {
    fn read(file: &str, names: ServerNames, provider: Arc<CryptoProvider>) -> anyhow::Result<Self> {
        let pem = std::fs::read(file).with_context(|| format!("sslrootcert names {file}, which cannot be read"))?;
        let trusted: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
        if usable == 0 {
            bail!(
                "sslrootcert names {file}, which holds no certificate: it must begin with -----BEGIN CERTIFICATE-----"
            );
        }
        let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build()?;
        Ok(Self { chains, trusted, names })
    }
}

impl ServerCertVerifier for OfFile {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext, Other};
        match self.chains.verify_server_cert(server, intermediates, name, ocsp, now) {
            // The name is looked at last, after the chain.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if self.names == ServerNames::Ignored =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // A server that is its own authority, as `openssl req -x509` makes one and PostgreSQL's manual shows (18.9.5).
            Err(rustls::Error::InvalidCertificate(Other(_))) if self.trusted.iter().any(|one| one == server) => {
                if self.names == ServerNames::Checked {
                    let server = rustls::server::ParsedCertificate::try_from(server)?;
                    rustls::client::verify_server_name(&server, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Accepts any certificate, as libpq's `require` and `prefer` do.
#[derive(Debug)]
struct EncryptOnly(Arc<CryptoProvider>);

impl ServerCertVerifier for EncryptOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! TLS for connections to our own servers (PostgreSQL, RabbitMQ): which certificates are accepted. Connections to receivers
//! have a TLS of their own in `sender`.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt as _;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::time::Validity;
use x509_cert::{Certificate, TbsCertificate, Version};

/// Which certificates of a server are accepted.
pub(crate) enum Trust<'a> {
    /// Any certificate: the connection is encrypted, and the server may be anybody.
    Anyone,
    /// Certificates for the server's name, signed by an authority that the operating system trusts.
    System,
    /// Certificates that are in a file, or are signed by an authority whose certificate is in it. `setting` is for errors.
    File { setting: &'a str, file: &'a str, name: ServerNames },
}

/// Whether a certificate must be for the server's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerNames {
    Checked,
    Ignored,
}

/// The TLS settings of a client. Reads files.
///
/// # Errors
///
/// The file of authorities, or the system's certificates, cannot be read or hold no certificate that is valid today.
pub(crate) fn client(trust: &Trust<'_>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let trusted = match trust {
        Trust::System => None,
        Trust::Anyone => Some(Trusted::Anyone),
        Trust::File { setting, file, name } => Some(Trusted::File(TrustedFile::read(setting, file, *name)?)),
    };
    let builder = match trusted {
        None => builder.with_platform_verifier().context("the system's CA certificates cannot be read")?,
        Some(trusted) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { trusted, provider })),
    };
    Ok(builder.with_no_client_auth())
}

/// Why a server's certificate was refused, for an operator. `None` if the error is about something else. `setting` is the
/// setting that names a file of authorities.
pub(crate) fn refused_certificate(error: &(dyn std::error::Error + 'static), setting: &str) -> Option<String> {
    let inner: &(dyn std::error::Error + 'static) = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    // An HTTP client wraps the error of TLS in two I/O errors.
    let Some(of_tls) = inner.downcast_ref::<rustls::Error>() else { return refused_certificate(inner, setting) };
    let rustls::Error::InvalidCertificate(why) = of_tls else { return None };
    Some(match why {
        CertificateError::UnknownIssuer => format!("no trusted authority has signed it: name yours with {setting}"),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the host is not among its subject alternative names".to_owned()
        }
        CertificateError::Other(why) if matches!(why.0.downcast_ref(), Some(webpki::Error::UnsupportedCertVersion)) => {
            "it is of X.509 version 1: have it issued again as version 3".to_owned()
        }
        CertificateError::Other(why) => {
            format!("it is not trusted ({why}): name its authority's with {setting}, or itself")
        }
        other => other.to_string(),
    })
}

/// Accepts the certificates of one file, and what the authorities in it have signed.
///
/// libpq requires a chain that ends in a self-signed certificate; here an intermediate authority in the file is enough.
/// Certificates that are not valid today are left out when the file is read.
#[derive(Debug)]
struct TrustedFile {
    authorities: RootCertStore,
    all: Vec<CertificateDer<'static>>,
    names: ServerNames,
}

impl TrustedFile {
    fn read(setting: &str, file: &str, names: ServerNames) -> anyhow::Result<Self> {
        let pem = std::fs::read(file).with_context(|| format!("{setting} names {file}, which cannot be read"))?;
        let mut all: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        let mut authorities = RootCertStore::empty();
        all.retain(|one| RootCertStore::empty().add(one.clone()).is_ok());
        if all.is_empty() {
            bail!("{setting} names {file}, which holds no certificate: it must begin with -----BEGIN CERTIFICATE-----");
        }
        all.retain(is_valid_today);
        if all.is_empty() {
            bail!("{setting} names {file}, which holds certificates, none of which is valid today");
        }
        authorities.add_parsable_certificates(all.iter().filter(|one| is_authority(one)).cloned());
        Ok(Self { authorities, all, names })
    }

    fn check(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), rustls::Error> {
        use CertificateError::{Other, UnknownIssuer};
        let (parsed, algorithms) = (ParsedCertificate::try_from(server)?, algorithms.all);
        match verify_server_cert_signed_by_trust_anchor(&parsed, &self.authorities, intermediates, now, algorithms) {
            // The server's own certificate is in the file, as with one made by `openssl req -x509` (PostgreSQL's manual, 18.9.5).
            // An expired one gives another error.
            Err(rustls::Error::InvalidCertificate(Other(_) | UnknownIssuer))
                if self.all.iter().any(|one| one == server) => {}
            checked => checked?,
        }
        match self.names {
            ServerNames::Checked => verify_server_name(&parsed, name),
            ServerNames::Ignored => Ok(()),
        }
    }
}

/// `None` if the certificate breaks the rules of RFC 5280, for example by a serial number that is too long.
fn parsed(certificate: &CertificateDer<'_>) -> Option<TbsCertificate> {
    Certificate::from_der(certificate).ok().map(|parsed| parsed.tbs_certificate)
}

/// Whether today lies within the certificate's validity, or the certificate cannot be parsed.
fn is_valid_today(certificate: &CertificateDer<'_>) -> bool {
    let now = UnixTime::now().as_secs();
    parsed(certificate).is_none_or(|parsed| {
        let Validity { not_before, not_after } = parsed.validity;
        (not_before.to_unix_duration().as_secs()..=not_after.to_unix_duration().as_secs()).contains(&now)
    })
}

/// Whether the certificate may sign others. A file may hold a server's own certificate beside its authority's, and the server's
/// key must not sign for other names.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    parsed(certificate).is_some_and(|parsed| match parsed.get::<BasicConstraints>() {
        Ok(Some((_, constraints))) => constraints.ca,
        // Certificates of version 1 have no extensions: a self-signed one is an authority.
        Ok(None) => parsed.version == Version::V1 && parsed.subject == parsed.issuer,
        Err(_) => false,
    })
}

/// Which certificates [`Verifier`] accepts.
#[derive(Debug)]
enum Trusted {
    /// Any, as libpq's `require` and `prefer`.
    Anyone,
    File(TrustedFile),
}

/// Checks certificates in place of the operating system.
#[derive(Debug)]
struct Verifier {
    trusted: Trusted,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Trusted::File(file) = &self.trusted {
            file.check(server, intermediates, name, now, self.provider.signature_verification_algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;

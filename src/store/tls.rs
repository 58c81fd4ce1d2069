//! Reads the database's address and encrypts the connection as it asks.
//!
//! `sslmode` means what it means to libpq (PostgreSQL manual, 34.19): `require` encrypts, `verify-full` also checks the
//! server's certificate and name.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

pub(super) type Tls = MakeRustlsConnect;

pub(super) fn read_url(url: &str) -> anyhow::Result<(Config, Tls)> {
    let (url, verified) = take_verify_full(url)?;
    // The parser's error may repeat a part of the address, and with it the password.
    let mut config: Config = url.parse().map_err(|_| anyhow::anyhow!("a part of it cannot be read"))?;
    if verified {
        config.ssl_mode(SslMode::Require);
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let client = if verified {
        builder.with_platform_verifier().context("the system's CA certificates cannot be read")?.with_no_client_auth()
    } else {
        let verifier = Arc::new(EncryptOnly(provider));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    Ok((config, MakeRustlsConnect::new(client)))
}

/// tokio-postgres knows no `verify-full`: it is taken out of the address and done here.
fn take_verify_full(url: &str) -> anyhow::Result<(String, bool)> {
    let mut url = url::Url::parse(url).context("it is not a URL")?;
    let is_mode = |(name, value): (_, _)| name == "sslmode" && value == "verify-full";
    if !url.query_pairs().any(is_mode) {
        return Ok((url.into(), false));
    }
    let kept: Vec<_> = url.query_pairs().into_owned().filter(|(name, _)| name != "sslmode").collect();
    url.query_pairs_mut().clear().extend_pairs(kept);
    Ok((url.into(), true))
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

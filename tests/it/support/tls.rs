//! Certificates good and bad, and TLS in front of servers that have none.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS12;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::servers::unique_name;

/// What is wrong with a certificate. Otherwise it is for 127.0.0.1, valid for centuries and signed by its authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    Expired,
    NotYetValid,
    WrongHost,
    SelfSigned,
}

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names, none wrong");
        // Issuers are found by name: two of the same name would look like one with a wrong signature.
        params.distinguished_name.push(DnType::CommonName, unique_name());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, new_key());
        Self(issuer.expect("ring signs"))
    }

    /// Writes its own certificate to a file: for `SSL_CERT_FILE`, so that a process trusts it and nobody else.
    pub fn trust_file(&self, folder: &Path) -> PathBuf {
        let file = folder.join("authority.pem");
        fs::write(&file, self.0.pem()).expect("the folder is writable");
        file
    }

    /// A certificate for 127.0.0.1.
    pub fn identity(&self) -> Identity {
        self.issue(None)
    }

    /// A certificate for other names or addresses.
    pub fn identity_for(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let params = CertificateParams::new(names).expect("the names are well-formed");
        let key = new_key();
        let certificate = params.signed_by(&key, &self.0).expect("ring signs");
        Identity { chain: vec![certificate.der().clone()], key }
    }

    /// Its own certificate as a server's, which names no host: what `openssl req -x509` makes.
    pub fn own_identity(&self) -> Identity {
        let key = KeyPair::try_from(self.0.key().serialize_der()).expect("ring reads what it wrote");
        Identity { chain: vec![self.0.der().clone()], key }
    }

    pub fn flawed_identity(&self, flaw: Flaw) -> Identity {
        self.issue(Some(flaw))
    }

    fn issue(&self, flaw: Option<Flaw>) -> Identity {
        let name = if flaw == Some(Flaw::WrongHost) { "other.example.com" } else { "127.0.0.1" };
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name is well-formed");
        match flaw {
            Some(Flaw::Expired) => params.not_after = date_time_ymd(2020, 1, 1),
            Some(Flaw::NotYetValid) => params.not_before = date_time_ymd(4000, 1, 1),
            _ => {}
        }
        let key = new_key();
        let certificate = match flaw {
            Some(Flaw::SelfSigned) => params.self_signed(&key),
            _ => params.signed_by(&key, &self.0),
        };
        Identity { chain: vec![certificate.expect("ring signs").der().clone()], key }
    }
}

/// A certificate chain, to be lengthened or spoilt as a test likes, with its key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Identity {
    /// To be changed further: `config.alpn_protocols = vec![b"h2".to_vec()]`.
    pub fn server_config(&self) -> ServerConfig {
        let config = protocols().with_no_client_auth().with_single_cert(self.chain.clone(), self.private_key());
        config.expect("the key belongs to the certificate")
    }

    /// Nobody without a certificate from `authority` gets in.
    pub fn server_config_for_clients_of(&self, authority: &Authority) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).expect("an authority's certificate");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), default_provider().into()).build();
        let verifier = verifier.expect("there is a root");
        let config = protocols().with_client_cert_verifier(verifier);
        config.with_single_cert(self.chain.clone(), self.private_key()).expect("the key belongs to the certificate")
    }

    /// TLS 1.2 with a cipher that needs an RSA key, which it does not have.
    pub fn server_config_of_other_ciphers(&self) -> ServerConfig {
        let ciphers = vec![TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        let provider = CryptoProvider { cipher_suites: ciphers, ..default_provider() };
        let builder = ServerConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&TLS12]);
        let builder = builder.expect("the cipher is one of TLS 1.2").with_no_client_auth();
        builder.with_single_cert(self.chain.clone(), self.private_key()).expect("the key belongs to the certificate")
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key is PKCS#8")
    }
}

fn protocols() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let builder = ServerConfig::builder_with_provider(default_provider().into());
    builder.with_safe_default_protocol_versions().expect("ring has TLS 1.2 and 1.3")
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("ring makes keys")
}

/// Speaks TLS to clients and plainly to a server behind: for `amqps://`, and for Postgres with `sslmode=require`.
pub struct TlsFront {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tls,
    /// Begins with a plain request for TLS.
    Postgres,
}

impl TlsFront {
    pub async fn to(target: impl ToString, config: ServerConfig) -> Self {
        Self::start(target.to_string(), config, Protocol::Tls).await
    }

    pub async fn to_postgres(target: impl ToString, config: ServerConfig) -> Self {
        Self::start(target.to_string(), config, Protocol::Postgres).await
    }

    async fn start(target: String, config: ServerConfig, protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, acceptor.clone(), target.clone(), protocol));
            }
        });
        Self { address, accepting }
    }

    /// `host:port`.
    pub fn addr(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    acceptor: TlsAcceptor,
    target: String,
    protocol: Protocol,
) -> std::io::Result<()> {
    if protocol == Protocol::Postgres {
        // SSLRequest: the length 8, then 80877103. The connection of a client that does not ask for TLS is closed.
        if client.read_u64().await? != (8 << 32) | 80_877_103 {
            return Ok(());
        }
        client.write_all(b"S").await?;
    }
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(target).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

//! Encrypts connections to the database.

use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::{self, Trust};

pub(super) type Tls = MakeRustlsConnect;

/// The parameter of `DATABASE_URL` that names a file of certificate authorities.
pub(super) const AUTHORITIES: &str = "sslrootcert";

/// With `direct`, the TLS handshake begins at once, without PostgreSQL's request for it.
pub(super) fn connector(trust: &Trust<'_>, direct: bool) -> anyhow::Result<Tls> {
    let mut client = tls::client(trust)?;
    if direct {
        // PostgreSQL accepts no other protocol. libpq refuses a server that chooses none, which may speak another protocol;
        // here such a server fails with its first answer, which cannot be read.
        client.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(client))
}

//! Encrypts connections to the database.

use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::{self, Trust};

pub(super) type Tls = MakeRustlsConnect;

/// Names a file of authorities in `DATABASE_URL`.
pub(super) const AUTHORITIES: &str = "sslrootcert";

/// `direct` is a handshake that no request of the protocol comes before.
pub(super) fn connector(trust: &Trust<'_>, direct: bool) -> anyhow::Result<Tls> {
    let mut client = tls::client(trust)?;
    if direct {
        // PostgreSQL takes no other. A server that chooses none is not refused: libpq would, since it may be of another
        // protocol, but then its first answer cannot be read either.
        client.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(client))
}

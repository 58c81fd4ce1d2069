//! TLS for connections to RabbitMQ: which certificates are accepted, and which addresses ask for it.

use lapin::tcp::RustlsConnector;

use super::address::Address;
use crate::tls::{self, ServerNames, Trust};

/// The setting that names a file of certificate authorities.
pub(super) const CA_FILE_SETTING: &str = "amqp.ca_file";

/// The TLS connector for addresses that begin with `amqps://`. `None` if no address does. Reads files.
///
/// # Errors
///
/// `amqp.ca_file` cannot be used, or is set although no address begins with `amqps://`.
pub(in crate::queue) fn encryption(address: &Address, ca_file: &str) -> anyhow::Result<Option<RustlsConnector>> {
    match (address.is_encrypted(), ca_file) {
        (true, _) => Ok(Some(tls::client(&trust(ca_file))?.into())),
        (false, "") => Ok(None),
        (false, _) => anyhow::bail!("{CA_FILE_SETTING} is set, but no address begins with amqps://"),
    }
}

/// Which certificates the broker's nodes and its management plugin may have.
pub(in crate::queue) fn trust(ca_file: &str) -> Trust<'_> {
    match ca_file {
        "" => Trust::System,
        file => Trust::File { setting: CA_FILE_SETTING, file, name: ServerNames::Checked },
    }
}

//! Everything that speaks AMQP with RabbitMQ: consuming events, settling them, publishing, dead letters, checks. No other
//! module does.
//!
//! | file             | open it when                                                                           |
//! |------------------|----------------------------------------------------------------------------------------|
//! | `connection/`    | a connection is not opened, goes to the wrong node, or does not end; TLS; `AMQP_URL`   |
//! | `topology/`      | an exchange, queue or binding is wrong or missing; a right is lacking                  |
//! | `consumer/`      | no events come, or one at a time; the worker reconnects all the time                   |
//! | `attachment`     | what a message and its channel are; whether a message can still be settled             |
//! | `acks`           | messages stay unacked, come twice, or cost the broker too many frames                  |
//! | `quorum`         | the queue does not answer and the broker does                                          |
//! | `publisher`      | a publish is refused, unroutable or not confirmed                                      |
//! | `dead_letters/`  | listing, requeueing or discarding dead letters; why one is rewritten                   |
//! | `inspect`        | a check of `doctor`                                                                    |
//! | `error`          | which error means what; how the broker's codes are sorted                              |
//! | `headers`        | message headers by name                                                                |
//! | `depth`, `get`, `convert` | one request each, and types of the AMQP library                               |
//!
//! Consuming and publishing use separate connections: the broker may block a connection that publishes, and acks would wait
//! behind it. Every connection ends with its owner.

use connection::connect::{read_address, unusable_address};
use connection::encryption;

use crate::config::Amqp;
use crate::secret::SecretText;
use crate::tls::Trust;

mod acks;
mod attachment;
mod connection;
mod consumer;
mod convert;
mod dead_letters;
mod depth;
mod error;
mod get;
mod headers;
mod inspect;
mod publisher;
mod quorum;
mod topology;

pub(crate) use acks::{Recorded, Settled, Settlement, acknowledge};
pub(crate) use attachment::{Incoming, Receipt};
pub(crate) use consumer::standing::StandingReport;
pub(crate) use consumer::{Consumer, HoldOffReasons, Taking, tag_prefix};
pub(crate) use dead_letters::letter::DeadLetter;
pub(crate) use dead_letters::rewriter::RewriteError;
pub(crate) use dead_letters::{BATCH, BATCH_BYTES, Counted, DeadLetters, LetterQueue};
pub(crate) use depth::Depth;
pub use error::QueueError;
pub(crate) use inspect::{Broker, RoundTrip, Topology, UnroutedQueue};
pub use publisher::{EventAddress, PublishError, Publisher, Settling, Unconfirmed};
pub(crate) use quorum::{QUORUM_TAG, Quorum, check_quorum};
pub(crate) use topology::part::Part;
pub(crate) use topology::plugin::knows_shards;

/// Checks `AMQP_URL` and `amqp.ca_file` without connecting.
///
/// # Errors
///
/// [`QueueError::Address`], which says what is wrong and what would be right.
pub(crate) fn check_address(settings: &Amqp) -> Result<(), QueueError> {
    let address = read_address(settings, &settings.url_from.newest_or(&settings.url))?;
    let management = settings.management.as_ref().is_some_and(|management| management.url.scheme() == "https");
    // Then `amqp.ca_file` is for the management plugin.
    if management && !address.is_encrypted() {
        return Ok(());
    }
    encryption::encryption(&address, &settings.ca_file).map(drop).map_err(|cause| unusable_address(settings, cause))
}

/// Which certificates the broker and its management plugin may have.
pub(crate) fn trust(settings: &Amqp) -> Trust<'_> {
    encryption::trust(&settings.ca_file)
}

/// The user with which we log in, and the virtual host.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: SecretText,
    pub(crate) virtual_host: String,
}

/// The login in the first address of the settings.
///
/// # Errors
///
/// [`QueueError::Address`] if `AMQP_URL` cannot be used.
pub(crate) fn login(settings: &Amqp) -> Result<Login, QueueError> {
    let address = read_address(settings, &settings.url_from.newest_or(&settings.url))?;
    let uri = &address.nodes()[0].uri;
    let (user, password) = (uri.authority.userinfo.username.clone(), uri.authority.userinfo.password.clone());
    Ok(Login { user, password: SecretText::new(password), virtual_host: uri.vhost.clone() })
}

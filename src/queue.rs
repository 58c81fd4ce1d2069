//! Talks to RabbitMQ: takes events from it, acknowledges them, publishes. The only door to it.
//!
//! Consuming and publishing use connections of their own: acks would stall behind a publishing connection that the
//! broker has blocked. Every connection ends with its owner.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::ShortString;
use lapin::{BasicProperties, ErrorKind};

use crate::config::Amqp;
use crate::event::Properties;
use crate::secret::SecretText;
use crate::tls::Trust;

mod acks;
mod address;
mod consumer;
mod dead_letters;
mod greeting;
mod inspect;
mod link;
mod nodes;
mod publisher;
mod quorum;
mod readable;
mod rewriter;
mod rights;
mod shallow;
mod topology;

pub use acks::{Acknowledger, Settled, Settlement};
use address::Address;
pub use consumer::{Consumer, Incoming, Receipt};
pub use dead_letters::{BATCH, BATCH_BYTES, Counted, DeadLetter, DeadLetters, Headers};
pub use inspect::{Broker, Depth, RoundTrip, Topology};
pub use publisher::{PublishError, Publisher};
pub use quorum::{Quorum, look_at_quorum};
pub use rewriter::RewriteError;
pub use rights::Lack;
pub use topology::Unchecked;

/// What to do about a broker that did not do what we asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The broker is not there, or ended the connection or channel: connect again.
    #[error("the broker is not available")]
    Unavailable(#[source] anyhow::Error),
    /// A broker message cannot be read by the AMQP library: the next one may be readable.
    #[error("the broker sent a message that cannot be read")]
    Unreadable(#[source] Said),
    /// A queue or exchange exists with other arguments. We never delete what holds messages.
    #[error("{0}; delete it if it may go, or choose other names under [queue]")]
    Mismatch(String),
    /// Too few nodes are there that hold the queue.
    #[error("the worker queue has no quorum: the broker answers, and the queue does not")]
    NoQuorum,
    /// The worker queue has no leader at this moment.
    #[error("the worker queue has no leader")]
    NoLeader(#[source] Said),
    /// Nobody has declared it yet.
    #[error("the queue {0} does not exist: a worker declares it when it starts")]
    NoQueue(String),
    /// The user lacks a right, which may be given at any time.
    #[error("{0}")]
    Forbidden(Lack),
    /// The address in the settings cannot be used at all.
    #[error("{0} cannot be used")]
    Address(String, #[source] anyhow::Error),
}

/// The AMQP library's error in words, once: its own text repeats that of its cause.
#[derive(Debug, thiserror::Error)]
#[error("{}", words(.0))]
pub struct Said(lapin::Error);

/// Of an error that the broker sent, its own words.
fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) if !amqp.get_message().as_str().is_empty() => amqp.get_message().to_string(),
        ErrorKind::ProtocolError(amqp) => amqp.kind().to_string(),
        ErrorKind::IOError(error) | ErrorKind::RuntimeShutdownError(error) => nodes::io_words(error),
        _ => error.to_string(),
    }
}

impl From<lapin::Error> for QueueError {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ParsingError(_) => Self::Unreadable(Said(error)),
            ErrorKind::ProtocolError(amqp) if is_unreadable(amqp.kind()) => Self::Unreadable(Said(error)),
            _ => Self::Unavailable(Said(error).into()),
        }
    }
}

impl From<nodes::Unserved> for QueueError {
    fn from(failure: nodes::Unserved) -> Self {
        Self::Unavailable(failure.into())
    }
}

/// The broker did not answer within the time that it had.
#[derive(Debug, thiserror::Error)]
#[error("no answer while {0}")]
struct Silence(&'static str);

impl QueueError {
    fn silence(doing: &'static str) -> Self {
        Self::Unavailable(Silence(doing).into())
    }

    fn is_silence(&self) -> bool {
        matches!(self, Self::Unavailable(cause) if cause.is::<Silence>())
    }

    /// Whether the broker is there and refuses us: waiting alone does not cure it.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Forbidden(_) => true,
            Self::Unavailable(cause) => cause.downcast_ref().is_some_and(nodes::Unserved::is_of_login),
            _ => false,
        }
    }

    /// Of a get. A node answers so whose queue has lost its leader and has no new one yet.
    fn getting(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) if amqp.kind() == &AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR) => {
                Self::NoLeader(Said(error))
            }
            _ => error.into(),
        }
    }

    /// Of a declaration. Elsewhere the broker uses the same code for what a new channel cures, such as its timeout
    /// for acks.
    fn declaring(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) if is_mismatch(amqp.kind()) => {
                Self::Mismatch(amqp.get_message().to_string())
            }
            _ => error.into(),
        }
    }

    /// Whether the broker, or the way to it, has merely gone: nothing that an operator should mend, whatever is said of it
    /// from one try to the next.
    pub fn is_away(&self) -> bool {
        let Self::Unavailable(cause) = self else { return false };
        match (cause.downcast_ref::<nodes::Unserved>(), library_error(cause)) {
            (Some(unserved), _) => unserved.is_away(),
            (None, Some(error)) => nodes::is_away(error),
            (None, None) => false,
        }
    }

    /// Of what needs a right: the broker's refusal names what is lacking. Other errors stay as they are.
    fn for_want_of(self, lack: impl FnOnce() -> Lack) -> Self {
        match self {
            Self::Unavailable(cause) if library_error(&cause).is_some_and(is_forbidden) => Self::Forbidden(lack()),
            error => error,
        }
    }
}

/// The library's error, where it is why the broker is not available.
fn library_error(cause: &anyhow::Error) -> Option<&lapin::Error> {
    cause.downcast_ref::<Said>().map(|said| &said.0)
}

/// What the broker says to a right that is lacking.
fn is_forbidden(error: &lapin::Error) -> bool {
    says(error, AMQPSoftError::ACCESSREFUSED)
}

fn is_missing(error: &lapin::Error) -> bool {
    says(error, AMQPSoftError::NOTFOUND)
}

fn says(error: &lapin::Error, what: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if amqp.kind() == &AMQPErrorKind::Soft(what))
}

fn is_mismatch(kind: &AMQPErrorKind) -> bool {
    matches!(kind, AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
}

/// What the library says of a frame that it can read but not accept: headers grow when a message comes again, and may
/// outgrow their frame.
fn is_unreadable(kind: &AMQPErrorKind) -> bool {
    use AMQPHardError::{FRAMEERROR, SYNTAXERROR, UNEXPECTEDFRAME};
    matches!(kind, AMQPErrorKind::Hard(FRAMEERROR | SYNTAXERROR | UNEXPECTEDFRAME))
}

/// Whether the address can be used at all; nothing is connected.
pub fn check_address(settings: &Amqp) -> Result<(), QueueError> {
    let address = read_address(settings, &settings.url_from.newest_or(&settings.url))?;
    let management = settings.management.as_ref().is_some_and(|management| management.url.scheme() == "https");
    if management && !address.is_encrypted() {
        return Ok(());
    }
    nodes::encryption(&address, &settings.ca_file).map(drop).map_err(|cause| unusable(settings, cause))
}

/// Whose certificates the broker and its management plugin may have.
pub fn trust(settings: &Amqp) -> Trust<'_> {
    nodes::trust(&settings.ca_file)
}

/// RabbitMQ's own.
const MAX_FRAME_BYTES: u32 = 128 * 1024;

fn read_address(settings: &Amqp, url: &SecretText) -> Result<Address, QueueError> {
    Address::read(url.expose()).map_err(|cause| unusable(settings, cause))
}

fn unusable(settings: &Amqp, cause: anyhow::Error) -> QueueError {
    QueueError::Address(settings.url_from.name("AMQP_URL"), cause)
}

/// Whom the broker knows us as, and where.
#[derive(Debug, Clone)]
pub struct Login {
    pub user: String,
    pub password: SecretText,
    pub virtual_host: String,
}

/// As the first address in the settings has it; nothing is connected.
pub fn login(settings: &Amqp) -> Result<Login, QueueError> {
    let address = read_address(settings, &settings.url_from.newest_or(&settings.url))?;
    let uri = &address.nodes()[0].uri;
    let (user, password) = (uri.authority.userinfo.username.clone(), uri.authority.userinfo.password.clone());
    Ok(Login { user, password: SecretText::new(password), virtual_host: uri.vhost.clone() })
}

/// What the event parser wants to know besides the body.
fn properties(amqp: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    Properties {
        message_id: text(amqp.message_id()),
        timestamp: *amqp.timestamp(),
        content_encoding: text(amqp.content_encoding()),
    }
}

fn name(text: &str) -> ShortString {
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::AMQPError;

    fn refusal(kind: AMQPErrorKind) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind, "inequivalent arg".into())).into()
    }

    #[test]
    fn a_refused_declaration_is_final_and_a_closed_channel_is_not() {
        let refused = || refusal(AMQPSoftError::PRECONDITIONFAILED.into());
        assert!(matches!(QueueError::declaring(refused()), QueueError::Mismatch(_)));
        assert!(matches!(QueueError::from(refused()), QueueError::Unavailable(_)));
    }

    #[test]
    fn a_refused_access_names_what_is_lacking_and_nothing_else_does() {
        let lack = || Lack::reading("u", "q");
        let of = |kind: AMQPSoftError| QueueError::from(refusal(kind.into())).for_want_of(lack);
        assert!(matches!(of(AMQPSoftError::ACCESSREFUSED), QueueError::Forbidden(found) if found == lack()));
        assert!(matches!(of(AMQPSoftError::NOTFOUND), QueueError::Unavailable(_)));
    }

    #[test]
    fn a_frame_too_large_is_an_unreadable_message() {
        let error = refusal(AMQPHardError::FRAMEERROR.into());
        assert!(matches!(QueueError::from(error), QueueError::Unreadable(_)));
    }
}

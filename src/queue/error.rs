//! Why RabbitMQ did not do what we asked. Each kind of error asks the caller for another reaction.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Error, ErrorKind};

use super::connection::refusal::{self, error_text};
use super::connection::unserved::Unserved;
use super::topology::rights::MissingRights;

/// Why the broker did not do what we asked, by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The broker cannot be reached, or closed the connection or channel: connect again.
    #[error("the broker is not available")]
    Unavailable(#[source] anyhow::Error),
    /// The AMQP library cannot read a broker message, which ended the connection: the next message may be readable.
    #[error("the broker sent a message that cannot be read")]
    Unreadable(#[source] AmqpError),
    /// A queue or exchange exists with other arguments. We never delete one, since it may hold messages.
    #[error("{0}; delete it if it may go, or choose other names under [queue]")]
    Mismatch(String),
    /// Not more than half of the queue's members are online.
    #[error("the worker queue has no quorum: the broker answers, and the queue does not")]
    NoQuorum,
    /// The worker queue has no leader at this moment: an election may be under way.
    #[error("the worker queue has no leader")]
    NoLeader(#[source] AmqpError),
    /// Nobody has declared the queue yet.
    #[error("the queue {0} does not exist: a worker declares it when it starts")]
    NoQueue(String),
    /// The user lacks a right. An operator may grant it at any time: try again.
    #[error("{0}")]
    Forbidden(MissingRights),
    /// The broker does not know the type of this exchange. An operator may enable its plugin at any time: try again.
    #[error(
        "the broker cannot declare the exchange {0}, since it does not know its type: enable its plugin on every node \
         (`rabbitmq-plugins enable rabbitmq_consistent_hash_exchange`), or set queue.shards to 1"
    )]
    NoPlugin(String),
    /// The address in the settings cannot be used: only new settings help.
    #[error("{0} cannot be used")]
    Address(String, #[source] anyhow::Error),
}

/// An error of the AMQP library in words. The library's own text would repeat that of its cause.
#[derive(Debug, thiserror::Error)]
#[error("{}", error_text(.0))]
pub struct AmqpError(Error);

impl From<Error> for QueueError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::ParsingError(_) => Self::Unreadable(AmqpError(error)),
            ErrorKind::ProtocolError(amqp) if is_unreadable(amqp.kind()) => Self::Unreadable(AmqpError(error)),
            _ => Self::Unavailable(AmqpError(error).into()),
        }
    }
}

impl From<Unserved> for QueueError {
    fn from(unserved: Unserved) -> Self {
        Self::Unavailable(unserved.into())
    }
}

/// The broker did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer while {0}")]
struct Silence(&'static str);

impl QueueError {
    /// The broker did not answer in time. `doing` names the request.
    pub(super) fn silence(doing: &'static str) -> Self {
        Self::Unavailable(Silence(doing).into())
    }

    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Unavailable(cause) if cause.is::<Silence>())
    }

    /// Whether the broker answers and refuses us. Waiting alone does not help: an operator has to act.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Forbidden(_) | Self::NoPlugin(_) => true,
            Self::Unavailable(cause) => cause.downcast_ref().is_some_and(Unserved::is_login_refused),
            _ => false,
        }
    }

    /// The error of a `basic.get`. A node answers it with INTERNAL_ERROR while its queue has lost its leader and has no new
    /// one.
    pub(super) fn of_get(error: Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) if amqp.kind() == &AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR) => {
                Self::NoLeader(AmqpError(error))
            }
            _ => error.into(),
        }
    }

    /// The error of a declaration, where PRECONDITION_FAILED means other arguments. Elsewhere the broker sends the same code
    /// for failures that a new channel cures, such as its time limit for acks.
    pub(super) fn of_declaration(error: Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) if is_code(&error, AMQPSoftError::PRECONDITIONFAILED) => {
                Self::Mismatch(amqp.get_message().to_string())
            }
            _ => error.into(),
        }
    }

    /// Whether the broker, or the network to it, is merely down: no operator has to act, and its text may change from one try
    /// to the next.
    pub(crate) fn is_away(&self) -> bool {
        let Self::Unavailable(cause) = self else { return false };
        match (cause.downcast_ref::<Unserved>(), self.amqp_error()) {
            (Some(unserved), _) => unserved.is_away(),
            (None, Some(error)) => refusal::is_away(error),
            (None, None) => false,
        }
    }

    /// Replaces the broker's ACCESS_REFUSED by the right that is lacking. Other errors stay as they are.
    pub(super) fn or_missing_rights(self, missing_rights: impl FnOnce() -> MissingRights) -> Self {
        if self.amqp_error().is_some_and(is_forbidden) { Self::Forbidden(missing_rights()) } else { self }
    }

    /// Whether the broker says that the exchange or queue does not exist.
    pub(super) fn is_missing(&self) -> bool {
        self.amqp_error().is_some_and(is_missing)
    }

    /// Whether the broker says that a precondition failed.
    pub(super) fn is_precondition_failed(&self) -> bool {
        self.amqp_error().is_some_and(is_precondition_failed)
    }

    /// The library's error, if it made the broker unavailable.
    fn amqp_error(&self) -> Option<&Error> {
        match self {
            Self::Unavailable(cause) => cause.downcast_ref::<AmqpError>().map(|error| &error.0),
            _ => None,
        }
    }
}

/// Whether the user lacks a right: ACCESS_REFUSED.
pub(super) fn is_forbidden(error: &Error) -> bool {
    is_code(error, AMQPSoftError::ACCESSREFUSED)
}

/// Whether the exchange or queue does not exist: NOT_FOUND.
pub(super) fn is_missing(error: &Error) -> bool {
    is_code(error, AMQPSoftError::NOTFOUND)
}

/// Whether a precondition failed, such as other arguments of an exchange that exists.
pub(super) fn is_precondition_failed(error: &Error) -> bool {
    is_code(error, AMQPSoftError::PRECONDITIONFAILED)
}

fn is_code(error: &Error, code: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if amqp.kind() == &AMQPErrorKind::Soft(code))
}

/// Whether the library could read a frame and not accept it. A message's headers grow whenever it is delivered again, and may
/// outgrow their frame.
fn is_unreadable(kind: &AMQPErrorKind) -> bool {
    use AMQPHardError::{FRAMEERROR, SYNTAXERROR, UNEXPECTEDFRAME};
    matches!(kind, AMQPErrorKind::Hard(FRAMEERROR | SYNTAXERROR | UNEXPECTEDFRAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::AMQPError;

    fn refused(kind: AMQPErrorKind) -> Error {
        ErrorKind::ProtocolError(AMQPError::new(kind, "inequivalent arg".into())).into()
    }

    #[test]
    fn a_refused_declaration_is_final_and_a_closed_channel_is_not() {
        let refused = || refused(AMQPSoftError::PRECONDITIONFAILED.into());
        assert!(matches!(QueueError::of_declaration(refused()), QueueError::Mismatch(_)));
        assert!(matches!(QueueError::from(refused()), QueueError::Unavailable(_)));
    }

    #[test]
    fn a_refused_access_names_what_is_lacking_and_nothing_else_does() {
        let missing_rights = || MissingRights::reading("u", "q");
        let of = |kind: AMQPSoftError| QueueError::from(refused(kind.into())).or_missing_rights(missing_rights);
        assert!(matches!(of(AMQPSoftError::ACCESSREFUSED), QueueError::Forbidden(found) if found == missing_rights()));
        assert!(matches!(of(AMQPSoftError::NOTFOUND), QueueError::Unavailable(_)));
    }

    #[test]
    fn a_frame_too_large_is_an_unreadable_message() {
        let error = refused(AMQPHardError::FRAMEERROR.into());
        assert!(matches!(QueueError::from(error), QueueError::Unreadable(_)));
    }
}

//! Why one address of the broker did not serve us, in words, and who has to act. Pure.

use std::io;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Error, ErrorKind};

use super::encryption::CA_FILE_SETTING;
use crate::tls;

/// Why one address did not serve.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The node, or the network to it, is down. Normal in a cluster: nobody has to change a setting.
    Away,
    /// The node refuses the user or the password.
    Login,
    /// The node answers, and somebody has to correct something: certificate, virtual host, port.
    Other,
}

impl Refusal {
    pub(super) fn away(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fault: Fault::Away }
    }

    pub(super) fn is_away(&self) -> bool {
        self.fault == Fault::Away
    }
}

/// Whether the error means that the node, or the network to it, is down.
pub(in crate::queue) fn is_away(error: &Error) -> bool {
    refusal(error).is_away()
}

pub(super) fn refusal(error: &Error) -> Refusal {
    let reason = || error_text(error);
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => {
            let fault = match amqp.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Fault::Login,
                // A node sends this when it shuts down.
                AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => Fault::Away,
                _ => Fault::Other,
            };
            Refusal { reason: reason(), fault }
        }
        ErrorKind::IOError(error) => {
            let tls_error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
            match (tls::refused_certificate(&**error, CA_FILE_SETTING), tls_error) {
                (Some(why), _) => Refusal { reason: format!("its certificate is refused: {why}"), fault: Fault::Other },
                (None, Some(rustls::Error::InvalidMessage(_))) => {
                    Refusal { reason: "it does not speak TLS: is its port right?".to_owned(), fault: Fault::Other }
                }
                (None, Some(_)) => Refusal { reason: reason(), fault: Fault::Other },
                (None, None) => Refusal::away(reason()),
            }
        }
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::ParsingError(_) => {
            Refusal { reason: reason(), fault: Fault::Other }
        }
        _ => Refusal::away(reason()),
    }
}

/// The text of an error of the AMQP library: the broker's own text if the broker sent the error.
pub(in crate::queue) fn error_text(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) if !amqp.get_message().as_str().is_empty() => amqp.get_message().to_string(),
        ErrorKind::ProtocolError(amqp) => amqp.kind().to_string(),
        ErrorKind::IOError(error) | ErrorKind::RuntimeShutdownError(error) => io_error_text(error),
        _ => error.to_string(),
    }
}

/// The text without the operating system's error number, such as `Connection refused`.
pub(super) fn io_error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    #[test]
    fn who_is_down_is_no_mistake_and_who_refuses_is() {
        let protocol = |kind: AMQPErrorKind| {
            refusal(&ErrorKind::ProtocolError(AMQPError::new(kind, "vhost is down".into())).into()).fault
        };
        assert_eq!(protocol(AMQPHardError::CONNECTIONFORCED.into()), Fault::Away);
        assert_eq!(protocol(AMQPHardError::NOTALLOWED.into()), Fault::Other);
        assert_eq!(protocol(AMQPSoftError::ACCESSREFUSED.into()), Fault::Login);
        assert_eq!(refusal(&io::Error::from_raw_os_error(111).into()).fault, Fault::Away);
    }

    #[test]
    fn an_error_of_tls_says_what_to_correct() {
        let tls_error = |error: rustls::Error| refusal(&io::Error::other(error).into());
        let expired = tls_error(rustls::CertificateError::Expired.into());
        assert_eq!(
            (expired.reason.as_str(), expired.fault),
            ("its certificate is refused: it has expired", Fault::Other)
        );
        let plain = tls_error(rustls::InvalidMessage::InvalidContentType.into());
        assert_eq!(plain.reason, "it does not speak TLS: is its port right?");
    }
}

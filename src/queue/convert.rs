//! Converts between our types and those of the AMQP library.

use lapin::BasicProperties;
use lapin::types::ShortString;

use super::headers::{compression, trace};
use crate::event::Properties;

/// A name as the AMQP library takes it.
pub(super) fn name(text: &str) -> ShortString {
    text.into()
}

/// Properties of a message that the broker stores on disk.
pub(super) fn persistent() -> BasicProperties {
    const PERSISTENT: u8 = 2;
    BasicProperties::default().with_delivery_mode(PERSISTENT)
}

/// The properties that the event parser needs besides the body.
pub(super) fn properties(amqp: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    Properties {
        message_id: text(amqp.message_id()),
        timestamp: *amqp.timestamp(),
        content_encoding: text(amqp.content_encoding()),
        compression: compression(amqp),
        trace: trace(amqp),
    }
}

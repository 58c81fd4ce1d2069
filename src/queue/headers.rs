//! The message headers that we know, and how to read them.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::trace_context::TraceContext;

/// The broker counts here how often it took the message back. See [`delivery_count`].
pub(super) const DELIVERY_COUNT: &str = "x-delivery-count";
/// The broker's counterpart of [`DELIVERY_COUNT`] from RabbitMQ 4.3 on: how often the message was handed out.
pub(super) const ACQUIRED_COUNT: &str = "x-acquired-count";
/// The broker's list of how often and why the message became a dead letter.
pub(super) const DEATH: &str = "x-death";

/// Our mark for a message that was requeued. It may have been worked on before it became a dead letter, and the headers that
/// showed this are removed when it is requeued.
pub(super) const REQUEUED: &str = "x-requeued";
/// The routing key that a dead letter had before we rewrote it.
pub(super) const ROUTING_KEY: &str = "x-routing-key";
/// The run of a command that rewrote a dead letter: a UUID.
pub(super) const REWRITTEN_BY: &str = "x-rewritten-by";
/// The bytes of properties that the AMQP library cannot read.
pub(super) const UNREADABLE: &str = "x-unreadable-properties";
/// Stands beside [`UNREADABLE`] if only the first of those bytes are kept.
pub(super) const UNREADABLE_CUT: &str = "x-unreadable-cut";

/// Where a publisher names the span that the event belongs to (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";

/// Where kombu and Celery name the method that they compressed the body with.
const COMPRESSION: &str = "compression";

/// The span that the publisher named, if that is valid.
pub(super) fn trace(amqp: &BasicProperties) -> Option<TraceContext> {
    TraceContext::parse(text(amqp, TRACEPARENT)?)
}

/// The method that the publisher says it compressed the body with.
pub(super) fn compression(amqp: &BasicProperties) -> Option<String> {
    text(amqp, COMPRESSION).map(|name| String::from_utf8_lossy(name).into_owned())
}

/// The value of a header whose type is one of those in which client libraries send text.
fn text<'a>(amqp: &'a BasicProperties, name: &str) -> Option<&'a [u8]> {
    match amqp.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ShortString(text) => Some(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
        _ => None,
    }
}

/// How often the broker took the message back. RabbitMQ before 4.3 counts every return. From 4.3 on it counts only returns by
/// the end of a channel or connection, and not those by `nack`, which raise `x-acquired-count`.
pub(super) fn delivery_count(amqp: &BasicProperties) -> i64 {
    match amqp.headers().as_ref().and_then(|table| table.inner().get(DELIVERY_COUNT)) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        _ => 0,
    }
}

/// The latest entry of [`DEATH`]. The broker keeps one entry per queue and reason, the latest first.
pub(super) fn last_death(headers: &FieldTable) -> Option<&FieldTable> {
    match headers.inner().get(DEATH)? {
        AMQPValue::FieldArray(deaths) => match deaths.as_slice().first()? {
            AMQPValue::FieldTable(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

/// The value of a header that is a string.
pub(super) fn bytes<'a>(table: &'a FieldTable, key: &str) -> Option<&'a [u8]> {
    match table.inner().get(key)? {
        AMQPValue::LongString(bytes) => Some(bytes.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_from_text_of_every_kind_and_from_nothing_else() {
        const VALUE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = |name: &str, value: AMQPValue| {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), value);
            trace(&BasicProperties::default().with_headers(headers)).map(|trace| trace.to_string())
        };
        let texts = [
            AMQPValue::LongString(VALUE.into()),
            AMQPValue::ShortString(VALUE.into()),
            AMQPValue::ByteArray(VALUE.as_bytes().into()),
        ];
        for text in texts {
            assert_eq!(read(TRACEPARENT, text.clone()).as_deref(), Some(VALUE), "{text:?}");
            assert_eq!(read("tracestate", text), None);
        }
        for other in [AMQPValue::Void, AMQPValue::LongLongInt(0), AMQPValue::LongString("00-x".into())] {
            assert_eq!(read(TRACEPARENT, other), None);
        }
        assert_eq!(trace(&BasicProperties::default()), None);
    }

    #[test]
    fn a_method_of_compression_is_read_from_text_of_every_kind() {
        let read = |value: AMQPValue| {
            let mut headers = FieldTable::default();
            headers.insert(COMPRESSION.into(), value);
            compression(&BasicProperties::default().with_headers(headers))
        };
        let texts = [
            AMQPValue::LongString("zlib".into()),
            AMQPValue::ShortString("zlib".into()),
            AMQPValue::ByteArray("zlib".as_bytes().into()),
        ];
        for text in texts {
            assert_eq!(read(text).as_deref(), Some("zlib"));
        }
        assert_eq!(read(AMQPValue::LongString(b"\xff"[..].into())).as_deref(), Some("\u{fffd}"));
        assert_eq!(read(AMQPValue::Boolean(true)), None);
        assert_eq!(compression(&BasicProperties::default()), None);
    }
}

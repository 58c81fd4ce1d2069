//! Which properties a message has when it is published once more. Pure.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use uuid::Uuid;

use crate::queue::convert::persistent;
use crate::queue::headers::{ACQUIRED_COUNT, DEATH, DELIVERY_COUNT, REQUEUED, REWRITTEN_BY, ROUTING_KEY};

/// What the message will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepublishAs {
    /// The same dead letter. It keeps the broker's headers about its death, and gets two more: the routing key that it had,
    /// and the run that rewrote it.
    DeadLetter { run: Uuid },
    /// A message for the workers. It loses the headers about its death, and gets `x-requeued`.
    Event,
}

/// The properties of a message that is published once more. They leave out what would route it to further queues (`CC`,
/// `BCC`), and what the broker would refuse because another user set it (`user_id`).
pub(super) fn republished(amqp: &BasicProperties, routing_key: &str, republish_as: RepublishAs) -> BasicProperties {
    let mut properties = persistent();
    macro_rules! keep {
        ($($field:ident $with:ident)*) => {$(
            if let Some(value) = amqp.$field() {
                properties = properties.$with(value.clone());
            }
        )*};
    }
    keep!(
        content_type with_content_type
        content_encoding with_content_encoding
        priority with_priority
        correlation_id with_correlation_id
        reply_to with_reply_to
        expiration with_expiration
        message_id with_message_id
        timestamp with_timestamp
        kind with_type
        app_id with_app_id
    );
    let mut headers = FieldTable::default();
    for (key, value) in amqp.headers().iter().flat_map(FieldTable::inner) {
        if !is_dropped(key.as_str(), republish_as) {
            headers.insert(key.clone(), value.clone());
        }
    }
    match republish_as {
        RepublishAs::DeadLetter { run } => {
            headers.insert(ROUTING_KEY.into(), AMQPValue::LongString(routing_key.into()));
            headers.insert(REWRITTEN_BY.into(), AMQPValue::LongString(run.to_string().into()));
        }
        RepublishAs::Event => {
            headers.insert(REQUEUED.into(), AMQPValue::Boolean(true));
        }
    }
    properties.with_headers(headers)
}

fn is_dropped(header: &str, republish_as: RepublishAs) -> bool {
    let routes = matches!(header, "CC" | "BCC");
    let counts = matches!(header, DELIVERY_COUNT | ACQUIRED_COUNT);
    routes || counts || (republish_as == RepublishAs::Event && is_about_death(header))
}

/// Whether the broker wrote the header when the message became a dead letter, or we when we rewrote it.
fn is_about_death(header: &str) -> bool {
    matches!(header, DEATH | ROUTING_KEY | REWRITTEN_BY)
        || header.starts_with("x-first-death-")
        || header.starts_with("x-last-death-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::convert::name;

    #[test]
    fn a_message_sent_again_keeps_its_own_headers_and_drops_the_brokers() {
        let mut headers = FieldTable::default();
        for key in ["traceparent", DEATH, DELIVERY_COUNT, "x-first-death-queue", "x-last-death-reason", "CC"] {
            headers.insert(key.into(), AMQPValue::LongString("value".into()));
        }
        let died = BasicProperties::default()
            .with_message_id(name("evt_1"))
            .with_user_id(name("somebody"))
            .with_timestamp(7)
            .with_headers(headers);
        let keys = |properties: &BasicProperties| -> Vec<String> {
            properties.headers().as_ref().unwrap().inner().keys().map(|key| key.as_str().to_owned()).collect()
        };
        let event = republished(&died, "content.created", RepublishAs::Event);
        assert_eq!(keys(&event), ["traceparent", REQUEUED]);
        assert_eq!((event.message_id(), event.timestamp()), (&Some(name("evt_1")), &Some(7)));
        assert_eq!((event.user_id(), event.delivery_mode()), (&None, &Some(2)));
        let letter = republished(&died, "content.created", RepublishAs::DeadLetter { run: Uuid::nil() });
        let kept = ["traceparent", DEATH, "x-first-death-queue", "x-last-death-reason", REWRITTEN_BY, ROUTING_KEY];
        assert_eq!(keys(&letter), kept);
        assert_eq!(keys(&republished(&letter, "content.created", RepublishAs::Event)), ["traceparent", REQUEUED]);
    }
}

//! One dead letter: what is known of it, and how it is published once more.

use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::protocol::basic;
use lapin::types::AMQPValue;
use uuid::Uuid;

use super::LetterQueue;
use super::republish::{RepublishAs, republished};
use crate::config::Queue;
use crate::event::Properties;
use crate::queue::connection::frames::MAX_FRAME_BYTES;
use crate::queue::connection::repair::time_of_death;
use crate::queue::convert::properties;
use crate::queue::headers::{REWRITTEN_BY, ROUTING_KEY, UNREADABLE, UNREADABLE_CUT, bytes, delivery_count, last_death};
use crate::queue::publisher::{PublishError, Publisher, Unconfirmed};

/// The largest properties, in bytes, of a letter that can be rewritten. The rest of their frame, and the count that the broker
/// adds later, need fewer than 128 bytes.
const MAX_PROPERTIES_BYTES: u64 = MAX_FRAME_BYTES as u64 - 128;

/// A broker message that is not an event, that was delivered too often, or that no queue took.
pub(crate) struct DeadLetter {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: Properties,
    pub(crate) routing_key: String,
    /// Why the broker made a dead letter of it: `rejected`, `delivery_limit`, `expired` …
    pub(crate) broker_reason: Option<String>,
    /// When the broker did, in Unix seconds.
    pub(crate) died_at: Option<u64>,
    /// The queue in which it died.
    pub(crate) from_queue: Option<String>,
    /// Where it lies.
    pub(crate) kept_in: LetterQueue,
    /// Its properties cannot be read: `properties` is empty.
    pub(crate) unreadable: bool,
    amqp: BasicProperties,
    /// The run of a command that rewrote it.
    pub(super) rewritten_by: Option<Uuid>,
    /// How often the broker counted that it went back to the queue.
    pub(super) returns: i64,
    /// Its delivery tag on the channel that read it.
    pub(super) tag: u64,
}

impl DeadLetter {
    pub(super) fn read(message: BasicGetMessage, kept_in: LetterQueue) -> Self {
        let delivery = message.delivery;
        let headers = delivery.properties.headers().as_ref();
        let unreadable = headers.and_then(|table| bytes(table, UNREADABLE));
        let death = headers.and_then(last_death);
        let reason = death.and_then(|death| bytes(death, "reason"));
        let from_queue = death.and_then(|death| bytes(death, "queue"));
        let died_at = death.and_then(|death| match death.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => Some(*seconds),
            _ => None,
        });
        let routing_key = headers.and_then(|table| bytes(table, ROUTING_KEY));
        let rewritten_by = headers.and_then(|table| bytes(table, REWRITTEN_BY));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            body: delivery.data,
            properties: properties(&delivery.properties),
            routing_key: routing_key.map_or_else(|| delivery.routing_key.to_string(), text),
            broker_reason: reason.map(text),
            from_queue: from_queue.map(text),
            died_at: died_at.or_else(|| unreadable.and_then(time_of_death)),
            kept_in,
            unreadable: unreadable.is_some(),
            rewritten_by: rewritten_by.and_then(|run| Uuid::try_parse_ascii(run).ok()),
            returns: delivery_count(&delivery.properties),
            amqp: delivery.properties,
            tag: delivery.delivery_tag,
        }
    }

    /// Sends it to the workers as an event: to the queue in which it died if workers still consume that, else to the first one.
    /// The letter itself stays in its queue until it is removed.
    ///
    /// # Errors
    ///
    /// As [`Publisher::send`].
    pub(crate) async fn requeue(&self, publisher: &Publisher, queue: &Queue) -> Result<Unconfirmed, PublishError> {
        let same = queue.all_shards().find(|shard| Some(&shard.queue) == self.from_queue.as_ref());
        let to = same.map_or_else(|| queue.worker_queue.clone(), |shard| shard.queue);
        self.republish(publisher, &to, RepublishAs::Event).await
    }

    /// Sends a copy of it to the end of its queue: the broker counts the copy's returns from 0.
    ///
    /// # Errors
    ///
    /// As [`Publisher::send`].
    pub(super) async fn rewrite(
        &self,
        publisher: &Publisher,
        queue: &str,
        run: Uuid,
    ) -> Result<Unconfirmed, PublishError> {
        self.republish(publisher, queue, RepublishAs::DeadLetter { run }).await
    }

    async fn republish(
        &self,
        publisher: &Publisher,
        queue: &str,
        republish_as: RepublishAs,
    ) -> Result<Unconfirmed, PublishError> {
        let properties = republished(&self.amqp, &self.routing_key, republish_as);
        publisher.send_again(queue, properties, &self.body).await
    }

    /// Whether we have all of its properties, and they fit into a frame with what we add.
    pub(super) fn can_be_rewritten(&self) -> bool {
        let is_cut = self.amqp.headers().as_ref().is_some_and(|headers| headers.contains_key(UNREADABLE_CUT));
        let copied = RepublishAs::DeadLetter { run: Uuid::nil() };
        !is_cut && size_bytes(&republished(&self.amqp, &self.routing_key, copied)) <= MAX_PROPERTIES_BYTES
    }
}

fn size_bytes(properties: &BasicProperties) -> u64 {
    basic::gen_properties(properties)(Vec::new().into()).map_or(u64::MAX, |written| written.position)
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;
    use crate::queue::convert::{name, persistent};

    #[test]
    fn the_size_of_properties_is_that_of_their_bytes() {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString("value".into()));
        let properties = persistent().with_message_id(name("evt_1")).with_timestamp(7).with_headers(headers);
        // Flags, the table of headers behind its size, the delivery mode, the id and the time.
        assert_eq!(size_bytes(&properties), 2 + (4 + 22) + 1 + 6 + 8);
    }
}

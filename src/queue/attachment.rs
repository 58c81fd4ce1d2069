//! A message from a worker queue, and the channel that it came from. A message can be settled only on that channel: once
//! the channel has ended, the broker delivers the message again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use lapin::Channel;
use lapin::message::Delivery;
use lapin::types::ShortString;
use prometheus_client::metrics::gauge::Gauge;

use super::convert::properties;
use super::headers::{DEATH, REQUEUED, delivery_count};
use crate::event::Properties;
use crate::metrics::EventCounter;

/// A broker message, to be settled exactly once.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: Properties,
    /// The message may have been worked on before.
    pub(crate) redelivered: bool,
    pub(crate) receipt: Receipt,
    pub(crate) routing_key: ShortString,
    exchange: ShortString,
}

impl Incoming {
    pub(super) fn new(attachment: &Arc<Attachment>, delivery: Delivery) -> Self {
        let headers = delivery.properties.headers().as_ref();
        let was_dead = headers.is_some_and(|table| table.contains_key(DEATH) || table.contains_key(REQUEUED));
        let redelivered = delivery.redelivered || was_dead || delivery_count(&delivery.properties) > 0;
        attachment.counts.unacknowledged.inc();
        Self {
            properties: properties(&delivery.properties),
            redelivered,
            receipt: Receipt { attachment: attachment.clone(), tag: delivery.delivery_tag, received: Instant::now() },
            body: delivery.data,
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
        }
    }

    /// Where the message was published to, and the queue that it came from: as OpenTelemetry names a destination at RabbitMQ.
    pub(crate) fn destination(&self) -> String {
        let parts = [self.exchange.as_str(), self.routing_key.as_str(), &self.receipt.attachment.queue];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":")
    }
}

/// What it takes to settle a message: its channel, and its delivery tag there. The message counts as unacknowledged until this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Receipt {
    pub(super) attachment: Arc<Attachment>,
    pub(super) tag: u64,
    received: Instant,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.attachment.counts.unacknowledged.dec();
    }
}

impl Receipt {
    /// Whether the message can still be settled. Once its channel has ended, the broker delivers it again.
    pub(crate) fn is_usable(&self) -> bool {
        self.attachment.channel.status().connected()
    }

    /// Counts the message as an event of its queue.
    pub(crate) fn count_event(&self) {
        self.attachment.counts.events.inc();
    }

    /// When the worker took the message.
    pub(crate) fn received(&self) -> Instant {
        self.received
    }

    /// Whether the consumer takes one message at a time: the next one comes only after this one is settled.
    pub(crate) fn is_isolated(&self) -> bool {
        self.attachment.is_isolated()
    }
}

/// Metrics of the messages of a channel.
#[derive(Debug)]
pub(super) struct MessageCounts {
    /// The messages of all channels that the worker has in hand.
    pub(super) unacknowledged: Gauge,
    /// The events of its queue.
    pub(super) events: EventCounter,
}

/// One channel on which the worker consumes, from its first message to its end.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Unique within the process.
    pub(super) number: u64,
    pub(super) channel: Channel,
    /// The name of the queue.
    queue: String,
    /// Which consumer of the worker it belongs to.
    pub(super) consumer: usize,
    prefetch: u16,
    counts: MessageCounts,
    isolated: AtomicBool,
    /// Whether a message came since the last call of `take_message_seen`.
    message_seen: AtomicBool,
    /// Whether a message waits until the worker takes it. Messages behind it wait in the AMQP library, which does not tell
    /// how many.
    blocked: AtomicBool,
}

impl Attachment {
    pub(super) fn new(
        channel: Channel,
        queue: String,
        consumer: usize,
        prefetch: u16,
        isolated: bool,
        counts: MessageCounts,
    ) -> Arc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            channel,
            queue,
            consumer,
            prefetch,
            counts,
            isolated: AtomicBool::new(isolated),
            message_seen: AtomicBool::default(),
            blocked: AtomicBool::default(),
        })
    }

    pub(super) fn is_isolated(&self) -> bool {
        self.isolated.load(Ordering::Relaxed)
    }

    pub(super) fn end_isolation(&self) {
        self.isolated.store(false, Ordering::Relaxed);
    }

    pub(super) fn note_message(&self) {
        self.message_seen.store(true, Ordering::Relaxed);
    }

    /// Whether a message came since the last call.
    pub(super) fn take_message_seen(&self) -> bool {
        self.message_seen.swap(false, Ordering::Relaxed)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Whether the queue may deliver more. Every unsettled message has a clone of the attachment, and so has the consumer.
    pub(super) fn has_room(self: &Arc<Self>) -> bool {
        !self.blocked.load(Ordering::Relaxed) && Arc::strong_count(self) <= usize::from(self.prefetch)
    }
}

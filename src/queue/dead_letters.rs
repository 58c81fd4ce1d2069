//! Looks at dead letters, takes them out one by one, and never loses one that was only looked at.
//!
//! What was read stays the broker's until it is removed: when the connection ends, however it ends, the rest goes back.
//! But a quorum queue counts how often a letter went back, and drops it beyond the queue's delivery limit, which a policy of
//! the broker's operator may lower without our being told. So a letter that was read before is not given back: it is written
//! anew, which begins at none, and the old one is removed once the new one is confirmed.

use std::cmp::Reverse;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::protocol::basic;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Event};
use uuid::Uuid;

use super::inspect::depth;
use super::link::{Link, Purpose, bounded};
use super::readable::{COUNT, CUT, UNREADABLE, time_of_death};
use super::rewriter::{DeliveryLimit, RewriteError, Rewriter, Rewritten};
use super::rights::Lack;
use super::{MAX_FRAME_BYTES, QueueError, is_missing, library_error, name, properties};
use crate::config::{Amqp, Queue};
use crate::event::Properties;

/// How long what was given back may take to be counted again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);
const RETURN_POLL: Duration = Duration::from_millis(20);
/// So many letters at most are read before those among them that are to go are removed. A quorum queue takes 32 removals in
/// a row (see `DeadLetters::remove`).
pub const BATCH: usize = 24;
/// No further letter is read for them once their bodies have so many bytes.
pub const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Of a message that is written anew: what else its frame holds, and the count that the broker adds later, need less than
/// 128 bytes.
const MAX_PROPERTIES: u64 = MAX_FRAME_BYTES as u64 - 128;

/// A broker message that was no event, or that the broker gave up.
pub struct DeadLetter {
    pub body: Vec<u8>,
    pub properties: Properties,
    pub routing_key: String,
    /// Why the broker made a dead letter of it: `rejected`, `delivery_limit`, `expired` …
    pub broker_reason: Option<String>,
    /// When it did, in unix seconds.
    pub died_at: Option<u64>,
    /// Its properties cannot be read: all we have of them is their bytes.
    pub unreadable: bool,
    pub(super) amqp: BasicProperties,
    /// The run of ours that wrote it anew.
    rewritten_by: Option<Uuid>,
    /// How often it went back to the queue, as far as that counts.
    returns: i64,
    tag: u64,
}

/// The broker has counted looks at letters, for they could not be written anew and went back.
#[derive(Debug)]
pub struct Counted {
    /// Why one of them could not be written anew, or none can.
    pub error: RewriteError,
    /// After one more look or two the broker drops one of them.
    pub near_limit: bool,
}

impl Counted {
    /// No letter can be written anew, so that no more is read.
    pub fn ends_reading(&self) -> bool {
        self.near_limit && matches!(self.error, RewriteError::Every(_))
    }
}

/// One connection that reads dead letters, each of them once.
pub struct DeadLetters {
    link: Link,
    channel: Channel,
    /// What happens to the connection.
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    queue: Queue,
    limit: DeliveryLimit,
    /// Read and not removed.
    held: u32,
    aged: Aged,
    rewriter: Rewriter,
    counted: Option<Counted>,
}

/// Letters to be written anew.
#[derive(Default)]
struct Aged {
    letters: Vec<DeadLetter>,
    bytes: usize,
}

impl DeadLetters {
    /// `delivery_limit` is the dead queue's, with all policies, if it is known.
    pub async fn connect(amqp: &Amqp, queue: &Queue, delivery_limit: Option<u32>) -> Result<Self, QueueError> {
        let link = Link::open(amqp, Purpose::DeadLetters).await?;
        let events = Box::pin(link.events());
        let channel = link.channel().await?;
        let declared = u32::try_from(queue.dead_delivery_limit).unwrap_or(u32::MAX);
        let limit = DeliveryLimit { known: delivery_limit, declared };
        let (rewriter, queue, aged) = (Rewriter::new(amqp, queue), queue.clone(), Aged::default());
        Ok(Self { link, channel, events, queue, limit, held: 0, aged, rewriter, counted: None })
    }

    /// How many nobody holds.
    pub async fn count(&self) -> Result<u32, QueueError> {
        let counted = depth(&self.channel, &self.queue.dead_queue);
        match bounded(self.queue.confirm_timeout, "counting", counted).await {
            Ok(depth) => Ok(depth.messages),
            Err(QueueError::Unavailable(error)) if library_error(&error).is_some_and(is_missing) => {
                Err(QueueError::NoQueue(self.queue.dead_queue.clone()))
            }
            Err(error) => Err(error.for_want_of(|| Lack::counting(self.link.user(), &self.queue.dead_queue))),
        }
    }

    /// The next one, which stays ours until it is removed or the connection ends. After an error nothing is ours. None also
    /// when reading more would bring letters to the delivery limit.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if !self.may_read().await {
            return Ok(None);
        }
        loop {
            let got = get(&self.channel, &self.queue.dead_queue, &mut self.events);
            let got = bounded(self.queue.confirm_timeout, "reading", got).await;
            let letter = got.map_err(|error| error.for_want_of(|| self.lack()))?.map(dead_letter);
            self.held += u32::from(letter.is_some());
            match letter {
                // With a priority it comes before those not read yet.
                Some(letter) if letter.rewritten_by == Some(self.rewriter.run) => {}
                letter => return Ok(letter),
            }
        }
    }

    /// Where looks may bring a letter to its limit, nothing is read unless it can be written anew: a letter that was read
    /// has to go back, and that counts.
    async fn may_read(&mut self) -> bool {
        if self.held == 0 && self.counted.is_none() && self.limit.is_in_reach() && !self.rewriter.is_connected() {
            let probed = self.rewriter.probe().await;
            self.counted = probed.err().map(|error| Counted { error: RewriteError::Every(error), near_limit: true });
        }
        !self.counted.as_ref().is_some_and(Counted::ends_reading)
    }

    fn lack(&self) -> Lack {
        Lack::reading(self.link.user(), &self.queue.dead_queue)
    }

    /// Takes it out of the queue for good; sure only after `close`. RabbitMQ passes 32 such commands on to a quorum
    /// queue at once and keeps more with the channel, where they are lost when it closes: remove fewer in a row.
    pub async fn remove(&mut self, letter: &DeadLetter) -> Result<(), QueueError> {
        let ack = self.channel.basic_ack(letter.tag, BasicAckOptions::default());
        bounded(self.queue.confirm_timeout, "removing", ack).await?;
        self.held -= 1;
        Ok(())
    }

    /// For each that is not removed: it goes back when we close, or is written anew.
    pub async fn give_back(&mut self, letter: DeadLetter) -> Result<(), QueueError> {
        if !self.limit.asks_to_rewrite(letter.returns) {
            return Ok(());
        }
        if !letter.can_be_rewritten() {
            self.note(RewriteError::Cut, &[letter]);
            return Ok(());
        }
        self.aged.bytes += letter.body.len();
        self.aged.letters.push(letter);
        let full = self.aged.letters.len() >= BATCH || self.aged.bytes >= BATCH_BYTES;
        // The first one at once: whether it can be written anew decides whether others are read.
        if full || !self.rewriter.is_connected() || self.none_can_be_rewritten() {
            self.rewrite_aged().await?;
        }
        Ok(())
    }

    /// Gives back what was not removed. When it is done, the broker has processed every removal, and what went back can be
    /// read again.
    pub async fn close(mut self) -> Result<Option<Counted>, QueueError> {
        self.rewrite_aged().await?;
        if self.held > 0 {
            let there = self.count().await?.saturating_add(self.held);
            // RabbitMQ 4.3 does not count what goes back this way, only what goes back with its channel.
            let options = BasicNackOptions { multiple: true, requeue: true };
            bounded(self.queue.confirm_timeout, "giving back", self.channel.basic_nack(0, options)).await?;
            let deadline = Instant::now() + RETURN_TIMEOUT;
            while self.count().await? < there && Instant::now() < deadline {
                tokio::time::sleep(RETURN_POLL).await;
            }
        }
        let closed = bounded(self.queue.confirm_timeout, "giving back", self.channel.close(200, name("done"))).await;
        self.link.close().await.ok();
        self.rewriter.close().await;
        closed.map(|()| self.counted)
    }

    /// What cannot be written anew goes back with the others.
    async fn rewrite_aged(&mut self) -> Result<(), QueueError> {
        let Aged { mut letters, .. } = std::mem::take(&mut self.aged);
        if letters.is_empty() {
            return Ok(());
        }
        if self.none_can_be_rewritten() {
            self.note_near(&letters);
            return Ok(());
        }
        letters.sort_by_key(|letter| Reverse(letter.body.len()));
        let Rewritten { confirmed, error } = self.rewriter.write(&letters).await;
        for letter in &letters[confirmed.clone()] {
            self.remove(letter).await?;
        }
        letters.drain(confirmed);
        if let Some(error) = error {
            self.note(error, &letters);
        }
        // With its answer the removals are with the queue.
        self.count().await.map(drop)
    }

    fn none_can_be_rewritten(&self) -> bool {
        self.counted.as_ref().is_some_and(|counted| matches!(counted.error, RewriteError::Every(_)))
    }

    /// These go back, for that reason.
    fn note(&mut self, error: RewriteError, letters: &[DeadLetter]) {
        match &mut self.counted {
            Some(counted) if matches!(error, RewriteError::Every(_)) => counted.error = error,
            Some(_) => {}
            None => self.counted = Some(Counted { error, near_limit: false }),
        }
        self.note_near(letters);
    }

    fn note_near(&mut self, letters: &[DeadLetter]) {
        if let Some(counted) = &mut self.counted {
            counted.near_limit |= letters.iter().any(|letter| self.limit.is_near(letter.returns));
        }
    }
}

impl DeadLetter {
    /// Else not all of its properties are here, or with those that we add they would not fit into a frame.
    fn can_be_rewritten(&self) -> bool {
        let is_cut = self.amqp.headers().as_ref().is_some_and(|headers| headers.contains_key(CUT));
        !is_cut
            && size(&properties_again(&self.amqp, &self.routing_key, Headers::All { run: Uuid::nil() }))
                <= MAX_PROPERTIES
    }
}

/// Which headers a message keeps when it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// It stays the dead letter that it is, with the routing key that it came with, and says which run of ours wrote it.
    All { run: Uuid },
    /// All but the broker's account of how it died: its next life starts at none. It carries `x-requeued`.
    WithoutDeath,
}

/// Says that a message may have been worked on in an earlier life, which nothing else does any more.
pub(super) const REQUEUED: &str = "x-requeued";

/// The routing key that a letter had before it was written anew.
const ROUTING_KEY: &str = "x-routing-key";

/// Which run of ours wrote it anew.
const REWRITTEN_BY: &str = "x-rewritten-by";

/// What the broker counted while the message was handed out.
fn is_count(header: &str) -> bool {
    matches!(header, "x-delivery-count" | "x-acquired-count")
}

/// What the broker wrote when the message died, and we when it was written anew.
fn is_of_death(header: &str) -> bool {
    header == "x-death"
        || matches!(header, ROUTING_KEY | REWRITTEN_BY)
        || header.starts_with("x-first-death-")
        || header.starts_with("x-last-death-")
}

/// What a message is sent again with. Left out is what would route it elsewhere too (`CC`, `BCC`), or have the broker
/// refuse it as not ours (`user_id`).
pub(super) fn properties_again(amqp: &BasicProperties, routing_key: &str, keep: Headers) -> BasicProperties {
    let mut again = super::publisher::persistent();
    macro_rules! keep {
        ($($field:ident $with:ident)*) => {$(
            if let Some(value) = amqp.$field() {
                again = again.$with(value.clone());
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
    let mut kept = FieldTable::default();
    for (key, value) in amqp.headers().iter().flat_map(FieldTable::inner) {
        let key_text = key.as_str();
        let goes = matches!(key_text, "CC" | "BCC")
            || is_count(key_text)
            || (keep == Headers::WithoutDeath && is_of_death(key_text));
        if !goes {
            kept.insert(key.clone(), value.clone());
        }
    }
    match keep {
        Headers::All { run } => {
            kept.insert(ROUTING_KEY.into(), AMQPValue::LongString(routing_key.into()));
            kept.insert(REWRITTEN_BY.into(), AMQPValue::LongString(run.to_string().into()));
        }
        Headers::WithoutDeath => {
            kept.insert(REQUEUED.into(), AMQPValue::Boolean(true));
        }
    }
    again.with_headers(kept)
}

/// In bytes.
fn size(properties: &BasicProperties) -> u64 {
    basic::gen_properties(properties)(Vec::new().into()).map_or(u64::MAX, |written| written.position)
}

fn dead_letter(message: BasicGetMessage) -> DeadLetter {
    let delivery = message.delivery;
    let headers = delivery.properties.headers().as_ref();
    let unreadable = headers.and_then(|table| bytes(table, UNREADABLE));
    let death = headers.and_then(last_death);
    let reason = death.and_then(|death| bytes(death, "reason"));
    let died_at = death.and_then(|death| match death.inner().get("time") {
        Some(AMQPValue::Timestamp(seconds)) => Some(*seconds),
        _ => None,
    });
    let routing_key = headers.and_then(|table| bytes(table, ROUTING_KEY));
    let rewritten_by = headers.and_then(|table| bytes(table, REWRITTEN_BY));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    DeadLetter {
        body: delivery.data,
        properties: properties(&delivery.properties),
        routing_key: routing_key.map_or_else(|| delivery.routing_key.to_string(), text),
        broker_reason: reason.map(text),
        died_at: died_at.or_else(|| unreadable.and_then(time_of_death)),
        unreadable: unreadable.is_some(),
        rewritten_by: rewritten_by.and_then(|run| Uuid::try_parse_ascii(run).ok()),
        returns: delivery_count(&delivery.properties),
        amqp: delivery.properties,
        tag: delivery.delivery_tag,
    }
}

fn bytes<'a>(table: &'a FieldTable, key: &str) -> Option<&'a [u8]> {
    match table.inner().get(key)? {
        AMQPValue::LongString(bytes) => Some(bytes.as_bytes()),
        _ => None,
    }
}

/// How often the broker took the message back from somebody. RabbitMQ before 4.3 counts every return; from 4.3 on it counts
/// those with a channel or connection that ended, and not what was given back by `nack`, which raises `x-acquired-count`.
pub(super) fn delivery_count(amqp: &BasicProperties) -> i64 {
    match amqp.headers().as_ref().and_then(|table| table.inner().get(COUNT)) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        _ => 0,
    }
}

/// The broker keeps one entry per queue and reason, the latest first.
fn last_death(headers: &FieldTable) -> Option<&FieldTable> {
    match headers.inner().get("x-death")? {
        AMQPValue::FieldArray(deaths) => match deaths.as_slice().first()? {
            AMQPValue::FieldTable(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

/// The message at the head of a queue. The library never answers a get whose message it cannot read; only the connection's own
/// error tells.
pub(super) async fn get(
    channel: &Channel,
    queue: &str,
    events: &mut (impl Stream<Item = Event> + Unpin),
) -> lapin::Result<Option<BasicGetMessage>> {
    tokio::select! {
        biased;
        message = channel.basic_get(name(queue), BasicGetOptions::default()) => message,
        error = failure(events) => Err(error),
    }
}

/// What the connection says when it ends.
async fn failure(events: &mut (impl Stream<Item = Event> + Unpin)) -> lapin::Error {
    loop {
        match events.next().await {
            Some(Event::Error(error)) => return error,
            Some(_) => {}
            // The connection is gone, and with it whatever could be said: the caller's bound ends the wait.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_sent_again_keeps_its_own_headers_and_drops_the_brokers() {
        let mut headers = FieldTable::default();
        for key in ["traceparent", "x-death", "x-delivery-count", "x-first-death-queue", "x-last-death-reason", "CC"] {
            headers.insert(key.into(), AMQPValue::LongString("value".into()));
        }
        let died = BasicProperties::default()
            .with_message_id(name("evt_1"))
            .with_user_id(name("somebody"))
            .with_timestamp(7)
            .with_headers(headers);
        let keys = |again: &BasicProperties| -> Vec<String> {
            again.headers().as_ref().unwrap().inner().keys().map(|key| key.as_str().to_owned()).collect()
        };
        let again = properties_again(&died, "content.created", Headers::WithoutDeath);
        assert_eq!(keys(&again), ["traceparent", REQUEUED]);
        assert_eq!((again.message_id(), again.timestamp()), (&Some(name("evt_1")), &Some(7)));
        assert_eq!((again.user_id(), again.delivery_mode()), (&None, &Some(2)));
        // Flags, the table of headers with its own size, the delivery mode, the id and the time.
        assert_eq!(size(&again), 2 + (4 + 22 + 13) + 1 + 6 + 8);
        let anew = properties_again(&died, "content.created", Headers::All { run: Uuid::nil() });
        let kept = ["traceparent", "x-death", "x-first-death-queue", "x-last-death-reason", REWRITTEN_BY, ROUTING_KEY];
        assert_eq!(keys(&anew), kept);
        assert_eq!(keys(&properties_again(&anew, "content.created", Headers::WithoutDeath)), ["traceparent", REQUEUED]);
    }
}

//! Looks at dead letters, takes them out one by one, and never loses one that was only looked at.
//!
//! What was read stays the broker's until it is removed: when the connection ends, however it ends, the rest goes back.
//! But a quorum queue counts how often a letter went back, and drops it beyond the queue's delivery limit, which a policy of
//! the broker's operator may lower without our being told. So a letter that was read before is not given back: it is written
//! anew, which begins at none, and the old one is removed once the new one is confirmed.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Event};

use super::inspect::depth;
use super::link::{Link, Purpose, bounded};
use super::readable::{COUNT, CUT, UNREADABLE, time_of_death};
use super::rights::Lack;
use super::{PublishError, Publisher, QueueError, is_missing, library_error, name, properties};
use crate::config::{Amqp, Queue};
use crate::event::Properties;

/// How long what was given back may take to be counted again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);
const RETURN_POLL: Duration = Duration::from_millis(20);
/// Letters in hand at a time to be removed, fewer than a quorum queue takes removals in a row, and about how many bytes.
pub const BATCH: usize = 24;
pub const BATCH_BYTES: usize = 16 * 1024 * 1024;

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
    /// How often it went back to the queue, as far as that counts.
    returns: i64,
    tag: u64,
}

/// How often letters may go back to their queue.
#[derive(Debug, Clone, Copy)]
struct Lives {
    /// The queue's delivery limit, with all policies, if somebody could tell.
    known: Option<u32>,
    /// What the queue was declared with. A policy may lower it.
    declared: u32,
}

impl Lives {
    /// The lowest limit that is to be reckoned with while nobody knows of policies.
    const LOWEST: u32 = 3;

    /// Whether giving a letter back would bring it to within one of the limit, or of what that may be.
    fn are_few(self, returns: i64) -> bool {
        is_near(returns, self.known.unwrap_or(Self::LOWEST).min(self.declared))
    }

    /// Whether it would bring it to within one of the lowest limit that we know of.
    fn end(self, returns: i64) -> bool {
        is_near(returns, self.known.unwrap_or(self.declared).min(self.declared))
    }
}

fn is_near(returns: i64, limit: u32) -> bool {
    returns.saturating_add(2) >= i64::from(limit)
}

/// Letters that were read often and could not be written anew: they went back, and the broker counts that.
#[derive(Debug)]
pub struct Worn {
    /// Why they could not be written anew.
    pub error: PublishError,
    /// Reading stopped: one more look at some of them, or two, and the broker drops them.
    pub stopped: bool,
}

/// One connection that reads dead letters, each of them once.
pub struct DeadLetters {
    link: Link,
    channel: Channel,
    /// What happens to the connection.
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    amqp: Amqp,
    queue: Queue,
    lives: Lives,
    /// Read and not removed.
    held: u32,
    aged: Aged,
    publisher: Option<Publisher>,
    worn: Option<Worn>,
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
        let lives = Lives { known: delivery_limit, declared };
        let (amqp, queue, aged) = (amqp.clone(), queue.clone(), Aged::default());
        Ok(Self { link, channel, events, amqp, queue, lives, held: 0, aged, publisher: None, worn: None })
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
    /// when reading more would cost letters their life.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if self.worn.as_ref().is_some_and(|worn| worn.stopped) {
            return Ok(None);
        }
        let got = get(&self.channel, &self.queue.dead_queue, &mut self.events);
        let got = bounded(self.queue.confirm_timeout, "reading", got).await;
        let letter = got.map_err(|error| error.for_want_of(|| self.lack()))?.map(dead_letter);
        self.held += u32::from(letter.is_some());
        Ok(letter)
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
        if !self.lives.are_few(letter.returns) || letter.is_cut() {
            return Ok(());
        }
        self.aged.bytes += letter.body.len();
        self.aged.letters.push(letter);
        let full = self.aged.letters.len() >= BATCH || self.aged.bytes >= BATCH_BYTES;
        // The first one at once: whether it can be written anew decides whether others are read.
        if full || self.publisher.is_none() || self.worn.is_some() {
            self.renew().await?;
        }
        Ok(())
    }

    /// Gives back what was not removed. When it is done, the broker has processed every removal, and what went back can be
    /// read again.
    pub async fn close(mut self) -> Result<Option<Worn>, QueueError> {
        self.renew().await?;
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
        if let Some(publisher) = self.publisher {
            publisher.close().await;
        }
        closed.map(|()| self.worn)
    }

    /// Writes the aged letters anew. What cannot be written anew goes back with the others.
    async fn renew(&mut self) -> Result<(), QueueError> {
        let Aged { letters, .. } = std::mem::take(&mut self.aged);
        if letters.is_empty() {
            return Ok(());
        }
        let written = match &self.worn {
            Some(_) => 0,
            None => match self.write(&letters).await {
                Ok(()) => letters.len(),
                Err((written, error)) => {
                    self.worn = Some(Worn { error, stopped: false });
                    written
                }
            },
        };
        let (renewed, worn) = letters.split_at(written);
        for letter in renewed {
            self.remove(letter).await?;
        }
        if let Some(told) = &mut self.worn {
            told.stopped |= worn.iter().any(|letter| self.lives.end(letter.returns));
        }
        // With its answer the removals are with the queue.
        self.count().await.map(drop)
    }

    /// Or how many of them were confirmed before the error.
    async fn write(&mut self, letters: &[DeadLetter]) -> Result<(), (usize, PublishError)> {
        if self.publisher.is_none() {
            self.publisher = Some(Publisher::connect(&self.amqp, &self.queue).await.map_err(|error| (0, error))?);
        }
        let publisher = self.publisher.as_ref().expect("it was made just now");
        let (mut unconfirmed, mut failed) = (Vec::new(), None);
        for letter in letters {
            match publisher.send_again(&self.queue.dead_queue, letter, Headers::All).await {
                Ok(sent) => unconfirmed.push(sent),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let sent = unconfirmed.len();
        for (confirmed, one) in unconfirmed.into_iter().enumerate() {
            one.confirmed().await.map_err(|error| (confirmed, error))?;
        }
        failed.map_or(Ok(()), |error| Err((sent, error)))
    }
}

impl DeadLetter {
    /// Not all of its properties are here, so that it cannot be written anew.
    fn is_cut(&self) -> bool {
        self.amqp.headers().as_ref().is_some_and(|headers| headers.contains_key(CUT))
    }
}

/// Which headers a message keeps when it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// It stays the dead letter that it is, with the routing key that it came with.
    All,
    /// All but the broker's account of how it died: its next life starts at none. It carries `x-requeued`.
    WithoutDeath,
}

/// Says that a message may have been worked on in an earlier life, which nothing else does any more.
pub(super) const REQUEUED: &str = "x-requeued";

/// The routing key that a letter had before it was written anew.
const ROUTING_KEY: &str = "x-routing-key";

/// What the broker counted while the message was handed out.
fn is_count(header: &str) -> bool {
    matches!(header, "x-delivery-count" | "x-acquired-count")
}

/// What the broker wrote when the message died, and we when it was written anew.
fn is_of_death(header: &str) -> bool {
    header == "x-death"
        || header == ROUTING_KEY
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
        Headers::All => kept.insert(ROUTING_KEY.into(), AMQPValue::LongString(routing_key.into())),
        Headers::WithoutDeath => kept.insert(REQUEUED.into(), AMQPValue::Boolean(true)),
    };
    again.with_headers(kept)
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
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    DeadLetter {
        body: delivery.data,
        properties: properties(&delivery.properties),
        routing_key: routing_key.map_or_else(|| delivery.routing_key.to_string(), text),
        broker_reason: reason.map(text),
        died_at: died_at.or_else(|| unreadable.and_then(time_of_death)),
        unreadable: unreadable.is_some(),
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
    use proptest::prelude::*;

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
        let anew = properties_again(&died, "content.created", Headers::All);
        let kept = ["traceparent", "x-death", "x-first-death-queue", "x-last-death-reason", ROUTING_KEY];
        assert_eq!(keys(&anew), kept);
        assert_eq!(keys(&properties_again(&anew, "content.created", Headers::WithoutDeath)), ["traceparent", REQUEUED]);
    }

    proptest! {
        /// The broker drops a letter when its count exceeds the limit. `crashes` of ours count, too.
        #[test]
        fn a_letter_that_can_be_written_anew_outlives_any_number_of_looks(limit in 2..40_u32, known: bool, looks in 1..200_u32) {
            let lives = Lives { known: known.then_some(limit), declared: 1_000_000 };
            let mut returns = 0;
            for _ in 0..looks {
                returns = if lives.are_few(returns) { 0 } else { returns + 1 };
                let after_a_crash = returns + 1;
                prop_assert!(after_a_crash <= i64::from(limit));
            }
        }

        #[test]
        fn reading_stops_before_the_lowest_known_limit(limit in 3..1000_u32, known: bool, looks in 1..2000_u32) {
            let (known, declared) = if known { (Some(limit), u32::MAX) } else { (None, limit) };
            let lives = Lives { known, declared };
            let returns = (0..looks).fold(0, |returns, _| if lives.end(returns) { returns } else { returns + 1 });
            prop_assert!(returns <= i64::from(limit) - 2);
            prop_assert!(lives.are_few(returns) || !lives.end(returns));
        }
    }
}

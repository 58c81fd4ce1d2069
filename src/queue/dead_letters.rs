//! Looks at dead letters, takes them out one by one, and never loses one that was only looked at.
//!
//! What was read stays the broker's until it is removed: when the connection ends, however it ends, the rest goes back
//! to where it stood. A message that the AMQP library cannot read ends the connection it comes on.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Event};

use super::link::{Link, bounded};
use super::rights::Lack;
use super::{PublishError, Publisher, QueueError, is_missing, library_error, name, properties};
use crate::config::{Amqp, Queue};
use crate::event::Properties;

/// How long what a dead connection held may take to be in the queue again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);
const RETURN_POLL: Duration = Duration::from_millis(20);
/// Somebody else at work on the same queue may spoil a try.
const DISCARD_TRIES: usize = 10;

/// A broker message that was no event, or that the broker gave up.
pub struct DeadLetter {
    pub body: Vec<u8>,
    pub properties: Properties,
    pub routing_key: String,
    /// Why the broker made a dead letter of it: `rejected`, `delivery_limit`, `expired` …
    pub broker_reason: Option<String>,
    /// When it did, in unix seconds.
    pub died_at: Option<u64>,
    pub(super) amqp: BasicProperties,
    tag: u64,
}

/// One connection that reads dead letters from the head on, each of them once.
pub struct DeadLetters {
    link: Link,
    channel: Channel,
    /// What happens to the connection.
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    queue: String,
    timeout: Duration,
}

impl DeadLetters {
    pub async fn connect(amqp: &Amqp, queue: &Queue) -> Result<Self, QueueError> {
        let link = Link::open(amqp, "dead letters").await?;
        let events = Box::pin(link.events());
        let channel = link.channel().await?;
        Ok(Self { link, channel, events, queue: queue.dead_queue.clone(), timeout: queue.confirm_timeout })
    }

    /// After a connection that held messages was lost: waits until `ready` of them are there, for a while at least.
    pub async fn connect_again(amqp: &Amqp, queue: &Queue, ready: u32) -> Result<Self, QueueError> {
        let letters = Self::connect(amqp, queue).await?;
        let deadline = Instant::now() + RETURN_TIMEOUT;
        while letters.count().await? < ready && Instant::now() < deadline {
            tokio::time::sleep(RETURN_POLL).await;
        }
        Ok(letters)
    }

    /// How many nobody holds.
    pub async fn count(&self) -> Result<u32, QueueError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = self.channel.queue_declare(name(&self.queue), options, FieldTable::default());
        match bounded(self.timeout, "counting", declare).await {
            Ok(queue) => Ok(queue.message_count()),
            Err(QueueError::Unavailable(error)) if library_error(&error).is_some_and(is_missing) => {
                Err(QueueError::NoQueue(self.queue.clone()))
            }
            Err(error) => Err(error.for_want_of(|| self.lack())),
        }
    }

    /// The next one, which stays ours until it is removed or the connection ends. After an error nothing is ours.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        self.get(BasicGetOptions { no_ack: false }).await
    }

    /// Takes it out of the queue for good; sure only after `close`. RabbitMQ passes 32 such commands on to a quorum
    /// queue at once and keeps more with the channel, where they are lost when it closes: remove fewer in a row.
    pub async fn remove(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        bounded(self.timeout, "removing", self.channel.basic_ack(letter.tag, BasicAckOptions::default())).await
    }

    /// Gives back what was not removed. The broker's answer says that it has processed every removal.
    pub async fn close(self) -> Result<(), QueueError> {
        let closed = bounded(self.timeout, "giving back", self.channel.close(200, name("done"))).await;
        self.link.close().await.ok();
        closed
    }

    async fn get(&mut self, options: BasicGetOptions) -> Result<Option<DeadLetter>, QueueError> {
        let get = self.channel.basic_get(name(&self.queue), options);
        // The library never answers a get whose message it cannot read; only the connection's own error tells.
        let answer = async {
            tokio::select! {
                biased;
                message = get => message,
                error = failure(&mut self.events) => Err(error),
            }
        };
        let got = bounded(self.timeout, "reading", answer).await;
        Ok(got.map_err(|error| error.for_want_of(|| self.lack()))?.map(dead_letter))
    }

    fn lack(&self) -> Lack {
        Lack::reading(self.link.user(), &self.queue)
    }
}

/// Removes the first dead letter that the AMQP library cannot read, wherever it stands. `false` if there is none.
///
/// Nobody can ack what cannot be read, for its connection is gone. So it is taken without ack, by a connection that
/// asks for one message and nothing else. Before that, everything in front of it is held by another connection, and a
/// third one fails on what is now the head. The taker starts once the failed message is counted again; only if a dead
/// letter arrives in that very moment, or somebody else empties the queue, may it get another one: being readable,
/// that one is then in our hands and goes back. Should it be unreadable too, one unreadable message was removed.
pub async fn discard_unreadable(amqp: &Amqp, queue: &Queue) -> Result<bool, PublishError> {
    for _ in 0..DISCARD_TRIES {
        let mut scan = DeadLetters::connect(amqp, queue).await?;
        let ready = scan.count().await?;
        let Some(in_front) = readable_in_front(&mut scan).await? else {
            scan.close().await?;
            return Ok(false);
        };
        let mut holder = DeadLetters::connect_again(amqp, queue, ready).await?;
        let removed = hold(&mut holder, in_front).await? && take_unreadable(amqp, queue, &holder).await?;
        // Of no use any more if the unreadable one came over it, and then empty-handed.
        holder.close().await.ok();
        if removed {
            return Ok(true);
        }
    }
    let busy = "the queue changes too fast to tell which message cannot be read: try again";
    Err(QueueError::Unavailable(anyhow::anyhow!(busy)).into())
}

/// How many stand in front of the unreadable one; `None` if all can be read.
async fn readable_in_front(letters: &mut DeadLetters) -> Result<Option<u32>, QueueError> {
    let mut read = 0;
    loop {
        match letters.next().await {
            Ok(Some(_)) => read += 1,
            Ok(None) => return Ok(None),
            Err(QueueError::Unreadable(_)) => return Ok(Some(read)),
            Err(error) => return Err(error),
        }
    }
}

/// Whether so many could be held.
async fn hold(letters: &mut DeadLetters, count: u32) -> Result<bool, QueueError> {
    for _ in 0..count {
        match letters.next().await {
            Ok(Some(_)) => {}
            Ok(None) | Err(QueueError::Unreadable(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Removes the head if it cannot be read. Whether it did.
async fn take_unreadable(amqp: &Amqp, queue: &Queue, holder: &DeadLetters) -> Result<bool, PublishError> {
    let ready = holder.count().await?;
    let mut probe = DeadLetters::connect(amqp, queue).await?;
    match probe.next().await {
        Err(QueueError::Unreadable(_)) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => {
            probe.close().await?;
            return Ok(false);
        }
    }
    let mut taker = DeadLetters::connect_again(amqp, queue, ready).await?;
    match taker.get(BasicGetOptions { no_ack: true }).await {
        Err(QueueError::Unreadable(_)) => Ok(true),
        Err(error) => Err(error.into()),
        Ok(taken) => {
            if let Some(letter) = taken {
                put_back(amqp, queue, &letter).await?;
            }
            taker.close().await?;
            Ok(false)
        }
    }
}

async fn put_back(amqp: &Amqp, queue: &Queue, letter: &DeadLetter) -> Result<(), PublishError> {
    let publisher = Publisher::connect(amqp, queue).await?;
    publisher.send_again(&queue.dead_queue, letter, Headers::All).await?.confirmed().await?;
    publisher.close().await;
    Ok(())
}

/// Which headers a message keeps when it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    All,
    /// All but the broker's account of how it died: its next life starts at none. It carries `x-requeued`.
    WithoutDeath,
}

/// Says that a message may have been worked on in an earlier life, which nothing else does any more.
pub(super) const REQUEUED: &str = "x-requeued";

/// What the broker wrote when the message died, or while it was handed out.
fn is_of_death(header: &str) -> bool {
    header == "x-death"
        || header == "x-delivery-count"
        || header == "x-acquired-count"
        || header.starts_with("x-first-death-")
        || header.starts_with("x-last-death-")
}

/// What a message is sent again with. Left out is what would route it elsewhere too (`CC`, `BCC`), or have the broker
/// refuse it as not ours (`user_id`).
pub(super) fn properties_again(amqp: &BasicProperties, keep: Headers) -> BasicProperties {
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
        let goes = matches!(key.as_str(), "CC" | "BCC") || (keep == Headers::WithoutDeath && is_of_death(key.as_str()));
        if !goes {
            kept.insert(key.clone(), value.clone());
        }
    }
    if keep == Headers::WithoutDeath {
        kept.insert(REQUEUED.into(), AMQPValue::Boolean(true));
    }
    again.with_headers(kept)
}

fn dead_letter(message: BasicGetMessage) -> DeadLetter {
    let delivery = message.delivery;
    let death = delivery.properties.headers().as_ref().and_then(last_death);
    let reason = death.and_then(|death| match death.inner().get("reason") {
        Some(AMQPValue::LongString(reason)) => Some(String::from_utf8_lossy(reason.as_bytes()).into_owned()),
        _ => None,
    });
    let died_at = death.and_then(|death| match death.inner().get("time") {
        Some(AMQPValue::Timestamp(seconds)) => Some(*seconds),
        _ => None,
    });
    DeadLetter {
        body: delivery.data,
        properties: properties(&delivery.properties),
        routing_key: delivery.routing_key.to_string(),
        broker_reason: reason,
        died_at,
        amqp: delivery.properties,
        tag: delivery.delivery_tag,
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

/// What the connection says when it ends.
pub(super) async fn failure(events: &mut (impl Stream<Item = Event> + Unpin)) -> lapin::Error {
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
        let again = properties_again(&died, Headers::WithoutDeath);
        let kept: Vec<_> = again.headers().as_ref().unwrap().inner().keys().map(|key| key.as_str()).collect();
        assert_eq!(kept, ["traceparent", REQUEUED]);
        assert_eq!((again.message_id(), again.timestamp()), (&Some(name("evt_1")), &Some(7)));
        assert_eq!((again.user_id(), again.delivery_mode()), (&None, &Some(2)));
    }
}

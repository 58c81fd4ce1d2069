//! Finds out whether a queue has a quorum: whether more than half of its members are online, which a quorum queue needs for
//! every change.
//!
//! A queue without quorum confirms nothing, delivers nothing and takes no acks. But its broker looks healthy: it accepts
//! clients, opens channels and reports the queue's number of messages. Only requests that change the queue stay without an
//! answer. So a queue counts as without quorum if it leaves such a request unanswered while the broker answers another one on
//! the same connection.
//!
//! The request that does no harm adds a second consumer, with the lowest priority. The queue's members must agree to add it,
//! and it gets only messages for which no other consumer has room: none, while the worker's consumer has room. A `basic.get`
//! would not do: a node that has just lost the queue's leader answers it by closing the connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use super::attachment::Attachment;
use super::connection::connect::connect;
use super::connection::link::{Link, Purpose, bounded};
use super::convert::name;
use super::depth::depth;
use super::error::{QueueError, is_missing};
use crate::config::{Amqp, Queue};

/// The tag of the consumer that is added for a moment.
pub(crate) const QUORUM_TAG: &str = "penr-webhooks-quorum";

/// How long the broker has to open a channel, which usually takes a millisecond.
const BROKER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for an answer that must have come already.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How long a queue has to answer: more than the election of a new leader takes.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(8);
/// The priority of the second consumer: the queue prefers every other consumer.
const LOWEST_PRIORITY: i32 = -1000;

/// Whether the worker queues have a quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Quorum {
    There,
    /// This queue has none.
    Lost(String),
    /// Nothing was asked, since messages wait in all queues, or the queues do not exist.
    NotAsked,
}

/// Ends when the queue has no quorum, or when the broker does not answer twice in a row.
///
/// A message that comes proves the quorum. So the queue is asked only if no message came for `quiet` although the consumer has
/// room: then the queue is empty. In a queue that is not empty, the second consumer might get an event, and the broker would
/// count that as one of the event's deliveries.
pub(super) async fn until_lost(link: &Link, queue: &str, attachment: &Arc<Attachment>, quiet: Duration) -> QueueError {
    let mut was_silent = false;
    loop {
        tokio::time::sleep(quiet).await;
        if attachment.take_message_seen() || attachment.is_isolated() || !attachment.has_room() {
            continue;
        }
        let asked = async {
            let channel = link.channel().await?;
            answer_or_no_quorum(link, "asking the worker queue", ask(&channel, queue)).await
        };
        let error = match asked.await {
            Ok(()) => {
                was_silent = false;
                continue;
            }
            Err(error) => error,
        };
        // A single silence may be a pause of this process. Two are the broker's, which may send heartbeats all the same.
        let silent_again = std::mem::replace(&mut was_silent, error.is_silence()) && was_silent;
        if silent_again || matches!(error, QueueError::NoQuorum) {
            return error;
        }
        // The consumer on this connection reports every other error.
        tracing::debug!(error = crate::error_chain(&error), "cannot ask the worker queue");
    }
}

/// Waits for the answer to a request that changes a queue, at most for `amqp.connect_timeout`. If none comes, this takes up to
/// [`BROKER_TIMEOUT`] more to ask the broker, and [`AT_ONCE`] for an answer that has come meanwhile.
///
/// # Errors
///
/// [`QueueError::NoQuorum`] if the broker answers and the queue does not, otherwise the error of `answer`.
pub(super) async fn answer_or_no_quorum<T, E>(
    link: &Link,
    doing: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, QueueError>
where
    QueueError: From<E>,
{
    let mut answer = pin!(answer);
    let late = match timeout(link.answer_timeout(), answer.as_mut()).await {
        Ok(answered) => return answered.map_err(|error| link.blamed(error.into())),
        Err(_) if broker_answers(link).await => QueueError::NoQuorum,
        Err(_) => QueueError::silence(doing),
    };
    // If this process was paused, the answer has come meanwhile.
    match timeout(AT_ONCE, answer).await {
        Ok(answered) => answered.map_err(|error| link.blamed(error.into())),
        Err(_) => Err(link.blamed(late)),
    }
}

async fn broker_answers(link: &Link) -> bool {
    bounded(BROKER_TIMEOUT, "opening a channel", link.channel()).await.is_ok()
}

/// Adds the second consumer, and removes it with its channel. A message that it gets in between goes back to the queue.
async fn ask(channel: &Channel, queue: &str) -> lapin::Result<()> {
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, mut arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    arguments.insert("x-priority".into(), AMQPValue::LongInt(LOWEST_PRIORITY));
    let consumer = channel.basic_consume(name(queue), name(QUORUM_TAG), options, arguments).await?;
    channel.close(200, name("done")).await?;
    drop(consumer);
    Ok(())
}

/// Asks each worker queue that is empty, on a connection of its own: an unanswered request occupies its channel, and may end its
/// connection. If events wait in all of them, the dead queue is asked, whose members are on the same nodes: the request might
/// deliver an event, and the broker would count that delivery.
///
/// # Errors
///
/// The broker cannot be reached, or does not answer.
pub(crate) async fn check_quorum(amqp: &Amqp, queue: &Queue) -> Result<Quorum, QueueError> {
    let link = connect(amqp, Purpose::Doctor).await?;
    let limit = QUEUE_TIMEOUT.min(amqp.connect_timeout);
    let checked = async {
        let mut found = Quorum::NotAsked;
        for shard in queue.all_shards() {
            match quorum_of(&link, &shard.queue, limit).await? {
                Quorum::NotAsked => {}
                Quorum::There => found = Quorum::There,
                lost => return Ok(lost),
            }
        }
        if found == Quorum::NotAsked { quorum_of(&link, &queue.dead_queue, limit).await } else { Ok(found) }
    };
    let found = checked.await;
    link.close().await.ok();
    found
}

async fn quorum_of(link: &Link, queue: &str, limit: Duration) -> Result<Quorum, QueueError> {
    if !is_empty(link, queue).await? {
        return Ok(Quorum::NotAsked);
    }
    let channel = link.channel().await?;
    match timeout(limit, ask(&channel, queue)).await {
        Ok(asked) => asked.map(|()| Quorum::There).map_err(QueueError::from),
        Err(_) if broker_answers(link).await => Ok(Quorum::Lost(queue.to_owned())),
        Err(_) => Err(QueueError::silence("asking a queue")),
    }
}

async fn is_empty(link: &Link, queue: &str) -> Result<bool, QueueError> {
    let channel = link.channel().await?;
    let counted = async { Ok::<_, QueueError>(depth(&channel, queue).await) };
    match link.answer("counting", counted).await? {
        Ok(depth) => Ok(depth.messages == 0),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

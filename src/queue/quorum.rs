//! Tells whether a queue has a quorum: whether so many of its members are there that they can agree on a change.
//!
//! Without one nothing is confirmed, handed out or acked, but the broker looks well: it lets clients in, opens channels and
//! tells how many messages the queue has. Only what would change the queue stays unanswered. So a queue counts as without
//! quorum when it leaves such a question unanswered while the broker answers another one on the same connection.
//!
//! The question that does no harm is a consumer that gets what no other has room for, which is nothing while we have room:
//! the members must agree to have it. A get is no such question: a node that has just lost the queue's leader answers it by
//! closing the connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use super::consumer::Attachment;
use super::inspect::depth;
use super::link::{Link, Purpose, bounded};
use super::{QueueError, is_missing, name};
use crate::config::{Amqp, Queue};

/// For the broker to open a channel, which takes it a millisecond.
const BROKER_ANSWERS: Duration = Duration::from_secs(2);
const AT_ONCE: Duration = Duration::from_millis(100);
/// More than the election of a new leader takes.
const QUEUE_ANSWERS: Duration = Duration::from_secs(8);
/// The priority of a consumer before which every other one comes.
const LAST_OF_ALL: i32 = -1000;

/// What a look at the worker queue from outside told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    There,
    Lost,
    /// Messages wait in both queues, or there is no queue: nothing could be asked.
    NotAsked,
}

/// Ends when the queue has no quorum, or the broker does not answer. Whatever the queue hands out shows that it has one; it
/// is asked when nothing came for so long although the consumer has room, for then there is nothing to get. To ask while an
/// event waits would get that event, and count as one of its deliveries.
pub(super) async fn until_lost(link: &Link, queue: &str, attachment: &Arc<Attachment>, quiet: Duration) -> QueueError {
    let mut was_silent = false;
    loop {
        tokio::time::sleep(quiet).await;
        if attachment.take_heard() || attachment.is_isolated() || !attachment.has_room() {
            continue;
        }
        let asked = async {
            let channel = link.channel().await?;
            answer(link, "asking the worker queue", ask(&channel, queue)).await
        };
        let error = match asked.await {
            Ok(()) => {
                was_silent = false;
                continue;
            }
            Err(error) => error,
        };
        // Once may be this process, if it stood still; a broker may go on sending heartbeats for ever.
        let silent_again = std::mem::replace(&mut was_silent, error.is_silence()) && was_silent;
        if silent_again || matches!(error, QueueError::NoQuorum) {
            return error;
        }
        // Who consumes on this connection hears of everything else.
        tracing::debug!(error = crate::error_chain(&error), "cannot ask the worker queue");
    }
}

/// The answer of a queue, or of whatever keeps the list of queues. The question has no bound of its own.
pub(super) async fn answer<T, E>(
    link: &Link,
    doing: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, QueueError>
where
    QueueError: From<E>,
{
    let mut answer = pin!(answer);
    let late = match timeout(link.patience(), answer.as_mut()).await {
        Ok(answered) => return answered.map_err(|error| link.failed(error.into())),
        Err(_) if broker_answers(link).await => QueueError::NoQuorum,
        Err(_) => QueueError::silence(doing),
    };
    // If this process itself stood still, the answer is there by now.
    match timeout(AT_ONCE, answer).await {
        Ok(answered) => answered.map_err(|error| link.failed(error.into())),
        Err(_) => Err(link.failed(late)),
    }
}

async fn broker_answers(link: &Link) -> bool {
    bounded(BROKER_ANSWERS, "opening a channel", link.channel()).await.is_ok()
}

/// Has the queue take a consumer and give it up again. Should it get a message in between, that goes back.
async fn ask(channel: &Channel, queue: &str) -> lapin::Result<()> {
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let (options, mut last) = (BasicConsumeOptions::default(), FieldTable::default());
    last.insert("x-priority".into(), AMQPValue::LongInt(LAST_OF_ALL));
    let consumer = channel.basic_consume(name(queue), name("penr-webhooks-quorum"), options, last).await?;
    channel.close(200, name("done")).await?;
    drop(consumer);
    Ok(())
}

/// Looks from outside, on a connection of its own: an unanswered question keeps its channel, and may end the connection.
/// Where events wait in the worker queue it asks the dead queue, whose members are on the same nodes: to look at an event
/// would count as one of its deliveries.
pub async fn look_at_quorum(amqp: &Amqp, queue: &Queue) -> Result<Quorum, QueueError> {
    let link = Link::open(amqp, Purpose::Doctor).await?;
    let looked = async {
        for queue in [&queue.worker_queue, &queue.dead_queue] {
            if is_empty(&link, queue).await? {
                let (patience, channel) = (QUEUE_ANSWERS.min(amqp.connect_timeout), link.channel().await?);
                return match timeout(patience, ask(&channel, queue)).await {
                    Ok(asked) => asked.map(|()| Quorum::There).map_err(QueueError::from),
                    Err(_) if broker_answers(&link).await => Ok(Quorum::Lost),
                    Err(_) => Err(QueueError::silence("asking a queue")),
                };
            }
        }
        Ok(Quorum::NotAsked)
    };
    let found = looked.await;
    link.close().await.ok();
    found
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

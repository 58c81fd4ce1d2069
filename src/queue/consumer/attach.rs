//! Attaches a consumer to its worker queue: declares what it needs, looks at the oldest message if the process has just
//! started, consumes, and only then has events sent to that queue.

use std::sync::Arc;

use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};

use super::supervisor::Supervisor;
use crate::ids::ProcessId;
use crate::metrics::Metrics;
use crate::queue::attachment::{Attachment, MessageCounts};
use crate::queue::connection::link::Link;
use crate::queue::convert::name;
use crate::queue::error::QueueError;
use crate::queue::get::get;
use crate::queue::quorum::answer_or_no_quorum;
use crate::queue::topology::declare::{declare, join};
use crate::queue::topology::part::Part;
use crate::queue::topology::rights::MissingRights;
use crate::queue::topology::unchecked::UncheckedTopology;

const CONSUMER_TAG: &str = "penr-webhooks";

/// A connection on which the worker queue delivers messages.
pub(super) struct Attached {
    pub(super) link: Link,
    pub(super) attachment: Arc<Attachment>,
    pub(super) consuming: Consuming,
    pub(super) unchecked: UncheckedTopology,
}

/// The broker's consumer.
pub(super) struct Consuming {
    pub(super) tag: ShortString,
    pub(super) messages: lapin::Consumer,
    /// Taken before the consumer began, and to be handed on first.
    pub(super) oldest: Option<Delivery>,
}

/// How a worker takes messages from one queue.
#[derive(Debug)]
pub(crate) struct Taking {
    /// Named by the tags of the broker's consumers.
    pub(crate) process: ProcessId,
    /// The place of the consumer among all of the worker.
    pub(crate) consumer: usize,
    /// How many unsettled messages of this queue the worker may have.
    pub(crate) prefetch: u16,
    pub(crate) metrics: Metrics,
}

/// Attaches a consumer to its queue, on a connection that is open.
///
/// # Errors
///
/// [`QueueError::Mismatch`] if something is declared otherwise, [`QueueError::Forbidden`] if a right is lacking,
/// [`QueueError::NoQuorum`] or [`QueueError::NoLeader`] if the queue cannot work now, [`QueueError::Unavailable`] if the broker
/// does not answer, [`QueueError::Unreadable`] if the oldest message cannot be read, [`QueueError::NoPlugin`] if it cannot spread
/// events over several queues.
pub(super) async fn attach(
    link: &Link,
    part: &Part,
    taking: &Taking,
    Supervisor { isolation, unrouted, .. }: &mut Supervisor,
) -> Result<(Arc<Attachment>, Consuming, UncheckedTopology), QueueError> {
    let queue = &part.shard.queue;
    let (channel, mut unchecked) = answer_or_no_quorum(link, "declaring queues", declare(link, part)).await?;
    unrouted.begin(link, part).await;
    let missing_rights = || MissingRights::reading(link.user(), queue);
    let mut oldest = None;
    if isolation.is_unknown() {
        oldest =
            oldest_message(link, &channel, queue).await.map_err(|error| error.or_missing_rights(missing_rights))?;
        isolation.looked_at(oldest.as_ref().map(|oldest| &oldest.properties));
    }
    let tag = fresh_tag(taking.process);
    let consume = consume(&channel, queue, tag.clone(), isolation.prefetch(taking.prefetch));
    let messages = answer_or_no_quorum(link, "beginning to consume", consume).await;
    let messages = messages.map_err(|error| error.or_missing_rights(missing_rights))?;
    answer_or_no_quorum(link, "binding the queue", join(link, part, &mut unchecked)).await?;
    let Taking { consumer, prefetch, metrics, .. } = taking;
    let counts = MessageCounts { unacknowledged: metrics.unacknowledged.clone(), events: metrics.events.of(queue) };
    let attachment = Attachment::new(channel, queue.clone(), *consumer, *prefetch, isolation.is_on(), counts);
    Ok((attachment, Consuming { tag, messages, oldest }, unchecked))
}

/// Takes the message at the head of the queue, alone: if this message ends the process, it takes no others with it.
async fn oldest_message(link: &Link, channel: &Channel, queue: &str) -> Result<Option<Delivery>, QueueError> {
    let mut events = link.events();
    let got = async { get(channel, queue, &mut events).await.map_err(QueueError::of_get) };
    let message = answer_or_no_quorum(link, "looking at the oldest message", got).await?;
    Ok(message.map(|message| message.delivery))
}

/// Starts a consumer with at most `prefetch` unsettled messages.
pub(super) async fn consume(
    channel: &Channel,
    queue: &str,
    tag: ShortString,
    prefetch: u16,
) -> lapin::Result<lapin::Consumer> {
    // RabbitMQ applies the prefetch to consumers that start after it.
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    channel.basic_consume(name(queue), tag, options, FieldTable::default()).await
}

/// A tag that no other consumer has, and that names the process.
pub(super) fn fresh_tag(process: ProcessId) -> ShortString {
    format!("{}{}", tag_prefix(process), uuid::Uuid::new_v4().simple()).into()
}

/// How the tags of all consumers of a process begin.
pub(crate) fn tag_prefix(process: ProcessId) -> String {
    format!("{CONSUMER_TAG}-{process}-")
}

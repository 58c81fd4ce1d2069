//! Keeps one consumer attached to the worker queue, whatever happens to the connection.
//!
//! After any error, and after any end of the stream, everything is torn down and built again with backoff. A message
//! that the AMQP library cannot read kills the connection and comes back. Then the consumer is isolated: it takes one
//! message at a time, so that the delivery limit makes a dead letter of the culprit and not of its neighbours, and
//! deliveries are parked instead of attempted, so that the next message does not wait for a receiver.
//!
//! A queue without quorum is left like a broker that is lost: at another node it may have one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::dead_letters::{REQUEUED, delivery_count, get};
use super::inspect::depth;
use super::link::{Link, Purpose, bounded, reason_of_any_node};
use super::rights::Lack;
use super::topology::Unchecked;
use super::{QueueError, is_missing, name, properties, quorum, topology};
use crate::config::{Amqp, Queue};
use crate::event::{Catalogue, Properties};
use crate::metrics::Metrics;
use crate::millis;
use crate::reconnect::{Outage, Reconnect};

/// Isolation ends when this time has passed without a message that cannot be read. If that was too short to reach the
/// message, which then comes again within `SOON`, the next isolation is twice as long, up to 2 to the power of
/// `MOST_DOUBLINGS` times: whenever the message ends a connection that is not isolated, the broker counts a delivery of
/// every message that was handed out with it, and the delivery limit would strike them, too.
const ISOLATED_FOR: Duration = Duration::from_secs(2);
const MOST_DOUBLINGS: u32 = 5;
const SOON: Duration = Duration::from_secs(10);
/// Between two connections while isolated: the culprit needs as many as its delivery limit.
const ISOLATED_WAIT: Duration = Duration::from_millis(50);
/// The oldest message may be what killed the process before us if it was delivered this often. Later messages are not
/// suspected: a broker that was lost many times makes all counts high, and this process is alive. Every version of RabbitMQ
/// counts what comes back with a connection or a channel, and so a process that was killed; what we give back by `nack` does
/// not count from RabbitMQ 4.3 on.
const SUSPICIOUS_DELIVERIES: i64 = 20;
/// Each wait is up to half as long again, so 1.95 s at most: another node may answer, and deliveries stand still for 2 s.
const LONGEST_WAIT: Duration = Duration::from_millis(1300);
const LONGEST_REFUSED: Duration = Duration::from_secs(5);
/// A queue that has no leader for longer than an election takes has no quorum.
const ELECTION: Duration = Duration::from_secs(8);
/// Closing politely must not delay a stop.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A queue that still exists this long after its consumer was ended is not being deleted.
const DELETION: Duration = Duration::from_secs(1);
const CONSUMER_TAG: &str = "penr-webhooks";

/// A broker message to be settled exactly once.
#[derive(Debug)]
pub struct Incoming {
    pub body: Vec<u8>,
    pub properties: Properties,
    /// It may have been worked on before.
    pub redelivered: bool,
    pub receipt: Receipt,
}

/// Names a broker message on the channel it came from; worthless once that channel is gone.
#[derive(Debug, Clone)]
pub struct Receipt {
    pub(super) attachment: Arc<Attachment>,
    pub(super) tag: u64,
}

impl Receipt {
    /// Whether the message is still ours. Once its channel is gone the broker hands it out again.
    pub fn is_usable(&self) -> bool {
        self.attachment.channel.status().connected()
    }

    /// Whether messages are taken one at a time: the next one waits for this one's ack.
    pub fn is_isolated(&self) -> bool {
        self.attachment.is_isolated()
    }
}

/// One life of the consumer's channel.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) number: u64,
    pub(super) channel: Channel,
    isolated: AtomicBool,
    prefetch: u16,
    /// Whether the queue has handed out anything since this was last asked.
    heard: AtomicBool,
    /// Whether a message waits for somebody to take it. Those behind it wait in the AMQP library, which counts none.
    held_up: AtomicBool,
}

impl Attachment {
    pub(super) fn is_isolated(&self) -> bool {
        self.isolated.load(Ordering::Relaxed)
    }

    /// Tells it once.
    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whether the queue may hand out more. Every message in hand holds the attachment, and so does the consumer itself.
    pub(super) fn has_room(self: &Arc<Self>) -> bool {
        !self.held_up.load(Ordering::Relaxed) && Arc::strong_count(self) <= usize::from(self.prefetch)
    }
}

/// The supervised consumer of the worker queue.
#[derive(Debug)]
pub struct Consumer {
    pub amqp: Amqp,
    pub queue: Queue,
    pub catalogue: Catalogue,
    pub prefetch: u16,
    /// Where messages go, in order.
    pub messages: mpsc::Sender<Incoming>,
    pub metrics: Metrics,
    /// While true, nothing is taken and what was handed out goes back: nobody could work on it.
    pub hold_off: watch::Receiver<bool>,
    /// Take no more messages.
    pub stop: CancellationToken,
    /// Everything taken is settled: the channel may close.
    pub settled: CancellationToken,
}

/// How messages are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    /// The process has just started and does not know why the one before it ended: it looks at the oldest message first.
    #[default]
    Unknown,
    Normal,
    /// One message at a time.
    Isolated,
}

enum End {
    Stopped,
    HeldOff,
    /// By the broker, with `basic.cancel`: the connection is well.
    Cancelled,
    Lost(QueueError),
}

impl Consumer {
    /// Runs until it is stopped and everything is settled. Errors only for what no new connection can cure.
    pub async fn run(self) -> Result<(), QueueError> {
        let mut supervisor = Supervisor::default();
        while !self.stop.is_cancelled() {
            let mut hold_off = self.hold_off.clone();
            if self.stop.run_until_cancelled(hold_off.wait_for(|held| !held)).await.is_none() {
                break;
            }
            match self.attach_and_pump(&mut supervisor).await {
                Ok(End::Stopped) => break,
                Ok(_) => {}
                Err(error @ (QueueError::Mismatch(_) | QueueError::Address(..))) => return Err(error),
                Err(error) => {
                    self.metrics.consumer_losses.inc();
                    self.metrics.rights_missing.set(matches!(error, QueueError::Forbidden(_)).into());
                    self.metrics.queue_without_quorum.set(supervisor.has_no_quorum(&error, ELECTION).into());
                    // While isolated a new connection follows at once: the process stays ready.
                    if !matches!(error, QueueError::Unreadable(_)) {
                        self.metrics.consumer_attached.set(0);
                    }
                    let wait = supervisor.wait_after(&error);
                    self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
                }
            }
        }
        Ok(())
    }

    /// One life of the connection. `Ok` when we ended it.
    async fn attach_and_pump(&self, supervisor: &mut Supervisor) -> Result<End, QueueError> {
        let Some(link) = self.stop.run_until_cancelled(Link::open(&self.amqp, Purpose::Consumer)).await else {
            return Ok(End::Stopped);
        };
        let link = link?;
        let ended = self.attach_to(&link, supervisor).await.map_err(|error| link.failed(error));
        // However it ended, the connection must not keep messages from others.
        link.close().await.ok();
        ended
    }

    async fn attach_to(&self, link: &Link, supervisor: &mut Supervisor) -> Result<End, QueueError> {
        let attach = self.attach(link, supervisor);
        let Some(attached) = self.stop.run_until_cancelled(attach).await else { return Ok(End::Stopped) };
        let (attachment, consumer, unchecked) = attached?;
        supervisor.attached(&self.queue.worker_queue, &unchecked);
        self.metrics.rights_missing.set(0);
        self.metrics.consumer_attached.set(1);
        self.metrics.queue_without_quorum.set(0);
        self.metrics.isolated.set(attachment.is_isolated().into());
        let quiet = self.amqp.connect_timeout / 4;
        let end = tokio::select! {
            biased;
            end = self.pump(&attachment, consumer, supervisor) => end,
            never = topology::keep_declared(link, &self.queue, &self.catalogue, unchecked, &self.metrics) => match never {},
            lost = quorum::until_lost(link, &self.queue.worker_queue, &attachment, quiet) => End::Lost(lost),
        };
        match end {
            End::Lost(error) => return Err(error),
            End::Cancelled => {
                self.metrics.consumer_attached.set(0);
                return Err(why_cancelled(link, &self.queue.worker_queue).await);
            }
            End::Stopped => {
                self.metrics.consumer_attached.set(0);
                self.settled.cancelled().await;
            }
            End::HeldOff => {
                self.metrics.consumer_attached.set(0);
                tracing::warn!("what the broker handed out has waited too long for the database and goes back");
            }
        }
        // Everything unsettled goes back to the queue; acks sent before are processed first.
        bounded(CLOSE_TIMEOUT, "closing a channel", attachment.channel.close(200, name("stopped"))).await.ok();
        Ok(end)
    }

    async fn attach(
        &self,
        link: &Link,
        supervisor: &mut Supervisor,
    ) -> Result<(Arc<Attachment>, Consuming, Unchecked), QueueError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let declare = topology::declare(link, &self.queue, &self.catalogue);
        let (channel, unchecked) = quorum::answer(link, "declaring queues", declare).await?;
        let lack = || Lack::reading(link.user(), &self.queue.worker_queue);
        let oldest = match supervisor.mode {
            Mode::Unknown => self.oldest(link, &channel).await.map_err(|error| error.for_want_of(lack))?,
            Mode::Normal | Mode::Isolated => None,
        };
        supervisor.mode = supervisor.mode.after(oldest.as_ref());
        let prefetch = supervisor.mode.prefetch(self.prefetch);
        let tag = fresh_tag();
        let consume = consume(&channel, &self.queue.worker_queue, tag.clone(), prefetch);
        let messages = quorum::answer(link, "beginning to consume", consume).await;
        let messages = messages.map_err(|error| error.for_want_of(lack))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let isolated = AtomicBool::new(supervisor.mode == Mode::Isolated);
        let (prefetch, heard, held_up) = (self.prefetch, AtomicBool::default(), AtomicBool::default());
        let attachment = Attachment { number, channel, isolated, prefetch, heard, held_up };
        Ok((Arc::new(attachment), Consuming { tag, messages, oldest }, unchecked))
    }

    /// The message at the head of the queue, alone: should it be what kills this process, it takes no others with it.
    async fn oldest(&self, link: &Link, channel: &Channel) -> Result<Option<Delivery>, QueueError> {
        let mut events = link.events();
        let got = async { get(channel, &self.queue.worker_queue, &mut events).await.map_err(QueueError::getting) };
        let message = quorum::answer(link, "looking at the oldest message", got).await?;
        Ok(message.map(|message| message.delivery))
    }

    /// Hands messages on until we stop or the consumer ends.
    async fn pump(&self, attachment: &Arc<Attachment>, mut consuming: Consuming, supervisor: &mut Supervisor) -> End {
        let Err(end) = self.hand_all_on(attachment, &mut consuming, supervisor).await;
        if matches!(end, End::Stopped) {
            let cancel = attachment.channel.basic_cancel(consuming.tag, BasicCancelOptions::default());
            bounded(CLOSE_TIMEOUT, "ending the consumer", cancel).await.ok();
        }
        end
    }

    async fn hand_all_on(
        &self,
        attachment: &Arc<Attachment>,
        consuming: &mut Consuming,
        supervisor: &mut Supervisor,
    ) -> Result<Infallible, End> {
        let mut hold_off = self.hold_off.clone();
        let isolated_until = Instant::now() + ISOLATED_FOR * 2_u32.pow(supervisor.too_short);
        if let Some(oldest) = consuming.oldest.take() {
            self.hand_on(attachment, oldest, &mut hold_off).await?;
        }
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Stopped),
                () = until_held_off(&mut hold_off) => return Err(End::HeldOff),
                () = tokio::time::sleep_until(isolated_until.into()), if supervisor.mode == Mode::Isolated => {
                    supervisor.mode = Mode::Normal;
                    supervisor.isolation_ended = Some(Instant::now());
                    self.end_isolation(attachment, consuming).await?;
                    continue;
                }
                next = consuming.messages.next() => next,
            };
            let delivery = next.ok_or(End::Cancelled)?.map_err(|error| End::Lost(error.into()))?;
            supervisor.reconnect.reset();
            attachment.heard.store(true, Ordering::Relaxed);
            self.hand_on(attachment, delivery, &mut hold_off).await?;
        }
    }

    /// A message that nobody took goes back with the channel, which must end then: nobody would ever settle it.
    async fn hand_on(
        &self,
        attachment: &Arc<Attachment>,
        delivery: Delivery,
        hold_off: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let incoming = incoming(attachment, delivery);
        attachment.held_up.store(true, Ordering::Relaxed);
        let handed_on = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Stopped),
            () = until_held_off(hold_off) => Err(End::HeldOff),
            sent = self.messages.send(incoming) => sent.map_err(|_| End::Stopped),
        };
        attachment.held_up.store(false, Ordering::Relaxed);
        handed_on
    }

    /// Takes the usual number of messages again, by a new consumer on the same channel. What the old one still holds is
    /// handed on: nobody else would ever settle it.
    async fn end_isolation(&self, attachment: &Arc<Attachment>, consuming: &mut Consuming) -> Result<(), End> {
        tracing::info!(prefetch = self.prefetch, "messages are not taken one at a time any more");
        let channel = &attachment.channel;
        self.answer(channel.basic_cancel(consuming.tag.clone(), BasicCancelOptions::default())).await?;
        let mut hold_off = self.hold_off.clone();
        while let Some(delivery) = consuming.messages.next().await {
            let delivery = delivery.map_err(|error| End::Lost(error.into()))?;
            self.hand_on(attachment, delivery, &mut hold_off).await?;
        }
        // The tag first: a stop cancels what the broker may have begun, though its answer is not awaited any more.
        consuming.tag = fresh_tag();
        let consume = consume(channel, &self.queue.worker_queue, consuming.tag.clone(), self.prefetch);
        consuming.messages = self.answer(consume).await?;
        attachment.isolated.store(false, Ordering::Relaxed);
        self.metrics.isolated.set(0);
        Ok(())
    }

    /// The broker's answer, unless we stop or it takes too long.
    async fn answer<T>(&self, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, End> {
        let bounded = bounded(self.amqp.connect_timeout, "changing the consumer", answer);
        let answered = self.stop.run_until_cancelled(bounded).await.ok_or(End::Stopped)?;
        answered.map_err(End::Lost)
    }
}

/// The consumer of the moment.
struct Consuming {
    tag: ShortString,
    messages: lapin::Consumer,
    /// Taken before the consumer began, and to be handed on first.
    oldest: Option<Delivery>,
}

/// What outlives a connection.
struct Supervisor {
    mode: Mode,
    isolation_ended: Option<Instant>,
    /// Isolations in a row that ended before the message came that cannot be read.
    too_short: u32,
    reconnect: Reconnect,
    /// After what somebody has to mend. The broker logs each try, and may lock out a user whom it refuses too often.
    refused: Reconnect,
    outage: Outage,
    /// What the log has on what could not be checked.
    unchecked: Unchecked,
    without_leader_since: Option<Instant>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            isolation_ended: None,
            too_short: 0,
            reconnect: Reconnect::up_to(LONGEST_WAIT),
            refused: Reconnect::up_to(LONGEST_REFUSED),
            outage: Outage::default(),
            unchecked: Unchecked::default(),
            without_leader_since: None,
        }
    }
}

impl Supervisor {
    fn attached(&mut self, queue: &str, unchecked: &Unchecked) {
        if !unchecked.is_empty() && self.unchecked != *unchecked {
            tracing::warn!(advice = unchecked.remedy(), "{unchecked}");
            self.unchecked = unchecked.clone();
        }
        let isolated = self.mode == Mode::Isolated;
        let away_ms = self.outage.end().map(millis);
        self.without_leader_since = None;
        self.refused.reset();
        tracing::info!(queue, isolated, away_ms, "consumer attached");
    }

    /// Whether an error says that the queue has no quorum, and not just no leader yet, nor that the broker is lost.
    fn has_no_quorum(&mut self, error: &QueueError, election: Duration) -> bool {
        match error {
            QueueError::NoQuorum => true,
            QueueError::NoLeader(_) => self.without_leader_since.get_or_insert_with(Instant::now).elapsed() >= election,
            _ => {
                self.without_leader_since = None;
                false
            }
        }
    }

    /// A message that cannot be read ends many connections in a row: only the first is worth a line.
    fn wait_after(&mut self, error: &QueueError) -> Duration {
        let reason = crate::error_chain(error);
        let unreadable = matches!(error, QueueError::Unreadable(_));
        // One that restarts resets the connection, then refuses the next ones, then ends them: that is one outage.
        let told = if error.is_away() { "away".to_owned() } else { reason_of_any_node(error) };
        let news = self.outage.is_news(&told) && !(unreadable && self.mode == Mode::Isolated);
        if unreadable {
            let ended_lately = self.isolation_ended.is_some_and(|ended| ended.elapsed() < SOON);
            self.too_short = match self.mode == Mode::Normal && ended_lately {
                true => (self.too_short + 1).min(MOST_DOUBLINGS),
                false => 0,
            };
            self.mode = Mode::Isolated;
        }
        let wait = match unreadable {
            true => ISOLATED_WAIT,
            false if error.is_refusal() => self.refused.wait(),
            false => self.reconnect.wait(),
        };
        let wait_ms = millis(wait);
        const LOST: &str = "lost the broker, connecting again";
        if let (true, QueueError::Forbidden(_)) = (news, error) {
            tracing::error!(error = reason, "the worker lacks a right at the broker, and waits for it");
        } else if news {
            tracing::warn!(error = reason, wait_ms, "{LOST}");
        } else {
            tracing::debug!(error = reason, wait_ms, "{LOST}");
        }
        wait
    }
}

impl Mode {
    /// What it becomes when the consumer attaches and, at the process's start, has looked at the oldest message.
    fn after(self, oldest: Option<&Delivery>) -> Self {
        match self {
            Self::Unknown if oldest.is_some_and(is_suspicious) => Self::Isolated,
            Self::Unknown => Self::Normal,
            known => known,
        }
    }

    fn prefetch(self, normal: u16) -> u16 {
        if self == Self::Isolated { 1 } else { normal }
    }
}

fn is_suspicious(delivery: &Delivery) -> bool {
    delivery_count(&delivery.properties) > SUSPICIOUS_DELIVERIES
}

async fn until_held_off(hold_off: &mut watch::Receiver<bool>) {
    if hold_off.wait_for(|held| *held).await.is_err() {
        // Nobody is left to say so.
        std::future::pending().await
    }
}

async fn consume(channel: &Channel, queue: &str, tag: ShortString, prefetch: u16) -> lapin::Result<lapin::Consumer> {
    // RabbitMQ applies it to the consumers that follow.
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    channel.basic_consume(name(queue), tag, options, FieldTable::default()).await
}

fn fresh_tag() -> ShortString {
    format!("{CONSUMER_TAG}-{}", uuid::Uuid::new_v4().simple()).into()
}

/// `basic.cancel` gives no reason, but few things end the consumer of a quorum queue.
async fn why_cancelled(link: &Link, queue: &str) -> QueueError {
    let reason = match bounded(CLOSE_TIMEOUT, "asking why the consumer ended", still_exists(link, queue)).await {
        Ok(true) => {
            ": it waited longer for an ack than its consumer_timeout allows (RabbitMQ 4.3 and newer), or its queue moved"
        }
        Ok(false) => ": its queue was deleted",
        Err(_) => "",
    };
    QueueError::Unavailable(anyhow::anyhow!("the broker ended the consumer{reason}"))
}

/// A broker that deletes a queue ends its consumers first, and answers for the queue a moment longer (RabbitMQ 4.0).
async fn still_exists(link: &Link, queue: &str) -> Result<bool, QueueError> {
    let deleted_by = Instant::now() + DELETION;
    while exists(link, queue).await? {
        if Instant::now() >= deleted_by {
            return Ok(true);
        }
        tokio::time::sleep(DELETION / 10).await;
    }
    Ok(false)
}

async fn exists(link: &Link, queue: &str) -> Result<bool, QueueError> {
    let channel = link.channel().await?;
    match depth(&channel, queue).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn incoming(attachment: &Arc<Attachment>, delivery: Delivery) -> Incoming {
    let headers = delivery.properties.headers().as_ref();
    let lived = headers.is_some_and(|table| table.contains_key("x-death") || table.contains_key(REQUEUED));
    let redelivered = delivery.redelivered || lived || delivery_count(&delivery.properties) > 0;
    Incoming {
        properties: properties(&delivery.properties),
        redelivered,
        receipt: Receipt { attachment: attachment.clone(), tag: delivery.delivery_tag },
        body: delivery.data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPHardError};

    #[test]
    fn a_queue_without_a_leader_has_no_quorum_after_an_election_and_a_lost_broker_says_nothing_about_it() {
        let refusal = || {
            let error = AMQPError::new(AMQPHardError::INTERNALERROR.into(), "nodedown".into());
            lapin::Error::from(lapin::ErrorKind::ProtocolError(error))
        };
        let lost = || QueueError::Unavailable(anyhow::anyhow!("refused"));
        let mut supervisor = Supervisor::default();
        assert!(supervisor.has_no_quorum(&QueueError::NoQuorum, ELECTION));
        assert!(!supervisor.has_no_quorum(&QueueError::getting(refusal()), ELECTION));
        assert!(supervisor.has_no_quorum(&QueueError::getting(refusal()), Duration::ZERO));
        assert!(!supervisor.has_no_quorum(&lost(), Duration::ZERO));
        assert!(supervisor.without_leader_since.is_none());
    }
}

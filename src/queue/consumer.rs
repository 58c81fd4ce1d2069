//! Keeps one consumer attached to its worker queue, whatever happens to the connection. A worker has one for each queue that it
//! takes events from.
//!
//! ```text
//!  state      waits for                                        left when ─▶ next state
//!  HeldOff    the worker, while it cannot use the database,    it can, and may ─▶ Attaching
//!             or operators hold everything
//!  Attaching  connection, declarations, the broker's consumer  all are there ─▶ Consuming
//!                                                              an error ─▶ Lost
//!  Consuming  messages, and hands each on to the worker        hold-off begins ─▶ HeldOff
//!                                                              connection, channel, consumer or quorum is lost ─▶ Lost
//!                                                              a stop ─▶ Settling
//!  Settling   the worker to settle every message it took       all are settled ─▶ Stopped
//!  Lost       a time that grows from loss to loss              the time is over ─▶ HeldOff
//!                                                              no new connection can help ─▶ `run` returns the error
//!  Stopped                                                     `run` returns
//! ```
//!
//! A stop leads from every state to Stopped, and from Consuming by way of Settling. Each loss closes the connection: the broker
//! then delivers again, to any consumer, every message that was not settled.
//!
//! What a consumer remembers from one connection to the next is in `supervisor`. `isolation` decides when it takes one
//! message at a time, `hold_off` tells when the worker cannot use the database, or must not take events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::BasicCancelOptions;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::attachment::{Attachment, Incoming};
use super::connection::connect::connect;
use super::connection::link::{Link, Purpose, bounded};
use super::convert::name;
use super::depth::{keep_counted, keep_counted_without_consumer};
use super::error::QueueError;
use super::quorum::until_lost;
use super::topology::part::Part;
use super::topology::watch::keep_declared;
use crate::config::Amqp;
use attach::{Attached, Consuming, attach, consume, fresh_tag};
use cancelled::consumer_cancelled;
use hold_off::HoldOff;
use standing::StandingReport;
use supervisor::{ELECTION, Supervisor};

pub(crate) use attach::{Taking, tag_prefix};
pub(crate) use hold_off::HoldOffReasons;

mod attach;
mod cancelled;
mod hold_off;
mod isolation;
pub(super) mod standing;
mod supervisor;

/// How long the broker has to end the consumer or its channel when we stop. A stop must not wait longer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The consumer of one worker queue.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) amqp: Amqp,
    /// Its queue, and what else it declares.
    pub(crate) part: Part,
    pub(crate) taking: Taking,
    /// Receives the messages, in the queue's order.
    pub(crate) messages: mpsc::Sender<Incoming>,
    pub(crate) standing: StandingReport,
    /// Why the worker takes no messages.
    pub(crate) hold_off: watch::Receiver<HoldOffReasons>,
    /// Take no more messages.
    pub(crate) stop: CancellationToken,
    /// Every message that was taken is settled: the channel may close.
    pub(crate) settled: CancellationToken,
}

/// The picture at the head of this file explains each state.
enum ConsumerState {
    HeldOff,
    Attaching,
    Consuming(Box<Attached>),
    Settling(Link, Arc<Attachment>),
    Lost(QueueError),
    Stopped,
}

/// Why `Consuming` ends.
enum End {
    Stopped,
    HeldOff,
    /// The broker sent `basic.cancel`; the connection works.
    Cancelled,
    Lost(QueueError),
}

impl Consumer {
    /// Runs until it is stopped and every message is settled.
    ///
    /// # Errors
    ///
    /// [`QueueError::Mismatch`] and [`QueueError::Address`], which no new connection can cure.
    pub(crate) async fn run(self) -> Result<(), QueueError> {
        // Shown from the start, at 0.
        drop(self.taking.metrics.events.of(self.queue()));
        let mut supervisor = Supervisor::of(self.queue());
        let mut state = ConsumerState::HeldOff;
        loop {
            state = match state {
                ConsumerState::HeldOff => self.wait_while_held_off().await,
                ConsumerState::Attaching => self.attach(&mut supervisor).await,
                ConsumerState::Consuming(attached) => self.consume(*attached, &mut supervisor).await,
                ConsumerState::Settling(link, attachment) => self.settle(link, &attachment).await,
                ConsumerState::Lost(error) => self.wait_after_loss(error, &mut supervisor).await?,
                ConsumerState::Stopped => return Ok(()),
            };
        }
    }

    fn queue(&self) -> &str {
        &self.part.shard.queue
    }

    async fn wait_while_held_off(&self) -> ConsumerState {
        let mut hold_off = HoldOff::follow(&self.hold_off);
        let mut counting = None;
        let state = tokio::select! {
            biased;
            over = self.stop.run_until_cancelled(hold_off.over()) => match over {
                Some(()) => ConsumerState::Attaching,
                None => ConsumerState::Stopped,
            },
            never = keep_counted_without_consumer(&self.amqp, &self.part, &self.taking.metrics, &mut counting) => match never {},
        };
        if let Some(link) = counting {
            link.close().await.ok();
        }
        state
    }

    async fn attach(&self, supervisor: &mut Supervisor) -> ConsumerState {
        let link = match self.stop.run_until_cancelled(connect(&self.amqp, Purpose::Consumer)).await {
            Some(Ok(link)) => link,
            Some(Err(error)) => return ConsumerState::Lost(error),
            None => return ConsumerState::Stopped,
        };
        let attach = attach(&link, &self.part, &self.taking, supervisor);
        let (attachment, consuming, unchecked) = match self.stop.run_until_cancelled(attach).await {
            Some(Ok(attached)) => attached,
            Some(Err(error)) => return lose(link, error).await,
            None => {
                link.close().await.ok();
                return ConsumerState::Stopped;
            }
        };
        supervisor.attached(&unchecked);
        self.standing.change(|standing| {
            (standing.attached, standing.isolated) = (true, attachment.is_isolated());
            (standing.rights_missing, standing.without_quorum) = (false, false);
        });
        ConsumerState::Consuming(Box::new(Attached { link, attachment, consuming, unchecked }))
    }

    async fn consume(&self, attached: Attached, supervisor: &mut Supervisor) -> ConsumerState {
        let Attached { link, attachment, consuming, unchecked } = attached;
        let (queue, quiet) = (self.queue(), self.amqp.connect_timeout / 4);
        // The pump needs the supervisor meanwhile.
        let mut unrouted = std::mem::take(&mut supervisor.unrouted);
        let rights_missing = |missing| self.standing.change(|standing| standing.rights_missing = missing);
        let end = tokio::select! {
            biased;
            end = self.pump(&attachment, consuming, supervisor) => end,
            never = keep_declared(&link, &self.part, unchecked, rights_missing) => match never {},
            never = unrouted.keep(&link, &self.part) => match never {},
            never = keep_counted(&link, &self.part, &self.taking.metrics) => match never {},
            lost = until_lost(&link, queue, &attachment, quiet) => End::Lost(lost),
        };
        supervisor.unrouted = unrouted;
        if !matches!(end, End::Lost(_)) {
            self.standing.change(|standing| standing.attached = false);
        }
        match end {
            End::Lost(error) => lose(link, error).await,
            End::Cancelled => {
                let error = consumer_cancelled(&link, queue).await;
                lose(link, error).await
            }
            End::Stopped => ConsumerState::Settling(link, attachment),
            End::HeldOff => {
                match self.hold_off.borrow().operator {
                    true => tracing::info!(queue, "everything is held: what the broker handed out goes back"),
                    false => {
                        tracing::warn!(
                            queue,
                            "what the broker handed out has waited too long for the database and goes back"
                        );
                    }
                }
                close(link, &attachment).await;
                ConsumerState::HeldOff
            }
        }
    }

    async fn settle(&self, link: Link, attachment: &Attachment) -> ConsumerState {
        self.settled.cancelled().await;
        close(link, attachment).await;
        ConsumerState::Stopped
    }

    async fn wait_after_loss(
        &self,
        error: QueueError,
        supervisor: &mut Supervisor,
    ) -> Result<ConsumerState, QueueError> {
        if matches!(error, QueueError::Mismatch(_) | QueueError::Address(..)) {
            return Err(error);
        }
        self.taking.metrics.consumer_losses.inc();
        let without_quorum = supervisor.has_no_quorum(&error, ELECTION);
        self.standing.change(|standing| {
            standing.rights_missing = matches!(error, QueueError::Forbidden(_));
            standing.without_quorum = without_quorum;
            // After an unreadable message the next connection follows at once: the process stays ready.
            standing.attached &= matches!(error, QueueError::Unreadable(_));
        });
        let wait = supervisor.wait_after(&error);
        self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        Ok(ConsumerState::HeldOff)
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
        let mut hold_off = HoldOff::follow(&self.hold_off);
        let isolated_until = supervisor.isolation.end_after(Instant::now());
        if let Some(oldest) = consuming.oldest.take() {
            self.hand_on(attachment, oldest, &mut hold_off).await?;
        }
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Stopped),
                () = hold_off.begun() => return Err(End::HeldOff),
                () = tokio::time::sleep_until(isolated_until.into()), if supervisor.isolation.is_on() => {
                    supervisor.isolation.end(Instant::now());
                    self.end_isolation(attachment, consuming, &mut hold_off).await?;
                    continue;
                }
                next = consuming.messages.next() => next,
            };
            let delivery = next.ok_or(End::Cancelled)?.map_err(|error| End::Lost(error.into()))?;
            supervisor.message_came();
            attachment.note_message();
            self.hand_on(attachment, delivery, &mut hold_off).await?;
        }
    }

    /// Hands a message to the worker. If that fails, the caller must end the channel, so that the broker delivers the message
    /// again: no other part of this process settles it.
    async fn hand_on(
        &self,
        attachment: &Arc<Attachment>,
        delivery: Delivery,
        hold_off: &mut HoldOff,
    ) -> Result<(), End> {
        let incoming = Incoming::new(attachment, delivery);
        attachment.set_blocked(true);
        let handed_on = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Stopped),
            () = hold_off.begun() => Err(End::HeldOff),
            sent = self.messages.send(incoming) => sent.map_err(|_| End::Stopped),
        };
        attachment.set_blocked(false);
        handed_on
    }

    /// Replaces the isolated consumer by one with the usual prefetch, on the same channel. Messages that the old one has
    /// received are handed on, since nobody else would settle them.
    async fn end_isolation(
        &self,
        attachment: &Arc<Attachment>,
        consuming: &mut Consuming,
        hold_off: &mut HoldOff,
    ) -> Result<(), End> {
        tracing::info!(
            queue = self.queue(),
            prefetch = self.taking.prefetch,
            "messages are not taken one at a time any more"
        );
        let channel = &attachment.channel;
        self.answer(channel.basic_cancel(consuming.tag.clone(), BasicCancelOptions::default())).await?;
        while let Some(delivery) = consuming.messages.next().await {
            let delivery = delivery.map_err(|error| End::Lost(error.into()))?;
            self.hand_on(attachment, delivery, hold_off).await?;
        }
        // The tag is set before the request: if a stop ends the wait for the answer, the new consumer is cancelled by its tag.
        consuming.tag = fresh_tag(self.taking.process);
        let consume = consume(channel, self.queue(), consuming.tag.clone(), self.taking.prefetch);
        consuming.messages = self.answer(consume).await?;
        attachment.end_isolation();
        self.standing.change(|standing| standing.isolated = false);
        Ok(())
    }

    /// Waits for the broker's answer, until a stop or for `amqp.connect_timeout`.
    async fn answer<T>(&self, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, End> {
        let bounded = bounded(self.amqp.connect_timeout, "changing the consumer", answer);
        let answered = self.stop.run_until_cancelled(bounded).await.ok_or(End::Stopped)?;
        answered.map_err(End::Lost)
    }
}

/// Closes a connection after an error. An open one would keep its messages from other workers.
async fn lose(link: Link, error: QueueError) -> ConsumerState {
    let error = link.blamed(error);
    link.close().await.ok();
    ConsumerState::Lost(error)
}

/// Closes a connection that works. The channel is closed first: the broker processes the acks before its close, and puts
/// unsettled messages back into the queue.
async fn close(link: Link, attachment: &Attachment) {
    bounded(CLOSE_TIMEOUT, "closing a channel", attachment.channel.close(200, name("stopped"))).await.ok();
    link.close().await.ok();
}

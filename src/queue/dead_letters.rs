//! Reads dead letters and unrouted events, which are handled alike, removes them one by one, and loses none that was only read.
//!
//! A letter that was read stays in its queue until it is removed: when the connection ends, for whatever reason, the broker
//! puts it back. But a quorum queue counts how often a letter was put back, and drops it beyond the queue's delivery limit,
//! which a policy of the broker may lower without our knowledge. So a letter that returned before is rewritten instead of put
//! back: a copy, whose count begins at 0, goes to the end of the queue, and the letter is removed once the copy is confirmed.

use std::cmp::Reverse;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::Stream;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use lapin::{Channel, Event};

use super::connection::connect::connect;
use super::connection::link::{Link, Purpose, bounded};
use super::convert::name;
use super::depth::depth;
use super::error::QueueError;
use super::get::get;
use super::topology::rights::MissingRights;
use crate::config::{Amqp, Queue};
use letter::DeadLetter;
use limit::DeliveryLimit;
use rewriter::{RewriteError, Rewriter, Rewritten};

pub(super) mod letter;
mod limit;
mod republish;
pub(super) mod rewriter;

/// How long to wait until letters that were put back can be read again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);
const RETURN_POLL: Duration = Duration::from_millis(20);
/// How many letters at most are read before the selected ones are removed. See [`DeadLetters::remove`].
pub(crate) const BATCH: usize = 24;
/// No further letter is read for a batch whose bodies have so many bytes.
pub(crate) const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// One of the two queues that keep messages which nobody delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LetterQueue {
    /// What workers rejected, or what was delivered too often.
    Dead,
    /// What no queue took when it was published. Workers have never seen it.
    Unrouted,
}

impl LetterQueue {
    pub(crate) const ALL: [Self; 2] = [Self::Dead, Self::Unrouted];

    /// The queue's name at the broker.
    pub(crate) fn name(self, settings: &Queue) -> &str {
        match self {
            Self::Dead => &settings.dead_queue,
            Self::Unrouted => &settings.unrouted_queue,
        }
    }
}

/// The broker counted the returns of letters that were read, since they could not be rewritten.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Why one of them, or all, could not be rewritten.
    pub(crate) error: RewriteError,
    /// After one or two more reads the broker drops one of them.
    pub(crate) near_limit: bool,
}

impl Counted {
    /// Whether no more letters are read, since none can be rewritten.
    pub(crate) fn ends_reading(&self) -> bool {
        self.near_limit && matches!(self.error, RewriteError::Every(_))
    }
}

/// A connection that reads each dead letter once.
pub(crate) struct DeadLetters {
    link: Link,
    channel: Channel,
    /// The connection's events.
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    kept_in: LetterQueue,
    /// The queue's name.
    queue: String,
    confirm_timeout: Duration,
    limit: DeliveryLimit,
    /// How many letters were read and not removed.
    unacked: u32,
    to_rewrite: ToRewrite,
    rewriter: Rewriter,
    counted: Option<Counted>,
}

/// Letters that wait to be rewritten together.
#[derive(Default)]
struct ToRewrite {
    letters: Vec<DeadLetter>,
    bytes: usize,
}

impl DeadLetters {
    /// `delivery_limit` is the limit in force for the queue, policies included, if it is known.
    ///
    /// # Errors
    ///
    /// [`QueueError::Unavailable`] if no node serves, [`QueueError::Address`] if `AMQP_URL` cannot be used.
    pub(crate) async fn connect(
        amqp: &Amqp,
        settings: &Queue,
        kept_in: LetterQueue,
        delivery_limit: Option<u32>,
    ) -> Result<Self, QueueError> {
        let link = connect(amqp, Purpose::DeadLetters).await?;
        let events = Box::pin(link.events());
        let channel = link.channel().await?;
        let declared = u32::try_from(settings.dead_delivery_limit).unwrap_or(u32::MAX);
        Ok(Self {
            link,
            channel,
            events,
            kept_in,
            queue: kept_in.name(settings).to_owned(),
            confirm_timeout: settings.confirm_timeout,
            limit: DeliveryLimit { known: delivery_limit, declared },
            unacked: 0,
            to_rewrite: ToRewrite::default(),
            rewriter: Rewriter::new(amqp, settings, kept_in),
            counted: None,
        })
    }

    /// How many letters are in the queue, without those that somebody has read and not settled.
    ///
    /// # Errors
    ///
    /// [`QueueError::NoQueue`] if no worker has declared the queue yet, [`QueueError::Forbidden`] if a right is lacking.
    pub(crate) async fn count(&self) -> Result<u32, QueueError> {
        let counted = depth(&self.channel, &self.queue);
        match bounded(self.confirm_timeout, "counting", counted).await {
            Ok(depth) => Ok(depth.messages),
            Err(error) if error.is_missing() => Err(QueueError::NoQueue(self.queue.clone())),
            Err(error) => Err(error.or_missing_rights(|| MissingRights::counting(self.link.user(), &self.queue))),
        }
    }

    /// The next letter, which is ours until it is removed or the connection ends. `None` if there is no further one, or if
    /// reading one would bring letters to the delivery limit.
    ///
    /// # Errors
    ///
    /// [`QueueError::Forbidden`] if a right is lacking, otherwise the connection or channel has ended. After an error the
    /// broker has put all letters back.
    pub(crate) async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if !self.may_read().await {
            return Ok(None);
        }
        loop {
            let got = get(&self.channel, &self.queue, &mut self.events);
            let got = bounded(self.confirm_timeout, "reading", got).await;
            let got = got.map_err(|error| error.or_missing_rights(|| self.missing_rights()))?;
            let letter = got.map(|message| DeadLetter::read(message, self.kept_in));
            self.unacked += u32::from(letter.is_some());
            match letter {
                // Skip copies that this run has made: one with a priority is read before older letters.
                Some(letter) if letter.rewritten_by == Some(self.rewriter.run) => {}
                letter => return Ok(letter),
            }
        }
    }

    /// Where reading may bring a letter to its limit, nothing is read unless letters can be rewritten: a letter that was read
    /// must go back, and the broker counts that.
    async fn may_read(&mut self) -> bool {
        if self.unacked == 0 && self.counted.is_none() && self.limit.is_in_reach() && !self.rewriter.is_connected() {
            let probed = self.rewriter.probe().await;
            self.counted = probed.err().map(|error| Counted { error: RewriteError::Every(error), near_limit: true });
        }
        !self.counted.as_ref().is_some_and(Counted::ends_reading)
    }

    fn missing_rights(&self) -> MissingRights {
        MissingRights::reading(self.link.user(), &self.queue)
    }

    /// Removes the letter from the queue. Only [`DeadLetters::close`] makes sure of it: RabbitMQ passes 32 removals on to a
    /// quorum queue at once and keeps further ones in the channel, where they are lost when the channel ends. So remove fewer
    /// than 32 in a row.
    ///
    /// # Errors
    ///
    /// The connection or channel has ended.
    pub(crate) async fn remove(&mut self, letter: &DeadLetter) -> Result<(), QueueError> {
        let ack = self.channel.basic_ack(letter.tag, BasicAckOptions::default());
        bounded(self.confirm_timeout, "removing", ack).await?;
        self.unacked -= 1;
        Ok(())
    }

    /// To be called for every letter that is not removed. [`DeadLetters::close`] puts it back, or it is rewritten.
    ///
    /// # Errors
    ///
    /// The connection or channel has ended.
    pub(crate) async fn give_back(&mut self, letter: DeadLetter) -> Result<(), QueueError> {
        if !self.limit.asks_to_rewrite(letter.returns) {
            return Ok(());
        }
        if !letter.can_be_rewritten() {
            self.note(RewriteError::Cut, &[letter]);
            return Ok(());
        }
        self.to_rewrite.bytes += letter.body.len();
        self.to_rewrite.letters.push(letter);
        let full = self.to_rewrite.letters.len() >= BATCH || self.to_rewrite.bytes >= BATCH_BYTES;
        // The first letter is rewritten at once: if it cannot be, no others are read.
        if full || !self.rewriter.is_connected() || self.none_can_be_rewritten() {
            self.rewrite().await?;
        }
        Ok(())
    }

    /// Puts back what was not removed. Afterwards the broker has processed every removal, and what was put back can be read
    /// again. Returns whether the broker counted returns.
    ///
    /// # Errors
    ///
    /// The broker did not answer in time, or the connection had ended: some removals may not have happened.
    pub(crate) async fn close(mut self) -> Result<Option<Counted>, QueueError> {
        self.rewrite().await?;
        if self.unacked > 0 {
            let expected = self.count().await?.saturating_add(self.unacked);
            // From RabbitMQ 4.3 on, returns by `nack` are not counted, but returns by the channel's end are.
            let options = BasicNackOptions { multiple: true, requeue: true };
            bounded(self.confirm_timeout, "giving back", self.channel.basic_nack(0, options)).await?;
            let deadline = Instant::now() + RETURN_TIMEOUT;
            while self.count().await? < expected && Instant::now() < deadline {
                tokio::time::sleep(RETURN_POLL).await;
            }
        }
        let closed = bounded(self.confirm_timeout, "giving back", self.channel.close(200, name("done"))).await;
        self.link.close().await.ok();
        self.rewriter.close().await;
        closed.map(|()| self.counted)
    }

    /// Rewrites the letters that wait for it. Those that cannot be rewritten are put back with the others.
    async fn rewrite(&mut self) -> Result<(), QueueError> {
        let ToRewrite { mut letters, .. } = std::mem::take(&mut self.to_rewrite);
        if letters.is_empty() {
            return Ok(());
        }
        if self.none_can_be_rewritten() {
            self.note_near(&letters);
            return Ok(());
        }
        letters.sort_by_key(|letter| Reverse(letter.body.len()));
        let Rewritten { confirmed, error } = self.rewriter.rewrite(&letters).await;
        for letter in &letters[confirmed.clone()] {
            self.remove(letter).await?;
        }
        letters.drain(confirmed);
        if let Some(error) = error {
            self.note(error, &letters);
        }
        // The broker answers a count only after it has passed the removals on to the queue.
        self.count().await.map(drop)
    }

    fn none_can_be_rewritten(&self) -> bool {
        self.counted.as_ref().is_some_and(|counted| matches!(counted.error, RewriteError::Every(_)))
    }

    /// These letters are put back, and the broker counts that.
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

//! Settles broker messages, in as few frames as possible: a single ack frame can cover every message up to its delivery tag.
//!
//! One task sends all frames of a consumer. If an ack for a group overtook an earlier ack, the broker would see a tag settled twice and close
//! the channel.
//!
//! ```text
//!  delivery tag    1   2   3   4   5   6   7   8      ✓ settled: acked, or rejected or returned by nack
//!                  ✓   ✓   ✓   ·   D   D   ·   ✓      D done, ack not sent yet     · not settled by the worker
//!                          ▲       └─┬─┘
//!              settled_up_to       unacked: wait for 4, so that one frame covers 4, 5 and 6
//! ```
//!
//! If 4 takes longer than one to two intervals of 10 ms, or too many wait, then 5 and 6 get an ack frame each.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::poll;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::attachment::{Attachment, Receipt};
use crate::metrics::{Metrics, observe_since, observe_size};

mod by_consumer;

pub(crate) use by_consumer::acknowledge;

/// A broker message, and what becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled<R = Receipt> {
    pub(crate) receipt: R,
    pub(crate) settlement: Settlement,
}

/// What becomes of a broker message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// All its deliveries are recorded: ack it.
    Done,
    /// It is not an event: reject it, and the broker makes a dead letter of it.
    Dead,
    /// The worker could not finish it, for a reason outside the message: the broker delivers it again.
    Returned,
}

/// How many done messages may wait for a group. They count towards the consumer's prefetch, and must not fill it.
const MAX_UNACKED: usize = 256;
/// Between two rounds of single acks, for messages that wait for an older one.
const SINGLE_ACKS_EVERY: Duration = Duration::from_millis(10);
/// How many batches of the recorder are settled together.
const MAX_BATCHES: usize = 64;

/// Sends the acks for every channel that one consumer has had. A message that is done before an older one waits a little for a
/// group: an ack frame for each message would cost the broker more than delivering the message.
#[derive(Debug)]
struct Acknowledger {
    channels: HashMap<u64, Ledger>,
    metrics: Metrics,
}

/// Messages to settle, and when the results of their last deliveries were recorded.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) at: Instant,
    pub(crate) messages: Vec<Settled>,
}

/// The messages of one channel.
#[derive(Debug)]
struct Ledger {
    channel: Channel,
    tags: Tags,
}

impl Acknowledger {
    fn new(metrics: Metrics) -> Self {
        Self { channels: HashMap::new(), metrics }
    }

    /// Settles the messages of `settled` and `returned`, until all senders of `settled` are dropped and every frame is sent.
    /// The recorder does not wait for the frames, unless the channel `settled` is full: then the broker takes nothing.
    async fn run(mut self, mut settled: mpsc::Receiver<Recorded>, returned: &mut mpsc::UnboundedReceiver<Settled>) {
        let (mut batches, mut ended) = (Vec::new(), false);
        let mut regularly = tokio::time::interval(SINGLE_ACKS_EVERY);
        regularly.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !ended || self.has_unacked() || !returned.is_empty() {
            tokio::select! {
                received = settled.recv_many(&mut batches, MAX_BATCHES), if !ended => {
                    ended = received == 0;
                    self.settle_recorded(&mut batches).await;
                }
                Some(first) = returned.recv() => self.settle(all_that_came(first, returned)).await,
                _ = regularly.tick(), if self.has_unacked() => self.ack_singly().await,
            }
        }
    }

    async fn settle_recorded(&mut self, batches: &mut Vec<Recorded>) {
        let recorded: Vec<Instant> = batches.iter().map(|batch| batch.at).collect();
        let messages: Vec<Settled> = batches.drain(..).flat_map(|batch| batch.messages).collect();
        if messages.is_empty() {
            return;
        }
        observe_size(&self.metrics.ack_batch_size, messages.len());
        self.settle(messages).await;
        recorded.into_iter().for_each(|at| observe_since(&self.metrics.ack_duration, at));
    }

    /// Settles messages. Those of a channel that has ended are ignored: the broker delivers them again.
    async fn settle(&mut self, settled: Vec<Settled>) {
        let mut by_channel: HashMap<u64, Vec<(u64, Settlement)>> = HashMap::new();
        for Settled { receipt, settlement } in &settled {
            let Attachment { number, channel, .. } = &*receipt.attachment;
            if !receipt.is_usable() {
                self.channels.remove(number);
                continue;
            }
            if !self.channels.contains_key(number) {
                self.channels.retain(|_, ledger| ledger.channel.status().connected());
                self.channels.insert(*number, Ledger { channel: channel.clone(), tags: Tags::default() });
            }
            by_channel.entry(*number).or_default().push((receipt.tag, *settlement));
        }
        for (number, settled) in by_channel {
            let Some(ledger) = self.channels.get_mut(&number) else { continue };
            let acks = ledger.tags.settle(&settled);
            self.send(number, acks).await;
        }
    }

    /// Whether done messages wait for a group.
    fn has_unacked(&self) -> bool {
        self.channels.values().any(|ledger| ledger.tags.has_unacked())
    }

    /// To be called regularly while messages wait for a group: sends an ack for each one that waited since the last call.
    async fn ack_singly(&mut self) {
        let numbers: Vec<u64> = self.channels.keys().copied().collect();
        for number in numbers {
            let Some(ledger) = self.channels.get_mut(&number) else { continue };
            let acks = ledger.tags.ack_singly();
            self.send(number, acks).await;
        }
    }

    async fn send(&mut self, number: u64, acks: Acks) {
        let Some(ledger) = self.channels.get(&number) else { return };
        if let Err(error) = acks.send(&ledger.channel).await {
            // The consumer gets the same error, and attaches again.
            tracing::debug!(error = crate::error_chain(&error), "acks were not sent");
            self.channels.remove(&number);
        }
    }
}

/// The delivery tags of one channel. The broker counts them from 1 without gaps. See the picture at the head of this file.
#[derive(Debug, Default)]
struct Tags {
    /// The worker has settled every tag up to this one.
    settled_up_to: u64,
    /// Tags above `settled_up_to + 1` that the worker has settled.
    settled_above: BTreeSet<u64>,
    /// Done, ack not sent, since the last round of single acks. Each of these tags is in `settled_above`, too.
    unacked_new: BTreeSet<u64>,
    /// The same, since an earlier round: the next round acks them.
    unacked_old: BTreeSet<u64>,
}

/// Frames that settle messages.
#[derive(Debug, Default, PartialEq, Eq)]
struct Acks {
    /// Tags to reject, each with whether the broker delivers the message again (`requeue`).
    nacks: Vec<(u64, bool)>,
    /// One ack for every tag up to this one that the broker does not have as settled.
    up_to: Option<u64>,
    /// One ack for each tag.
    single: Vec<u64>,
}

impl Tags {
    fn settle(&mut self, settled: &[(u64, Settlement)]) -> Acks {
        let (mut nacks, mut done) = (Vec::new(), std::mem::take(&mut self.unacked_new));
        for (tag, settlement) in settled {
            self.settled_above.insert(*tag);
            match settlement {
                Settlement::Done => drop(done.insert(*tag)),
                Settlement::Dead => nacks.push((*tag, false)),
                Settlement::Returned => nacks.push((*tag, true)),
            }
        }
        while self.settled_above.remove(&(self.settled_up_to + 1)) {
            self.settled_up_to += 1;
        }
        self.unacked_new = done.split_off(&(self.settled_up_to + 1));
        let unacked_old = self.unacked_old.split_off(&(self.settled_up_to + 1));
        let covered = std::mem::replace(&mut self.unacked_old, unacked_old);
        // The group must end with a tag whose ack is not sent yet: the broker refuses a tag that is settled already.
        let up_to = done.last().max(covered.last()).copied();
        let single = match self.unacked_old.len() + self.unacked_new.len() > MAX_UNACKED {
            true => [&mut self.unacked_old, &mut self.unacked_new].into_iter().flat_map(std::mem::take).collect(),
            false => Vec::new(),
        };
        Acks { nacks, up_to, single }
    }

    fn ack_singly(&mut self) -> Acks {
        let old = std::mem::replace(&mut self.unacked_old, std::mem::take(&mut self.unacked_new));
        Acks { single: old.into_iter().collect(), ..Acks::default() }
    }

    fn has_unacked(&self) -> bool {
        !(self.unacked_old.is_empty() && self.unacked_new.is_empty())
    }
}

impl Acks {
    /// Hands all frames to the library in this order, and then waits until they are written. Waiting for each frame before the
    /// next one would cost a switch to the library's thread per frame.
    async fn send(self, channel: &Channel) -> lapin::Result<()> {
        let nack = |(tag, requeue)| channel.basic_nack(tag, BasicNackOptions { requeue, multiple: false });
        let ack = |(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple });
        let nacks = self.nacks.into_iter().map(|settled| Box::pin(nack(settled)) as Frame<'_>);
        let acks = self.up_to.map(|tag| (tag, true)).into_iter().chain(self.single.into_iter().map(|tag| (tag, false)));
        let mut unwritten = Vec::new();
        for mut frame in nacks.chain(acks.map(|settled| Box::pin(ack(settled)) as Frame<'_>)) {
            // The first poll hands the frame to the library's thread.
            match poll!(&mut frame) {
                Poll::Ready(written) => written?,
                Poll::Pending => unwritten.push(frame),
            }
        }
        join_all(unwritten).await.into_iter().collect()
    }
}

/// Hands a frame over at the first poll, and is ready once the frame is written.
type Frame<'a> = Pin<Box<dyn Future<Output = lapin::Result<()>> + Send + 'a>>;

/// `first` and every further message that has come by now.
fn all_that_came(first: Settled, returned: &mut mpsc::UnboundedReceiver<Settled>) -> Vec<Settled> {
    std::iter::once(first).chain(std::iter::from_fn(|| returned.try_recv().ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::RangeInclusive;

    /// A model of the broker, which knows the unsettled tags and refuses any other.
    #[derive(Default)]
    struct Broker {
        unsettled: BTreeSet<u64>,
        acked: BTreeSet<u64>,
    }

    impl Broker {
        fn deliver(tags: RangeInclusive<u64>) -> Self {
            Self { unsettled: tags.collect(), acked: BTreeSet::new() }
        }

        fn receive(&mut self, acks: &Acks) {
            for (tag, _) in &acks.nacks {
                assert!(self.unsettled.remove(tag), "unknown delivery tag {tag}");
            }
            if let Some(up_to) = acks.up_to {
                assert!(self.unsettled.contains(&up_to), "unknown delivery tag {up_to}");
                let later = self.unsettled.split_off(&(up_to + 1));
                self.acked.extend(std::mem::replace(&mut self.unsettled, later));
            }
            for tag in &acks.single {
                assert!(self.unsettled.remove(tag), "unknown delivery tag {tag}");
                self.acked.insert(*tag);
            }
        }
    }

    proptest! {
        #[test]
        fn every_message_is_settled_as_decided_and_not_before(
            order in Just((1..=400_u64).collect::<Vec<_>>()).prop_shuffle(),
            dead in proptest::collection::btree_set(1..=400_u64, 0..10),
            batch in 1..300_usize,
            rounds in 1..5_usize,
        ) {
            let (mut broker, mut tags) = (Broker::deliver(1..=400), Tags::default());
            let mut decided = BTreeSet::new();
            for (round, tags_at_once) in order.chunks(batch).enumerate() {
                let settlement = |tag: &u64| if dead.contains(tag) { Settlement::Dead } else { Settlement::Done };
                let settled: Vec<_> = tags_at_once.iter().map(|tag| (*tag, settlement(tag))).collect();
                broker.receive(&tags.settle(&settled));
                decided.extend(tags_at_once.iter().filter(|tag| !dead.contains(tag)));
                if round % rounds == 0 {
                    broker.receive(&tags.ack_singly());
                }
                prop_assert!(broker.acked.is_subset(&decided));
                prop_assert!(decided.len() - broker.acked.len() <= MAX_UNACKED);
                prop_assert_eq!(tags.has_unacked(), broker.acked != decided);
            }
            prop_assert!(broker.unsettled.is_empty());
            prop_assert!(tags.settled_above.is_empty() && !tags.has_unacked());
        }
    }

    fn done(tags: &[u64]) -> Vec<(u64, Settlement)> {
        tags.iter().map(|tag| (*tag, Settlement::Done)).collect()
    }

    #[test]
    fn messages_settled_in_order_take_one_frame() {
        let acks = Tags::default().settle(&done(&[1, 2, 3, 4]));
        assert_eq!(acks, Acks { up_to: Some(4), ..Acks::default() });
    }

    #[test]
    fn a_message_done_early_is_acked_with_the_older_one_it_waited_for() {
        let mut tags = Tags::default();
        assert_eq!(tags.settle(&done(&[2, 3])), Acks::default());
        assert_eq!(tags.settle(&done(&[1])), Acks { up_to: Some(3), ..Acks::default() });
    }

    #[test]
    fn a_message_behind_a_slow_one_is_acked_alone_in_the_end() {
        let mut tags = Tags::default();
        assert_eq!(tags.settle(&done(&[2])), Acks::default());
        assert_eq!(tags.ack_singly(), Acks::default());
        assert_eq!(tags.ack_singly(), Acks { single: vec![2], ..Acks::default() });
        assert_eq!(tags.settle(&done(&[1])), Acks { up_to: Some(1), ..Acks::default() });
    }
}

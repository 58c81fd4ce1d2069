//! Settles broker messages, in as few frames as possible. One owner: grouped acks that overtake each other would close
//! the channel.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::attachment::{Attachment, Receipt};

/// A broker message whose fate is decided.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled<R = Receipt> {
    pub receipt: R,
    pub settlement: Settlement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Everything it asked for is done or recorded.
    Done,
    /// It is no event: the broker makes a dead letter of it.
    Dead,
    /// Not worked on to the end, through no fault of its own: the broker hands it out again.
    Returned,
}

/// Done messages that wait for a group at most, lest they fill the consumer's prefetch.
const MAX_HELD: usize = 256;
/// Between acks of messages that older ones keep from being acked with them.
const ACKS_APART: Duration = Duration::from_millis(10);
/// Batches settled at a time.
const BATCHES: usize = 64;

/// Sends acks for all channels the consumer has had. A message that is done before an older one waits a little for a
/// group that covers it: acks of their own cost the broker more than delivering does.
#[derive(Debug, Default)]
pub struct Acknowledger {
    channels: HashMap<u64, Ledger>,
}

#[derive(Debug)]
struct Ledger {
    channel: Channel,
    tags: Tags,
}

impl Acknowledger {
    /// Settles what comes, until nobody sends `settled` any more and everything has gone out. Whoever records does not
    /// wait for the frames of earlier batches, unless the channel is full: then the connection takes nothing.
    pub async fn run(
        mut self,
        mut settled: mpsc::Receiver<Vec<Settled>>,
        returned: &mut mpsc::UnboundedReceiver<Settled>,
    ) {
        let (mut batches, mut ended) = (Vec::new(), false);
        let mut regularly = tokio::time::interval(ACKS_APART);
        regularly.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !ended || self.holds_any() || !returned.is_empty() {
            tokio::select! {
                received = settled.recv_many(&mut batches, BATCHES), if !ended => {
                    ended = received == 0;
                    self.settle(batches.drain(..).flatten().collect()).await;
                }
                Some(first) = returned.recv() => self.settle(all_of(first, returned)).await,
                _ = regularly.tick(), if self.holds_any() => self.settle_held().await,
            }
        }
    }

    /// Settles messages. What belongs to a channel that is gone is forgotten: the broker hands it out again.
    async fn settle(&mut self, settled: Vec<Settled>) {
        let mut by_channel: HashMap<u64, Vec<(u64, Settlement)>> = HashMap::new();
        for Settled { receipt, settlement } in settled {
            let Attachment { number, channel, .. } = &*receipt.attachment;
            if !receipt.is_usable() {
                self.channels.remove(number);
                continue;
            }
            if !self.channels.contains_key(number) {
                self.channels.retain(|_, ledger| ledger.channel.status().connected());
                self.channels.insert(*number, Ledger { channel: channel.clone(), tags: Tags::default() });
            }
            by_channel.entry(*number).or_default().push((receipt.tag, settlement));
        }
        for (number, settled) in by_channel {
            let Some(ledger) = self.channels.get_mut(&number) else { continue };
            let acks = ledger.tags.settle(&settled);
            self.send(number, acks).await;
        }
    }

    /// Whether something waits for its group.
    fn holds_any(&self) -> bool {
        self.channels.values().any(|ledger| ledger.tags.holds_any())
    }

    /// To be called now and then while something waits: acks alone what waited since the last time.
    async fn settle_held(&mut self) {
        let numbers: Vec<u64> = self.channels.keys().copied().collect();
        for number in numbers {
            let Some(ledger) = self.channels.get_mut(&number) else { continue };
            let acks = ledger.tags.settle_held();
            self.send(number, acks).await;
        }
    }

    async fn send(&mut self, number: u64, acks: Acks) {
        let Some(ledger) = self.channels.get(&number) else { return };
        if let Err(error) = acks.send(&ledger.channel).await {
            // The consumer sees the same and attaches again.
            tracing::debug!(error = crate::error_chain(&error), "acks were not sent");
            self.channels.remove(&number);
        }
    }
}

/// Which delivery tags of one channel are settled. The broker counts them from 1 without gaps.
#[derive(Debug, Default)]
struct Tags {
    /// Everything up to here is settled.
    low: u64,
    /// Settled tags above `low + 1`.
    above: BTreeSet<u64>,
    /// Those of them that are done but not acked yet, and have been so for longer.
    held: BTreeSet<u64>,
    newly_held: BTreeSet<u64>,
}

/// Frames that settle messages.
#[derive(Debug, Default, PartialEq, Eq)]
struct Acks {
    /// Not done; `true` has the broker hand it out again.
    nacks: Vec<(u64, bool)>,
    /// Acknowledges everything up to this tag that is not settled yet.
    up_to: Option<u64>,
    single: Vec<u64>,
}

impl Tags {
    fn settle(&mut self, settled: &[(u64, Settlement)]) -> Acks {
        let (mut nacks, mut done) = (Vec::new(), std::mem::take(&mut self.newly_held));
        for (tag, settlement) in settled {
            self.above.insert(*tag);
            match settlement {
                Settlement::Done => drop(done.insert(*tag)),
                Settlement::Dead => nacks.push((*tag, false)),
                Settlement::Returned => nacks.push((*tag, true)),
            }
        }
        while self.above.remove(&(self.low + 1)) {
            self.low += 1;
        }
        self.newly_held = done.split_off(&(self.low + 1));
        let held = self.held.split_off(&(self.low + 1));
        let covered = std::mem::replace(&mut self.held, held);
        // The broker refuses a tag that is settled already, so the group ends with one that is being settled now.
        let up_to = done.last().max(covered.last()).copied();
        let single = match self.held.len() + self.newly_held.len() > MAX_HELD {
            true => [&mut self.held, &mut self.newly_held].into_iter().flat_map(std::mem::take).collect(),
            false => Vec::new(),
        };
        Acks { nacks, up_to, single }
    }

    fn settle_held(&mut self) -> Acks {
        let longer = std::mem::replace(&mut self.held, std::mem::take(&mut self.newly_held));
        Acks { single: longer.into_iter().collect(), ..Acks::default() }
    }

    fn holds_any(&self) -> bool {
        !(self.held.is_empty() && self.newly_held.is_empty())
    }
}

impl Acks {
    /// Has all frames go out in this order, and then waits until they are written.
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

/// A frame that is to be written, and the news that it is.
type Frame<'a> = Pin<Box<dyn Future<Output = lapin::Result<()>> + Send + 'a>>;

/// Whatever is there now.
fn all_of(first: Settled, returned: &mut mpsc::UnboundedReceiver<Settled>) -> Vec<Settled> {
    std::iter::once(first).chain(std::iter::from_fn(|| returned.try_recv().ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::RangeInclusive;

    /// What the broker does: it knows what is outstanding and refuses anything else.
    #[derive(Default)]
    struct Broker {
        outstanding: BTreeSet<u64>,
        acked: BTreeSet<u64>,
    }

    impl Broker {
        fn deliver(tags: RangeInclusive<u64>) -> Self {
            Self { outstanding: tags.collect(), acked: BTreeSet::new() }
        }

        fn take(&mut self, acks: &Acks) {
            for (tag, _) in &acks.nacks {
                assert!(self.outstanding.remove(tag), "unknown delivery tag {tag}");
            }
            if let Some(up_to) = acks.up_to {
                assert!(self.outstanding.contains(&up_to), "unknown delivery tag {up_to}");
                let later = self.outstanding.split_off(&(up_to + 1));
                self.acked.extend(std::mem::replace(&mut self.outstanding, later));
            }
            for tag in &acks.single {
                assert!(self.outstanding.remove(tag), "unknown delivery tag {tag}");
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
                broker.take(&tags.settle(&settled));
                decided.extend(tags_at_once.iter().filter(|tag| !dead.contains(tag)));
                if round % rounds == 0 {
                    broker.take(&tags.settle_held());
                }
                prop_assert!(broker.acked.is_subset(&decided));
                prop_assert!(decided.len() - broker.acked.len() <= MAX_HELD);
                prop_assert_eq!(tags.holds_any(), broker.acked != decided);
            }
            prop_assert!(broker.outstanding.is_empty());
            prop_assert!(tags.above.is_empty() && !tags.holds_any());
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
        assert_eq!(tags.settle_held(), Acks::default());
        assert_eq!(tags.settle_held(), Acks { single: vec![2], ..Acks::default() });
        assert_eq!(tags.settle(&done(&[1])), Acks { up_to: Some(1), ..Acks::default() });
    }
}

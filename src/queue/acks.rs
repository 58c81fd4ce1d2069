//! Settles broker messages, in as few frames as possible. One owner: grouped acks that overtake each other would close
//! the channel.

use std::collections::{BTreeSet, HashMap};

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};

use super::consumer::Receipt;

/// A broker message whose fate is decided.
#[derive(Debug)]
pub struct Settled {
    pub receipt: Receipt,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything it asked for is done or recorded.
    Done,
    /// It is no event: the broker makes a dead letter of it.
    Dead,
    /// Not worked on to the end, through no fault of its own: the broker hands it out again.
    Returned,
}

/// Sends acks for all channels the consumer has had.
#[derive(Debug, Default)]
pub struct Acknowledger {
    tags: HashMap<u64, Tags>,
}

impl Acknowledger {
    /// Settles messages. What belongs to a channel that is gone is forgotten: the broker hands it out again.
    pub async fn settle(&mut self, settled: Vec<Settled>) {
        let mut channels: HashMap<u64, (Channel, Vec<(u64, Verdict)>)> = HashMap::new();
        for Settled { receipt, verdict } in settled {
            if !receipt.is_usable() {
                self.tags.remove(&receipt.attachment.number);
                continue;
            }
            let channel = || (receipt.attachment.channel.clone(), Vec::new());
            let (_, tags) = channels.entry(receipt.attachment.number).or_insert_with(channel);
            tags.push((receipt.tag, verdict));
        }
        for (number, (channel, settled)) in channels {
            let acks = self.tags.entry(number).or_default().settle(&settled);
            if let Err(error) = send(&channel, &acks, &settled).await {
                // The consumer sees the same and attaches again.
                tracing::debug!(%error, "acks were not sent");
                self.tags.remove(&number);
            }
        }
    }
}

async fn send(channel: &Channel, acks: &Acks, settled: &[(u64, Verdict)]) -> lapin::Result<()> {
    for (tag, verdict) in settled.iter().filter(|(_, verdict)| *verdict != Verdict::Done) {
        let requeue = *verdict == Verdict::Returned;
        channel.basic_nack(*tag, BasicNackOptions { requeue, multiple: false }).await?;
    }
    if let Some(tag) = acks.up_to {
        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
    }
    for tag in &acks.single {
        channel.basic_ack(*tag, BasicAckOptions { multiple: false }).await?;
    }
    Ok(())
}

/// Which delivery tags of one channel are settled. The broker counts them from 1 without gaps.
#[derive(Debug, Default)]
struct Tags {
    /// Everything up to here is settled.
    low: u64,
    /// Settled tags above `low + 1`.
    above: BTreeSet<u64>,
}

/// The acks that say the same as one per message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Acks {
    /// Acknowledges everything up to this tag that is not settled yet.
    up_to: Option<u64>,
    single: Vec<u64>,
}

impl Tags {
    fn settle(&mut self, settled: &[(u64, Verdict)]) -> Acks {
        self.above.extend(settled.iter().map(|(tag, _)| tag));
        while self.above.remove(&(self.low + 1)) {
            self.low += 1;
        }
        let done = settled.iter().filter(|(_, verdict)| *verdict == Verdict::Done).map(|(tag, _)| *tag);
        let (prefix, mut single): (Vec<u64>, Vec<u64>) = done.partition(|tag| *tag <= self.low);
        single.sort_unstable();
        // The broker refuses a tag that is settled already, so the group ends with one that is being settled now.
        Acks { up_to: prefix.into_iter().max(), single }
    }
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

        fn take(&mut self, acks: &Acks, settled: &[(u64, Verdict)]) {
            for (tag, _) in settled.iter().filter(|(_, verdict)| *verdict != Verdict::Done) {
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
        fn every_message_is_settled_as_decided_and_when_decided(
            order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
            dead in proptest::collection::btree_set(1..=60_u64, 0..10),
            batch in 1..20_usize,
        ) {
            let (mut broker, mut tags) = (Broker::deliver(1..=60), Tags::default());
            let mut decided = BTreeSet::new();
            for tags_at_once in order.chunks(batch) {
                let verdict = |tag: &u64| if dead.contains(tag) { Verdict::Dead } else { Verdict::Done };
                let settled: Vec<_> = tags_at_once.iter().map(|tag| (*tag, verdict(tag))).collect();
                broker.take(&tags.settle(&settled), &settled);
                decided.extend(tags_at_once.iter().filter(|tag| !dead.contains(tag)));
                prop_assert_eq!(&broker.acked, &decided);
            }
            prop_assert!(broker.outstanding.is_empty());
            prop_assert!(tags.above.is_empty());
        }
    }

    #[test]
    fn messages_settled_in_order_take_one_frame() {
        let acks = Tags::default().settle(&[1, 2, 3, 4].map(|tag| (tag, Verdict::Done)));
        assert_eq!(acks, Acks { up_to: Some(4), single: vec![] });
    }
}

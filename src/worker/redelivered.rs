//! Delivers the events that the broker hands out again, except to webhooks for which that was done before.
//!
//! What was done before, Postgres tells: that costs it as much as there are webhooks times days of log. It is therefore
//! asked in parts that end in time, small events first, beside the intake: no fresh event waits for it, and each event goes
//! on when its own part is answered. An event that cannot be checked stays unacked, and others go before it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempts::Attempts;
use super::matching::{MatchedEvent, ReceivedEvent};
use super::portion::Portion;
use super::stalls::DatabaseWait;
use crate::ids::DeliveryId;
use crate::store::StoreError;

/// Deliveries that one statement is asked about: with a log of 30 days it takes about half a second.
const MOST_ASKED: usize = 5_000;

/// In one of so many statements the event that waits longest comes first, so that none waits for ever behind smaller ones.
const OLDEST_EVERY: u64 = 8;

/// Failures in a row after which an event that is checked alone lets others go first.
const FAILURES_ALONE: u32 = 3;

pub(super) struct Redelivered {
    pub(super) attempts: Arc<Attempts>,
    /// How long the log is kept (days).
    pub(super) retention: Duration,
    /// Events looked up at a time.
    pub(super) batch: usize,
}

/// An event that is to be checked.
struct UncheckedEvent {
    rank: Rank,
    matched: MatchedEvent,
}

/// The order in which events are checked. First those that failed the fewest checks alone; among these, those with the
/// fewest webhooks; then those that came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// How many times it failed a check alone.
    failed: u32,
    webhooks: usize,
    /// The number of events that came before.
    came: u64,
}

/// Events that are to be checked.
#[derive(Default)]
struct Waiting {
    events: BTreeMap<Rank, MatchedEvent>,
    /// How many have come so far.
    came: u64,
    /// How many times `next` was called so far.
    calls: u64,
}

impl Redelivered {
    /// Runs until nobody sends any more. The channel has no bound, for the intake must not wait for the checks. It holds at
    /// most `worker.prefetch` messages per connection. Messages of closed connections are dropped at the next round.
    pub(super) async fn run(self, mut events: mpsc::UnboundedReceiver<ReceivedEvent>) {
        let (mut waiting, mut in_hand) = (Waiting::default(), Vec::new());
        let (mut lookup, mut check) = (Portion::of(self.batch), Portion::of(MOST_ASKED));
        let mut stall = self.attempts.stalls.wait_aside();
        loop {
            in_hand.extend(std::iter::from_fn(|| events.try_recv().ok()));
            // Messages of a channel that has closed are handed out again.
            in_hand.retain(|event: &ReceivedEvent| event.receipt.is_usable());
            waiting.events.retain(|_, matched| matched.received.receipt.is_usable());
            if waiting.events.is_empty() && in_hand.is_empty() {
                // Nothing here waits for the database any more, and the next question may be hours away.
                stall.given_up();
                if events.recv_many(&mut in_hand, self.batch).await == 0 {
                    return;
                }
            }
            let some = in_hand.drain(..in_hand.len().min(self.batch)).collect();
            self.attempts.look_up(some, &mut lookup).await.into_iter().for_each(|event| waiting.add(event));
            let next = self.with_fresh_webhooks(waiting.next(check.size()), &mut lookup).await;
            match self.already_taken(&next, &mut check, &mut stall).await {
                Ok(done) => self.deliver(next, &done).await,
                Err(CheckFailed { alone }) => {
                    next.into_iter().for_each(|event| waiting.put_back(event.failed(alone)));
                }
            }
        }
    }

    /// Reads the webhooks of events that have waited once more, all together: else each delivery would do so by itself.
    async fn with_fresh_webhooks(&self, events: Vec<UncheckedEvent>, lookup: &mut Portion) -> Vec<UncheckedEvent> {
        if events.iter().all(|event| event.matched.looked_up.elapsed() < self.attempts.lookup_lifetime / 2) {
            return events;
        }
        let (ranks, received): (Vec<Rank>, Vec<ReceivedEvent>) =
            events.into_iter().map(|event| (event.rank, event.matched.received)).unzip();
        let matched = self.attempts.look_up(received, lookup).await;
        ranks.into_iter().zip(matched).map(|(rank, matched)| UncheckedEvent { rank, matched }).collect()
    }

    /// Returns which of these events' deliveries were done before. A single event is asked about in parts; several events
    /// are asked about in one part, and are grouped anew after a failure.
    ///
    /// While the database is away, it is asked until it answers, even if the messages went back meanwhile: otherwise the
    /// broker would hand them out and get them back again and again.
    ///
    /// # Errors
    ///
    /// [`CheckFailed`] when the database is busy, or has no time for this many deliveries.
    async fn already_taken(
        &self,
        events: &[UncheckedEvent],
        portion: &mut Portion,
        stall: &mut DatabaseWait<'_>,
    ) -> Result<HashSet<DeliveryId>, CheckFailed> {
        let all: Vec<DeliveryId> = events.iter().flat_map(|event| event.matched.deliveries()).collect();
        let (mut done, mut asked, mut failures) = (HashSet::new(), 0, 0);
        while asked < all.len() {
            let rest = &all[asked..];
            let part = &rest[..rest.len().min(portion.size())];
            match self.attempts.store.already_taken(part, self.retention).await {
                Ok(taken) => {
                    stall.over();
                    portion.ended();
                    done.extend(taken);
                    (asked, failures) = (asked + part.len(), 0);
                }
                Err(error) => {
                    stall.after("cannot check what was handed out again, waiting", &error).await;
                    if error.ran_out_of_time() {
                        portion.ran_out_of_time(part.len());
                    }
                    let usable = events.iter().any(|event| event.matched.received.receipt.is_usable());
                    // A database whose answer comes too late may merely be slow, and not away.
                    let late = error.ran_out_of_time() && usable;
                    if !late && !matches!(error, StoreError::Busy(_)) {
                        continue;
                    }
                    failures += 1;
                    let alone = events.len() == 1;
                    if !alone || failures == FAILURES_ALONE || !usable {
                        return Err(CheckFailed { alone });
                    }
                }
            }
        }
        Ok(done)
    }

    async fn deliver(&self, events: Vec<UncheckedEvent>, done: &HashSet<DeliveryId>) {
        let open = |UncheckedEvent { mut matched, .. }| {
            let open = matched.deliveries().zip(&matched.webhooks).filter(|(delivery, _)| !done.contains(delivery));
            matched.webhooks = open.map(|(_, webhook)| webhook.clone()).collect();
            matched
        };
        self.attempts.deliver_all(events.into_iter().map(open)).await;
    }
}

/// The database did not tell what was done before.
struct CheckFailed {
    /// It was asked about one event alone.
    alone: bool,
}

impl UncheckedEvent {
    /// It could not be checked; that counts if it was checked alone.
    fn failed(mut self, alone: bool) -> Self {
        self.rank.failed += u32::from(alone);
        self
    }
}

impl Waiting {
    fn add(&mut self, matched: MatchedEvent) {
        let rank = Rank { failed: 0, webhooks: matched.webhooks.len(), came: self.came };
        self.put_back(UncheckedEvent { rank, matched });
        self.came += 1;
    }

    fn put_back(&mut self, UncheckedEvent { rank, matched }: UncheckedEvent) {
        self.events.insert(Rank { webhooks: matched.webhooks.len(), ..rank }, matched);
    }

    /// Takes events with at most so many deliveries together, the smallest first, and at least one event if there is any.
    /// Events that share a statement are alike, so that a single delivery does not wait for an event of hundreds, nor for
    /// one that failed before.
    fn next(&mut self, most: usize) -> Vec<UncheckedEvent> {
        self.calls += 1;
        if self.calls.is_multiple_of(OLDEST_EVERY)
            && let Some(oldest) = self.events.keys().copied().min_by_key(|rank| rank.came)
        {
            return self.take(oldest).into_iter().collect();
        }
        let (mut next, mut left, mut first) = (Vec::new(), most, None);
        while let Some((rank, _)) = self.events.first_key_value() {
            let rank = *rank;
            let Rank { failed, webhooks, .. } = *first.get_or_insert(rank);
            let alike = rank.failed == failed && failed == 0 && rank.webhooks <= webhooks.max(1) * 10;
            if !next.is_empty() && (rank.webhooks > left || !alike) {
                break;
            }
            left = left.saturating_sub(rank.webhooks);
            next.extend(self.take(rank));
        }
        next
    }

    fn take(&mut self, rank: Rank) -> Option<UncheckedEvent> {
        self.events.remove(&rank).map(|matched| UncheckedEvent { rank, matched })
    }
}

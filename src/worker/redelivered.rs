//! Delivers what the broker hands out again, but for what was done before.
//!
//! To know that costs the database as much as there are webhooks times days of log. So it is asked in parts that end in
//! time, small events first, beside the intake: no fresh event waits for it, and each event goes on when its own part is
//! answered. An event that cannot be checked stays unacked, and others go before it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempts::Attempts;
use super::owed::{Owed, Taken};
use super::portion::Portion;
use super::stalls::{Stall, Stalls};
use crate::ids::DeliveryId;
use crate::store::StoreError;

/// Deliveries that one statement is asked about: with a log of 30 days it takes about half a second.
const MOST_ASKED: usize = 5_000;

/// Every so often the event that waits longest comes first, so that none waits for ever behind smaller ones.
const OLDEST_EVERY: u64 = 8;

/// Failures in a row after which an event that is checked alone lets others go first.
const FAILURES_ALONE: u32 = 3;

pub(super) struct Redelivered {
    pub(super) attempts: Arc<Attempts>,
    /// How long the log is kept.
    pub(super) retention: Duration,
    /// Events looked up at a time.
    pub(super) batch: usize,
}

/// An event that is to be checked, and its place in the order.
struct Doubtful {
    place: Place,
    owed: Owed,
}

/// What could not be checked, however small a part was asked for, comes last; then it goes by the number of webhooks, then
/// in the order in which the events came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    failed: u32,
    webhooks: usize,
    came: u64,
}

/// Events that are to be checked.
#[derive(Default)]
struct Waiting {
    events: BTreeMap<Place, Owed>,
    came: u64,
    taken: u64,
}

impl Redelivered {
    /// Until nobody sends any more. The channel has no bound, for the intake must not wait for the checks: what lies in it
    /// is what the broker has handed out, `worker.prefetch` for each time that our consumer was attached since we last
    /// looked, and only the last of these lives is kept.
    pub(super) async fn run(self, mut events: mpsc::UnboundedReceiver<Taken>) {
        let (mut waiting, mut in_hand) = (Waiting::default(), Vec::new());
        let (mut lookup, mut check, mut stall) = (Portion::of(self.batch), Portion::of(MOST_ASKED), None);
        loop {
            in_hand.extend(std::iter::from_fn(|| events.try_recv().ok()));
            // What came over a channel of the broker that is gone comes again.
            in_hand.retain(|taken: &Taken| taken.receipt.is_usable());
            waiting.events.retain(|_, owed| owed.taken.receipt.is_usable());
            if waiting.events.is_empty() && in_hand.is_empty() {
                // Nothing of ours waits for the database now, and nothing might ask it for hours.
                stall = None;
                if events.recv_many(&mut in_hand, self.batch).await == 0 {
                    return;
                }
            }
            let some = in_hand.drain(..in_hand.len().min(self.batch)).collect();
            self.attempts.look_up(some, &mut lookup).await.into_iter().for_each(|owed| waiting.add(owed));
            let next = self.as_they_are_now(waiting.next(check.size()), &mut lookup).await;
            match self.already_taken(&next, &mut check, &mut stall).await {
                Ok(done) => self.deliver(next, &done).await,
                Err(Unchecked { failed }) => {
                    next.into_iter().for_each(|doubtful| waiting.put_back(doubtful.that_failed(failed)));
                }
            }
        }
    }

    /// What has waited is looked up once more, all together: else each delivery would be, for itself.
    async fn as_they_are_now(&self, events: Vec<Doubtful>, lookup: &mut Portion) -> Vec<Doubtful> {
        if events.iter().all(|event| event.owed.looked_up.elapsed() < self.attempts.lookup_lifetime / 2) {
            return events;
        }
        let (places, taken): (Vec<Place>, Vec<Taken>) =
            events.into_iter().map(|event| (event.place, event.owed.taken)).unzip();
        let owed = self.attempts.look_up(taken, lookup).await;
        places.into_iter().zip(owed).map(|(place, owed)| Doubtful { place, owed }).collect()
    }

    /// Which of these events' deliveries were done before. Those of one event alone are asked for in parts; several events
    /// are one part, and are put together anew after a failure.
    ///
    /// While the database is away, it is asked again until it answers, also after the messages went back: else what the broker hands out would go back and
    /// be taken again and again.
    async fn already_taken(
        &self,
        events: &[Doubtful],
        portion: &mut Portion,
        stall: &mut Option<Stall>,
    ) -> Result<HashSet<DeliveryId>, Unchecked> {
        let doubtful: Vec<DeliveryId> = events.iter().flat_map(|event| event.owed.deliveries()).collect();
        let (mut done, mut asked, mut failures) = (HashSet::new(), 0, 0);
        while asked < doubtful.len() {
            let rest = &doubtful[asked..];
            let part = &rest[..rest.len().min(portion.size())];
            match self.attempts.store.already_taken(part, self.retention).await {
                Ok(taken) => {
                    Stalls::over(stall);
                    portion.ended();
                    done.extend(taken);
                    (asked, failures) = (asked + part.len(), 0);
                }
                Err(error) => {
                    let part_of_work = "cannot check what was handed out again, waiting";
                    self.attempts.stalls.aside().wait(stall, part_of_work, &error).await;
                    if error.ran_out_of_time() {
                        portion.ran_out_of_time(part.len());
                    }
                    let usable = events.iter().any(|event| event.owed.taken.receipt.is_usable());
                    // An answer that was too late for us may also be of a database that is merely slow.
                    let late = error.ran_out_of_time() && usable;
                    if !late && !matches!(error, StoreError::Busy(_)) {
                        continue;
                    }
                    failures += 1;
                    let alone = events.len() == 1;
                    if !alone || failures == FAILURES_ALONE || !usable {
                        return Err(Unchecked { failed: alone });
                    }
                }
            }
        }
        Ok(done)
    }

    async fn deliver(&self, events: Vec<Doubtful>, done: &HashSet<DeliveryId>) {
        for Doubtful { mut owed, .. } in events {
            let open = owed.deliveries().zip(&owed.webhooks).filter(|(delivery, _)| !done.contains(delivery));
            owed.webhooks = open.map(|(_, webhook)| webhook.clone()).collect();
            self.attempts.deliver(owed).await;
        }
    }
}

/// The database did not say what was done before.
struct Unchecked {
    /// Also not about this one event in smaller parts.
    failed: bool,
}

impl Doubtful {
    fn that_failed(mut self, failed: bool) -> Self {
        self.place.failed += u32::from(failed);
        self
    }
}

impl Waiting {
    fn add(&mut self, owed: Owed) {
        let place = Place { failed: 0, webhooks: owed.webhooks.len(), came: self.came };
        self.put_back(Doubtful { place, owed });
        self.came += 1;
    }

    fn put_back(&mut self, Doubtful { place, owed }: Doubtful) {
        self.events.insert(Place { webhooks: owed.webhooks.len(), ..place }, owed);
    }

    /// Takes events with so many deliveries together, the smallest first, and one at least if there is any. Those that
    /// share a statement are alike: a single delivery is not held up by an event of hundreds, nor by one that failed.
    fn next(&mut self, most: usize) -> Vec<Doubtful> {
        self.taken += 1;
        if self.taken.is_multiple_of(OLDEST_EVERY)
            && let Some(oldest) = self.events.keys().copied().min_by_key(|place| place.came)
        {
            return self.take(oldest).into_iter().collect();
        }
        let (mut next, mut left, mut first) = (Vec::new(), most, None);
        while let Some((place, _)) = self.events.first_key_value() {
            let place = *place;
            let Place { failed, webhooks, .. } = *first.get_or_insert(place);
            let alike = place.failed == failed && failed == 0 && place.webhooks <= webhooks.max(1) * 10;
            if !next.is_empty() && (place.webhooks > left || !alike) {
                break;
            }
            left = left.saturating_sub(place.webhooks);
            next.extend(self.take(place));
        }
        next
    }

    fn take(&mut self, place: Place) -> Option<Doubtful> {
        self.events.remove(&place).map(|owed| Doubtful { place, owed })
    }
}

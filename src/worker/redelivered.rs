//! Delivers what the broker hands out again, but for what was done before.
//!
//! To know that costs the database as much as there are webhooks times days of log. So it is asked in parts that end in
//! time, small events first, beside the intake: nobody else waits for it, and each event goes on when its own part is
//! answered.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempts::Attempts;
use super::owed::{Owed, Taken};
use super::portion::Portion;
use super::stalls::{Stall, Stalls};
use crate::delivery::DeliveryId;

/// Deliveries that one statement is asked about: with a log of 30 days it takes about half a second.
const MOST_ASKED: usize = 5_000;

/// Every so often the event that waits longest comes first, so that none waits for ever behind smaller ones.
const OLDEST_EVERY: u64 = 8;

pub(super) struct Redelivered {
    pub(super) attempts: Arc<Attempts>,
    /// How long the log is kept.
    pub(super) retention: Duration,
    /// Events in hand at most. More wait in the channel.
    pub(super) most: usize,
    /// Events looked up at a time.
    pub(super) batch: usize,
}

/// An event that is to be checked, and its place in the order in which they came.
struct Doubtful {
    came: u64,
    owed: Owed,
}

/// Events that are to be checked: by the number of their webhooks, then in the order in which they came.
#[derive(Default)]
struct Waiting {
    events: BTreeMap<(usize, u64), Owed>,
    came: u64,
    taken: u64,
}

impl Redelivered {
    /// Until nobody sends any more.
    pub(super) async fn run(self, mut events: mpsc::Receiver<Taken>) {
        let (mut waiting, mut in_hand) = (Waiting::default(), Vec::new());
        let (mut lookup, mut check, mut stall) = (Portion::of(self.batch), Portion::of(MOST_ASKED), None);
        loop {
            // What came over a channel of the broker that is gone comes again.
            waiting.events.retain(|_, owed| owed.taken.receipt.is_usable());
            if waiting.events.is_empty() && events.recv_many(&mut in_hand, self.batch).await == 0 {
                return;
            }
            while in_hand.len() < self.batch.min(self.most.saturating_sub(waiting.events.len())) {
                let Ok(taken) = events.try_recv() else { break };
                in_hand.push(taken);
            }
            self.attempts
                .look_up(std::mem::take(&mut in_hand), &mut lookup)
                .await
                .into_iter()
                .for_each(|owed| waiting.add(owed));
            let next = self.as_they_are_now(waiting.next(check.size()), &mut lookup).await;
            match self.already_taken(&next, &mut check, &mut stall).await {
                Some(done) => {
                    Stalls::over(&mut stall);
                    self.deliver(next, &done).await;
                }
                None => next.into_iter().for_each(|doubtful| waiting.put_back(doubtful)),
            }
        }
    }

    /// What has waited is looked up once more, all together: else each delivery would be, for itself.
    async fn as_they_are_now(&self, events: Vec<Doubtful>, lookup: &mut Portion) -> Vec<Doubtful> {
        if events.iter().all(|event| event.owed.looked_up.elapsed() < self.attempts.lookup_lifetime / 2) {
            return events;
        }
        let (came, taken): (Vec<u64>, Vec<Taken>) =
            events.into_iter().map(|event| (event.came, event.owed.taken)).unzip();
        let owed = self.attempts.look_up(taken, lookup).await;
        came.into_iter().zip(owed).map(|(came, owed)| Doubtful { came, owed }).collect()
    }

    /// Which of these events' deliveries were done before; `None` if that were too many for one statement. Those of one
    /// event alone are asked for in parts.
    async fn already_taken(
        &self,
        events: &[Doubtful],
        portion: &mut Portion,
        stall: &mut Option<Stall>,
    ) -> Option<HashSet<DeliveryId>> {
        let doubtful: Vec<DeliveryId> = events.iter().flat_map(|event| event.owed.deliveries()).collect();
        let (mut done, mut asked) = (HashSet::new(), 0);
        while asked < doubtful.len() {
            let rest = &doubtful[asked..];
            let part = &rest[..rest.len().min(portion.size())];
            match self.attempts.store.already_taken(part, self.retention).await {
                Ok(taken) => {
                    portion.ended();
                    done.extend(taken);
                    asked += part.len();
                }
                Err(error) => {
                    let part_of_work = "cannot check what was handed out again, waiting";
                    self.attempts.stalls.wait(stall, part_of_work, &error).await;
                    if error.ran_out_of_time() {
                        portion.ran_out_of_time(part.len());
                        if events.len() > 1 {
                            return None;
                        }
                    }
                }
            }
        }
        Some(done)
    }

    async fn deliver(&self, events: Vec<Doubtful>, done: &HashSet<DeliveryId>) {
        for Doubtful { mut owed, .. } in events {
            let open = owed.deliveries().zip(&owed.webhooks).filter(|(delivery, _)| !done.contains(delivery));
            owed.webhooks = open.map(|(_, webhook)| webhook.clone()).collect();
            self.attempts.deliver(owed).await;
        }
    }
}

impl Waiting {
    fn add(&mut self, owed: Owed) {
        self.put_back(Doubtful { came: self.came, owed });
        self.came += 1;
    }

    fn put_back(&mut self, Doubtful { came, owed }: Doubtful) {
        self.events.insert((owed.webhooks.len(), came), owed);
    }

    /// Takes events with so many deliveries together, the smallest first, and one at least if there is any. Those that
    /// share a statement are alike: a single delivery is not held up by an event of hundreds.
    fn next(&mut self, most: usize) -> Vec<Doubtful> {
        self.taken += 1;
        if self.taken.is_multiple_of(OLDEST_EVERY)
            && let Some(oldest) = self.events.keys().copied().min_by_key(|(_, came)| *came)
        {
            return self.events.remove(&oldest).map(|owed| Doubtful { came: oldest.1, owed }).into_iter().collect();
        }
        let (mut next, mut left, mut alike) = (Vec::new(), most, usize::MAX);
        while let Some(smallest) = self.events.first_entry() {
            let (count, came) = *smallest.key();
            if !next.is_empty() && (count > left || count > alike) {
                break;
            }
            left = left.saturating_sub(count);
            alike = alike.min(count.max(1) * 10);
            next.push(Doubtful { came, owed: smallest.remove() });
        }
        next
    }
}

//! Matches events to the webhooks they are owed to, and starts their deliveries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::civil::Date;
use uuid::Uuid;

use super::attempts::{Attempts, Origin, Turn};
use super::portion::Portion;
use super::recorder::Report;
use super::share::Share;
use super::stalls::Stalls;
use crate::delivery::{ClosedReason, Delivery, EventRow, Trigger};
use crate::event::Event;
use crate::ids::DeliveryId;
use crate::queue::{Receipt, Settled, Settlement};
use crate::snapshot::Snapshot;

/// An event and the broker message it came in.
pub(super) struct Taken {
    pub(super) event: Event,
    pub(super) receipt: Receipt,
}

/// An event and the webhooks that it is owed to.
pub(super) struct Owed {
    pub(super) taken: Taken,
    pub(super) webhooks: Vec<Arc<Snapshot>>,
    /// Before the webhooks were read.
    pub(super) looked_up: Instant,
    /// Today, by Postgres's clock; there if there are webhooks.
    day: Option<Date>,
}

impl Owed {
    /// One for each webhook, in their order.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = DeliveryId> {
        self.webhooks.iter().map(|webhook| DeliveryId::of(webhook.id, &self.taken.event.id))
    }
}

impl Attempts {
    /// The webhooks of all these events, in their order. Asks again until the database answers, for fewer at a time if it
    /// has not time for many.
    pub(super) async fn look_up(&self, events: Vec<Taken>, portion: &mut Portion) -> Vec<Owed> {
        let looked_up = Instant::now();
        let (mut pairs, mut known, mut pair_of) = (Vec::new(), HashMap::new(), Vec::with_capacity(events.len()));
        for Taken { event, .. } in &events {
            let pair = (&event.account_id, &event.event_type);
            pair_of.push(*known.entry(pair).or_insert_with(|| {
                pairs.push(pair);
                pairs.len() - 1
            }));
        }
        let (mut webhooks, mut day, mut stall) = (Vec::with_capacity(pairs.len()), None, None);
        while webhooks.len() < pairs.len() {
            let rest = &pairs[webhooks.len()..];
            let asked = &rest[..rest.len().min(portion.size())];
            match self.store.lookup(&self.keyring, asked).await {
                Ok(found) => {
                    Stalls::over(&mut stall);
                    portion.ended();
                    webhooks.extend(found.webhooks);
                    day = day.or(found.day);
                }
                Err(error) => {
                    if error.ran_out_of_time() {
                        portion.ran_out_of_time(asked.len());
                    }
                    self.stalls.wait(&mut stall, "cannot look up webhooks, waiting", &error).await;
                }
            }
        }
        let owed = |(taken, pair): (Taken, usize)| Owed { taken, webhooks: webhooks[pair].clone(), looked_up, day };
        events.into_iter().zip(pair_of).map(owed).collect()
    }

    /// Starts an event's deliveries, as there is room for them. An event that is owed to nobody is done.
    pub(super) async fn deliver(self: &Arc<Self>, Owed { taken, webhooks, looked_up, day }: Owed) {
        let Some(day) = day.filter(|_| !webhooks.is_empty()) else {
            return self
                .report(Report::Settled(Settled { receipt: taken.receipt, settlement: Settlement::Done }))
                .await;
        };
        // The next broker message waits for this one's ack, and must not wait for a receiver.
        let isolated = taken.receipt.is_isolated();
        let row = Arc::new(EventRow::new(taken.event, day, Uuid::now_v7()));
        // Held until every webhook has its own, so that the message is not done too early.
        let share = Share::of(taken.receipt, &self.returns);
        for webhook in webhooks {
            let id = DeliveryId::of(webhook.id, &row.event.id);
            let delivery = Delivery { id, row: row.clone(), webhook, trigger: Trigger::Event, attempt: 1 };
            let turn = Turn { delivery, origin: Origin::Message(share.another()), looked_up };
            match ClosedReason::of(turn.delivery.webhook.state.standing()) {
                Some(reason) => self.close(turn, reason).await,
                None if isolated => self.park(turn).await,
                None => self.offer(turn).await,
            }
        }
        if let Some(settled) = share.recorded() {
            self.report(Report::Settled(settled)).await;
        }
    }
}

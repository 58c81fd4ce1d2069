//! Matches events to the webhooks that subscribe to them, and starts their deliveries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::civil::Date;
use uuid::Uuid;

use super::attempts::Attempts;
use super::portion::Portion;
use super::share::{MessageShare, Report};
use super::spans;
use super::turn::{Grant, Origin, Turn};
use crate::delivery::{ClosedReason, Delivery, EventRow, Trigger};
use crate::event::Event;
use crate::ids::{DeliveryId, WebhookId};
use crate::metrics::{observe_since, observe_size};
use crate::queue::{Receipt, Settled, Settlement};
use crate::snapshot::Snapshot;
use crate::store::PaceAsk;
use crate::telemetry::Span;

/// The longest wait for grants of fresh deliveries: the next events wait behind them.
const PATIENCE: Duration = Duration::from_millis(500);

/// An event and the broker message it came in.
pub(super) struct ReceivedEvent {
    pub(super) event: Event,
    pub(super) receipt: Receipt,
    /// From when the message was taken until it is settled.
    pub(super) span: Option<Box<Span>>,
}

/// An event and the webhooks that subscribe to it.
pub(super) struct MatchedEvent {
    pub(super) received: ReceivedEvent,
    pub(super) webhooks: Vec<Arc<Snapshot>>,
    /// Taken just before the webhooks were read, so that their age is never underestimated.
    pub(super) looked_up: Instant,
    /// Today, by Postgres's clock. `None` only if there are no webhooks.
    day: Option<Date>,
}

impl MatchedEvent {
    /// The delivery to each webhook, in the order of the webhooks.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = DeliveryId> {
        self.webhooks.iter().map(|webhook| DeliveryId::of(webhook.id, &self.received.event.id))
    }
}

impl Attempts {
    /// Reads the webhooks of all these events; the order of the events stays. Asks until the database answers, for fewer
    /// pairs of account and event type at a time if it runs out of time.
    pub(super) async fn look_up(&self, events: Vec<ReceivedEvent>, portion: &mut Portion) -> Vec<MatchedEvent> {
        let looked_up = Instant::now();
        let _span = spans::look_up(&self.tracer, events.iter().map(|event| event.span.as_deref()));
        let (mut pairs, mut known, mut pair_of) = (Vec::new(), HashMap::new(), Vec::with_capacity(events.len()));
        for ReceivedEvent { event, .. } in &events {
            let pair = (&event.account_id, &event.event_type);
            pair_of.push(*known.entry(pair).or_insert_with(|| {
                pairs.push(pair);
                pairs.len() - 1
            }));
        }
        let (mut webhooks, mut day, mut stall) = (Vec::with_capacity(pairs.len()), None, self.stalls.wait());
        while webhooks.len() < pairs.len() {
            let rest = &pairs[webhooks.len()..];
            let asked = &rest[..rest.len().min(portion.size())];
            let began = Instant::now();
            match self.store.lookup(&self.keyring, asked).await {
                Ok(found) => {
                    observe_since(&self.metrics.lookup_duration, began);
                    observe_size(&self.metrics.lookup_batch_size, asked.len());
                    stall.over();
                    portion.ended();
                    webhooks.extend(found.webhooks);
                    day = day.or(found.day);
                }
                Err(error) => {
                    if error.ran_out_of_time() {
                        portion.ran_out_of_time(asked.len());
                    }
                    stall.after("cannot look up webhooks, waiting", &error).await;
                }
            }
        }
        let matched = |(received, pair): (ReceivedEvent, usize)| {
            let webhooks = Vec::clone(&webhooks[pair]);
            MatchedEvent { received, webhooks, looked_up, day }
        };
        events.into_iter().zip(pair_of).map(matched).collect()
    }

    /// Starts the deliveries of events, as there is room for them and as they are granted.
    pub(super) async fn deliver_all(self: &Arc<Self>, events: impl IntoIterator<Item = MatchedEvent>) {
        // Deliveries that need no grant do not wait for those that do.
        let mut paced = Vec::new();
        for event in events {
            self.deliver(event, &mut paced).await;
        }
        if !paced.is_empty() {
            self.offer_paced(paced).await;
        }
    }

    /// Starts an event's deliveries, except those to webhooks with a pace, which it adds to `paced`. Those to webhooks that are held
    /// wait in the database. An event that no webhook subscribes to is done.
    async fn deliver(
        self: &Arc<Self>,
        MatchedEvent { received, webhooks, looked_up, day }: MatchedEvent,
        paced: &mut Vec<Turn>,
    ) {
        let Some(day) = day.filter(|_| !webhooks.is_empty()) else {
            return self
                .report(Report::Settled(Settled { receipt: received.receipt, settlement: Settlement::Done }))
                .await;
        };
        // The consumer takes one message at a time now: the next waits for this one's ack, and must not wait for a receiver.
        let (isolated, came) = (received.receipt.is_isolated(), Some(received.receipt.received()));
        let row = Arc::new(EventRow::new(received.event, day, Uuid::now_v7()));
        // The first share stays here until every delivery has its own, so that the message is not acked too early.
        let share = MessageShare::of(received.receipt, received.span, &self.returns);
        for webhook in webhooks {
            let id = DeliveryId::of(webhook.id, &row.event.id);
            let delivery = Delivery { id, row: row.clone(), webhook, trigger: Trigger::Event, attempt: 1 };
            let origin = Origin::Message(share.another());
            let turn = Turn { delivery, origin, looked_up, grant: Grant::None, received: came };
            match ClosedReason::of(turn.delivery.webhook.state.standing()) {
                Some(reason) => self.close(turn, reason).await,
                // The turn waits until the consumer has given its message back.
                None if self.holds.has_all() => self.offer(turn).await,
                None if isolated || self.holds.has(turn.delivery.webhook.id, &row.event.account_id) => {
                    self.park(turn).await;
                }
                None if self.pace_of(&turn.delivery.webhook).is_some() => paced.push(turn),
                None => self.offer(turn).await,
            }
        }
        if let Some(settled) = share.recorded() {
            self.report(Report::Settled(settled)).await;
        }
    }

    /// Starts fresh turns of webhooks with a pace, as many as are granted. The others wait in the database, and so do all of a
    /// webhook of which some wait there already, and of one that is off, deleted or without a pace since it was read: they
    /// are closed or claimed there.
    async fn offer_paced(self: &Arc<Self>, turns: Vec<Turn>) {
        let mut wanted: BTreeMap<WebhookId, usize> = BTreeMap::new();
        {
            let (mut pacing, lanes, now) = (self.pacing(), self.lanes(), Instant::now());
            for webhook in turns.iter().map(|turn| &turn.delivery.webhook) {
                let Some(pace) = self.pace_of(webhook) else { continue };
                let wanted = wanted.entry(webhook.id).or_default();
                if pacing.waits(webhook.id, now) {
                    pacing.parked(webhook.id, pace, now);
                } else if *wanted < lanes.fresh_room(webhook.id, now) {
                    pacing.found(webhook.id, pace, now);
                    *wanted += 1;
                }
            }
        }
        let asked = wanted.into_iter().filter(|(_, wanted)| *wanted > 0);
        let ask = |(webhook, wanted)| PaceAsk { webhook, wanted, due_since: None };
        let grants = self.take_grants(&asked.map(ask).collect::<Vec<_>>(), PATIENCE).await;
        let mut left: HashMap<WebhookId, usize> = HashMap::new();
        for mut turn in turns {
            let webhook = turn.delivery.webhook.id;
            let left = left.entry(webhook).or_insert_with(|| grants.of(webhook));
            if *left > 0 {
                *left -= 1;
                turn.grant = grants.grant(webhook);
                self.offer(turn).await;
            } else {
                self.park(turn).await;
            }
        }
    }
}

//! Takes whatever events are in hand, matches them to webhooks with one query, and starts their deliveries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::civil::Date;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attempts::{Attempts, Origin, Turn};
use super::recorder::Report;
use super::share::Share;
use super::stalls::Stalls;
use crate::delivery::{Delivery, DeliveryId, EventRow, Trigger};
use crate::event::{Event, EventParser};
use crate::metrics::Reason;
use crate::queue::{Incoming, Receipt, Settled, Verdict};
use crate::store::StoreError;
use crate::webhook::Snapshot;

pub(super) struct Intake {
    pub(super) parser: EventParser,
    pub(super) attempts: Arc<Attempts>,
    pub(super) batch: usize,
    pub(super) stop: CancellationToken,
}

/// The webhooks that events are owed to, in the events' order.
struct Owed {
    webhooks: Vec<Vec<Arc<Snapshot>>>,
    day: Option<Date>,
}

/// An event and the broker message it came in.
struct Taken {
    event: Event,
    redelivered: bool,
    receipt: Receipt,
}

impl Intake {
    pub(super) async fn run(self, mut messages: mpsc::Receiver<Incoming>) {
        let mut in_hand = Vec::with_capacity(self.batch);
        loop {
            let received = messages.recv_many(&mut in_hand, self.batch);
            // What is in hand at a stop goes back with its channel.
            let Some(1..) = self.stop.run_until_cancelled(received).await else { return };
            if self.stop.run_until_cancelled(self.deliver(in_hand.drain(..))).await.is_none() {
                return;
            }
        }
    }

    async fn deliver(&self, messages: impl Iterator<Item = Incoming>) {
        let mut events = Vec::new();
        for message in messages.filter(|message| message.receipt.is_usable()) {
            events.extend(self.parse(message).await);
        }
        if events.is_empty() {
            return;
        }
        let looked_up = Instant::now();
        let Owed { webhooks, day } = self.match_webhooks(&events).await;
        for (taken, webhooks) in events.into_iter().zip(webhooks) {
            match day {
                Some(day) if !webhooks.is_empty() => self.deliver_event(taken, day, webhooks, looked_up).await,
                _ => self.attempts.report(settled(taken.receipt, Verdict::Done)).await,
            }
        }
    }

    /// `None` after it was rejected for its reason.
    async fn parse(&self, message: Incoming) -> Option<Taken> {
        let Incoming { body, properties, redelivered, receipt } = message;
        match self.parser.parse(&body, &properties, jiff::Timestamp::now()) {
            Ok(event) => {
                self.attempts.metrics.events.inc();
                Some(Taken { event, redelivered, receipt })
            }
            Err(malformed) => {
                let (reason, bytes) = (malformed.reason(), body.len());
                self.attempts.metrics.dead_letters.get_or_create(&Reason { reason }).inc();
                tracing::warn!(reason, bytes, "a message is no event and becomes a dead letter: {malformed}");
                self.attempts.report(settled(receipt, Verdict::Dead)).await;
                None
            }
        }
    }

    /// Asks again until the database answers: intake stands still meanwhile, and with it the broker's hand-out.
    async fn match_webhooks(&self, events: &[Taken]) -> Owed {
        let mut stall = None;
        loop {
            match self.try_match(events).await {
                Ok(owed) => {
                    Stalls::over(&mut stall);
                    return owed;
                }
                Err(error) => self.attempts.stalls.wait(&mut stall, "cannot look up webhooks, waiting", &error).await,
            }
        }
    }

    /// Who is owed what, without what redelivered messages had done before.
    async fn try_match(&self, events: &[Taken]) -> Result<Owed, StoreError> {
        let (mut pairs, mut known, mut pair_of) = (Vec::new(), HashMap::new(), Vec::with_capacity(events.len()));
        for Taken { event, .. } in events {
            let pair = (&event.account_id, &event.event_type);
            pair_of.push(*known.entry(pair).or_insert_with(|| {
                pairs.push(pair);
                pairs.len() - 1
            }));
        }
        let found = self.attempts.store.lookup(&self.attempts.keyring, &pairs).await?;
        let mut webhooks: Vec<_> = pair_of.iter().map(|pair| found.webhooks[*pair].clone()).collect();
        self.leave_out_done(events, &mut webhooks).await?;
        Ok(Owed { webhooks, day: found.day })
    }

    async fn leave_out_done(&self, events: &[Taken], owed: &mut [Vec<Arc<Snapshot>>]) -> Result<(), StoreError> {
        let redelivered = || events.iter().zip(0..).filter(|(taken, _)| taken.redelivered);
        let delivery = |webhook: &Snapshot, taken: &Taken| DeliveryId::of(webhook.id, &taken.event.id);
        let doubtful = |(taken, index): (_, usize)| owed[index].iter().map(move |webhook| delivery(webhook, taken));
        let doubtful: Vec<DeliveryId> = redelivered().flat_map(doubtful).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let done = self.attempts.store.already_taken(&doubtful).await?;
        for (taken, index) in redelivered() {
            owed[index].retain(|webhook| !done.contains(&delivery(webhook, taken)));
        }
        Ok(())
    }

    async fn deliver_event(&self, taken: Taken, day: Date, webhooks: Vec<Arc<Snapshot>>, looked_up: Instant) {
        let row = Arc::new(EventRow::new(taken.event, day, Uuid::now_v7()));
        // Held until every webhook has its own, so that the message is not done too early.
        let share = Share::of(taken.receipt, &self.attempts.returns);
        for webhook in webhooks {
            let id = DeliveryId::of(webhook.id, &row.event.id);
            let delivery = Delivery { id, row: row.clone(), webhook, trigger: Trigger::Event, attempt: 1 };
            let turn = Turn { delivery, origin: Origin::Message(share.another()), looked_up };
            match turn.delivery.webhook.state.closes() {
                Some(reason) => self.attempts.close(turn, reason).await,
                None => self.attempts.offer(turn).await,
            }
        }
        if let Some(settled) = share.recorded() {
            self.attempts.report(Report::Settled(settled)).await;
        }
    }
}

fn settled(receipt: Receipt, verdict: Verdict) -> Report {
    Report::Settled(Settled { receipt, verdict })
}

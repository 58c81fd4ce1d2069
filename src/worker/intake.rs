//! Takes whatever events are in hand, matches them to webhooks with one query, and starts their deliveries.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attempts::{Attempts, Origin, Turn};
use super::recorder::Report;
use super::share::Share;
use crate::delivery::{Delivery, DeliveryId, EventRow, Trigger};
use crate::event::{Event, EventParser};
use crate::metrics::Reason;
use crate::queue::{Incoming, Receipt, Settled, Verdict};
use crate::store::{Lookup, StoreError};

pub(super) struct Intake {
    pub(super) parser: EventParser,
    pub(super) attempts: Arc<Attempts>,
    pub(super) batch: usize,
    pub(super) stop: CancellationToken,
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
        let mut matches = self.match_webhooks(&events).await.into_iter().peekable();
        for (index, taken) in events.into_iter().enumerate() {
            let owed = std::iter::from_fn(|| matches.next_if(|found| found.index == index)).collect();
            self.deliver_event(taken, owed, looked_up).await;
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
    async fn match_webhooks(&self, events: &[Taken]) -> Vec<Lookup> {
        let mut stall = None;
        loop {
            match self.try_match(events).await {
                Ok(matches) => return matches,
                Err(error) => self.attempts.stalls.wait(&mut stall, "cannot look up webhooks, waiting", &error).await,
            }
        }
    }

    /// Who is owed what, in the events' order, without what redelivered messages had done before.
    async fn try_match(&self, events: &[Taken]) -> Result<Vec<Lookup>, StoreError> {
        let wanted: Vec<_> = events.iter().map(|taken| (&taken.event.account_id, &taken.event.event_type)).collect();
        let mut matches = self.attempts.store.lookup(&self.attempts.keyring, &wanted).await?;
        let delivery = |found: &Lookup| DeliveryId::of(found.webhook.id, &events[found.index].event.id);
        let doubtful = matches.iter().filter(|found| events[found.index].redelivered);
        let doubtful: Vec<DeliveryId> = doubtful.map(delivery).collect();
        let taken = match doubtful.is_empty() {
            true => HashSet::new(),
            false => self.attempts.store.already_taken(&doubtful).await?,
        };
        matches.retain(|found| !(events[found.index].redelivered && taken.contains(&delivery(found))));
        matches.sort_by_key(|found| found.index);
        Ok(matches)
    }

    async fn deliver_event(&self, taken: Taken, matches: Vec<Lookup>, looked_up: Instant) {
        let Some(first) = matches.first() else {
            return self.attempts.report(settled(taken.receipt, Verdict::Done)).await;
        };
        let row = Arc::new(EventRow::new(taken.event, first.day, Uuid::now_v7()));
        // Held until every webhook has its own, so that the message is not done too early.
        let share = Share::of(taken.receipt, &self.attempts.reports);
        for Lookup { webhook, .. } in matches {
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

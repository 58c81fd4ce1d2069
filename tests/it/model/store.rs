//! The real store, called as the worker calls it. If a signature of the store changes, only this file of the model changes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use penr_webhooks::config::Settings;
use penr_webhooks::delivery::Delivery;
use penr_webhooks::ids::{AccountId, DeliveryId, EventType, WebhookId};
use penr_webhooks::snapshot::Snapshot;
use penr_webhooks::store::{
    Changed, DueWebhook, Observations, Pages, ReadUntil, RecoverError, RecoverySpan, Room, Scope, Store, StoreError,
    TurnResult, WebhookChange,
};

use super::reference::Resent;

/// Whether a delivery whose event was erased by hand is resent and recovered, to be cancelled when it is claimed.
pub const RECOVERS_ERASED: bool = false;
/// How far back each search for due deliveries begins before the end of the last one.
const OVERLAP: std::time::Duration = std::time::Duration::from_secs(1);
/// Recovered deliveries fall due so fast that all are due at once.
const RATE: u32 = 1_000_000;

pub struct Rig {
    pub store: Store,
    pub settings: Settings,
}

/// What a worker knows of due deliveries, as `src/worker/due.rs` keeps it: since when webhooks have had some.
#[derive(Default)]
pub struct Search {
    agenda: BTreeMap<WebhookId, Timestamp>,
    read_until: ReadUntil,
}

impl Search {
    fn note(&mut self, due: impl IntoIterator<Item = DueWebhook>) {
        for DueWebhook { id, since } in due {
            let known = self.agenda.entry(id).or_insert(since);
            *known = since.min(*known);
        }
    }
}

impl Rig {
    pub async fn lookup(
        &self,
        account: &AccountId,
        event_type: &EventType,
    ) -> Result<(Vec<Arc<Snapshot>>, Option<Date>), StoreError> {
        let mut found = self.store.lookup(self.settings.keyring().unwrap(), &[(account, event_type)]).await?;
        Ok((found.webhooks.remove(0), found.day))
    }

    pub async fn look_again(&self, delivery: &mut Delivery) -> Result<(), StoreError> {
        let owed = &delivery.webhook;
        let now = self.store.snapshot(self.settings.keyring().unwrap(), Scope::Everyone, owed.id).await?;
        delivery.webhook = owed.updated_to(now.map(Arc::new).as_ref());
        Ok(())
    }

    pub async fn already_taken(&self, deliveries: &[DeliveryId]) -> Result<HashSet<DeliveryId>, StoreError> {
        self.store.already_taken(deliveries, self.settings.retention.attempts).await
    }

    pub async fn record(&self, batch: &[TurnResult]) -> Result<(), StoreError> {
        let mut observations = Observations::default();
        observations.observe(1, batch, |_| false);
        self.store.record(batch, &mut observations, &self.settings.health).await
    }

    pub async fn is_recorded(&self, batch: &[TurnResult]) -> Result<bool, StoreError> {
        self.store.is_recorded(batch).await
    }

    pub async fn claim(&self, search: &mut Search, room: usize) -> Result<Vec<(Delivery, i64)>, StoreError> {
        loop {
            let found = self.store.find_due(search.read_until, OVERLAP).await?;
            search.read_until = found.until;
            search.note(found.webhooks);
            if !found.more {
                break;
            }
        }
        let rooms: Vec<Room> = search
            .agenda
            .iter()
            .map(|(webhook, since)| Room { webhook: *webhook, since: *since, most: room, granted: false })
            .collect();
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let lease = self.settings.worker.lease;
        let claims = self.store.claim_due(self.settings.keyring().unwrap(), &rooms, lease).await?;
        for room in &rooms {
            match claims.taken.get(&room.webhook) {
                Some(taken) if taken.count >= room.most => drop(search.agenda.insert(room.webhook, taken.until)),
                _ => drop(search.agenda.remove(&room.webhook)),
            }
        }
        Ok(claims.deliveries.into_iter().map(|claimed| (claimed.delivery, claimed.claim)).collect())
    }

    pub async fn sweep(&self, search: &mut Search) -> Result<(), StoreError> {
        let mut pages = Pages { first: 0, count: 64 };
        loop {
            let swept = self.store.sweep(pages).await?;
            search.note(swept.due);
            if !swept.ended.is_empty() {
                self.store.close_ended(pages, &swept.ended).await?;
            }
            pages.first += pages.count;
            if pages.first >= swept.pages {
                return Ok(());
            }
        }
    }

    pub async fn release(&self, delivery: DeliveryId, claim: i64) -> Result<(), StoreError> {
        self.store.release(&[(delivery, claim)]).await.map(drop)
    }

    pub async fn switch(&self, webhook: WebhookId, active: bool) -> Result<(), StoreError> {
        let change = WebhookChange { active: Some(active), ..WebhookChange::default() };
        let changed =
            self.store.update_webhook(self.settings.keyring().unwrap(), Scope::Everyone, webhook, &change).await?;
        assert!(matches!(changed, Changed::Webhook(_)), "there is such a webhook");
        Ok(())
    }

    pub async fn delete(&self, webhook: WebhookId) -> Result<(), StoreError> {
        self.store.delete_webhook(Scope::Everyone, webhook, None).await.map(drop)
    }

    pub async fn resend(&self, webhook: WebhookId, delivery: DeliveryId) -> Result<Resent, StoreError> {
        Ok(match self.store.resend(Scope::Everyone, webhook, delivery).await {
            Ok(()) => Resent::Done,
            Err(RecoverError::UnknownWebhook) => Resent::NoWebhook,
            Err(RecoverError::Off | RecoverError::Disabled(_)) => Resent::NotOn,
            Err(RecoverError::UnknownDelivery) => Resent::Unknown,
            Err(RecoverError::EventDropped) => Resent::EventGone,
            Err(RecoverError::Store(error)) => return Err(error),
        })
    }

    /// How many deliveries were counted as recoverable, and how many were recovered; `None` if the recovery was refused.
    pub async fn recover(&self, webhook: WebhookId) -> Result<Option<(u64, u64)>, StoreError> {
        let since = RecoverySpan::Ago(std::time::Duration::from_secs(3600));
        let recovered = async {
            let span = self.store.count_closed(Scope::Everyone, webhook, since, 1000).await?;
            let mut count = 0;
            self.store.recover(webhook, &span, RATE, |more| count += more).await?;
            Ok((span.recoverable, count))
        };
        match recovered.await {
            Ok(counts) => Ok(Some(counts)),
            Err(RecoverError::Store(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

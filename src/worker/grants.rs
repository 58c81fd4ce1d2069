//! Takes grants for the turns of webhooks that have a pace.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::pacing::{GRANT_LASTS, Pacing};
use super::turn::Grant;
use crate::error_chain;
use crate::ids::WebhookId;
use crate::snapshot::Snapshot;
use crate::store::{Granted, Pace, PaceAsk, Room, StoreError};

/// Webhooks that one statement asks for.
const WEBHOOKS: usize = 256;

/// Requests that PostgreSQL granted together, by webhook.
#[derive(Debug)]
pub(super) struct Grants {
    paces: HashMap<WebhookId, Pace>,
    /// From then on they must not be used.
    until: Instant,
    /// Why there is no answer for some webhooks.
    pub(super) error: Option<StoreError>,
}

impl Grants {
    /// How many requests of a webhook may begin that had a pace when it was read. It may be off or deleted now, and then none
    /// may begin.
    pub(super) fn of(&self, webhook: WebhookId) -> usize {
        match self.paces.get(&webhook) {
            Some(Pace::Unknown) => usize::MAX,
            Some(Pace::Paced(Granted { granted, .. })) => *granted,
            Some(Pace::Unpaced) | None => 0,
        }
    }

    /// The same for a room, whose size is then what may be claimed. `None`: nothing.
    pub(super) fn granted(&self, room: Room) -> Option<Room> {
        match self.paces.get(&room.webhook)? {
            Pace::Unknown | Pace::Unpaced => Some(room),
            Pace::Paced(_) if self.until <= Instant::now() => None,
            Pace::Paced(Granted { granted: 0, .. }) => None,
            Pace::Paced(Granted { granted, .. }) => Some(Room { most: *granted, granted: true, ..room }),
        }
    }

    /// What a request of the webhook begins with, if it is one of those that may.
    pub(super) fn grant(&self, webhook: WebhookId) -> Grant {
        match self.paces.get(&webhook) {
            Some(Pace::Unknown) => Grant::NoPaces,
            Some(Pace::Paced(_)) => Grant::Until(self.until),
            Some(Pace::Unpaced) | None => Grant::None,
        }
    }

    /// Whether nothing of a webhook was wanted, since nothing is due.
    pub(super) fn has_nothing_due(&self, webhook: WebhookId) -> bool {
        matches!(self.paces.get(&webhook), Some(Pace::Paced(Granted { wanted: 0, .. })))
    }
}

impl Attempts {
    pub(super) fn pacing(&self) -> MutexGuard<'_, Pacing> {
        self.pacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pace of a webhook, if its requests need grants.
    pub(super) fn pace_of(&self, webhook: &Snapshot) -> Option<NonZeroU32> {
        let paces = [webhook.max_per_second, self.max_per_second];
        paces.into_iter().flatten().min()
    }

    /// Asks for grants. Webhooks for which there is no answer in time are missing in the result: they get none.
    pub(super) async fn take_grants(&self, asks: &[PaceAsk], patience: Duration) -> Grants {
        let (mut paces, mut error) = (HashMap::new(), None);
        let asked = Instant::now();
        for asks in asks.chunks(WEBHOOKS) {
            let asking = self.store.take_pace(self.max_per_second, asks);
            // Whatever the database grants later is lost.
            match tokio::time::timeout(patience.saturating_sub(asked.elapsed()), asking).await {
                Ok(Ok(answers)) => paces.extend(answers),
                Ok(Err(failed)) => error = Some(failed),
                Err(_) => error = Some(StoreError::Busy(anyhow::anyhow!("no grants of requests within {patience:?}"))),
            }
        }
        if let Some(error) = &error {
            tracing::debug!(error = error_chain(error), "cannot take grants, trying again");
        }
        let now = Instant::now();
        let mut pacing = self.pacing();
        for PaceAsk { webhook, .. } in asks {
            match paces.get(webhook) {
                Some(pace) => pacing.answered(*webhook, *pace, now),
                None => pacing.no_answer(*webhook, now),
            }
        }
        drop(pacing);
        Grants { paces, until: asked + GRANT_LASTS, error }
    }
}

//! Takes grants for the turns of webhooks that have a pace.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::pacing::{GRANT_LASTS, Pacing};
use crate::error_chain;
use crate::ids::WebhookId;
use crate::snapshot::Snapshot;
use crate::store::{Granted, Pace, PaceAsk, Room};

/// The longest wait for grants: what needs none waits behind them.
const PATIENCE: Duration = Duration::from_millis(500);
/// Webhooks that one statement asks for.
const WEBHOOKS: usize = 256;

/// Requests that PostgreSQL granted together, by webhook.
#[derive(Debug)]
pub(super) struct Grants {
    paces: HashMap<WebhookId, Pace>,
    /// From then on they must not be used.
    pub(super) until: Instant,
}

impl Grants {
    /// How many requests of a webhook may begin.
    pub(super) fn of(&self, webhook: WebhookId) -> usize {
        match self.paces.get(&webhook) {
            Some(Pace::Paced(Granted { granted, .. })) => *granted,
            Some(Pace::Unpaced) => usize::MAX,
            None => 0,
        }
    }

    /// The same for a room, whose size is then what may be claimed. `None`: nothing.
    pub(super) fn granted(&self, room: Room) -> Option<Room> {
        match self.paces.get(&room.webhook)? {
            Pace::Unpaced => Some(room),
            Pace::Paced(Granted { granted: 0, .. }) => None,
            Pace::Paced(Granted { granted, .. }) => Some(Room { most: *granted, granted: true, ..room }),
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

    /// Asks for grants. Webhooks for which there is no answer soon are missing in the result: they get none. Returns also when
    /// the first of the others is to be asked for again.
    pub(super) async fn take_grants(&self, asks: &[PaceAsk]) -> (Grants, Option<Instant>) {
        let (mut paces, mut again) = (HashMap::new(), None);
        let asked = Instant::now();
        for asks in asks.chunks(WEBHOOKS) {
            let asking = self.store.take_pace(self.max_per_second, asks);
            // Whatever the database grants later is lost.
            match tokio::time::timeout(PATIENCE.saturating_sub(asked.elapsed()), asking).await {
                Ok(Ok(answers)) => paces.extend(answers),
                Ok(Err(error)) => tracing::debug!(error = error_chain(&error), "cannot take grants, trying again"),
                Err(_) => tracing::debug!("no grants in time, trying again"),
            }
        }
        let now = Instant::now();
        let mut pacing = self.pacing();
        for PaceAsk { webhook, .. } in asks {
            let at = match paces.get(webhook) {
                Some(pace) => pacing.answered(*webhook, *pace, now),
                None => pacing.no_answer(*webhook, now),
            };
            again = again.into_iter().chain(at).min();
        }
        drop(pacing);
        (Grants { paces, until: asked + GRANT_LASTS }, again)
    }
}

//! Claims deliveries whose time has come, of each webhook no more than its lane has room for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::attempts::{Attempts, Origin, Turn};
use crate::config::Worker;
use crate::store::{Claimed, StoreError};
use crate::webhook::WebhookId;

/// Webhooks looked at by one query, so that ten thousand that are down cost the database no long one.
const WEBHOOKS: usize = 256;
/// Between claims while there is more: what was claimed is under way meanwhile.
const MORE: Duration = Duration::from_millis(5);

pub(super) struct Due {
    pub(super) attempts: Arc<Attempts>,
    pub(super) worker: Worker,
    pub(super) stop: CancellationToken,
}

/// A walk over all webhooks with pending deliveries, a part at a time.
#[derive(Default)]
struct Round {
    after: WebhookId,
    claimed: usize,
    late: Duration,
}

impl Due {
    pub(super) async fn run(self) {
        let (mut wait, mut stall, mut round) = (self.worker.poll_interval, None, Round::default());
        while self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            // Not cut short by a stop: what was claimed must be started or given back.
            wait = match self.claim_some(&mut round).await {
                Ok(true) => self.wait_after(std::mem::take(&mut round), wait),
                Ok(false) => MORE,
                Err(error) => {
                    let waited = self.attempts.stalls.wait(&mut stall, "cannot ask for due deliveries", &error);
                    self.stop.run_until_cancelled(waited).await;
                    wait = Duration::ZERO;
                    continue;
                }
            };
            stall = None;
        }
    }

    /// At once after finding some, slower and slower after finding none.
    fn wait_after(&self, round: Round, before: Duration) -> Duration {
        self.attempts.metrics.due_lag.set(round.late.as_secs_f64());
        match round.claimed {
            0 => (before.max(self.worker.poll_interval) * 2).min(self.worker.poll_interval_max),
            _ => MORE,
        }
    }

    /// Whether the round is over.
    async fn claim_some(&self, round: &mut Round) -> Result<bool, StoreError> {
        let waiting = self.attempts.store.waiting_webhooks(round.after, WEBHOOKS).await?;
        let late = waiting.iter().filter_map(|webhook| webhook.late).max();
        round.late = round.late.max(late.unwrap_or_default());
        let rooms = self.rooms(waiting.iter().filter(|webhook| webhook.late.is_some()).map(|webhook| webhook.id));
        if !rooms.is_empty() {
            let looked_up = Instant::now();
            let claimed = self.attempts.store.claim_due(&self.attempts.keyring, &rooms, self.worker.lease).await?;
            round.claimed += claimed.len();
            self.attempts.claimed(claimed.into_iter().map(|claimed| turn(claimed, looked_up)));
        }
        round.after = waiting.last().map_or(round.after, |webhook| webhook.id);
        Ok(waiting.len() < WEBHOOKS)
    }

    fn rooms(&self, webhooks: impl Iterator<Item = WebhookId>) -> Vec<(WebhookId, usize)> {
        let (lanes, now) = (self.attempts.lanes(), Instant::now());
        let mut left = self.worker.batch;
        let room = |webhook| {
            let room = lanes.claimable(webhook, now).min(left);
            left -= room;
            (room > 0).then_some((webhook, room))
        };
        webhooks.filter_map(room).collect()
    }
}

fn turn(Claimed { delivery, claim }: Claimed, looked_up: Instant) -> Turn {
    Turn { delivery, origin: Origin::Claim(claim), looked_up }
}

//! Takes deliveries whose time has come, no more than there is room for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::attempts::{Attempts, Origin, Turn};
use super::stalls::Stalls;
use crate::config::Worker;
use crate::secret::Keyring;
use crate::store::{Claimed, Store};

pub(super) struct Due {
    pub(super) store: Store,
    pub(super) keyring: Arc<Keyring>,
    pub(super) attempts: Arc<Attempts>,
    pub(super) stalls: Stalls,
    pub(super) worker: Worker,
    pub(super) stop: CancellationToken,
}

impl Due {
    pub(super) async fn run(self) {
        let mut wait = self.worker.poll_interval;
        let mut stall = None;
        while self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            let Some(room) = self.stop.run_until_cancelled(self.room()).await else { return };
            let asked = room.num_permits();
            let looked_up = Instant::now();
            // Not cut short by a stop: what was claimed must be started or given back.
            let claimed = match self.store.claim_due(&self.keyring, asked, self.worker.lease).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    drop(room);
                    let waited = self.stalls.wait(&mut stall, "cannot ask for due deliveries", &error);
                    self.stop.run_until_cancelled(waited).await;
                    wait = Duration::ZERO;
                    continue;
                }
            };
            stall = None;
            wait = match claimed.len() {
                0 => (wait.max(self.worker.poll_interval) * 2).min(self.worker.poll_interval_max),
                all if all == asked => Duration::ZERO,
                _ => self.worker.poll_interval,
            };
            self.start(claimed, room, looked_up);
        }
    }

    /// At least one place, waiting in line with the intake, and what else is free.
    async fn room(&self) -> OwnedSemaphorePermit {
        let room = &self.attempts.room;
        let mut one = room.clone().acquire_owned().await.expect("the room is never closed");
        let more = room.available_permits().min(self.worker.batch - 1);
        if let Ok(more) = room.clone().try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX)) {
            one.merge(more);
        }
        one
    }

    fn start(&self, claimed: Vec<Claimed>, mut room: OwnedSemaphorePermit, looked_up: Instant) {
        for Claimed { delivery, claim } in claimed {
            let place = room.split(1).expect("no more is claimed than there is room for");
            self.attempts.start(Turn { delivery, origin: Origin::Claim(claim), looked_up }, place);
        }
    }
}

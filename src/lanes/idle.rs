//! Forgets lanes that have had no work for long: a few at a time, for the lanes are locked meanwhile.

use std::time::{Duration, Instant};

use super::lane::Lane;
use super::room::Lanes;

/// A lane is kept without work for at least this long.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Lanes checked per call.
pub(super) const CHECKED_AT_ONCE: usize = 64;

impl<T> Lanes<T> {
    /// Checks the next few lanes, and forgets those that have been idle for long.
    pub(super) fn forget_some(&mut self, now: Instant) {
        let long = FORGOTTEN_AFTER.max(2 * self.limits.probe_interval_max);
        for _ in 0..self.idle_checks.len().min(CHECKED_AT_ONCE) {
            let Some(webhook) = self.idle_checks.pop_front() else { return };
            let is_idle = |lane: &&mut Lane<T>| {
                let is_needed = lane.activity.has_work() || lane.is_checked_for_parking || lane.is_paused(now);
                !is_needed && lane.pace.has_stood_still(long, now)
            };
            let Some(lane) = self.lanes.get_mut(&webhook).filter(is_idle) else {
                self.idle_checks.push_back(webhook);
                continue;
            };
            if let Some(ticket) = lane.ticket {
                self.queue.take_out(ticket);
            }
            self.lanes.remove(&webhook);
        }
    }
}

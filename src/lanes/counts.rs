//! Counts the lanes that have work, and forgets those that have had none for long: a little at a time, for the lanes are
//! locked meanwhile.

use std::time::Instant;

use super::{FORGET_AFTER, LOOKED_AT_TO_FORGET, Lane, Lanes, PERIOD};
use crate::ids::WebhookId;

impl<T> Lanes<T> {
    /// Counts a lane that has begun or ended to have work.
    pub(super) fn note_work(&mut self, webhook: WebhookId) {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes have work");
        let at_work = lane.in_flight + lane.waiting() > 0;
        if at_work == std::mem::replace(&mut lane.at_work, at_work) {
            return;
        }
        let counted = std::mem::replace(&mut lane.period, self.period) == self.period;
        if at_work {
            self.at_work += 1;
            self.active[0] += usize::from(!counted);
        } else {
            self.at_work -= 1;
        }
    }

    /// Begins to count anew the lanes that have work.
    pub(super) fn begin_period(&mut self, now: Instant) {
        if now - *self.period_began.get_or_insert(now) < PERIOD {
            return;
        }
        self.period_began = Some(now);
        self.period += 1;
        self.active = [self.at_work, self.active[0]];
    }

    /// Forgets lanes that have had no work for long, of the next few.
    pub(super) fn forget_some(&mut self, now: Instant) {
        let long = FORGET_AFTER.max(2 * self.limits.probe_interval_max);
        for _ in 0..self.known.len().min(LOOKED_AT_TO_FORGET) {
            let Some(webhook) = self.known.pop_front() else { return };
            let idle = |lane: &&mut Lane<T>| {
                !lane.at_work && !lane.crowds && !lane.is_paused(now) && now - lane.last_ended >= long
            };
            let Some(lane) = self.lanes.get_mut(&webhook).filter(idle) else {
                self.known.push_back(webhook);
                continue;
            };
            if let Some(stand) = lane.stand {
                self.queue.take_out(stand);
            }
            self.lanes.remove(&webhook);
        }
    }
}

//! Counts the lanes that had work lately: what all may use is divided by their number.

use std::time::{Duration, Instant};

/// A lane counts until the end of the period after the last one in which it had work.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Activity {
    /// Lanes with turns, waiting or in flight, now.
    pub(super) with_work: usize,
    /// Lanes that have had work in this period.
    this_period: usize,
    last_period: usize,
    /// The number of this period.
    number: u64,
    began: Option<Instant>,
}

/// What [`Activity`] knows of one lane.
#[derive(Debug, Default)]
pub(super) struct LaneActivity {
    has_work: bool,
    /// The last period in which the lane began or ceased to have work.
    period: u64,
}

impl Default for Activity {
    fn default() -> Self {
        Self { with_work: 0, this_period: 0, last_period: 0, number: 1, began: None }
    }
}

impl Activity {
    /// Counts a lane that has begun or ceased to have work.
    pub(super) fn note(&mut self, lane: &mut LaneActivity, has_work: bool) {
        if has_work == std::mem::replace(&mut lane.has_work, has_work) {
            return;
        }
        let is_counted = std::mem::replace(&mut lane.period, self.number) == self.number;
        if has_work {
            self.with_work += 1;
            self.this_period += usize::from(!is_counted);
        } else {
            self.with_work -= 1;
        }
    }

    /// Begins the next period if this one has lasted long enough. Lanes with work are counted in it from its beginning.
    pub(super) fn begin_period(&mut self, now: Instant) {
        if now - *self.began.get_or_insert(now) < PERIOD {
            return;
        }
        self.began = Some(now);
        self.number += 1;
        self.last_period = std::mem::replace(&mut self.this_period, self.with_work);
    }

    /// The number of lanes between which is divided; 1 if there are none.
    pub(super) fn lanes(&self) -> usize {
        self.this_period.max(self.last_period).max(1)
    }
}

impl LaneActivity {
    pub(super) fn has_work(&self) -> bool {
        self.has_work
    }
}

//! How long a receiver's attempts take.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Pace {
    /// When a request last ended, or the only one in flight began.
    pub(super) last_ended: Instant,
    /// What an attempt takes: an average of the last few. Zero before the first.
    pub(super) attempt_time: Duration,
    /// What a turn occupies its slot for, which includes the wait for the recorder: likewise.
    slot_time: Duration,
    /// The last attempt took long.
    last_was_slow: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { last_ended: now, attempt_time: Duration::ZERO, slot_time: Duration::ZERO, last_was_slow: false }
    }

    /// A turn has ended that occupied its slot for `slot_time`. `took` is what its attempt took; `None` if it was not
    /// attempted. From `long` on an attempt is slow.
    pub(super) fn note(&mut self, took: Option<Duration>, slot_time: Duration, long: Duration, now: Instant) {
        self.last_ended = now;
        self.last_was_slow = took.is_some_and(|took| took >= long);
        if let Some(took) = took {
            let average = |known: Duration, new: Duration| if known.is_zero() { new } else { (known * 7 + new) / 8 };
            self.attempt_time = average(self.attempt_time, took);
            self.slot_time = average(self.slot_time, slot_time);
        }
    }

    /// Whether the receiver takes long: its last attempt did, or none of those in flight has ended for this long.
    pub(super) fn is_slow(&self, long: Duration, in_flight: usize, now: Instant) -> bool {
        self.last_was_slow || (in_flight > 0 && self.has_stood_still(long, now))
    }

    /// Whether no request has ended for this long.
    pub(super) fn has_stood_still(&self, long: Duration, now: Instant) -> bool {
        now - self.last_ended >= long
    }

    /// Whether turns occupy their slots for the attempts, and not for the recorder.
    pub(super) fn waits_for_receiver(&self) -> bool {
        2 * self.attempt_time >= self.slot_time
    }
}

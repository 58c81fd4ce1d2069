//! What a receiver gets that works again: a little at first, then more.

use std::time::{Duration, Instant};

/// After a pause the limit doubles this often, until the receiver asks for time again. A receiver that allows a few
/// requests a second must not get many at once.
const DOUBLES_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Recovery {
    /// Requests in flight after failures: 2 when a probe has succeeded, twice as many after every further success.
    from_failures: usize,
    /// Requests in flight when the last pause was over, and when that was.
    from_pause: Option<(usize, Instant)>,
}

impl Default for Recovery {
    /// No limit.
    fn default() -> Self {
        Self { from_failures: usize::MAX, from_pause: None }
    }
}

impl Recovery {
    pub(super) fn limit_from_failures(&self) -> usize {
        self.from_failures
    }

    pub(super) fn limit_from_pause(&self, now: Instant) -> usize {
        let Some((limit, since)) = self.from_pause else { return usize::MAX };
        let doublings = (now - since).as_millis() / DOUBLES_EVERY.as_millis();
        limit.saturating_mul(1 << doublings.min(20))
    }

    /// A probe has succeeded.
    pub(super) fn failures_over(&mut self) {
        self.from_failures = 2;
    }

    /// The attempt after a pause has succeeded: the receiver begins with this many requests in flight.
    pub(super) fn pause_over(&mut self, limit: usize, now: Instant) {
        *self = Self { from_failures: usize::MAX, from_pause: Some((limit, now)) };
    }

    /// An attempt has succeeded that was no probe.
    pub(super) fn succeeded(&mut self) {
        self.from_failures = self.from_failures.saturating_mul(2);
    }
}

//! A lane's window: fewer requests in flight while this process itself delays them. More would only wait for a processor.

use std::time::{Duration, Instant};

/// No window is smaller.
pub(super) const MIN_WIDTH: usize = 4;
/// The window doubles this often after it was last shrunk.
pub(super) const DOUBLES_EVERY: Duration = Duration::from_millis(128);

/// No limit until it is shrunk for the first time.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The width after it was last shrunk, and when that was.
    shrunk: Option<(usize, Instant)>,
}

impl Window {
    /// How many requests may be in flight.
    pub(super) fn width(&self, now: Instant) -> usize {
        let Some((width, at)) = self.shrunk else { return usize::MAX };
        let doublings = (now - at).as_millis() / DOUBLES_EVERY.as_millis();
        width.saturating_mul(1 << doublings.min(20))
    }

    /// When the window doubles next.
    pub(super) fn opens(&self, now: Instant) -> Instant {
        let since = self.shrunk.map_or(Duration::ZERO, |(_, at)| now - at);
        let rest = since.as_nanos() % DOUBLES_EVERY.as_nanos();
        now + DOUBLES_EVERY - Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
    }

    /// Makes the window an eighth smaller than what is used of it: a request has ended, and this many are still in flight.
    pub(super) fn shrink(&mut self, in_flight: usize, now: Instant) {
        let used = self.width(now).min(in_flight + 1);
        self.shrunk = Some(((used - used.div_ceil(8)).max(MIN_WIDTH), now));
    }
}

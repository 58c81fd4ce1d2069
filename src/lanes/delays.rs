//! How much this machine delays what we do.

use std::time::{Duration, Instant};

use super::PERIOD;

/// How long something waits for a processor of this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delay {
    /// Whoever else uses it.
    pub all: Duration,
    /// The same if this process's own work is the cause, else nothing.
    pub own: Duration,
}

/// The longest of some delays in the last second: one beat says little.
#[derive(Debug, Default)]
pub(super) struct Longest(Option<(Duration, Instant)>);

impl Longest {
    pub(super) fn note(&mut self, delay: Duration, now: Instant) {
        if delay >= self.at(now) {
            self.0 = Some((delay, now));
        }
    }

    pub(super) fn at(&self, now: Instant) -> Duration {
        self.0.filter(|(_, at)| now - *at < PERIOD).map_or(Duration::ZERO, |(delay, _)| delay)
    }
}

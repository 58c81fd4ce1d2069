//! How long something waits for a processor of this machine.

use std::time::{Duration, Instant};

/// A usual request waits for a processor about this many times. A request that takes longer than that many delays waits for
/// its receiver.
pub(super) const WAITS_PER_REQUEST: u32 = 8;
/// For how long a delay is remembered.
const REMEMBERED: Duration = Duration::from_secs(1);

/// How long something waits for a processor (milliseconds; zero if the machine has time).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Delay {
    /// Whichever process is the cause.
    pub(crate) all: Duration,
    /// The same if this process's own work is the cause, else zero.
    pub(crate) own: Duration,
}

/// The longest delay of the last second: a single measurement says little.
#[derive(Debug, Default)]
pub(super) struct LongestDelay(Option<(Duration, Instant)>);

impl LongestDelay {
    pub(super) fn note(&mut self, delay: Duration, now: Instant) {
        if delay >= self.at(now) {
            self.0 = Some((delay, now));
        }
    }

    pub(super) fn at(&self, now: Instant) -> Duration {
        self.0.filter(|(_, at)| now - *at < REMEMBERED).map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// What a request may take at most, if it waits for nothing but processors.
    pub(super) fn of_a_request(&self, now: Instant) -> Duration {
        self.at(now) * WAITS_PER_REQUEST
    }
}

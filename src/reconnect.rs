//! How long to wait before connecting again: exponentially longer, with jitter, never giving up.
//!
//! The only user of `backoff`, whose upstream rests (RUSTSEC-2025-0012): replacing it means this file.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// Waits between attempts to reach a server: about 0.1 s at first, doubling to about 10 s, each ±50 %.
#[derive(Debug)]
pub struct Reconnect(ExponentialBackoff);

impl Default for Reconnect {
    fn default() -> Self {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(100))
            .with_multiplier(2.0)
            .with_randomization_factor(0.5)
            .with_max_interval(Duration::from_secs(10))
            .with_max_elapsed_time(None)
            .build();
        Self(backoff)
    }
}

impl Reconnect {
    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        self.0.next_backoff().expect("no elapsed time is too long")
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over_after_a_success() {
        let mut reconnect = Reconnect::default();
        let waits: Vec<_> = (0..50).map(|_| reconnect.wait()).collect();
        assert!(waits[0] <= Duration::from_millis(150));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(15)));
        assert!(waits[20..].iter().all(|wait| *wait >= Duration::from_secs(5)));
        reconnect.reset();
        assert!(reconnect.wait() <= Duration::from_millis(150));
    }
}

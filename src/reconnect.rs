//! How long to wait before trying again: exponentially longer, with jitter, never giving up.
//!
//! The only user of `backoff`, whose upstream rests (RUSTSEC-2025-0012): replacing it means this file.

use std::time::{Duration, Instant};

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// Waits between attempts to reach a server: about 0.1 s at first, doubling to about 10 s, each ±50 %.
#[derive(Debug)]
pub struct Reconnect(ExponentialBackoff);

impl Default for Reconnect {
    fn default() -> Self {
        Self::up_to(Duration::from_secs(10))
    }
}

impl Reconnect {
    /// As the default, but doubling to about `longest` only.
    pub fn up_to(longest: Duration) -> Self {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(100))
            .with_multiplier(2.0)
            .with_randomization_factor(0.5)
            .with_max_interval(longest)
            .with_max_elapsed_time(None)
            .build();
        Self(backoff)
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        self.0.next_backoff().expect("no elapsed time is too long")
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// Has an operator told once that something is away, however often it is tried, and once more for every new reason.
#[derive(Debug, Default)]
pub struct Outage {
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    since: Instant,
    reason: String,
}

impl Outage {
    /// After a failure. Whether its reason is news.
    pub fn is_news(&mut self, reason: &str) -> bool {
        match &mut self.told {
            Some(told) if told.reason == reason => false,
            Some(told) => {
                told.reason = reason.to_owned();
                true
            }
            None => {
                self.told = Some(Told { since: Instant::now(), reason: reason.to_owned() });
                true
            }
        }
    }

    /// After a success. How long it was away, if it was.
    pub fn end(&mut self) -> Option<Duration> {
        self.told.take().map(|told| told.since.elapsed())
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

    #[test]
    fn waits_grow_no_further_than_to_the_bound_they_are_given() {
        let mut reconnect = Reconnect::up_to(Duration::from_secs(2));
        assert!((0..50).all(|_| reconnect.wait() <= Duration::from_secs(3)));
    }

    #[test]
    fn an_outage_is_told_once_for_every_reason_until_it_ends() {
        let mut outage = Outage::default();
        let news = ["refused", "refused", "no answer", "no answer"].map(|reason| outage.is_news(reason));
        assert_eq!(news, [true, false, true, false]);
        assert!(outage.end().is_some());
        assert!(outage.end().is_none());
        assert!(outage.is_news("no answer"));
    }
}

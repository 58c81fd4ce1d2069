//! How long to wait before the next try to reach a server, and which failures to log: exponential backoff with jitter, without
//! an end.
//!
//! Only this file uses the crate `backoff`, which is unmaintained (RUSTSEC-2025-0012): to replace the crate, change this file.

use std::time::{Duration, Instant};

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The waits between tries to reach a server: 0.1 s at first, each twice as long as the one before, up to 10 s; and each ±50 %
/// by jitter.
#[derive(Debug)]
pub(crate) struct Reconnect(ExponentialBackoff);

impl Default for Reconnect {
    fn default() -> Self {
        Self::up_to(Duration::from_secs(10))
    }
}

impl Reconnect {
    /// Waits of up to `longest`, which jitter may exceed by half.
    pub(crate) fn up_to(longest: Duration) -> Self {
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
    pub(crate) fn wait(&mut self) -> Duration {
        self.0.next_backoff().expect("no elapsed time is too long")
    }

    /// After a success: the next wait is the first one again.
    pub(crate) fn reset(&mut self) {
        self.0.reset();
    }
}

/// An outage is logged once, however often the server is tried, and once more whenever its reason changes.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    logged: Option<Logged>,
}

#[derive(Debug)]
struct Logged {
    since: Instant,
    reason: String,
}

impl Outage {
    /// After a failure: whether its reason is to be logged, since it is another one than the last.
    pub(crate) fn is_news(&mut self, reason: &str) -> bool {
        match &mut self.logged {
            Some(logged) if logged.reason == reason => false,
            Some(logged) => {
                logged.reason = reason.to_owned();
                true
            }
            None => {
                self.logged = Some(Logged { since: Instant::now(), reason: reason.to_owned() });
                true
            }
        }
    }

    /// After a success: how long the outage lasted, if there was one.
    pub(crate) fn end(&mut self) -> Option<Duration> {
        self.logged.take().map(|logged| logged.since.elapsed())
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
    fn an_outage_is_logged_once_for_every_reason_until_it_ends() {
        let mut outage = Outage::default();
        let news = ["refused", "refused", "no answer", "no answer"].map(|reason| outage.is_news(reason));
        assert_eq!(news, [true, false, true, false]);
        assert!(outage.end().is_some());
        assert!(outage.end().is_none());
        assert!(outage.is_news("no answer"));
    }
}

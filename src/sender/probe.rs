//! Finds out whether something of our own answers, once for all who want to know.

use std::sync::{Mutex as Shared, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// A verdict serves everybody who comes within this time.
const KEPT: Duration = Duration::from_secs(1);

/// What is known of one thing of our own that may be down. However many attempts fail at a time, one of them asks.
#[derive(Debug, Default)]
pub(super) struct Probe {
    last: Mutex<Option<Verdict>>,
    /// When it was last asked and did not answer.
    silent: Shared<Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
struct Verdict {
    asked: Instant,
    answers: bool,
}

impl Probe {
    /// Whether it answers, as far as it was asked after `since`: what was true before the caller's own failure began says
    /// nothing about it. No answer within `patience` is none.
    pub(super) async fn answers(&self, since: Instant, patience: Duration, ask: impl Future<Output = bool>) -> bool {
        tokio::time::timeout(patience, self.verdict(since, patience, ask)).await.unwrap_or(false)
    }

    /// Whether it was asked after `since` and did not answer, whatever it does now.
    pub(super) fn was_silent_since(&self, since: Instant) -> bool {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|silent| silent >= since)
    }

    async fn verdict(&self, since: Instant, patience: Duration, ask: impl Future<Output = bool>) -> bool {
        // Whoever waits here for the question of another attempt takes that one's verdict, if it was asked late enough.
        let mut last = self.last.lock().await;
        if let Some(verdict) = *last
            && verdict.asked >= since
            && verdict.asked.elapsed() < KEPT + patience
        {
            return verdict.answers;
        }
        let asked = Instant::now();
        let answers = tokio::time::timeout(patience, ask).await.unwrap_or(false);
        if !answers {
            *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        }
        *last = Some(Verdict { asked, answers });
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_crowd_costs_one_question() {
        let (probe, asked) = (Probe::default(), AtomicUsize::new(0));
        let since = Instant::now();
        let ask = || async {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            true
        };
        let crowd = (0..100).map(|_| probe.answers(since, PATIENCE, ask()));
        assert!(futures_util::future::join_all(crowd).await.into_iter().all(|answers| answers));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_verdict_from_before_the_failure_does_not_count() {
        let probe = Probe::default();
        assert!(probe.answers(Instant::now(), PATIENCE, async { true }).await);
        let before = Instant::now();
        assert!(!probe.was_silent_since(before));
        assert!(!probe.answers(Instant::now(), PATIENCE, async { false }).await);
        assert!(probe.answers(Instant::now(), PATIENCE, async { true }).await);
        assert!(probe.was_silent_since(before) && !probe.was_silent_since(Instant::now()));
    }

    #[tokio::test]
    async fn what_never_answers_is_asked_for_as_long_as_patience_lasts() {
        let probe = Probe::default();
        let patience = Duration::from_millis(20);
        let crowd = (0..3).map(|_| probe.answers(Instant::now(), patience, std::future::pending()));
        assert_eq!(futures_util::future::join_all(crowd).await, [false; 3]);
    }
}

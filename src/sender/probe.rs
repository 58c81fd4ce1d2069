//! Finds out whether something that all attempts need answers, such as the name servers or the proxy: one attempt asks, and
//! all others use its result.

use std::sync::{Mutex as Shared, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// How long a result may be used.
const KEPT: Duration = Duration::from_secs(1);

/// The last result for one thing that may be down.
#[derive(Debug, Default)]
pub(super) struct Probe {
    last: Mutex<Option<Finding>>,
    /// When the last question without an answer was asked.
    unanswered_at: Shared<Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
struct Finding {
    asked: Instant,
    answers: bool,
}

impl Probe {
    /// Whether the thing answers within `patience`. Only a question that was asked after `since` counts: an earlier one says
    /// nothing about a failure that began then.
    pub(super) async fn answers(&self, since: Instant, patience: Duration, ask: impl Future<Output = bool>) -> bool {
        tokio::time::timeout(patience, self.finding(since, patience, ask)).await.unwrap_or(false)
    }

    /// Whether a question that was asked after `since` got no answer, even if a later one did.
    pub(super) fn had_no_answer_since(&self, since: Instant) -> bool {
        self.unanswered_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|asked| asked >= since)
    }

    async fn finding(&self, since: Instant, patience: Duration, ask: impl Future<Output = bool>) -> bool {
        // An attempt that waited for this lock uses the result of the attempt that held it, if it was asked late enough.
        let mut last = self.last.lock().await;
        if let Some(finding) = *last
            && finding.asked >= since
            && finding.asked.elapsed() < KEPT + patience
        {
            return finding.answers;
        }
        let asked = Instant::now();
        let answers = tokio::time::timeout(patience, ask).await.unwrap_or(false);
        if !answers {
            *self.unanswered_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        }
        *last = Some(Finding { asked, answers });
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
        assert!(!probe.had_no_answer_since(before));
        assert!(!probe.answers(Instant::now(), PATIENCE, async { false }).await);
        assert!(probe.answers(Instant::now(), PATIENCE, async { true }).await);
        assert!(probe.had_no_answer_since(before) && !probe.had_no_answer_since(Instant::now()));
    }

    #[tokio::test]
    async fn what_never_answers_is_asked_for_as_long_as_patience_lasts() {
        let probe = Probe::default();
        let patience = Duration::from_millis(20);
        let crowd = (0..3).map(|_| probe.answers(Instant::now(), patience, std::future::pending()));
        assert_eq!(futures_util::future::join_all(crowd).await, [false; 3]);
    }
}

//! Keeps what results say about the health of webhooks until it is written: Postgres skips a webhook whose row another
//! session has locked. Pure: the writer says what is written and what became of it.
//!
//! Two transactions are under way at a time, and either may end first. Batches are therefore numbered as they are taken up,
//! and of two observations of a webhook the one of the later batch counts as later: a success that is kept or written is
//! not undone by an older failure that was kept. One case is left: an older batch's own failure, in a transaction that
//! commits right after the transaction of a newer batch that holds the success. That webhook counts as troubled until its
//! next success. To exclude that, one transaction would have to wait for the other.

use std::collections::{BTreeMap, BTreeSet};

use super::portion::Portion;
use crate::ids::WebhookId;
use crate::store::{Observations, TurnResult};

/// Webhooks whose kept health one transaction writes, at most.
const MOST_AT_ONCE: usize = 300;

pub(super) struct KeptHealth {
    /// Batches numbered so far.
    batches: u64,
    observations: Observations,
    /// How many of the kept webhooks a transaction can write in time.
    portion: Portion,
    /// Kept health has made a transaction with results run out of time. It is written in transactions of its own until one
    /// of them succeeds.
    apart: bool,
    /// The batches that are being written, and the webhooks that they say something about.
    under_way: BTreeMap<u64, BTreeSet<WebhookId>>,
    /// Successes that were written while an older batch was under way, and the batches they were in.
    succeeded: BTreeMap<WebhookId, u64>,
}

/// The observations that one transaction writes.
pub(super) struct HealthWrite {
    batch: u64,
    pub(super) observations: Observations,
    /// Those of them that were kept before.
    kept: Observations,
}

impl Default for KeptHealth {
    fn default() -> Self {
        Self {
            batches: 0,
            observations: Observations::default(),
            portion: Portion::of(MOST_AT_ONCE),
            apart: false,
            under_way: BTreeMap::new(),
            succeeded: BTreeMap::new(),
        }
    }
}

impl KeptHealth {
    pub(super) fn is_empty(&self) -> bool {
        self.observations.is_empty()
    }

    /// The number of a batch that is taken up now.
    pub(super) fn number(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }

    /// What a transaction with these results is to write: what they say, and some of what was kept.
    pub(super) fn with(&mut self, batch: u64, results: &[impl AsRef<TurnResult>]) -> HealthWrite {
        let kept = if self.apart { Observations::default() } else { self.observations.take(self.portion.size()) };
        let mut observations = kept.clone();
        let is_troubled =
            |webhook| self.observations.contains(webhook) || self.under_way.values().any(|w| w.contains(&webhook));
        observations.observe(batch, results, is_troubled);
        self.begin(HealthWrite { batch, observations, kept })
    }

    /// What a transaction without results is to write, if anything is kept.
    pub(super) fn alone(&mut self, batch: u64) -> Option<HealthWrite> {
        let kept = self.observations.take(self.portion.size());
        (!kept.is_empty()).then(|| self.begin(HealthWrite { batch, observations: kept.clone(), kept }))
    }

    fn begin(&mut self, begun: HealthWrite) -> HealthWrite {
        self.under_way.insert(begun.batch, begun.observations.webhooks().collect());
        begun
    }

    /// The transaction was committed. What it skipped is kept.
    pub(super) fn written(&mut self, HealthWrite { batch, observations, .. }: HealthWrite) {
        self.end(batch);
        for (webhook, batch) in observations.written_successes() {
            self.observations.succeeded(webhook, batch);
            self.succeeded.insert(webhook, batch);
        }
        self.keep(observations.left());
        let oldest = self.under_way.keys().next().copied();
        self.succeeded.retain(|_, batch| oldest.is_some_and(|oldest| oldest < *batch));
    }

    /// The same for a transaction [`alone`](Self::alone).
    pub(super) fn written_alone(&mut self, write: HealthWrite) {
        self.portion.ended();
        self.apart = false;
        self.written(write);
    }

    /// The transaction was not committed, and its results will be tried again.
    pub(super) fn not_written(&mut self, HealthWrite { batch, kept, .. }: HealthWrite) {
        self.end(batch);
        self.keep(kept);
    }

    /// The same for a transaction that ran out of time.
    pub(super) fn ran_out_of_time(&mut self, write: HealthWrite) {
        let tried_at_once = write.kept.webhooks().count();
        if tried_at_once > 0 {
            self.portion.ran_out_of_time(tried_at_once);
            self.apart = true;
        }
        self.not_written(write);
    }

    /// The database refuses the transaction. What was kept may be the reason, and is forgotten.
    pub(super) fn refused(&mut self, write: HealthWrite) {
        self.end(write.batch);
    }

    fn end(&mut self, batch: u64) {
        self.under_way.remove(&batch);
    }

    fn keep(&mut self, mut observations: Observations) {
        self.succeeded.iter().for_each(|(webhook, batch)| observations.succeeded(*webhook, *batch));
        self.observations.merge(observations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Answer, Attempt, Outcome};
    use crate::retry::Step;
    use crate::store::Ending;
    use std::time::{Duration, Instant};
    use uuid::Uuid;

    fn attempted(webhook: u128, step: Step) -> TurnResult {
        let outcome = Outcome::Answered(Answer { status: 500, ..Answer::default() });
        let attempt = Attempt {
            id: Uuid::nil(),
            outcome,
            duration: Duration::ZERO,
            started: Instant::now(),
            paused_until: None,
            signed_at: 0,
            trace: None,
        };
        TurnResult::example(webhook, 1, b"{}", Ending::Attempted(attempt, step))
    }

    fn failure() -> [TurnResult; 1] {
        [attempted(1, Step::RetryIn(Duration::ZERO))]
    }

    fn success() -> [TurnResult; 1] {
        [attempted(1, Step::Succeeded)]
    }

    fn skipped(mut write: HealthWrite) -> HealthWrite {
        write.observations.skip_all();
        write
    }

    /// Two batches that are under way together: the older one with a failure, the newer one with a success.
    fn two(kept: &mut KeptHealth) -> (HealthWrite, HealthWrite) {
        let (older, newer) = (kept.number(), kept.number());
        (kept.with(older, &failure()), kept.with(newer, &success()))
    }

    fn facts(kept: &KeptHealth) -> Vec<(bool, i32)> {
        kept.observations.facts().into_iter().map(|(_, succeeded, failures)| (succeeded, failures)).collect()
    }

    /// What is kept when other transactions hold the rows of a thousand webhooks that failed.
    fn with_a_thousand_failures() -> KeptHealth {
        let mut kept = KeptHealth::default();
        let many: Vec<TurnResult> =
            (0..1000).map(|webhook| attempted(webhook, Step::RetryIn(Duration::ZERO))).collect();
        let number = kept.number();
        let write = kept.with(number, &many);
        kept.written(skipped(write));
        kept
    }

    #[test]
    fn the_newer_of_two_batches_counts_as_the_later_whichever_comes_back_first() {
        let mut kept = KeptHealth::default();
        let (older, newer) = two(&mut kept);
        kept.written(skipped(older));
        kept.written(skipped(newer));
        assert_eq!(facts(&kept), [(true, 0)]);
        let mut kept = KeptHealth::default();
        let (older, newer) = two(&mut kept);
        kept.written(skipped(newer));
        kept.written(skipped(older));
        assert_eq!(facts(&kept), [(true, 0)]);
    }

    #[test]
    fn what_another_transaction_had_taken_goes_before_what_came_later() {
        let mut kept = KeptHealth::default();
        let first = kept.number();
        let write = kept.with(first, &failure());
        kept.written(skipped(write));
        let (again, later) = (kept.number(), kept.number());
        let again = kept.alone(again).unwrap();
        let later = kept.with(later, &success());
        kept.written(skipped(later));
        kept.not_written(again);
        assert_eq!(facts(&kept), [(true, 0)]);
    }

    #[test]
    fn a_success_that_was_written_is_not_undone_by_an_older_failure_that_was_kept() {
        let mut kept = KeptHealth::default();
        let (older, newer) = two(&mut kept);
        kept.written(newer);
        kept.written(skipped(older));
        assert!(kept.is_empty());
        assert!(kept.under_way.is_empty() && kept.succeeded.is_empty());
        let number = kept.number();
        let write = kept.with(number, &failure());
        kept.written(skipped(write));
        assert_eq!(facts(&kept), [(false, 1)]);
    }

    #[test]
    fn one_transaction_is_given_some_of_it_and_all_of_it_has_its_turn() {
        let mut kept = with_a_thousand_failures();
        let mut seen = BTreeSet::new();
        for _ in 0..1000_usize.div_ceil(MOST_AT_ONCE) {
            let number = kept.number();
            let write = kept.with(number, &[] as &[TurnResult]);
            assert!(write.kept.webhooks().count() <= MOST_AT_ONCE);
            seen.extend(write.kept.webhooks());
            kept.written(skipped(write));
        }
        assert_eq!((seen.len(), kept.observations.webhooks().count()), (1000, 1000));
    }

    #[test]
    fn what_makes_a_transaction_too_long_is_written_apart_and_less_at_a_time() {
        let mut kept = with_a_thousand_failures();
        let number = kept.number();
        let write = kept.with(number, &success());
        kept.ran_out_of_time(write);
        let write = kept.with(number, &success());
        assert!(write.kept.is_empty());
        kept.written(write);
        let number = kept.number();
        let write = kept.alone(number).unwrap();
        assert_eq!(write.kept.webhooks().count(), MOST_AT_ONCE / 2);
        kept.written_alone(write);
        assert!(!kept.apart);
    }
}

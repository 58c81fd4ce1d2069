//! Keeps what results say about webhooks until it is written, while somebody holds their rows. Pure: the recorder says what
//! is written and what became of it.
//!
//! Two transactions are under way at a time, and either may be the first to come back. Batches are therefore numbered as
//! they are taken up, and of two observations of a webhook that of the later batch counts as the later one: a success that
//! is kept or written is not undone by an older failure that was kept. One case is left: an older batch's own failure, in a
//! transaction that commits right after a newer batch's with the success. That webhook counts as troubled until its
//! next success; to exclude it, one transaction would have to wait for the other.

use std::collections::{BTreeMap, BTreeSet};

use super::portion::Portion;
use crate::ids::WebhookId;
use crate::store::{Observations, TurnResult};

/// Webhooks whose kept health one transaction is given.
const MOST_AT_ONCE: usize = 300;

pub(super) struct Kept {
    batches: u64,
    kept: Observations,
    /// What a transaction can take of it in time.
    portion: Portion,
    /// It made a transaction with results too long: it is written apart until that succeeds.
    apart: bool,
    /// The batches that are being written, and the webhooks that they say something about.
    under_way: BTreeMap<u64, BTreeSet<WebhookId>>,
    /// Successes that were written while an older batch was under way, and the batches they were in.
    succeeded: BTreeMap<WebhookId, u64>,
}

/// The observations that one transaction writes, and those of them that were kept.
pub(super) struct Try {
    batch: u64,
    pub(super) observations: Observations,
    kept: Observations,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            batches: 0,
            kept: Observations::default(),
            portion: Portion::of(MOST_AT_ONCE),
            apart: false,
            under_way: BTreeMap::new(),
            succeeded: BTreeMap::new(),
        }
    }
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The number of a batch that is taken up now.
    pub(super) fn number(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }

    /// What a transaction with these results is to write: what they say, and some of what was kept.
    pub(super) fn with(&mut self, batch: u64, results: &[TurnResult]) -> Try {
        let kept = if self.apart { Observations::default() } else { self.kept.take(self.portion.size()) };
        let mut observations = kept.clone();
        let spoken_of = |webhook| self.kept.contains(webhook) || self.under_way.values().any(|w| w.contains(&webhook));
        observations.observe(batch, results, spoken_of);
        self.begin(Try { batch, observations, kept })
    }

    /// What a transaction without results is to write, if anything was kept.
    pub(super) fn alone(&mut self, batch: u64) -> Option<Try> {
        let kept = self.kept.take(self.portion.size());
        (!kept.is_empty()).then(|| self.begin(Try { batch, observations: kept.clone(), kept }))
    }

    fn begin(&mut self, tried: Try) -> Try {
        self.under_way.insert(tried.batch, tried.observations.webhooks().collect());
        tried
    }

    /// The transaction was committed. What it skipped is kept.
    pub(super) fn written(&mut self, Try { batch, observations, .. }: Try) {
        self.end(batch);
        for (webhook, batch) in observations.written_successes() {
            self.kept.succeeded(webhook, batch);
            self.succeeded.insert(webhook, batch);
        }
        self.keep(observations.left());
        let oldest = self.under_way.keys().next().copied();
        self.succeeded.retain(|_, batch| oldest.is_some_and(|oldest| oldest < *batch));
    }

    /// Like [`written`](Self::written), for what was kept alone.
    pub(super) fn written_alone(&mut self, tried: Try) {
        self.portion.ended();
        self.apart = false;
        self.written(tried);
    }

    /// The transaction was not committed, and its results are tried again.
    pub(super) fn not_written(&mut self, Try { batch, kept, .. }: Try) {
        self.end(batch);
        self.keep(kept);
    }

    /// Like [`not_written`](Self::not_written), for it ran out of time.
    pub(super) fn ran_out_of_time(&mut self, tried: Try) {
        let tried_at_once = tried.kept.webhooks().count();
        if tried_at_once > 0 {
            self.portion.ran_out_of_time(tried_at_once);
            self.apart = true;
        }
        self.not_written(tried);
    }

    /// The database refuses it, and what was kept may be the reason: that is forgotten.
    pub(super) fn refused(&mut self, tried: Try) {
        self.end(tried.batch);
    }

    fn end(&mut self, batch: u64) {
        self.under_way.remove(&batch);
    }

    fn keep(&mut self, mut observations: Observations) {
        self.succeeded.iter().for_each(|(webhook, batch)| observations.succeeded(*webhook, *batch));
        self.kept.merge(observations);
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
        let outcome = Outcome::Answered(Answer { status: 500, snippet: None, retry_after: None });
        let attempt =
            Attempt { id: Uuid::nil(), outcome, duration: Duration::ZERO, started: Instant::now(), paused_until: None };
        TurnResult::example(webhook, 1, b"{}", Ending::Attempted(attempt, step))
    }

    fn failure() -> [TurnResult; 1] {
        [attempted(1, Step::RetryIn(Duration::ZERO))]
    }

    fn success() -> [TurnResult; 1] {
        [attempted(1, Step::Succeeded)]
    }

    fn skipped(mut tried: Try) -> Try {
        tried.observations.skip_all();
        tried
    }

    /// Two batches that are under way together, the older one with a failure and the newer one with a success.
    fn two(kept: &mut Kept) -> (Try, Try) {
        let (older, newer) = (kept.number(), kept.number());
        (kept.with(older, &failure()), kept.with(newer, &success()))
    }

    fn facts(kept: &Kept) -> Vec<(bool, i32)> {
        kept.kept.facts().into_iter().map(|(_, succeeded, failures)| (succeeded, failures)).collect()
    }

    #[test]
    fn the_newer_of_two_batches_counts_as_the_later_whichever_comes_back_first() {
        let mut kept = Kept::default();
        let (older, newer) = two(&mut kept);
        kept.written(skipped(older));
        kept.written(skipped(newer));
        assert_eq!(facts(&kept), [(true, 0)]);
        let mut kept = Kept::default();
        let (older, newer) = two(&mut kept);
        kept.written(skipped(newer));
        kept.written(skipped(older));
        assert_eq!(facts(&kept), [(true, 0)]);
    }

    #[test]
    fn what_another_transaction_had_taken_goes_before_what_came_later() {
        let mut kept = Kept::default();
        let first = kept.number();
        let tried = kept.with(first, &failure());
        kept.written(skipped(tried));
        let (again, later) = (kept.number(), kept.number());
        let again = kept.alone(again).unwrap();
        let later = kept.with(later, &success());
        kept.written(skipped(later));
        kept.not_written(again);
        assert_eq!(facts(&kept), [(true, 0)]);
    }

    #[test]
    fn a_success_that_was_written_is_not_undone_by_an_older_failure_that_was_kept() {
        let mut kept = Kept::default();
        let (older, newer) = two(&mut kept);
        kept.written(newer);
        kept.written(skipped(older));
        assert!(kept.is_empty());
        assert!(kept.under_way.is_empty() && kept.succeeded.is_empty());
        let number = kept.number();
        let tried = kept.with(number, &failure());
        kept.written(skipped(tried));
        assert_eq!(facts(&kept), [(false, 1)]);
    }

    #[test]
    fn one_transaction_is_given_some_of_it_and_all_of_it_has_its_turn() {
        let mut kept = Kept::default();
        let many: Vec<TurnResult> =
            (0..1000).map(|webhook| attempted(webhook, Step::RetryIn(Duration::ZERO))).collect();
        let number = kept.number();
        let tried = kept.with(number, &many);
        kept.written(skipped(tried));
        let mut seen = BTreeSet::new();
        for _ in 0..1000_usize.div_ceil(MOST_AT_ONCE) {
            let number = kept.number();
            let tried = kept.with(number, &[]);
            assert!(tried.kept.webhooks().count() <= MOST_AT_ONCE);
            seen.extend(tried.kept.webhooks());
            kept.written(skipped(tried));
        }
        assert_eq!((seen.len(), kept.kept.webhooks().count()), (1000, 1000));
    }

    #[test]
    fn what_makes_a_transaction_too_long_is_written_apart_and_less_at_a_time() {
        let mut kept = Kept::default();
        let many: Vec<TurnResult> =
            (0..1000).map(|webhook| attempted(webhook, Step::RetryIn(Duration::ZERO))).collect();
        let number = kept.number();
        let tried = kept.with(number, &many);
        kept.written(skipped(tried));
        let number = kept.number();
        let tried = kept.with(number, &success());
        kept.ran_out_of_time(tried);
        let tried = kept.with(number, &success());
        assert!(tried.kept.is_empty());
        kept.written(tried);
        let number = kept.number();
        let tried = kept.alone(number).unwrap();
        assert_eq!(tried.kept.webhooks().count(), MOST_AT_ONCE / 2);
        kept.written_alone(tried);
        assert!(!kept.apart);
    }
}

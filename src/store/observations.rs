//! Collects what results say about the health of webhooks, until it is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::turn_result::{Ending, TurnResult};
use crate::ids::WebhookId;
use crate::retry::Step;
use crate::snapshot::Snapshot;

/// The most webhooks whose observations a worker keeps when it cannot write them. It bounds the worker's memory while another
/// transaction has locked many webhooks; observations of further webhooks are dropped.
const MOST_KEPT: usize = 10_000;

/// What results say about the health of webhooks.
#[derive(Debug, Default, Clone)]
pub struct Observations {
    pub(super) seen: BTreeMap<Uuid, Observed>,
    /// The webhook at which the last [`Observations::take`] ended.
    taken: Uuid,
    /// The webhooks that the last transaction did not write, because another transaction had locked their rows.
    pub(super) skipped: Vec<Uuid>,
}

/// What results say about one webhook.
#[derive(Debug, Default, Clone)]
pub(super) struct Observed {
    /// The number of the newest batch with a result of this webhook.
    batch: u64,
    pub(super) succeeded: bool,
    /// The number of failed attempts after the last success.
    pub(super) failures: i32,
    pub(super) last_error: Option<&'static str>,
    /// The webhook's activation when its receiver answered that it is gone.
    pub(super) gone: Option<i32>,
    pub(super) pause: Option<ObservedPause>,
}

/// The pause that a receiver asked for (`Retry-After`).
#[derive(Debug, Clone)]
pub(super) struct ObservedPause {
    pub(super) until: Instant,
    /// The webhook as it was then: the pause ends when it has another URL or is switched on again.
    pub(super) webhook: Arc<Snapshot>,
}

impl Observed {
    /// Combines two observations in the order of their batches. The result has the newer batch's number. If it combines several
    /// batches, an observation of a batch in between counts as older than all of it: the number of failures may then be a
    /// little wrong, but not whether the last result was a success.
    fn and(self, other: Self) -> Self {
        if self.batch < other.batch { other.after(self) } else { self.after(other) }
    }

    /// Combines an earlier observation with this one.
    fn after(self, before: Self) -> Self {
        let gone = self.gone.max(before.gone);
        // A success does not end a pause: its request may have been sent before the receiver asked for the pause.
        let pause = self.pause.into_iter().chain(before.pause).max_by_key(|pause| pause.until);
        if self.succeeded {
            return Self { gone, pause, ..self };
        }
        let last_error = self.last_error.or(before.last_error);
        let failures = before.failures.saturating_add(self.failures);
        Self { batch: self.batch, succeeded: before.succeeded, failures, last_error, gone, pause }
    }
}

impl Observations {
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Adds the results of a batch, which are in the order in which the attempts ended. Our own failures say nothing about a
    /// webhook. A success is noted only if the webhook has failures: in its snapshot, in an earlier result, or kept because
    /// they could not be written. `troubled` returns whether there are kept ones.
    pub fn observe(&mut self, number: u64, batch: &[impl AsRef<TurnResult>], troubled: impl Fn(WebhookId) -> bool) {
        for result in batch.iter().map(AsRef::as_ref) {
            let Ending::Attempted(attempt, step) = &result.ending else { continue };
            let webhook = &result.delivery.webhook;
            let well = || !webhook.troubled && !self.seen.contains_key(&webhook.id.0) && !troubled(webhook.id);
            let seen = match step {
                Step::RepeatIn(_) => continue,
                Step::Succeeded if well() => continue,
                Step::Succeeded => Observed { succeeded: true, ..Observed::default() },
                Step::RetryIn(_) | Step::Exhausted | Step::Disable => Observed {
                    failures: 1,
                    last_error: attempt.outcome.error(),
                    gone: (*step == Step::Disable).then_some(webhook.activation),
                    pause: attempt.paused_until.map(|until| ObservedPause { until, webhook: webhook.clone() }),
                    ..Observed::default()
                },
            };
            self.add(webhook.id.0, Observed { batch: number, ..seen });
        }
    }

    /// The webhooks with observations.
    pub(crate) fn webhooks(&self) -> impl Iterator<Item = WebhookId> {
        self.seen.keys().copied().map(WebhookId)
    }

    /// Whether there are observations of this webhook.
    pub(crate) fn contains(&self, webhook: WebhookId) -> bool {
        self.seen.contains_key(&webhook.0)
    }

    /// Takes the observations of at most `most` webhooks, those after the ones that were taken before.
    pub(crate) fn take(&mut self, most: usize) -> Self {
        let next = self.seen.range(self.taken..).skip_while(|(id, _)| **id == self.taken);
        let around = next.chain(self.seen.range(..=self.taken));
        let some: Vec<Uuid> = around.map(|(id, _)| *id).take(most).collect();
        self.taken = some.last().copied().unwrap_or_default();
        let seen = some.into_iter().filter_map(|id| self.seen.remove_entry(&id)).collect();
        Self { seen, ..Self::default() }
    }

    /// The observations that are still to be written. Call it after the transaction was committed.
    pub(crate) fn left(self) -> Self {
        let left = self.skipped.iter().filter_map(|id| Some((*id, self.seen.get(id)?.clone())));
        Self { seen: left.collect(), ..Self::default() }
    }

    /// The webhooks whose successes were written, each with the number of the success's batch. Call it after the transaction was
    /// committed.
    pub(crate) fn written_successes(&self) -> impl Iterator<Item = (WebhookId, u64)> {
        let written = self.seen.iter().filter(|(id, seen)| seen.succeeded && !self.skipped.contains(id));
        written.map(|(id, seen)| (WebhookId(*id), seen.batch))
    }

    /// Removes failures that a success of a newer batch has ended, which was written already. A pause and an answer that the
    /// receiver is gone stay.
    pub(crate) fn succeeded(&mut self, webhook: WebhookId, batch: u64) {
        let Some(seen) = self.seen.get_mut(&webhook.0).filter(|seen| seen.batch < batch) else { return };
        match (seen.gone, &seen.pause) {
            (None, None) => drop(self.seen.remove(&webhook.0)),
            _ => *seen = Observed { succeeded: true, batch, ..Observed::default() }.after(seen.clone()),
        }
    }

    /// Adds other observations, of earlier or later batches.
    pub(crate) fn merge(&mut self, others: Self) {
        for (id, seen) in others.seen {
            if self.seen.len() < MOST_KEPT || self.seen.contains_key(&id) {
                self.add(id, seen);
            }
        }
    }

    fn add(&mut self, webhook: Uuid, seen: Observed) {
        let seen = match self.seen.remove(&webhook) {
            Some(before) => seen.and(before),
            None => seen,
        };
        self.seen.insert(webhook, seen);
    }
}

#[cfg(test)]
impl Observations {
    /// As if another transaction had locked all rows.
    pub(crate) fn skip_all(&mut self) {
        self.skipped = self.seen.keys().copied().collect();
    }

    /// Each webhook, whether it succeeded, and how often it failed since.
    pub(crate) fn facts(&self) -> Vec<(u128, bool, i32)> {
        self.seen.iter().map(|(id, seen)| (id.as_u128(), seen.succeeded, seen.failures)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::delivery::{Answer, Attempt, Outcome};

    fn answered(webhook: u128, activation: i32, status: u16, step: Step) -> TurnResult {
        let outcome = Outcome::Answered(Answer { status, ..Answer::default() });
        let (id, started) = (Uuid::nil(), std::time::Instant::now());
        let attempt =
            Attempt { id, outcome, duration: Duration::ZERO, started, paused_until: None, signed_at: 0, trace: None };
        TurnResult::example(webhook, activation, b"{}", Ending::Attempted(attempt, step))
    }

    fn of_a_troubled_webhook(mut result: TurnResult) -> TurnResult {
        let webhook = &result.delivery.webhook;
        let troubled = Snapshot { troubled: true, ..Snapshot::off(webhook.id, webhook.activation) };
        result.delivery.webhook = troubled.into();
        result
    }

    fn observed(batch: &[TurnResult]) -> Observations {
        let mut observations = Observations::default();
        observations.observe(1, batch, |_| false);
        observations
    }

    const RETRY: Step = Step::RetryIn(Duration::ZERO);

    #[test]
    fn failures_count_from_the_last_success_on() {
        let batch = [
            answered(1, 1, 500, RETRY),
            answered(1, 1, 200, Step::Succeeded),
            answered(1, 1, 503, RETRY),
            answered(2, 1, 500, Step::Exhausted),
            answered(3, 1, 500, Step::RepeatIn(Duration::ZERO)),
        ];
        assert_eq!(observed(&batch).facts(), [(1, true, 1), (2, false, 1)]);
    }

    #[test]
    fn a_success_counts_only_where_it_changes_something() {
        let success = |webhook| answered(webhook, 1, 200, Step::Succeeded);
        assert!(observed(&[success(1), success(1)]).is_empty());
        assert_eq!(observed(&[of_a_troubled_webhook(success(1))]).facts(), [(1, true, 0)]);
        let mut kept = observed(&[answered(1, 1, 500, RETRY)]);
        kept.observe(2, &[success(1), success(2), success(3)], |webhook| webhook.0.as_u128() == 3);
        assert_eq!(kept.facts(), [(1, true, 0), (3, true, 0)]);
    }

    #[test]
    fn what_was_skipped_is_kept_and_goes_before_what_is_seen_later() {
        let failure = |webhook| answered(webhook, 1, 500, RETRY);
        let mut first = observed(&[failure(1), failure(2), failure(2)]);
        first.skipped = vec![Uuid::from_u128(2), Uuid::from_u128(9)];
        let mut kept = first.left();
        assert_eq!(kept.facts(), [(2, false, 2)]);
        kept.merge(observed(&[failure(2), failure(3)]));
        assert_eq!(kept.facts(), [(2, false, 3), (3, false, 1)]);
        kept.merge(observed(&[of_a_troubled_webhook(answered(2, 1, 200, Step::Succeeded)), failure(2)]));
        assert_eq!(kept.facts(), [(2, true, 1), (3, false, 1)]);
    }

    #[test]
    fn what_is_kept_of_webhooks_is_bounded() {
        let many: Vec<TurnResult> =
            (0..MOST_KEPT as u128 + 10).map(|webhook| answered(webhook, 1, 500, RETRY)).collect();
        let mut kept = Observations::default();
        kept.merge(observed(&many));
        assert_eq!(kept.seen.len(), MOST_KEPT);
        kept.merge(observed(&many));
        assert!(kept.seen.values().all(|seen| seen.failures == 2));
    }

    #[test]
    fn the_longest_pause_that_a_receiver_asked_for_outlasts_successes_of_requests_that_were_out() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let told = |pause: Option<Instant>| {
            let mut result = answered(1, 1, 429, RETRY);
            if let Ending::Attempted(attempt, _) = &mut result.ending {
                attempt.paused_until = pause;
            }
            result
        };
        let batch =
            [told(Some(now + 2 * second)), told(Some(now + second)), told(None), answered(1, 1, 200, Step::Succeeded)];
        let mut seen = observed(&batch);
        let pause = |seen: &Observations| seen.seen.values().next().and_then(|seen| Some(seen.pause.as_ref()?.until));
        assert_eq!((seen.facts(), pause(&seen)), (vec![(1, true, 0)], Some(now + 2 * second)));
        seen.succeeded(WebhookId(Uuid::from_u128(1)), 2);
        assert_eq!((seen.facts(), pause(&seen)), (vec![(1, true, 0)], Some(now + 2 * second)));
    }

    #[test]
    fn a_receiver_that_is_gone_stays_gone_whatever_else_the_batch_holds() {
        let gone = |activation| answered(1, activation, 410, Step::Disable);
        let batch = [gone(4), gone(5), answered(1, 5, 200, Step::Succeeded)];
        assert_eq!(observed(&batch).seen[&Uuid::from_u128(1)].gone, Some(5));
    }
}

//! The path of one turn: the webhook as it is now, the attempt, what the delivery does next, and the report of it.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::turn::Turn;
use crate::delivery::{Attempt, ClosedReason, Delivery};
use crate::ids::WebhookId;
use crate::lanes::{Feedback, Pause};
use crate::millis;
use crate::retry::Step;
use crate::snapshot::{Snapshot, SnapshotState};
use crate::store::{Ending, Scope};

/// What a lane is told of a turn that is over.
#[derive(Clone, Copy)]
pub(super) struct TurnEnd {
    pub(super) feedback: Feedback,
    /// The time of the attempt alone, without the wait for the recorder. `None` without an attempt.
    pub(super) took: Option<Duration>,
}

impl TurnEnd {
    pub(super) const fn without_attempt(feedback: Feedback) -> Self {
        Self { feedback, took: None }
    }
}

/// Why a turn is not attempted now.
enum Obstacle {
    /// The webhook is off, disabled or deleted.
    Closed(ClosedReason),
    /// Its secret or headers cannot be decrypted before an operator brings a key back.
    Unsignable,
    Paused(Pause),
    /// Operators hold the webhook.
    Held,
    /// The webhook has a pace, and the turn has no grant, or not any more.
    NotGranted,
    /// The claim's lease could end during the attempt: another worker would claim the delivery then, and the receiver
    /// would get it twice.
    LeaseEnds,
}

impl Attempts {
    /// Attempts a turn, unless the worker ends before.
    pub(super) async fn attempt_unless_abandoned(&self, turn: Turn) -> TurnEnd {
        let _counted = self.metrics.count_in_flight();
        let release = turn.release();
        let ended = self.abandon.run_until_cancelled(self.attempt_until_reached(turn)).await;
        if let (None, Some(release)) = (ended, release) {
            // A recorder that is stuck has no room for it: the claim then ends with its lease.
            let _ = self.reports.try_send(release);
        }
        ended.unwrap_or(TurnEnd::without_attempt(Feedback::Nothing))
    }

    /// Attempts a turn again and again while it fails because this machine can reach no receiver.
    async fn attempt_until_reached(&self, mut turn: Turn) -> TurnEnd {
        let mut has_failed = false;
        loop {
            if !self.outage.permits(turn.delivery.webhook.id, has_failed).await {
                if let Some(release) = turn.release() {
                    self.report(release).await;
                }
                return TurnEnd::without_attempt(Feedback::Nothing);
            }
            match self.attempt(turn).await {
                Break(end) => {
                    if end.took.is_none() {
                        self.outage.probe_was_not_attempted();
                    }
                    return end;
                }
                Continue(again) => (turn, has_failed) = (again, true),
            }
        }
    }

    /// Attempts a turn and reports the result. Returns the turn if it is to be attempted again, for no receiver can be
    /// reached.
    async fn attempt(&self, mut turn: Turn) -> ControlFlow<TurnEnd, Turn> {
        if !turn.is_claimed() {
            self.holds.while_all(|| turn.has_lost_its_message()).await;
        }
        if turn.has_lost_its_message() {
            return Break(TurnEnd::without_attempt(Feedback::Nothing));
        }
        if turn.looked_up.elapsed() > self.lookup_lifetime {
            self.look_up_again(&mut turn).await;
        }
        if let Some(obstacle) = self.obstacle(&turn) {
            return Break(TurnEnd::without_attempt(self.end_unattempted(turn, obstacle).await));
        }
        let attempt = self.sender.attempt(&turn.delivery).await;
        let took = attempt.started.elapsed();
        self.note_attempt(&turn, &attempt);
        // A claim's lease must not end before its result is recorded.
        let longest = if turn.is_claimed() { self.claim_time_left(&turn) } else { Duration::MAX };
        if self.outage.is_the_cause(&turn.delivery, &attempt.outcome, longest).await {
            let trace_id = turn.delivery.event().trace_id().map(tracing::field::display);
            tracing::debug!(delivery_id = %turn.delivery.id.0, trace_id, "to be made again: no receiver can be reached");
            return Continue(turn);
        }
        let feedback = self.conclude(turn, attempt).await;
        Break(TurnEnd { feedback, took: Some(took) })
    }

    /// Decides what the delivery does next, counts, logs and reports the attempt.
    async fn conclude(&self, turn: Turn, mut attempt: Attempt) -> Feedback {
        attempt.paused_until = self.retry.pause(&attempt.outcome).map(|asked| attempt.ended() + asked);
        let step = self.retry.next_step(turn.delivery.attempt, &attempt.outcome, rand::random());
        self.count(&turn, &attempt, step);
        log(&turn.delivery, &attempt, step);
        let feedback = match attempt.paused_until {
            Some(until) => Feedback::Paused(Pause { until, by: turn.delivery.webhook.receiver() }),
            None => feedback(step),
        };
        self.report(turn.over(Ending::Attempted(attempt, step))).await;
        feedback
    }

    fn obstacle(&self, turn: &Turn) -> Option<Obstacle> {
        let webhook = &turn.delivery.webhook;
        let unsignable = match &webhook.state {
            SnapshotState::Active { secrets: Err(error), .. } => Some(error),
            _ => None,
        };
        match unsignable {
            Some(error) => self.unopened.note(webhook.id, error),
            None => self.unopened.forget(webhook.id),
        }
        if let Some(reason) = ClosedReason::of(webhook.state.standing()) {
            return Some(Obstacle::Closed(reason));
        }
        if self.holds.has(webhook.id, &turn.delivery.event().account_id) {
            return Some(Obstacle::Held);
        }
        if unsignable.is_some() {
            return Some(Obstacle::Unsignable);
        }
        if let Some(pause) = pause_of(webhook, Instant::now()) {
            return Some(Obstacle::Paused(pause));
        }
        if self.pace_of(webhook).is_some() && !turn.grant.holds(webhook.max_per_second.is_some(), Instant::now()) {
            return Some(Obstacle::NotGranted);
        }
        (turn.is_claimed() && self.claim_time_left(turn).is_zero()).then_some(Obstacle::LeaseEnds)
    }

    async fn end_unattempted(&self, turn: Turn, obstacle: Obstacle) -> Feedback {
        let feedback = match obstacle {
            Obstacle::Closed(reason) => {
                self.close(turn, reason).await;
                return Feedback::Nothing;
            }
            Obstacle::Unsignable => Feedback::Unsignable,
            Obstacle::Paused(pause) => Feedback::Paused(pause),
            // The worker stops before the consumer has given its messages back: dropping the turn does that.
            Obstacle::Held if !turn.is_claimed() && self.holds.has_all() => return Feedback::Nothing,
            Obstacle::Held | Obstacle::NotGranted | Obstacle::LeaseEnds => Feedback::Nothing,
        };
        self.turn_away(turn).await;
        feedback
    }

    /// For how long an attempt of a claimed turn may still begin, or be held before its result is recorded.
    fn claim_time_left(&self, turn: &Turn) -> Duration {
        self.claim_lifetime.saturating_sub(turn.looked_up.elapsed())
    }

    /// Reads the webhook of a turn again. Waits while the database is away, for then no result could be recorded either.
    async fn look_up_again(&self, turn: &mut Turn) {
        let known = &turn.delivery.webhook;
        let newest = self.lookups.get(known.id, async || self.snapshot(known.id).await).await;
        turn.delivery.webhook = known.updated_to(newest.as_ref());
    }

    async fn snapshot(&self, webhook: WebhookId) -> Option<Snapshot> {
        let mut stall = self.stalls.wait();
        loop {
            match self.store.snapshot(&self.keyring, Scope::Everyone, webhook).await {
                Ok(newest) => {
                    stall.over();
                    return newest;
                }
                Err(error) => stall.after("cannot look up a webhook, waiting", &error).await,
            }
        }
    }

    fn count(&self, turn: &Turn, attempt: &Attempt, step: Step) {
        self.metrics.attempts.count(attempt.outcome.error(), &turn.delivery.event().event_type);
        self.metrics.attempt_duration.observe(attempt.duration.as_secs_f64());
        // An attempt that is repeated failed by our own fault: it is no verdict.
        if let Some(received) = turn.received.filter(|_| !matches!(step, Step::RepeatIn(_))) {
            self.metrics.first_verdict.observe(attempt.ended().saturating_duration_since(received));
        }
        if let Some(reason) = step.closes() {
            self.metrics.closed.count(reason.as_str());
        }
    }
}

/// The pause that a webhook was in when it was read, unless it is over.
pub(super) fn pause_of(webhook: &Snapshot, now: Instant) -> Option<Pause> {
    let until = webhook.paused_until.filter(|until| now < *until)?;
    Some(Pause { until, by: webhook.receiver() })
}

/// What a step says about the receiver.
fn feedback(step: Step) -> Feedback {
    match step {
        Step::Succeeded => Feedback::Succeeded,
        Step::RetryIn(_) | Step::Exhausted | Step::Disable => Feedback::Failed,
        Step::RepeatIn(_) => Feedback::Nothing,
    }
}

/// The one line that an attempt leaves in the log.
fn log(delivery: &Delivery, attempt: &Attempt, step: Step) {
    let (next, retry_in_ms) = match step {
        Step::Succeeded => ("succeeded", None),
        Step::RetryIn(wait) => ("retry", Some(wait)),
        Step::RepeatIn(wait) => ("repeat", Some(wait)),
        Step::Exhausted => ("exhausted", None),
        Step::Disable => ("disable", None),
    };
    tracing::info!(
        webhook_id = %delivery.webhook.id,
        delivery_id = %delivery.id.0,
        event_id = %delivery.event().id,
        event_type = %delivery.event().event_type,
        trace_id = delivery.event().trace_id().map(tracing::field::display),
        trigger = delivery.trigger.as_str(),
        attempt = delivery.attempt,
        http_status = attempt.outcome.http_status(),
        error = attempt.outcome.error(),
        error_detail = attempt.outcome.error_detail(),
        duration_ms = millis(attempt.duration),
        next,
        retry_in_ms = retry_in_ms.map(millis),
        paused_ms = attempt.paused_until.map(|until| millis(until - attempt.ended())),
        "attempt"
    );
}

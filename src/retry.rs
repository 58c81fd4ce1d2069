//! Decides what happens to a delivery after an attempt. Pure: the caller brings random numbers.

use std::time::Duration;

use serde::Deserialize;

use crate::bounds::{self, DAY};
use crate::delivery::{AttemptError, ClosedReason, Outcome};

/// The HTTP status of a receiver that is gone for good (RFC 9110, 15.5.11).
const GONE: u16 = 410;
/// The HTTP statuses of a receiver that gets too many requests (RFC 6585, 4; RFC 9110, 15.6.4).
const OVERLOADED: [u16; 2] = [429, 503];
/// The longest pause that a receiver can ask for. Without it a wrong value would keep events from a webhook for days.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// When a delivery is tried again. The settings of `[retry]`.
#[derive(Debug, Clone, Deserialize)]
pub struct RetryPolicy {
    /// Waits before attempts 2, 3, …: a delivery gets one attempt more than this has entries.
    #[serde(deserialize_with = "bounds::durations::<_, 100, { 30 * DAY }>")]
    pub schedule: Vec<Duration>,
    /// Each wait is varied at random by up to this share of itself.
    #[serde(deserialize_with = "bounds::up_to_half")]
    pub jitter: f64,
    /// How far a receiver's `Retry-After` can delay an attempt.
    #[serde(deserialize_with = "bounds::duration::<_, 0, { 7 * DAY }>")]
    pub max_retry_after: Duration,
    /// The wait after a failure of our own, which costs no attempt.
    #[serde(deserialize_with = "bounds::duration::<_, 100, DAY>")]
    pub internal_delay: Duration,
}

/// What happens to a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The delivery is done.
    Succeeded,
    /// The next attempt follows after this wait.
    RetryIn(Duration),
    /// The same attempt is made again after this wait, because the failure was our own.
    RepeatIn(Duration),
    /// The last attempt failed.
    Exhausted,
    /// The receiver is gone for good.
    Disable,
}

impl Step {
    /// The reason for closing the delivery; `None` if it succeeded or is tried again.
    pub fn closes(self) -> Option<ClosedReason> {
        match self {
            Self::Exhausted => Some(ClosedReason::Exhausted),
            Self::Disable => Some(ClosedReason::Disabled),
            Self::Succeeded | Self::RetryIn(_) | Self::RepeatIn(_) => None,
        }
    }
}

impl RetryPolicy {
    /// What follows attempt number `attempt`, counted from 1. `dice` is random, uniform in 0..1.
    pub fn next_step(&self, attempt: u32, outcome: &Outcome, dice: f64) -> Step {
        match outcome {
            Outcome::Answered(answer) if answer.is_success() => Step::Succeeded,
            Outcome::Answered(answer) if answer.status == GONE => Step::Disable,
            Outcome::Answered(answer) => self.retry(attempt, answer.retry_after, dice),
            Outcome::Failed(AttemptError::Internal | AttemptError::CutOff) => {
                Step::RepeatIn(self.jittered(self.internal_delay, dice))
            }
            Outcome::Failed(_) => self.retry(attempt, None, dice),
        }
    }

    /// For how long the receiver asked for no requests at all; `None` if it did not. At most an hour and `max_retry_after`.
    pub fn pause(&self, outcome: &Outcome) -> Option<Duration> {
        let Outcome::Answered(answer) = outcome else { return None };
        let asked = answer.retry_after.filter(|_| OVERLOADED.contains(&answer.status))?;
        Some(asked.min(self.max_retry_after).min(LONGEST_PAUSE)).filter(|pause| !pause.is_zero())
    }

    /// `Retry-After` delays the attempt beyond the schedule, up to `max_retry_after`; it never makes it earlier.
    fn retry(&self, attempt: u32, retry_after: Option<Duration>, dice: f64) -> Step {
        let made = usize::try_from(attempt).unwrap_or(usize::MAX);
        let Some(wait) = made.checked_sub(1).and_then(|index| self.schedule.get(index)) else {
            return Step::Exhausted;
        };
        let asked = retry_after.unwrap_or_default().min(self.max_retry_after);
        Step::RetryIn(self.jittered(*wait, dice).max(asked))
    }

    fn jittered(&self, wait: Duration, dice: f64) -> Duration {
        wait.mul_f64(1.0 + self.jitter * (2.0 * dice - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Answer, ErrorDetail};
    use proptest::prelude::*;

    fn policy(schedule: Vec<Duration>, jitter: f64) -> RetryPolicy {
        let day = Duration::from_secs(86_400);
        RetryPolicy { schedule, jitter, max_retry_after: day, internal_delay: Duration::from_secs(300) }
    }

    fn answered(status: u16, retry_after: Option<Duration>) -> Outcome {
        Outcome::Answered(Answer { status, retry_after, ..Answer::default() })
    }

    fn seconds() -> impl Strategy<Value = Duration> {
        (0..1_000_000_u64).prop_map(Duration::from_secs)
    }

    proptest! {
        #[test]
        fn a_failure_waits_the_schedule_give_or_take_the_jitter(
            schedule in proptest::collection::vec(seconds(), 0..20),
            jitter in 0.0..0.5_f64, attempt in 1..25_u32, dice in 0.0..1.0_f64, status in 300..600_u16,
        ) {
            prop_assume!(status != GONE);
            let step = policy(schedule.clone(), jitter).next_step(attempt, &answered(status, None), dice);
            match schedule.get(attempt as usize - 1) {
                None => prop_assert_eq!(step, Step::Exhausted),
                Some(wait) => {
                    let Step::RetryIn(actual) = step else { return Err(TestCaseError::fail("no retry")) };
                    let off = actual.as_secs_f64() - wait.as_secs_f64();
                    prop_assert!(off.abs() <= jitter * wait.as_secs_f64() + 1e-6);
                }
            }
        }

        #[test]
        fn retry_after_only_pushes_later_and_never_past_a_day(
            wait in seconds(), asked in any::<u64>().prop_map(Duration::from_secs), dice in 0.0..1.0_f64,
        ) {
            let policy = policy(vec![wait], 0.1);
            let Step::RetryIn(plain) = policy.next_step(1, &answered(503, None), dice) else { unreachable!() };
            let Step::RetryIn(pushed) = policy.next_step(1, &answered(503, Some(asked)), dice) else { unreachable!() };
            prop_assert_eq!(pushed, plain.max(asked.min(policy.max_retry_after)));
        }

        #[test]
        fn every_2xx_is_a_success_and_nothing_else(status in 100..1000_u16, attempt in 1..12_u32) {
            let step = policy(vec![Duration::ZERO; 9], 0.1).next_step(attempt, &answered(status, None), 0.5);
            prop_assert_eq!(step == Step::Succeeded, (200..300).contains(&status));
        }
    }

    #[test]
    fn a_receiver_that_is_overloaded_and_says_for_how_long_pauses_its_webhook_for_an_hour_at_most() {
        let seconds = Duration::from_secs;
        let pause = |status, asked| policy(vec![], 0.0).pause(&answered(status, asked));
        for status in OVERLOADED {
            assert_eq!(pause(status, Some(seconds(7))), Some(seconds(7)));
            assert_eq!(pause(status, Some(seconds(86_400))), Some(seconds(3600)));
            assert_eq!(pause(status, Some(Duration::ZERO)), None);
            assert_eq!(pause(status, None), None);
        }
        for status in [200, 301, 404, 410, 500, 502] {
            assert_eq!(pause(status, Some(seconds(7))), None, "{status}");
        }
        assert_eq!(policy(vec![], 0.0).pause(&Outcome::Failed(ErrorDetail::ResponseTimeout.into())), None);
        let ours = RetryPolicy { max_retry_after: seconds(2), ..policy(vec![], 0.0) };
        assert_eq!(ours.pause(&answered(429, Some(seconds(7)))), Some(seconds(2)));
    }

    #[test]
    fn the_dice_reach_both_ends_of_the_jitter() {
        let policy = policy(vec![Duration::from_secs(100)], 0.1);
        let at = |dice| policy.next_step(1, &Outcome::Failed(ErrorDetail::ResponseTimeout.into()), dice);
        assert_eq!(at(0.0), Step::RetryIn(Duration::from_secs(90)));
        assert_eq!(at(0.5), Step::RetryIn(Duration::from_secs(100)));
        assert_eq!(at(1.0), Step::RetryIn(Duration::from_secs(110)));
    }

    #[test]
    fn gone_disables_and_our_own_failure_costs_no_attempt() {
        let policy = policy(vec![], 0.0);
        assert_eq!(policy.next_step(1, &answered(410, None), 0.5), Step::Disable);
        let internal = Outcome::Failed(AttemptError::Internal);
        assert_eq!(policy.next_step(99, &internal, 0.5), Step::RepeatIn(Duration::from_secs(300)));
    }
}

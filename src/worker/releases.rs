//! Carries out the releases of holds. Several workers may work on one, and any goes on where another has ended.
//!
//! One step of each release is made in turn, so that none waits for a long one. A release that fails, or whose next webhook is
//! locked, is tried again after a wait of its own, and the others go on meanwhile.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::attempts::Attempts;
use super::stalls::DatabaseWait;
use crate::hold::{Held, Hold};
use crate::store::{Locked, Reached, ReleaseStep, StoreError};

/// The wait after a step that found others at work. It doubles up to [`AGAIN_AT_MOST`].
const AGAIN_AFTER: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(1);
/// Once steps have got nowhere for so long, the next one waits for the lock, and fails if it gets none: so the operator is told
/// which webhook a session that was left open has locked.
const WAIT_FOR_LOCK_AFTER: Duration = Duration::from_secs(2);
const PART: &str = "cannot release what was held";

/// Runs until it is dropped: then a step may be half done, and its transaction is ended or rolled back.
pub(super) async fn run(attempts: &Attempts, rate: u32) {
    let (mut courses, mut stall) = (HashMap::new(), attempts.stalls.wait_apart());
    loop {
        attempts.holds.releasing().await;
        match step_all(attempts, rate, &mut courses).await {
            Ok(()) => {
                stall.over();
                let next = courses.values().map(|course| course.next).min();
                let at_most = Instant::now() + AGAIN_AT_MOST;
                tokio::time::sleep_until(next.map_or(Instant::now() + AGAIN_AFTER, |next| next.min(at_most))).await;
            }
            Err(error) => stall.after(PART, &error).await,
        }
    }
}

/// Makes one step of each release whose turn it is.
async fn step_all<'a>(
    attempts: &'a Attempts,
    rate: u32,
    courses: &mut HashMap<Uuid, Course<'a>>,
) -> Result<(), StoreError> {
    let mut holds = attempts.store.holds().await?;
    holds.retain(|hold| hold.release.is_some());
    courses.retain(|id, _| holds.iter().any(|hold| hold.id == *id));
    let mut progress = false;
    for hold in &holds {
        let course = courses.entry(hold.id).or_insert_with(|| Course::new(attempts.stalls.wait_apart()));
        if course.next > Instant::now() {
            continue;
        }
        let locked = course.locked(Instant::now());
        match attempts.store.step_release(hold, &mut course.reached, rate, locked).await {
            Ok(step) => {
                course.made(step, Instant::now());
                progress |= step != ReleaseStep::Skipped;
                if let ReleaseStep::Freed | ReleaseStep::Ended = step {
                    attempts.holds.changed();
                }
                if step == ReleaseStep::Ended {
                    courses.remove(&hold.id);
                    log_end(hold);
                }
            }
            Err(error) => course.failed(&error),
        }
    }
    if !progress {
        attempts.holds.changed();
    }
    Ok(())
}

/// How this worker gets on with one release.
struct Course<'a> {
    reached: Option<Reached>,
    /// When the next step is to be made.
    next: Instant,
    skipping: Option<Skipping>,
    stall: DatabaseWait<'a>,
}

/// Steps in a row that were skipped.
#[derive(Debug, Clone, Copy)]
struct Skipping {
    since: Instant,
    wait: Duration,
}

impl<'a> Course<'a> {
    fn new(stall: DatabaseWait<'a>) -> Self {
        Self { reached: None, next: Instant::now(), skipping: None, stall }
    }

    fn locked(&self, now: Instant) -> Locked {
        match self.skipping {
            Some(skipping) if now - skipping.since >= WAIT_FOR_LOCK_AFTER => Locked::WaitFor,
            _ => Locked::Skip,
        }
    }

    fn made(&mut self, step: ReleaseStep, now: Instant) {
        if step == ReleaseStep::Skipped {
            let first = Skipping { since: now, wait: AGAIN_AFTER };
            let skipping = self.skipping.get_or_insert(first);
            self.next = now + skipping.wait;
            skipping.wait = (skipping.wait * 2).min(AGAIN_AT_MOST);
            return;
        }
        self.stall.over();
        (self.next, self.skipping) = (now, None);
    }

    fn failed(&mut self, error: &StoreError) {
        self.next = Instant::now() + self.stall.failed(PART, error);
    }
}

fn log_end(hold: &Hold) {
    const ENDED: &str = "a hold has ended; what waited is sent";
    match &hold.held {
        Held::Webhook(webhook) => tracing::info!(webhook_id = %webhook, "{ENDED}"),
        Held::Account(account) => tracing::info!(account_id = account.as_str(), "{ENDED}"),
        Held::All => tracing::info!(everything = true, "{ENDED}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::worker::stalls::Stalls;

    #[test]
    fn a_release_that_finds_others_at_work_waits_longer_each_time_and_then_for_the_lock() {
        let stalls = Stalls::new(Metrics::default());
        let mut course = Course::new(stalls.wait_apart());
        let (mut waits, mut now) = (Vec::new(), Instant::now());
        while course.locked(now) == Locked::Skip {
            course.made(ReleaseStep::Skipped, now);
            waits.push((course.next - now).as_millis());
            now = course.next;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000]);
        course.made(ReleaseStep::Freed, now);
        assert_eq!((course.locked(now), course.next), (Locked::Skip, now));
    }
}

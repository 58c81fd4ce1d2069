//! Runs attempts side by side, as many as there is room for, and reports what came of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::recorder::Report;
use super::share::Share;
use super::stalls::Stalls;
use crate::delivery::{Attempt, ClosedReason, Delivery};
use crate::metrics::{Metrics, Outcome, Reason};
use crate::millis;
use crate::retry::{RetryPolicy, Step};
use crate::secret::Keyring;
use crate::sender::Sender;
use crate::store::{Ending, Finished, Store};
use crate::webhook::SnapshotState;

pub(super) struct Attempts {
    pub(super) sender: Sender,
    pub(super) store: Store,
    pub(super) keyring: Arc<Keyring>,
    pub(super) retry: RetryPolicy,
    pub(super) lookup_lifetime: Duration,
    /// One permit per request in flight.
    pub(super) room: Arc<Semaphore>,
    pub(super) stalls: Stalls,
    pub(super) metrics: Metrics,
    pub(super) under_way: TaskTracker,
    pub(super) abandon: CancellationToken,
    pub(super) reports: mpsc::Sender<Report>,
}

/// A delivery whose turn it is.
pub(super) struct Turn {
    pub(super) delivery: Delivery,
    pub(super) origin: Origin,
    /// When its webhook was read.
    pub(super) looked_up: Instant,
}

/// Where a delivery came from, and so what is owed once its result is recorded.
pub(super) enum Origin {
    Message(Share),
    Claim(i64),
}

impl Attempts {
    /// Starts a turn; its room is free again when the result is reported.
    pub(super) fn start(self: &Arc<Self>, turn: Turn, room: OwnedSemaphorePermit) {
        let attempts = self.clone();
        self.under_way.spawn(async move {
            let _counted = attempts.metrics.count_in_flight();
            let given_back = turn.give_back();
            let taken = attempts.abandon.run_until_cancelled(attempts.take(turn)).await;
            if let (None, Some(given_back)) = (taken, given_back) {
                // A recorder that is stuck makes no room, and the stop waits for us. Without it the lease ends later.
                let _ = attempts.reports.try_send(given_back);
            }
            drop(room);
        });
    }

    /// Reports a delivery that ends without an attempt.
    pub(super) async fn close(&self, turn: Turn, reason: ClosedReason) {
        self.metrics.closed.get_or_create(&Reason { reason: reason.as_str() }).inc();
        tracing::info!(
            webhook_id = %turn.delivery.webhook.id,
            delivery_id = %turn.delivery.id.0,
            reason = reason.as_str(),
            "closed a delivery"
        );
        self.report(Some(turn.finished(Ending::NotAttempted(reason)))).await;
    }

    /// The path of one delivery: current webhook, attempt, step, report.
    async fn take(&self, mut turn: Turn) {
        if matches!(&turn.origin, Origin::Message(share) if !share.is_usable()) {
            // The broker hands the message to somebody else.
            return;
        }
        if turn.looked_up.elapsed() > self.lookup_lifetime {
            self.look_up_again(&mut turn).await;
        }
        match turn.delivery.webhook.state {
            SnapshotState::Active { .. } => {}
            SnapshotState::Disabled => return self.close(turn, ClosedReason::Disabled).await,
            SnapshotState::Off => return self.close(turn, ClosedReason::Cancelled).await,
        }
        let attempt = self.sender.attempt(&turn.delivery).await;
        let step = self.retry.next_step(turn.delivery.attempt, &attempt.outcome, rand::random());
        self.count(&attempt, step);
        log(&turn.delivery, &attempt, step);
        self.report(Some(turn.finished(Ending::Attempted(attempt, step)))).await;
    }

    /// Without the database nothing could be recorded either, so it waits.
    async fn look_up_again(&self, turn: &mut Turn) {
        let mut stall = None;
        let now = loop {
            match self.store.snapshot(&self.keyring, turn.delivery.webhook.id).await {
                Ok(now) => break now,
                Err(error) => self.stalls.wait(&mut stall, "cannot look up a webhook, waiting", &error).await,
            }
        };
        let owed = &turn.delivery.webhook;
        turn.delivery.webhook = Arc::new(owed.as_of(now));
    }

    fn count(&self, attempt: &Attempt, step: Step) {
        let outcome = attempt.outcome.error().unwrap_or("success");
        self.metrics.attempts.get_or_create(&Outcome { outcome }).inc();
        self.metrics.attempt_duration.observe(attempt.duration.as_secs_f64());
        if let Some(reason) = step.closes() {
            self.metrics.closed.get_or_create(&Reason { reason: reason.as_str() }).inc();
        }
    }

    pub(super) async fn report(&self, report: Option<Report>) {
        if let Some(report) = report {
            // The recorder ends after all attempts, except when it gives up.
            let _ = self.reports.send(report).await;
        }
    }
}

impl Turn {
    fn finished(self, ending: Ending) -> Report {
        let (claim, share) = match self.origin {
            Origin::Message(share) => (None, Some(share)),
            Origin::Claim(claim) => (Some(claim), None),
        };
        Report::Finished(Finished { delivery: self.delivery, claim, ending }, share)
    }

    /// A claim must be given back in words; a message is by dropping its share.
    fn give_back(&self) -> Option<Report> {
        match self.origin {
            Origin::Message(_) => None,
            Origin::Claim(claim) => Some(Report::Released(self.delivery.id, claim)),
        }
    }
}

/// The one line an attempt leaves.
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
        trigger = delivery.trigger.as_str(),
        attempt = delivery.attempt,
        http_status = attempt.outcome.http_status(),
        error = attempt.outcome.error(),
        duration_ms = millis(attempt.duration),
        next,
        retry_in_ms = retry_in_ms.map(millis),
        "attempt"
    );
}

//! Keeps turns from being attempted while nobody can be reached from here, so that no receiver is blamed for it.
//!
//! Attempts that fail then are made again, and count for nothing. One a second is made meanwhile, as a probe; whatever
//! comes back ends the outage for all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use crate::delivery::{AttemptError, Delivery, Outcome};
use crate::egress::{Egress, Sign, Standing, WINDOW};
use crate::ids::WebhookId;
use crate::metrics::Metrics;
use crate::millis;
use crate::snapshot::SnapshotState;

/// Between two probes.
const PROBED_EVERY: Duration = Duration::from_secs(1);
/// After an outage lanes look as if their receivers were slow, until the first attempts have ended.
const UNSETTLED_FOR: Duration = Duration::from_secs(1);

pub(super) struct WayOut {
    inner: Mutex<Inner>,
    state: watch::Sender<State>,
    metrics: Metrics,
    stop: CancellationToken,
}

#[derive(Default)]
struct Inner {
    egress: Egress,
    /// Turns that wait for the end, or to be the next probe.
    waiting: VecDeque<(WebhookId, oneshot::Sender<()>)>,
    /// The webhook that succeeded last: the first to be probed.
    likeliest: Option<WebhookId>,
    /// When a delivery was last claimed in an outage.
    claimed: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    out: bool,
    /// Answers that somebody waited for.
    answers: u64,
    ended: Option<Instant>,
}

/// Gives a probe its turn every second, and notices an outage although nothing fails any more.
pub(super) async fn run(attempts: Arc<Attempts>) {
    let way_out = &attempts.way_out;
    while way_out.stop.run_until_cancelled(tokio::time::sleep(PROBED_EVERY)).await.is_some() {
        way_out.look();
    }
}

impl WayOut {
    pub(super) fn new(metrics: Metrics, stop: CancellationToken) -> Self {
        Self { inner: Mutex::default(), state: watch::Sender::default(), metrics, stop }
    }

    fn look(&self) {
        if self.is_out_now() {
            self.inner().probe();
        }
    }

    fn is_out_now(&self) -> bool {
        self.judge(|egress| egress.standing(Instant::now())) == Standing::Out
    }

    /// Asks the rule; an outage may begin here.
    fn judge(&self, ask: impl FnOnce(&mut Egress) -> Standing) -> Standing {
        let mut inner = self.inner();
        let was_out = inner.egress.is_out();
        let standing = ask(&mut inner.egress);
        if standing == Standing::Out && !was_out {
            self.metrics.egress_out.set(1);
            self.state.send_modify(|state| state.out = true);
            tracing::warn!("no receiver can be reached from this machine: nothing is taken until one answers");
        }
        standing
    }

    /// Waits while nobody can be reached; one that was not attempted yet is probed before those that have failed. Whether
    /// the turn is to be attempted then: not if the worker stops.
    pub(super) async fn passes(&self, webhook: WebhookId, has_failed: bool) -> bool {
        let ended = {
            let mut inner = self.inner();
            if !inner.egress.is_out() {
                return !(has_failed && self.stop.is_cancelled());
            }
            let (permit, ended) = oneshot::channel();
            match has_failed {
                true => inner.waiting.push_back((webhook, permit)),
                false => inner.waiting.push_front((webhook, permit)),
            }
            ended
        };
        // At the end the other half is dropped.
        self.stop.run_until_cancelled(ended).await.is_some()
    }

    /// A probe ended without an attempt: another is made in its place.
    pub(super) fn was_no_probe(&self) {
        let mut inner = self.inner();
        if inner.egress.is_out() {
            inner.probe();
        }
    }

    /// Whether an attempt failed because nobody can be reached from here, or must be made again because the worker stops
    /// before that is known. Waits for the answer while it is doubtful, but no longer than `patience`.
    pub(super) async fn is_to_blame(&self, delivery: &Delivery, outcome: &Outcome, patience: Duration) -> bool {
        match Sign::of(outcome) {
            Sign::Nothing => false,
            Sign::Answered => {
                self.answered(delivery.webhook.id, outcome.is_success());
                false
            }
            Sign::Unreached => {
                // Before it is noted, so that no answer after it is missed.
                let mut state = self.state.subscribe();
                let answers = state.borrow_and_update().answers;
                match self.unreached(delivery) {
                    Standing::Well => false,
                    Standing::Out => true,
                    // It counts for nothing in any case.
                    Standing::Doubtful if matches!(outcome, Outcome::Failed(AttemptError::CutOff)) => false,
                    Standing::Doubtful => {
                        let decided = state.wait_for(|state| state.out || state.answers != answers);
                        let patience = patience.min(WINDOW + PROBED_EVERY);
                        match self.stop.run_until_cancelled(tokio::time::timeout(patience, decided)).await {
                            None => true,
                            Some(Ok(state)) => state.is_ok_and(|state| state.out),
                            Some(Err(_)) => self.is_out_now(),
                        }
                    }
                }
            }
        }
    }

    /// Whether deliveries may be claimed: in an outage one a second, so that not only those in hand are probed, whose
    /// receivers may all be dead.
    pub(super) fn takes_claims(&self) -> bool {
        let (mut inner, now) = (self.inner(), Instant::now());
        if !inner.egress.is_out() {
            return true;
        }
        let takes = inner.claimed.is_none_or(|last| now - last >= PROBED_EVERY);
        if takes {
            inner.claimed = Some(now);
        }
        takes
    }

    /// Likewise, before a turn of a broker message is taken in hand.
    pub(super) async fn until_it_takes_a_turn(&self) {
        if self.is_out() {
            let mut state = self.state.subscribe();
            let _ = tokio::time::timeout(PROBED_EVERY, state.wait_for(|state| !state.out)).await;
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.state.borrow().out
    }

    /// Whether that a turn waits long may be the fault of an outage.
    pub(super) fn is_unsettled(&self) -> bool {
        let state = *self.state.borrow();
        state.out || state.ended.is_some_and(|ended| ended.elapsed() < UNSETTLED_FOR)
    }

    fn answered(&self, webhook: WebhookId, success: bool) {
        let mut inner = self.inner();
        if success {
            inner.likeliest = Some(webhook);
        }
        let now = Instant::now();
        if let Some(lasted) = inner.egress.answered(now) {
            inner.waiting.clear();
            self.metrics.egress_out.set(0);
            self.state.send_modify(|state| *state = State { out: false, ended: Some(now), answers: state.answers + 1 });
            tracing::info!(after_ms = millis(lasted), "receivers can be reached again");
        } else if self.state.receiver_count() > 0 {
            self.state.send_modify(|state| state.answers += 1);
        }
    }

    fn unreached(&self, delivery: &Delivery) -> Standing {
        let host = host(delivery);
        self.judge(|egress| egress.unreached(&delivery.event().account_id, &host, Instant::now()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Lets one turn pass: at first one of the webhook that succeeded last, then all in turn.
    fn probe(&mut self) {
        if let Some(likeliest) = self.likeliest.take()
            && let Some(index) = self.waiting.iter().position(|(webhook, _)| *webhook == likeliest)
            && let Some(first) = self.waiting.remove(index)
        {
            self.waiting.push_front(first);
        }
        while let Some((_, permit)) = self.waiting.pop_front() {
            // Whoever was abandoned does not take it.
            if permit.send(()).is_ok() {
                return;
            }
        }
    }
}

fn host(delivery: &Delivery) -> String {
    let SnapshotState::Active { url, .. } = &delivery.webhook.state else { return String::new() };
    let parsed = url::Url::parse(url).ok();
    parsed.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

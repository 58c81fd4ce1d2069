//! Holds attempts back while this machine can reach no receiver, so that no receiver is blamed for it. The rule that tells
//! such an outage from receivers that are down is in [`egress`](crate::egress).
//!
//! Attempts that fail in an outage are made again, and count for nothing. Meanwhile one attempt a second is made as a
//! probe; any answer ends the outage for all.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::delivery::{AttemptError, Delivery, Outcome};
use crate::egress::{Egress, Reachability, Sign, WINDOW};
use crate::ids::WebhookId;
use crate::metrics::Metrics;
use crate::millis;

const PROBED_EVERY: Duration = Duration::from_secs(1);
/// For so long after an outage lanes look as if their receivers were slow: the first attempts have not ended yet.
const UNSETTLED_FOR: Duration = Duration::from_secs(1);

pub(super) struct EgressOutage {
    inner: Mutex<Inner>,
    state: watch::Sender<State>,
    metrics: Metrics,
    stop: CancellationToken,
}

#[derive(Default)]
struct Inner {
    egress: Egress,
    /// Turns that wait for the end of the outage, or to be the next probe.
    waiting: VecDeque<(WebhookId, oneshot::Sender<()>)>,
    /// The webhook that succeeded last: the first to be probed.
    last_success: Option<WebhookId>,
    /// When a delivery was last claimed in this or an earlier outage.
    claimed: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    out: bool,
    /// Answers counted while an attempt waited in `is_the_cause`.
    answers: u64,
    /// When the last outage ended.
    ended: Option<Instant>,
}

impl EgressOutage {
    pub(super) fn new(metrics: Metrics, stop: CancellationToken) -> Self {
        Self { inner: Mutex::default(), state: watch::Sender::default(), metrics, stop }
    }

    /// Until the stop: permits one probe a second in an outage. Detects also an outage in which nothing fails any more,
    /// because nothing is attempted.
    pub(super) async fn probe_regularly(&self) {
        while self.stop.run_until_cancelled(tokio::time::sleep(PROBED_EVERY)).await.is_some() {
            if self.is_out_now() {
                self.inner().permit_probe();
            }
        }
    }

    fn is_out_now(&self) -> bool {
        self.judge(|egress| egress.reachability(Instant::now())) == Reachability::Out
    }

    /// Asks the rule, and begins an outage if the rule says so.
    fn judge(&self, ask: impl FnOnce(&mut Egress) -> Reachability) -> Reachability {
        let mut inner = self.inner();
        let was_out = inner.egress.is_out();
        let reachability = ask(&mut inner.egress);
        if reachability == Reachability::Out && !was_out {
            self.metrics.egress_out.set(1);
            self.state.send_modify(|state| state.out = true);
            tracing::warn!("no receiver can be reached from this machine: nothing is taken until one answers");
        }
        reachability
    }

    /// Waits in an outage until it ends, or until the turn is the next probe: turns that have not failed yet come first.
    /// Returns whether the turn is to be attempted: not if the worker stops.
    pub(super) async fn permits(&self, webhook: WebhookId, has_failed: bool) -> bool {
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
        // The end of the outage drops the other half, which wakes this one, too.
        self.stop.run_until_cancelled(ended).await.is_some()
    }

    /// A permitted turn ended without an attempt: in an outage another turn is the probe instead.
    pub(super) fn probe_was_not_attempted(&self) {
        let mut inner = self.inner();
        if inner.egress.is_out() {
            inner.permit_probe();
        }
    }

    /// Whether an attempt has to be made again: an outage is the cause of its failure, or the worker stops before that is
    /// known. While it is doubtful this waits for what others' attempts show, but no longer than `longest`.
    pub(super) async fn is_the_cause(&self, delivery: &Delivery, outcome: &Outcome, longest: Duration) -> bool {
        match Sign::of(outcome) {
            Sign::Nothing => false,
            Sign::Answered => {
                self.answered(delivery.webhook.id, outcome.is_success());
                false
            }
            Sign::Unreached => self.caused_unreached(delivery, outcome, longest).await,
        }
    }

    /// For an attempt that reached no receiver: whether an outage is the cause.
    async fn caused_unreached(&self, delivery: &Delivery, outcome: &Outcome, longest: Duration) -> bool {
        // Subscribed before the failure is noted, so that no answer after it is missed.
        let mut state = self.state.subscribe();
        let answers = state.borrow_and_update().answers;
        match self.unreached(delivery) {
            Reachability::Well => false,
            Reachability::Out => true,
            // A request that was cut off costs the delivery no attempt in any case.
            Reachability::Doubtful if matches!(outcome, Outcome::Failed(AttemptError::CutOff)) => false,
            Reachability::Doubtful => {
                let decided = state.wait_for(|state| state.out || state.answers != answers);
                let longest = longest.min(WINDOW + PROBED_EVERY);
                match self.stop.run_until_cancelled(tokio::time::timeout(longest, decided)).await {
                    None => true,
                    Some(Ok(state)) => state.is_ok_and(|state| state.out),
                    Some(Err(_)) => self.is_out_now(),
                }
            }
        }
    }

    /// Whether deliveries may be claimed now. In an outage that is so once a second: the receivers of all turns in hand may
    /// be dead, and others have to be probed, too.
    pub(super) fn permits_claims(&self) -> bool {
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

    /// In an outage delays each turn of a broker message by a second, unless the outage ends before.
    pub(super) async fn delay_intake(&self) {
        if self.is_out() {
            let mut state = self.state.subscribe();
            let _ = tokio::time::timeout(PROBED_EVERY, state.wait_for(|state| !state.out)).await;
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.state.borrow().out
    }

    /// Whether turns may have waited long because of an outage, and not because of their receivers.
    pub(super) fn is_unsettled(&self) -> bool {
        let state = *self.state.borrow();
        state.out || state.ended.is_some_and(|ended| ended.elapsed() < UNSETTLED_FOR)
    }

    fn answered(&self, webhook: WebhookId, success: bool) {
        let mut inner = self.inner();
        if success {
            inner.last_success = Some(webhook);
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

    fn unreached(&self, delivery: &Delivery) -> Reachability {
        let host = host(delivery);
        self.judge(|egress| egress.unreached(&delivery.event().account_id, &host, Instant::now()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Permits one turn: at first one of the webhook that succeeded last, then all in turn.
    fn permit_probe(&mut self) {
        if let Some(last) = self.last_success.take()
            && let Some(index) = self.waiting.iter().position(|(webhook, _)| *webhook == last)
            && let Some(first) = self.waiting.remove(index)
        {
            self.waiting.push_front(first);
        }
        while let Some((_, permit)) = self.waiting.pop_front() {
            // A turn whose task has ended takes no permit.
            if permit.send(()).is_ok() {
                return;
            }
        }
    }
}

fn host(delivery: &Delivery) -> String {
    let parsed = delivery.webhook.url().and_then(|url| url::Url::parse(url).ok());
    parsed.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

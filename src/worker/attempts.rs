//! Runs attempts side by side, as many as there is room for, and reports what came of each.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lookups::Lookups;
use super::recorder::Report;
use super::share::Share;
use super::stalls::Stalls;
use super::unopened::Unopened;
use super::way_out::WayOut;
use crate::delivery::{Attempt, ClosedReason, Delivery};
use crate::ids::WebhookId;
use crate::lanes::{Delay, Feedback, Lanes, Offer, Pause, Slot, Start};
use crate::metrics::{AttemptLabel, Metrics, Reason};
use crate::millis;
use crate::queue::Settled;
use crate::retry::{RetryPolicy, Step};
use crate::secret::Keyring;
use crate::sender::Sender;
use crate::snapshot::{Snapshot, SnapshotState};
use crate::store::{Ending, Scope, Store, TurnResult};

pub(super) struct Attempts {
    pub(super) sender: Sender,
    pub(super) store: Store,
    pub(super) keyring: Keyring,
    pub(super) retry: RetryPolicy,
    pub(super) lookup_lifetime: Duration,
    pub(super) lookups: Lookups,
    /// How old a claim may be when its attempt begins: its lease must not end before the attempt does.
    pub(super) claim_lifetime: Duration,
    pub(super) unopened: Unopened,
    pub(super) way_out: WayOut,
    pub(super) lanes: Mutex<Lanes<Turn>>,
    /// There may be room for a turn that found none.
    pub(super) room: Notify,
    pub(super) stalls: Stalls,
    pub(super) metrics: Metrics,
    pub(super) under_way: TaskTracker,
    pub(super) abandon: CancellationToken,
    pub(super) reports: mpsc::Sender<Report>,
    /// Where broker messages go that are not worked on to the end.
    pub(super) returns: mpsc::UnboundedSender<Settled>,
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
    /// Starts a fresh turn, or has it wait in its lane or in the database. Waits itself while there is enough in hand.
    pub(super) async fn offer(self: &Arc<Self>, turn: Turn) {
        self.way_out.until_it_takes_a_turn().await;
        let mut waited = false;
        while !self.lanes().takes_more() {
            self.room.notified().await;
            waited = true;
        }
        let (turned_away, offered, takes_more) = {
            let (mut lanes, now) = (self.lanes(), Instant::now());
            let turned_away = heed(&mut lanes, &turn.delivery.webhook, now);
            (turned_away, lanes.offer(turn.delivery.webhook.id, turn, now), lanes.takes_more())
        };
        match offered {
            Offer::Start(start) => self.start(start),
            Offer::Waits => {}
            Offer::Park(turn) => self.park(turn).await,
        }
        self.turn_all_away(turned_away).await;
        if waited && takes_more {
            // Somebody else may wait for this room, and was not told of it.
            self.room.notify_one();
        }
    }

    /// Tells the lanes how long something waits for a processor, starts what may start, and parks what waits for its own
    /// receiver: no more than the recorder has room for, whose results come first.
    pub(super) async fn beat(self: &Arc<Self>, delay: Delay) {
        let now = Instant::now();
        // In an outage of ours every lane waits, and for no receiver.
        let most = if self.way_out.is_unsettled() { 0 } else { self.reports.capacity() / 2 };
        let parked = {
            let mut lanes = self.lanes();
            for (by, count) in lanes.take_held_back() {
                self.metrics.lane_held_back.get_or_create(&by.into()).inc_by(count);
            }
            lanes.tick(delay, most, now)
        };
        self.start_waiting(now);
        if !parked.is_empty() {
            self.room.notify_one();
        }
        for turn in parked {
            self.park(turn).await;
        }
    }

    /// Starts claimed turns as soon as there is room, which there was when they were claimed. Those of a paused lane are given
    /// back.
    pub(super) fn claimed(self: &Arc<Self>, turns: impl Iterator<Item = Turn>) {
        let (now, mut paused) = (Instant::now(), Vec::new());
        let mut lanes = self.lanes();
        for turn in turns {
            let webhook = &turn.delivery.webhook;
            lanes.not_paused(webhook.id, webhook.receiver(), now);
            match lanes.paused_until(webhook.id, now) {
                Some(_) => paused.push(turn),
                None => lanes.add_claimed(webhook.id, turn, now),
            }
        }
        drop(lanes);
        paused.iter().filter_map(Turn::give_back).for_each(|report| self.try_report(report));
        self.start_waiting(now);
    }

    /// Pauses the lane of a webhook that was found paused.
    pub(super) async fn paused(&self, webhook: &Snapshot) {
        let turned_away = heed(&mut self.lanes(), webhook, Instant::now());
        self.turn_all_away(turned_away).await;
    }

    /// Starts what there is room for.
    fn start_waiting(self: &Arc<Self>, now: Instant) {
        let mut lanes = self.lanes();
        while let Some(start) = lanes.next(now) {
            self.start(start);
        }
    }

    /// Gives back what has not been started.
    pub(super) fn give_back_waiting(&self) {
        let waiting = self.lanes().drain();
        waiting.iter().filter_map(Turn::give_back).for_each(|report| self.try_report(report));
    }

    pub(super) fn lanes(&self) -> MutexGuard<'_, Lanes<Turn>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, start: Start<Turn>) {
        let attempts = self.clone();
        self.under_way.spawn(async move {
            let mut next = Some(start);
            while let Some(Start { slot, turn }) = next {
                let occupied = Occupied { attempts: &attempts, slot, left: false };
                let taken = attempts.take_unless_abandoned(turn).await;
                for turn in occupied.leave(taken) {
                    attempts.abandon.run_until_cancelled(attempts.turn_away(turn)).await;
                }
                next = attempts.start_others(Instant::now());
            }
        });
    }

    /// Starts what there is room for now, but for one turn: its caller has nothing else to do.
    fn start_others(self: &Arc<Self>, now: Instant) -> Option<Start<Turn>> {
        let first = self.lanes().next(now)?;
        self.start_waiting(now);
        Some(first)
    }

    async fn take_unless_abandoned(&self, turn: Turn) -> TurnEnd {
        let _counted = self.metrics.count_in_flight();
        let given_back = turn.give_back();
        let taken = self.abandon.run_until_cancelled(self.take_until_reached(turn)).await;
        if let (None, Some(given_back)) = (taken, given_back) {
            self.try_report(given_back);
        }
        taken.unwrap_or(TurnEnd::without_attempt(Feedback::Nothing))
    }

    /// An attempt that fails because nobody can be reached from here is made again when somebody can.
    async fn take_until_reached(&self, mut turn: Turn) -> TurnEnd {
        let mut has_failed = false;
        loop {
            if !self.way_out.passes(turn.delivery.webhook.id, has_failed).await {
                if let Some(report) = turn.give_back() {
                    self.report(report).await;
                }
                return TurnEnd::without_attempt(Feedback::Nothing);
            }
            match self.take(turn).await {
                Break(end) => {
                    if end.took.is_none() {
                        self.way_out.was_no_probe();
                    }
                    return end;
                }
                Continue(again) => (turn, has_failed) = (again, true),
            }
        }
    }

    async fn turn_all_away(&self, turns: Vec<Turn>) {
        for turn in turns {
            self.room.notify_one();
            self.turn_away(turn).await;
        }
    }

    /// Its receiver is to be probed, or it cannot be attempted now: a fresh delivery joins the due ones, a due one stays
    /// among them.
    async fn turn_away(&self, turn: Turn) {
        match turn.give_back() {
            Some(report) => self.report(report).await,
            None => self.park(turn).await,
        }
    }

    pub(super) async fn park(&self, turn: Turn) {
        tracing::debug!(delivery_id = %turn.delivery.id.0, "parked");
        self.metrics.parked.inc();
        self.report(turn.finished(Ending::Parked)).await;
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
        self.report(turn.finished(Ending::ClosedUnattempted(reason))).await;
    }

    /// The path of one delivery: current webhook, attempt, step, report. Returns the turn if its failure is our own.
    async fn take(&self, mut turn: Turn) -> ControlFlow<TurnEnd, Turn> {
        if matches!(&turn.origin, Origin::Message(share) if !share.is_usable()) {
            // The broker hands the message to somebody else.
            return Break(TurnEnd::without_attempt(Feedback::Nothing));
        }
        let taken_at = turn.looked_up;
        if taken_at.elapsed() > self.lookup_lifetime {
            self.look_up_again(&mut turn).await;
        }
        if let Some(reason) = ClosedReason::of(turn.delivery.webhook.state.standing()) {
            self.unopened.forget(turn.delivery.webhook.id);
            self.close(turn, reason).await;
            return Break(TurnEnd::without_attempt(Feedback::Nothing));
        }
        if self.is_held(&turn) {
            self.turn_away(turn).await;
            return Break(TurnEnd::without_attempt(Feedback::Unsignable));
        }
        if let Some(pause) = pause(&turn.delivery.webhook, Instant::now()) {
            self.turn_away(turn).await;
            return Break(TurnEnd::without_attempt(Feedback::Paused(pause)));
        }
        if matches!(turn.origin, Origin::Claim(_)) && taken_at.elapsed() > self.claim_lifetime {
            // Another worker could claim it during the attempt, and the receiver would get it twice.
            self.turn_away(turn).await;
            return Break(TurnEnd::without_attempt(Feedback::Nothing));
        }
        let mut attempt = self.sender.attempt(&turn.delivery).await;
        let took = Some(attempt.started.elapsed());
        // A claim's lease must not end before its result is recorded.
        let patience = match turn.origin {
            Origin::Claim(_) => self.claim_lifetime.saturating_sub(taken_at.elapsed()),
            Origin::Message(_) => Duration::MAX,
        };
        if self.way_out.is_to_blame(&turn.delivery, &attempt.outcome, patience).await {
            tracing::debug!(delivery_id = %turn.delivery.id.0, "to be made again: no receiver can be reached");
            return Continue(turn);
        }
        attempt.paused_until = self.retry.pause(&attempt.outcome).map(|asked| attempt.ended() + asked);
        let step = self.retry.next_step(turn.delivery.attempt, &attempt.outcome, rand::random());
        self.count(&attempt, step);
        log(&turn.delivery, &attempt, step);
        let feedback = match attempt.paused_until {
            Some(until) => Feedback::Paused(Pause { until, by: turn.delivery.webhook.receiver() }),
            None => feedback(step),
        };
        self.report(turn.finished(Ending::Attempted(attempt, step))).await;
        Break(TurnEnd { feedback, took })
    }

    /// Whether it cannot be signed, and so must wait, for an operator has to bring a key back.
    fn is_held(&self, turn: &Turn) -> bool {
        let webhook = &turn.delivery.webhook;
        match &webhook.state {
            SnapshotState::Active { secrets: Err(error), .. } => {
                self.unopened.note(webhook.id, error);
                true
            }
            _ => {
                self.unopened.forget(webhook.id);
                false
            }
        }
    }

    /// Without the database nothing could be recorded either, so it waits.
    async fn look_up_again(&self, turn: &mut Turn) {
        let owed = &turn.delivery.webhook;
        let now = self.lookups.now(owed.id, async || self.snapshot(owed.id).await).await;
        turn.delivery.webhook = owed.as_of(now.as_ref());
    }

    async fn snapshot(&self, webhook: WebhookId) -> Option<Snapshot> {
        let mut stall = None;
        loop {
            match self.store.snapshot(&self.keyring, Scope::Everyone, webhook).await {
                Ok(now) => {
                    Stalls::over(&mut stall);
                    return now;
                }
                Err(error) => self.stalls.wait(&mut stall, "cannot look up a webhook, waiting", &error).await,
            }
        }
    }

    fn count(&self, attempt: &Attempt, step: Step) {
        let outcome = attempt.outcome.error().unwrap_or("success");
        self.metrics.attempts.get_or_create(&AttemptLabel { outcome }).inc();
        self.metrics.attempt_duration.observe(attempt.duration.as_secs_f64());
        if let Some(reason) = step.closes() {
            self.metrics.closed.get_or_create(&Reason { reason: reason.as_str() }).inc();
        }
    }

    pub(super) async fn report(&self, report: Report) {
        // The recorder ends after all attempts, except when it gives up.
        let _ = self.reports.send(report).await;
    }

    /// For what is given back: a recorder that is stuck makes no room, and a stop waits for us. Without it the lease
    /// ends later.
    fn try_report(&self, report: Report) {
        let _ = self.reports.try_send(report);
    }
}

/// A turn's slot in its lane, free again also if the attempt panics.
struct Occupied<'a> {
    attempts: &'a Attempts,
    slot: Slot,
    left: bool,
}

impl Occupied<'_> {
    /// Returns what is turned away because of the feedback.
    fn leave(mut self, taken: TurnEnd) -> Vec<Turn> {
        self.left = true;
        self.end(taken)
    }

    fn end(&self, TurnEnd { feedback, took }: TurnEnd) -> Vec<Turn> {
        let turned_away = self.attempts.lanes().ended(self.slot, feedback, took, Instant::now());
        self.attempts.room.notify_one();
        turned_away
    }
}

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.end(TurnEnd::without_attempt(Feedback::Nothing));
        }
    }
}

/// What a lane is told of a turn that is over.
#[derive(Clone, Copy)]
struct TurnEnd {
    feedback: Feedback,
    /// The attempt alone, without what recording it waited for; `None` without one.
    took: Option<Duration>,
}

impl TurnEnd {
    const fn without_attempt(feedback: Feedback) -> Self {
        Self { feedback, took: None }
    }
}

/// The pause that a webhook was in when it was read, unless it is over.
fn pause(webhook: &Snapshot, now: Instant) -> Option<Pause> {
    let until = webhook.paused_until.filter(|until| now < *until)?;
    Some(Pause { until, by: webhook.receiver() })
}

/// Has a lane know whether its webhook was paused when it was read. Returns what waited in the lane if it was.
fn heed(lanes: &mut Lanes<Turn>, webhook: &Snapshot, now: Instant) -> Vec<Turn> {
    if let Some(pause) = pause(webhook, now) {
        return lanes.pause(webhook.id, pause, now);
    }
    lanes.not_paused(webhook.id, webhook.receiver(), now);
    Vec::new()
}

/// What a step says about the receiver.
fn feedback(step: Step) -> Feedback {
    match step {
        Step::Succeeded => Feedback::Succeeded,
        Step::RetryIn(_) | Step::Exhausted | Step::Disable => Feedback::Failed,
        Step::RepeatIn(_) => Feedback::Nothing,
    }
}

impl Turn {
    fn finished(self, ending: Ending) -> Report {
        let (claim, share) = match self.origin {
            Origin::Message(share) => (None, Some(share)),
            Origin::Claim(claim) => (Some(claim), None),
        };
        Report::Finished(TurnResult { delivery: self.delivery, claim, ending }, share)
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
        paused_ms = attempt.paused_until.map(|until| millis(until - attempt.ended())),
        "attempt"
    );
}

//! Takes turns into their lanes, and runs a task for each that may be attempted.

use std::sync::Arc;
use std::time::Instant;

use super::attempt::{TurnEnd, pause_of};
use super::attempts::Attempts;
use super::turn::Turn;
use crate::lanes::{Delay, Feedback, HeldBackReport, Lanes, Offer, Slot, Start};
use crate::snapshot::Snapshot;

impl Attempts {
    /// Starts a fresh turn, or has it wait in its lane or in the database. Waits itself while enough is in hand.
    pub(super) async fn offer(self: &Arc<Self>, turn: Turn) {
        self.outage.delay_intake().await;
        let mut waited = false;
        while !self.lanes().takes_more() {
            self.fewer_in_hand.notified().await;
            waited = true;
        }
        let (turned_away, offered, takes_more) = {
            let (mut lanes, now) = (self.lanes(), Instant::now());
            let turned_away = note_pause(&mut lanes, &turn.delivery.webhook, now);
            (turned_away, lanes.offer(turn.delivery.webhook.id, turn, now), lanes.takes_more())
        };
        match offered {
            Offer::Start(start) => self.start(start),
            Offer::Waits => {}
            Offer::Park(turn) => self.park(turn).await,
        }
        self.turn_all_away(turned_away).await;
        if waited && takes_more {
            // A notification wakes one task only: another may wait here, too.
            self.fewer_in_hand.notify_one();
        }
    }

    /// Tells the lanes how long something waits for a processor, starts lanes whose time has come, and parks what waits for
    /// its own receiver: at most half of what the recorder has room for, since results come first.
    pub(super) async fn tick(self: &Arc<Self>, delay: Delay) {
        let now = Instant::now();
        // In an outage of our own, turns wait in every lane, and not because of their receivers.
        let most = if self.outage.is_unsettled() { 0 } else { self.reports.capacity() / 2 };
        let (held_back, parked) = {
            let mut lanes = self.lanes();
            (lanes.take_held_back(), lanes.tick(delay, most, now))
        };
        self.report_held_back(&held_back);
        self.start_waiting(now);
        if !parked.is_empty() {
            self.fewer_in_hand.notify_one();
        }
        for turn in parked {
            self.park(turn).await;
        }
    }

    /// Counts and logs which lanes were held back, and by what.
    fn report_held_back(&self, report: &HeldBackReport) {
        for (by, count) in report.counts() {
            self.metrics.lane_held_back.get_or_create(&by.into()).inc_by(count);
        }
        for lane in &report.begun {
            let (by, in_flight, waiting) = (lane.by.as_str(), lane.in_flight, lane.waiting);
            tracing::debug!(webhook_id = %lane.webhook, by, in_flight, waiting, "a lane is held back");
        }
    }

    /// Puts claimed turns into their lanes, where most start at once. Turns of a paused webhook are given back.
    pub(super) fn admit_claimed(self: &Arc<Self>, turns: impl Iterator<Item = Turn>) {
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
        self.try_release(&paused);
        self.start_waiting(now);
    }

    /// Pauses the lane of a webhook that the database says is paused.
    pub(super) async fn pause_lane(&self, webhook: &Snapshot) {
        let turned_away = note_pause(&mut self.lanes(), webhook, Instant::now());
        self.turn_all_away(turned_away).await;
    }

    /// Gives back everything that waits in the lanes, for a stop.
    pub(super) fn give_back_waiting(&self) {
        let waiting = self.lanes().drain();
        self.try_release(&waiting);
    }

    /// Runs a task that attempts a turn, and then further ones as long as there are any to start.
    fn start(self: &Arc<Self>, start: Start<Turn>) {
        let attempts = self.clone();
        self.under_way.spawn(async move {
            let mut next = Some(start);
            while let Some(Start { slot, turn }) = next {
                let occupied = Occupied { attempts: &attempts, slot, is_free: false };
                let end = attempts.attempt_unless_abandoned(turn).await;
                for turn in occupied.leave(end) {
                    attempts.abandon.run_until_cancelled(attempts.turn_away(turn)).await;
                }
                next = attempts.start_others(Instant::now());
            }
        });
    }

    /// Starts every waiting turn that there is room for, except one, which it returns to the calling task.
    fn start_others(self: &Arc<Self>, now: Instant) -> Option<Start<Turn>> {
        let first = self.lanes().next(now)?;
        self.start_waiting(now);
        Some(first)
    }

    /// Starts every waiting turn that there is room for.
    fn start_waiting(self: &Arc<Self>, now: Instant) {
        let mut lanes = self.lanes();
        while let Some(start) = lanes.next(now) {
            self.start(start);
        }
    }
}

/// A turn's slot in its lane. The slot is freed also if the attempt panics.
struct Occupied<'a> {
    attempts: &'a Attempts,
    slot: Slot,
    is_free: bool,
}

impl Occupied<'_> {
    /// Frees the slot. Returns the turns that have to leave the lane.
    fn leave(mut self, end: TurnEnd) -> Vec<Turn> {
        self.is_free = true;
        self.free(end)
    }

    fn free(&self, TurnEnd { feedback, took }: TurnEnd) -> Vec<Turn> {
        let turned_away = self.attempts.lanes().ended(self.slot, feedback, took, Instant::now());
        self.attempts.fewer_in_hand.notify_one();
        turned_away
    }
}

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        if !self.is_free {
            self.free(TurnEnd::without_attempt(Feedback::Nothing));
        }
    }
}

/// Tells a lane whether its webhook was paused when it was read. Returns the turns that have to leave the lane.
fn note_pause(lanes: &mut Lanes<Turn>, webhook: &Snapshot, now: Instant) -> Vec<Turn> {
    if let Some(pause) = pause_of(webhook, now) {
        return lanes.pause(webhook.id, pause, now);
    }
    lanes.not_paused(webhook.id, webhook.receiver(), now);
    Vec::new()
}

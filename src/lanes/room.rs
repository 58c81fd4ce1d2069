//! All lanes of a worker, and how the requests in flight are divided between them.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::activity::Activity;
use super::delays::{Delay, LongestDelay};
use super::held_back::{HeldBack, HeldBackLane, HeldBackReport};
use super::lane::Lane;
use super::limits::LaneLimits;
use super::ready_queue::ReadyQueue;
use super::slot::{Slot, Start};
use crate::ids::WebhookId;

/// All lanes of one worker. `T` is a turn.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    pub(super) limits: LaneLimits,
    pub(super) lanes: HashMap<WebhookId, Lane<T>>,
    /// Lanes with waiting turns, each once.
    pub(super) queue: ReadyQueue,
    /// Lanes with fresh turns that wait, each once, in the order in which they are checked for turns to park.
    pub(super) parking_checks: VecDeque<WebhookId>,
    /// All lanes, in the order in which they are checked for being idle, to be forgotten.
    pub(super) idle_checks: VecDeque<WebhookId>,
    pub(super) in_flight: usize,
    /// Fresh turns, waiting or in flight.
    pub(super) in_hand: usize,
    /// When `in_hand` reached three quarters of its limit. `None` again once it is below half of the limit.
    pub(super) nearly_full_since: Option<Instant>,
    pub(super) delay: Delay,
    pub(super) longest_delay: LongestDelay,
    pub(super) activity: Activity,
    held_back: HeldBackReport,
}

impl<T> Lanes<T> {
    pub(crate) fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
            queue: ReadyQueue::default(),
            parking_checks: VecDeque::new(),
            idle_checks: VecDeque::new(),
            in_flight: 0,
            in_hand: 0,
            nearly_full_since: None,
            delay: Delay::default(),
            longest_delay: LongestDelay::default(),
            activity: Activity::default(),
            held_back: HeldBackReport::default(),
        }
    }

    /// How many further requests a webhook may have in flight (at least 1), or why none.
    pub(super) fn room(&self, webhook: WebhookId, now: Instant) -> Result<usize, HeldBack> {
        match self.lanes.get(&webhook) {
            Some(lane) => self.room_of(lane, now),
            None => match self.share().min(self.limits.per_webhook).min(self.free()) {
                0 => Err(HeldBack::Full),
                room => Ok(room),
            },
        }
    }

    /// The same for a lane. Whatever turns an `Err` into an `Ok` must put the lane back among those that `next` looks at.
    pub(super) fn room_of(&self, lane: &Lane<T>, now: Instant) -> Result<usize, HeldBack> {
        let own = lane.room(self.limits.per_webhook, now)?;
        let share = self.share().saturating_sub(lane.in_flight);
        let free = self.free();
        let is_doubtful = lane.probe.is_some() || lane.is_slow(self.limits.park_after, now);
        let reserve = if is_doubtful { self.reserve() } else { 0 };
        match own.min(share).min(free.saturating_sub(reserve)) {
            0 if share == 0 => Err(HeldBack::Share { in_flight: lane.in_flight }),
            0 if free == 0 => Err(HeldBack::Full),
            0 => Err(HeldBack::Reserve),
            room => Ok(room),
        }
    }

    /// Requests in flight that every lane may have: an equal part of one half of all, or as many as half of what is unused
    /// of that half.
    pub(super) fn share(&self) -> usize {
        let half = self.limits.in_flight.div_ceil(2);
        let common = half.saturating_sub(self.in_flight) / 2;
        (half / self.activity.lanes()).max(1).max(common)
    }

    /// Fresh turns that every lane may have in hand.
    pub(super) fn share_in_hand(&self) -> usize {
        (self.limits.in_hand / 2 / self.activity.lanes()).max(1)
    }

    pub(super) fn free(&self) -> usize {
        self.limits.in_flight.saturating_sub(self.in_flight)
    }

    /// Requests that are not for receivers known to be slow or to fail.
    pub(super) fn reserve(&self) -> usize {
        self.limits.in_flight / 4
    }

    /// Takes the report on the lanes that were held back since this was called last. To be called regularly: the report
    /// grows meanwhile.
    pub(crate) fn take_held_back(&mut self) -> HeldBackReport {
        std::mem::take(&mut self.held_back)
    }

    /// Adds to the report a lane that was looked at and has no room.
    pub(super) fn note_held_back(&mut self, webhook: WebhookId, why: HeldBack, now: Instant) {
        let by = why.by();
        self.held_back.count(by);
        let lane = self.lane(webhook, now);
        if lane.note_held_back(by, now) {
            let (in_flight, waiting) = (lane.in_flight, lane.waiting());
            self.held_back.begun.push(HeldBackLane { webhook, by, in_flight, waiting });
        }
    }

    /// The webhook's lane; a new one if it has none.
    pub(super) fn lane(&mut self, webhook: WebhookId, now: Instant) -> &mut Lane<T> {
        self.lanes.entry(webhook).or_insert_with(|| {
            self.idle_checks.push_back(webhook);
            Lane::new(now)
        })
    }

    /// Counts a turn as in flight.
    pub(super) fn start(&mut self, webhook: WebhookId, turn: T, fresh: bool, now: Instant) -> Start<T> {
        self.in_flight += 1;
        let lane = self.lanes.get_mut(&webhook).expect("its caller has looked at the lane");
        let kind = lane.start(now);
        self.activity.note(&mut lane.activity, true);
        Start { slot: Slot { webhook, kind, fresh, began: now }, turn }
    }

    /// Takes out all turns of a lane that wait.
    pub(super) fn empty(&mut self, webhook: WebhookId) -> Vec<T> {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes are emptied");
        self.in_hand -= lane.fresh.len();
        lane.in_hand -= lane.fresh.len();
        let turns = lane.drain();
        self.note_work(webhook);
        turns
    }

    /// Puts a lane with waiting turns into the ready queue, unless the queue keeps it already.
    pub(super) fn enqueue(&mut self, webhook: WebhookId) {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes are enqueued");
        if lane.ticket.is_none() && lane.waiting() > 0 {
            lane.ticket = Some(self.queue.ready(webhook));
        }
        self.note_work(webhook);
    }

    /// Has `next` look again at a lane that was put aside and may have room now.
    pub(super) fn enqueue_again(&mut self, webhook: WebhookId) {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes are enqueued");
        if lane.ticket.is_some_and(|ticket| self.queue.take_out(ticket)) {
            lane.ticket = None;
        }
        self.enqueue(webhook);
    }

    /// Counts a lane that may have begun or ceased to have work.
    pub(super) fn note_work(&mut self, webhook: WebhookId) {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes have work");
        let has_work = lane.has_work();
        self.activity.note(&mut lane.activity, has_work);
    }
}

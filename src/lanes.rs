//! Shares the requests in flight between webhooks, so that no receiver can slow another. Pure: the caller brings the
//! clock, and says when the machine is busy.
//!
//! Every webhook with work has a lane. One half of the room is divided equally between the lanes that have had work
//! lately, and nobody else gets it; of the other half a lane takes as much as half of what is free (dynamic thresholds:
//! Choudhury and Hahne, *Dynamic Queue Length Thresholds for Shared-Memory Packet Switches*, 1998). A lane has a window,
//! like TCP's, that closes while this machine is what limits: requests that only wait for a processor delay all others.
//! What is in hand is divided likewise: fresh turns beyond their lane's share are parked when they have waited long for
//! their own receiver, or will. A receiver whose attempts all fail is probed: one attempt at a time, further and further
//! apart, until one succeeds. A receiver that asks for time gets it: its lane is paused, then probed once, and after a
//! success it begins with half of what it had in flight when it asked.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::webhook::WebhookId;

/// The window that a busy machine leaves a lane at least.
const LEAST_WINDOW: usize = 4;
/// A window is twice as wide for every such time since it was last closed: one whose requests take long costs little.
const REOPEN_EVERY: Duration = Duration::from_millis(128);
/// Lanes looked at for the next turn: enough not to miss one, few enough to be quick.
const LOOKED_AT: usize = 64;
/// A lane without work for longer is not counted when the room is divided.
const PERIOD: Duration = Duration::from_secs(1);
const FORGET_AFTER: Duration = Duration::from_secs(600);

mod pause;
#[cfg(test)]
mod tests;

pub use pause::Pause;
use pause::Paused;

/// How much there is to share.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests in flight, of all webhooks and of one.
    pub in_flight: usize,
    pub per_webhook: usize,
    /// Fresh turns, waiting or in flight.
    pub in_hand: usize,
    /// A fresh turn waits no longer than this behind a receiver that is the cause of it.
    pub park_after: Duration,
    /// Failures in a row after which a receiver is probed.
    pub probe_after: u32,
    /// Between two probes: at first, doubling up to the maximum.
    pub probe_interval: Duration,
    pub probe_interval_max: Duration,
}

/// What becomes of a fresh turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// To be started now.
    Start(Start<T>),
    /// It waits in its lane.
    Waits,
    /// Its receiver cannot take it soon: it is to wait in the database.
    Park(T),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Start<T> {
    pub place: Place,
    pub turn: T,
}

/// What a turn in flight occupies until it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    webhook: WebhookId,
    kind: Kind,
    fresh: bool,
    began: Instant,
}

/// Whether an attempt tests a receiver that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Usual,
    Probe,
}

/// What a turn says about the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Succeeded,
    Failed,
    /// Nothing: it was not attempted, or failed through our own fault.
    Nothing,
    /// Nothing either, but for a reason that keeps all turns of this lane from being attempted: it is probed at once.
    Held,
    /// The receiver asked for time, this worker or another one.
    Paused(Pause),
}

/// All lanes of one worker.
#[derive(Debug)]
pub struct Lanes<T> {
    limits: Limits,
    lanes: HashMap<WebhookId, Lane<T>>,
    /// Lanes with waiting turns, each once, in the order in which they are looked at.
    ready: VecDeque<WebhookId>,
    in_flight: usize,
    /// Fresh turns, waiting or in flight.
    in_hand: usize,
    busy: bool,
    last_busy: Option<Instant>,
    /// Lanes that have had work in this period and in the one before.
    active: [usize; 2],
    period: u64,
    period_began: Option<Instant>,
}

#[derive(Debug)]
struct Lane<T> {
    in_flight: usize,
    in_hand: usize,
    /// The last period in which it had work.
    period: u64,
    /// What a busy machine left it, and when.
    closed: Option<(usize, Instant)>,
    /// What a receiver gets that has just recovered.
    recovery: usize,
    /// What it got when its last pause was over, and when that was.
    reopened: Option<(usize, Instant)>,
    fresh: VecDeque<(Instant, T)>,
    due: VecDeque<T>,
    due_was_last: bool,
    /// It stands among the ready.
    listed: bool,
    failures: u32,
    last_ended: Instant,
    /// Its last attempt took long.
    slow: bool,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    next: Instant,
    interval: Duration,
    /// The receiver asked for it.
    pause: Option<Paused>,
}

impl<T> Lanes<T> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            in_flight: 0,
            in_hand: 0,
            busy: false,
            last_busy: None,
            active: [0; 2],
            period: 1,
            period_began: None,
        }
    }

    /// Whether a fresh turn may be offered.
    pub fn takes_more(&self) -> bool {
        self.in_hand < self.limits.in_hand
    }

    /// A turn that came straight from its broker message.
    pub fn offer(&mut self, webhook: WebhookId, turn: T, now: Instant) -> Offer<T> {
        let (room, share, park_after) = (self.room(webhook, now), self.share_in_hand(), self.limits.park_after);
        let lane = self.lane(webhook, now);
        if room > 0 && lane.waiting() == 0 {
            lane.in_hand += 1;
            self.in_hand += 1;
            return Offer::Start(self.start(webhook, turn, true, now));
        }
        if lane.probe.is_some() || (lane.in_hand >= share && lane.is_slow(park_after, now)) {
            return Offer::Park(turn);
        }
        lane.fresh.push_back((now, turn));
        lane.in_hand += 1;
        self.in_hand += 1;
        self.list(webhook);
        Offer::Waits
    }

    /// How many due deliveries of a webhook may be claimed: what there is room for, and as many again to follow. Where fresh
    /// turns take all the room, some to take turns with them.
    pub fn claimable(&self, webhook: WebhookId, now: Instant) -> usize {
        let room = self.room(webhook, now);
        let Some(lane) = self.lanes.get(&webhook) else { return 2 * room };
        let turns = match lane.probe {
            Some(Probe { pause: Some(paused), .. }) if lane.is_paused(now) => usize::from(now >= paused.ask_again),
            Some(_) => room,
            None if room == 0 && !lane.fresh.is_empty() => (lane.in_flight / 2).max(1),
            None => 2 * room,
        };
        turns.saturating_sub(lane.due.len())
    }

    /// How many requests a webhook may have in flight besides those that are.
    fn room(&self, webhook: WebhookId, now: Instant) -> usize {
        let half = self.limits.in_flight.div_ceil(2);
        let common = half.saturating_sub(self.in_flight) / 2;
        let share = (half / self.active()).max(1).max(common);
        let free = self.limits.in_flight.saturating_sub(self.in_flight);
        let Some(lane) = self.lanes.get(&webhook) else {
            return share.min(self.limits.per_webhook).min(free);
        };
        // The last quarter is for receivers not known to be slow.
        let kept = if lane.probe.is_some() || lane.is_slow(self.limits.park_after, now) {
            self.limits.in_flight / 4
        } else {
            0
        };
        let free = free.saturating_sub(kept);
        match &lane.probe {
            Some(probe) if now < probe.next || lane.in_flight > 0 => 0,
            Some(_) => free.min(1),
            None => {
                let most = share.min(self.limits.per_webhook).min(lane.window(now)).min(lane.recovery);
                let most = most.min(lane.room_after_pause(now));
                most.saturating_sub(lane.in_flight).min(free)
            }
        }
    }

    /// A due delivery that was claimed; it may have to wait a moment.
    pub fn claimed(&mut self, webhook: WebhookId, turn: T, now: Instant) {
        self.lane(webhook, now).due.push_back(turn);
        self.list(webhook);
    }

    /// The next waiting turn for which there is room.
    pub fn next(&mut self, now: Instant) -> Option<Start<T>> {
        for _ in 0..self.ready.len().min(LOOKED_AT) {
            let webhook = self.ready.pop_front()?;
            let room = self.room(webhook, now);
            let lane = self.lane(webhook, now);
            lane.listed = false;
            if room == 0 {
                self.list(webhook);
                continue;
            }
            // One whose turns were parked has none.
            let Some((turn, fresh)) = lane.pop() else { continue };
            if lane.waiting() > 0 {
                self.list(webhook);
            }
            return Some(self.start(webhook, turn, fresh, now));
        }
        None
    }

    /// A started turn has ended. Returns what waited in a lane whose receiver is to be probed, or paused.
    pub fn ended(&mut self, place: Place, verdict: Verdict, now: Instant) -> Vec<T> {
        let Place { webhook, kind, fresh, began } = place;
        // What takes long on a busy machine may be the machine's fault.
        let long = self.limits.park_after * if self.was_busy(now) { 4 } else { 1 };
        self.in_flight -= 1;
        self.in_hand -= usize::from(fresh);
        let lane = self.lanes.get_mut(&webhook).expect("a lane with turns in flight stays");
        lane.in_flight -= 1;
        lane.in_hand -= usize::from(fresh);
        lane.last_ended = now;
        lane.slow = matches!(verdict, Verdict::Succeeded | Verdict::Failed) && now - began >= long;
        let begun = lane.learn(kind, verdict, &self.limits, self.busy, now);
        if begun { self.empty(webhook) } else { Vec::new() }
    }

    /// Has the lanes know whether this machine is what limits, and returns the fresh turns to be parked: those that have
    /// waited long in a lane with more than its share in hand, whose own receiver is the cause.
    pub fn beat(&mut self, busy: bool, now: Instant) -> Vec<T> {
        self.busy = busy;
        if busy {
            self.last_busy = Some(now);
        }
        let was_busy = self.was_busy(now);
        self.begin_period(now);
        let (half, share) = (self.limits.in_hand / 2, self.share_in_hand());
        let mut parked = Vec::new();
        for index in 0..self.ready.len() {
            if self.in_hand <= half {
                break;
            }
            let webhook = self.ready[index];
            let lane = self.lanes.get_mut(&webhook).expect("a lane with waiting turns stays");
            if was_busy && now - lane.last_ended < self.limits.park_after {
                continue;
            }
            let waited_long = |(since, _): &(Instant, T)| now - *since >= self.limits.park_after;
            let slow = lane.is_slow(self.limits.park_after, now);
            while (slow || lane.in_hand > share) && lane.fresh.front().is_some_and(waited_long) {
                parked.extend(lane.fresh.pop_front().map(|(_, turn)| turn));
                lane.in_hand -= 1;
                self.in_hand -= 1;
            }
        }
        parked
    }

    /// Everything that waits, to be given back.
    pub fn drain(&mut self) -> Vec<T> {
        let all: Vec<WebhookId> = self.lanes.keys().copied().collect();
        all.into_iter().flat_map(|webhook| self.empty(webhook)).collect()
    }

    fn empty(&mut self, webhook: WebhookId) -> Vec<T> {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes are emptied");
        self.in_hand -= lane.fresh.len();
        lane.in_hand -= lane.fresh.len();
        lane.drain()
    }

    fn start(&mut self, webhook: WebhookId, turn: T, fresh: bool, now: Instant) -> Start<T> {
        self.in_flight += 1;
        let lane = self.lanes.get_mut(&webhook).expect("its caller has looked at it");
        lane.in_flight += 1;
        let kind = lane.begin(now);
        Start { place: Place { webhook, kind, fresh, began: now }, turn }
    }

    /// The webhook's lane, which has work now.
    fn lane(&mut self, webhook: WebhookId, now: Instant) -> &mut Lane<T> {
        let lane = self.lanes.entry(webhook).or_insert_with(|| Lane::new(now));
        if lane.period != self.period {
            lane.period = self.period;
            self.active[0] += 1;
        }
        lane
    }

    /// Whether the machine was busy lately: one beat says little.
    fn was_busy(&self, now: Instant) -> bool {
        self.last_busy.is_some_and(|last| now - last < PERIOD)
    }

    /// Fresh turns that every lane may have in hand.
    fn share_in_hand(&self) -> usize {
        (self.limits.in_hand / 2 / self.active()).max(1)
    }

    fn active(&self) -> usize {
        self.active[0].max(self.active[1]).max(1)
    }

    /// Counts the lanes that still have work, and forgets those that have had none for long.
    fn begin_period(&mut self, now: Instant) {
        if now - *self.period_began.get_or_insert(now) < PERIOD {
            return;
        }
        self.period_began = Some(now);
        self.period += 1;
        let period = self.period;
        let long = FORGET_AFTER.max(2 * self.limits.probe_interval_max);
        self.lanes
            .retain(|_, lane| lane.listed || lane.in_flight > 0 || now - lane.last_ended < long || lane.is_paused(now));
        let at_work = self.lanes.values_mut().filter(|lane| lane.in_flight + lane.waiting() > 0);
        let still = at_work.map(|lane| lane.period = period).count();
        self.active = [still, self.active[0]];
    }

    fn list(&mut self, webhook: WebhookId) {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes are listed");
        if !std::mem::replace(&mut lane.listed, true) {
            self.ready.push_back(webhook);
        }
    }
}

impl<T> Lane<T> {
    fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            in_hand: 0,
            period: 0,
            closed: None,
            recovery: usize::MAX,
            reopened: None,
            fresh: VecDeque::new(),
            due: VecDeque::new(),
            due_was_last: false,
            listed: false,
            failures: 0,
            last_ended: now,
            slow: false,
            probe: None,
        }
    }

    fn window(&self, now: Instant) -> usize {
        let Some((window, at)) = self.closed else { return usize::MAX };
        let doublings = (now - at).as_millis() / REOPEN_EVERY.as_millis();
        window.saturating_mul(1 << doublings.min(20))
    }

    /// Whether what waits here waits long, for its own receiver.
    fn is_slow(&self, long: Duration, now: Instant) -> bool {
        self.slow || (self.in_flight > 0 && now - self.last_ended >= long)
    }

    fn waiting(&self) -> usize {
        self.fresh.len() + self.due.len()
    }

    /// The next turn, and whether it is a fresh one: fresh and due turns alternate.
    fn pop(&mut self) -> Option<(T, bool)> {
        let due_first = !self.due_was_last || self.fresh.is_empty();
        let due = if due_first { self.due.pop_front() } else { None };
        self.due_was_last = due.is_some();
        due.map(|turn| (turn, false)).or_else(|| self.fresh.pop_front().map(|(_, turn)| (turn, true)))
    }

    fn begin(&mut self, now: Instant) -> Kind {
        let Some(probe) = &mut self.probe else { return Kind::Usual };
        probe.next = now + probe.interval;
        Kind::Probe
    }

    fn drain(&mut self) -> Vec<T> {
        let fresh = self.fresh.drain(..).map(|(_, turn)| turn);
        self.due.drain(..).chain(fresh).collect()
    }

    /// Whether it is probed from now on, or still.
    fn learn(&mut self, kind: Kind, verdict: Verdict, limits: &Limits, busy: bool, now: Instant) -> bool {
        let paused = self.is_paused(now);
        let was_asked_for_time = self.probe.as_ref().is_some_and(|probe| probe.pause.is_some());
        match verdict {
            Verdict::Nothing => return false,
            Verdict::Paused(pause) => {
                self.pause(pause, 1, limits.probe_interval, now);
                return true;
            }
            Verdict::Succeeded => {
                self.failures = 0;
                // What was out already when the receiver asked for time says nothing about the time after it.
                if !was_asked_for_time || (kind == Kind::Probe && !paused) {
                    self.recover(now);
                }
                if busy {
                    self.close(now);
                }
                return false;
            }
            Verdict::Failed => self.failures = self.failures.saturating_add(1),
            Verdict::Held => self.failures = self.failures.max(limits.probe_after),
        }
        match &mut self.probe {
            Some(probe) if kind == Kind::Probe && !paused => {
                probe.interval = (probe.interval * 2).min(limits.probe_interval_max);
                probe.next = now + probe.interval;
                true
            }
            Some(_) => false,
            None if self.failures >= limits.probe_after => {
                let interval = limits.probe_interval;
                self.probe = Some(Probe { next: now + interval, interval, pause: None });
                true
            }
            None => false,
        }
    }

    fn close(&mut self, now: Instant) {
        let used = self.window(now).min(self.in_flight + 1);
        self.closed = Some(((used - used.div_ceil(8)).max(LEAST_WINDOW), now));
    }
}

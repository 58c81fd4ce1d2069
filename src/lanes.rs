//! Shares the requests in flight between webhooks, so that no receiver can slow another. Pure: the caller brings the
//! clock, and says how much this process's own work delays it.
//!
//! Every webhook with work has a lane. One half of the room is divided equally between the lanes that have had work
//! lately, and nobody else gets it; of the other half a lane takes as much as half of what is free (dynamic thresholds:
//! Choudhury and Hahne, *Dynamic Queue Length Thresholds for Shared-Memory Packet Switches*, 1998). A lane has a window,
//! like TCP's, that closes while this process is what limits and the lane's requests are not much longer than its delays:
//! requests that only wait for a processor delay all others. Requests that wait for their receiver delay nobody.
//!
//! What is in hand is divided likewise: fresh turns beyond their lane's share are parked when they have waited long for
//! their own receiver, or will. When hardly anything more fits in hand, so is at once what a single lane has far beyond
//! its share because its receiver takes no more: others can then be read past it. A receiver whose attempts all fail is
//! probed: one attempt at a time, further and further apart, until one succeeds. A receiver that asks for time gets it: its
//! lane is paused, then probed once, and after a success it begins with half of what it had in flight when it asked.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ids::WebhookId;

/// The window that a lane keeps at least.
const LEAST_WINDOW: usize = 4;
/// A request waits about so many times for a processor: what takes longer than that many delays waits for its receiver.
const WAITS: u32 = 8;
/// A window is twice as wide for every such time since it was last closed: one whose requests take long costs little.
const REOPEN_EVERY: Duration = Duration::from_millis(128);
/// Lanes with fresh turns that wait, looked at for what is to be parked; and lanes looked at for some to be forgotten. Each
/// beat goes on where the one before ended: whoever locks the lanes meanwhile waits for some microseconds, however many
/// lanes there are.
const LOOKED_AT: usize = 512;
const LOOKED_AT_TO_FORGET: usize = 64;
/// A lane without work for longer is not counted when the room is divided.
const PERIOD: Duration = Duration::from_secs(1);
const FORGET_AFTER: Duration = Duration::from_secs(600);

mod counts;
mod delays;
mod parking;
mod pause;
mod queue;
#[cfg(test)]
mod tests;

pub use delays::Delay;
use delays::Longest;
pub use pause::Pause;
use pause::Paused;
use queue::{Blocked, Queue, Stand};

/// How much there is to share.
#[derive(Debug, Clone)]
pub struct LaneLimits {
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
    pub slot: Slot,
    pub turn: T,
}

/// What a turn in flight occupies until it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
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
pub enum Feedback {
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
    limits: LaneLimits,
    lanes: HashMap<WebhookId, Lane<T>>,
    /// Lanes with waiting turns, each once.
    queue: Queue,
    /// Lanes with fresh turns that wait, each once, in the order in which they are looked at for what is to be parked.
    crowds: VecDeque<WebhookId>,
    /// All lanes, in the order in which they are looked at for those to be forgotten.
    known: VecDeque<WebhookId>,
    in_flight: usize,
    /// Fresh turns, waiting or in flight.
    in_hand: usize,
    /// Since when hardly anything more fits in hand.
    pressed_since: Option<Instant>,
    delay: Delay,
    longest_delay: Longest,
    /// Lanes with turns, waiting or in flight.
    at_work: usize,
    /// Lanes that have had work in this period and in the one before.
    active: [usize; 2],
    period: u64,
    period_began: Option<Instant>,
}

#[derive(Debug)]
struct Lane<T> {
    in_flight: usize,
    in_hand: usize,
    /// It has turns, and is counted among the lanes that have.
    at_work: bool,
    /// The last period in which it began or ended to have work: it is counted in it.
    period: u64,
    /// To how much its window was closed, and when.
    closed: Option<(usize, Instant)>,
    /// What a receiver gets that has just recovered.
    recovery: usize,
    /// What it got when its last pause was over, and when that was.
    reopened: Option<(usize, Instant)>,
    fresh: VecDeque<(Instant, T)>,
    due: VecDeque<T>,
    due_was_last: bool,
    /// Where it stands in the queue; not at all without waiting turns.
    stand: Option<Stand>,
    /// It stands among the crowds.
    crowds: bool,
    failures: u32,
    /// When one of its requests ended, or the only one in flight began.
    last_ended: Instant,
    /// What its attempts take, and what they occupy their slot for, recording included: averages of the last few.
    took: Duration,
    occupied: Duration,
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
    pub fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
            queue: Queue::default(),
            crowds: VecDeque::new(),
            known: VecDeque::new(),
            in_flight: 0,
            in_hand: 0,
            pressed_since: None,
            delay: Delay::default(),
            longest_delay: Longest::default(),
            at_work: 0,
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
        let parks = lane.probe.is_some() || (lane.in_hand >= share && lane.is_slow(park_after, now));
        if parks || (self.in_hand >= self.pressing() && self.surplus(webhook, now).is_some()) {
            return Offer::Park(turn);
        }
        let lane = self.lane(webhook, now);
        lane.fresh.push_back((now, turn));
        lane.in_hand += 1;
        let crowds = std::mem::replace(&mut lane.crowds, true);
        self.in_hand += 1;
        if !crowds {
            self.crowds.push_back(webhook);
        }
        self.list(webhook);
        Offer::Waits
    }

    /// How many due deliveries of a webhook may be claimed: what there is room for, and as many again to follow. Where fresh
    /// turns take all the room, some to take turns with them; where due ones do, some to follow them.
    pub fn claimable(&self, webhook: WebhookId, now: Instant) -> usize {
        let room = self.room(webhook, now);
        let Some(lane) = self.lanes.get(&webhook) else { return 2 * room };
        let turns = match lane.probe {
            Some(Probe { pause: Some(paused), .. }) if lane.is_paused(now) => usize::from(now >= paused.ask_again),
            Some(_) => room,
            None if room == 0 && !lane.fresh.is_empty() => (lane.in_flight / 2).max(1),
            // What is claimed ahead would wait long, while another worker could attempt it.
            None if lane.took >= self.limits.park_after || lane.is_slow(self.limits.park_after, now) => 2 * room,
            // Many at a time: each claim is a statement.
            None if lane.due.len() <= lane.in_flight / 4 => (2 * room).max(lane.in_flight / 2),
            None => 2 * room,
        };
        turns.saturating_sub(lane.due.len())
    }

    /// How many requests a webhook may have in flight besides those that are.
    fn room(&self, webhook: WebhookId, now: Instant) -> usize {
        match self.lanes.get(&webhook) {
            Some(lane) => self.room_of(lane, now).unwrap_or(0),
            None => self.share().min(self.limits.per_webhook).min(self.free()),
        }
    }

    /// The same for a lane, or why it has no room. `next` relies on it: what changes the answer must put the lane back.
    fn room_of(&self, lane: &Lane<T>, now: Instant) -> Result<usize, Blocked> {
        let own = lane.room(self.limits.per_webhook, now)?;
        let share = self.share().saturating_sub(lane.in_flight);
        let free = self.free();
        // The last quarter is for receivers not known to be slow.
        let kept = if lane.probe.is_some() || lane.is_slow(self.limits.park_after, now) { self.kept() } else { 0 };
        match own.min(share).min(free.saturating_sub(kept)) {
            0 if share == 0 => Err(Blocked::Share(lane.in_flight)),
            0 if free == 0 => Err(Blocked::Full),
            0 => Err(Blocked::Kept),
            room => Ok(room),
        }
    }

    /// Requests in flight that every lane may have.
    fn share(&self) -> usize {
        let half = self.limits.in_flight.div_ceil(2);
        let common = half.saturating_sub(self.in_flight) / 2;
        (half / self.active()).max(1).max(common)
    }

    fn free(&self) -> usize {
        self.limits.in_flight.saturating_sub(self.in_flight)
    }

    fn kept(&self) -> usize {
        self.limits.in_flight / 4
    }

    /// A due delivery that was claimed; it may have to wait a moment.
    pub fn claimed(&mut self, webhook: WebhookId, turn: T, now: Instant) {
        self.lane(webhook, now).due.push_back(turn);
        self.list(webhook);
    }

    /// The next waiting turn for which there is room.
    pub fn next(&mut self, now: Instant) -> Option<Start<T>> {
        while self.free() > 0 {
            let webhook = self.queue.next(self.share(), self.free() > self.kept(), now)?;
            let Some(lane) = self.lanes.get(&webhook) else { continue };
            let room = self.room_of(lane, now);
            let lane = self.lane(webhook, now);
            lane.stand = None;
            // One whose turns were parked has none.
            if lane.waiting() == 0 {
                continue;
            }
            if let Err(why) = room {
                let stand = self.queue.put_aside(webhook, why);
                self.lane(webhook, now).stand = Some(stand);
                continue;
            }
            let Some((turn, fresh)) = lane.pop() else { continue };
            let start = self.start(webhook, turn, fresh, now);
            self.list(webhook);
            return Some(start);
        }
        None
    }

    /// A started turn has ended; if it was attempted, the attempt took so long. Returns what waited in a lane whose receiver
    /// is to be probed, or paused.
    pub fn ended(&mut self, slot: Slot, verdict: Feedback, took: Option<Duration>, now: Instant) -> Vec<T> {
        let Slot { webhook, kind, fresh, began } = slot;
        // What takes long may do so because of this machine.
        let long = self.limits.park_after;
        let long = long + (self.longest_delay.at(now) * WAITS).min(3 * long);
        let is_costly = took.is_some_and(|took| took < self.delay.own * WAITS);
        self.in_flight -= 1;
        self.in_hand -= usize::from(fresh);
        let lane = self.lanes.get_mut(&webhook).expect("a lane with turns in flight stays");
        lane.in_flight -= 1;
        lane.in_hand -= usize::from(fresh);
        lane.last_ended = now;
        lane.slow = took.is_some_and(|took| took >= long);
        if let Some(took) = took {
            lane.note_time(took, now - began);
        }
        let begun = lane.learn(kind, verdict, &self.limits, is_costly, now);
        let turned_away = if begun { self.empty(webhook) } else { Vec::new() };
        self.put_back(webhook);
        turned_away
    }

    /// Has the lanes know how long something waits for a processor, and returns fresh turns to be parked, so many at most:
    /// those that have waited long in a lane with more than its share in hand, whose own receiver is the cause; and, when
    /// nothing more fits in hand, the surplus of lanes whose receivers take no more.
    pub fn beat(&mut self, delay: Delay, most: usize, now: Instant) -> Vec<T> {
        self.delay = delay;
        self.longest_delay.note(delay.all, now);
        self.begin_period(now);
        self.forget_some(now);
        match self.in_hand {
            few if few < self.limits.in_hand / 2 => self.pressed_since = None,
            many if many >= self.pressing() => drop(self.pressed_since.get_or_insert(now)),
            _ => {}
        }
        let mut parked = Vec::new();
        for _ in 0..self.crowds.len().min(LOOKED_AT) {
            let Some(webhook) = self.crowds.pop_front() else { break };
            if self.in_hand > self.limits.in_hand / 2 && parked.len() < most {
                self.park_some(webhook, most, &mut parked, now);
            }
            let lane = self.lane(webhook, now);
            lane.crowds = !lane.fresh.is_empty();
            if lane.crowds {
                self.crowds.push_back(webhook);
            }
            self.note_work(webhook);
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
        let turns = lane.drain();
        self.note_work(webhook);
        turns
    }

    fn start(&mut self, webhook: WebhookId, turn: T, fresh: bool, now: Instant) -> Start<T> {
        self.in_flight += 1;
        let lane = self.lanes.get_mut(&webhook).expect("its caller has looked at it");
        if lane.in_flight == 0 {
            // Nothing could end before.
            lane.last_ended = now;
        }
        lane.in_flight += 1;
        let kind = lane.begin(now);
        self.note_work(webhook);
        Start { slot: Slot { webhook, kind, fresh, began: now }, turn }
    }

    /// The webhook's lane.
    fn lane(&mut self, webhook: WebhookId, now: Instant) -> &mut Lane<T> {
        self.lanes.entry(webhook).or_insert_with(|| {
            self.known.push_back(webhook);
            Lane::new(now)
        })
    }

    /// Fresh turns that every lane may have in hand.
    fn share_in_hand(&self) -> usize {
        (self.limits.in_hand / 2 / self.active()).max(1)
    }

    fn active(&self) -> usize {
        self.active[0].max(self.active[1]).max(1)
    }

    /// Puts a lane with waiting turns into the queue, unless it stands there.
    fn list(&mut self, webhook: WebhookId) {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes are listed");
        if lane.stand.is_none() && lane.waiting() > 0 {
            lane.stand = Some(self.queue.ready(webhook));
        }
        self.note_work(webhook);
    }

    /// Has a lane looked at again that may have room now.
    fn put_back(&mut self, webhook: WebhookId) {
        let lane = self.lanes.get_mut(&webhook).expect("only known lanes are put back");
        if lane.stand.is_some_and(|stand| self.queue.take_out(stand)) {
            lane.stand = None;
        }
        self.list(webhook);
    }
}

impl<T> Lane<T> {
    fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            in_hand: 0,
            at_work: false,
            period: 0,
            closed: None,
            recovery: usize::MAX,
            reopened: None,
            fresh: VecDeque::new(),
            due: VecDeque::new(),
            due_was_last: false,
            stand: None,
            crowds: false,
            failures: 0,
            last_ended: now,
            took: Duration::ZERO,
            occupied: Duration::ZERO,
            slow: false,
            probe: None,
        }
    }

    /// How many requests it may have in flight besides those that are, as far as it does not depend on other lanes.
    fn room(&self, per_webhook: usize, now: Instant) -> Result<usize, Blocked> {
        match &self.probe {
            Some(_) if self.in_flight > 0 => return Err(Blocked::Own),
            Some(probe) if now < probe.next => return Err(Blocked::Until(probe.next)),
            Some(_) => return Ok(1),
            None => {}
        }
        let most = per_webhook.min(self.recovery);
        let window = self.window(now).min(self.room_after_pause(now));
        match most.min(window).saturating_sub(self.in_flight) {
            0 if most > self.in_flight => Err(Blocked::Until(self.opens(now))),
            0 => Err(Blocked::Own),
            room => Ok(room),
        }
    }

    fn window(&self, now: Instant) -> usize {
        let Some((window, at)) = self.closed else { return usize::MAX };
        let doublings = (now - at).as_millis() / REOPEN_EVERY.as_millis();
        window.saturating_mul(1 << doublings.min(20))
    }

    /// When its window is twice as wide as now.
    fn opens(&self, now: Instant) -> Instant {
        let since = self.closed.map_or(Duration::ZERO, |(_, at)| now - at);
        let rest = since.as_nanos() % REOPEN_EVERY.as_nanos();
        now + REOPEN_EVERY - Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
    }

    fn note_time(&mut self, took: Duration, occupied: Duration) {
        let average = |known: Duration, new: Duration| if known.is_zero() { new } else { (known * 7 + new) / 8 };
        self.took = average(self.took, took);
        self.occupied = average(self.occupied, occupied);
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
    fn learn(&mut self, kind: Kind, verdict: Feedback, limits: &LaneLimits, is_costly: bool, now: Instant) -> bool {
        let paused = self.is_paused(now);
        let was_asked_for_time = self.probe.as_ref().is_some_and(|probe| probe.pause.is_some());
        match verdict {
            Feedback::Nothing => return false,
            Feedback::Paused(pause) => {
                self.pause(pause, 1, limits.probe_interval, now);
                return true;
            }
            Feedback::Succeeded => {
                self.failures = 0;
                // What was out already when the receiver asked for time says nothing about the time after it.
                if !was_asked_for_time || (kind == Kind::Probe && !paused) {
                    self.recover(now);
                }
                if is_costly {
                    self.close(now);
                }
                return false;
            }
            Feedback::Failed => self.failures = self.failures.saturating_add(1),
            Feedback::Held => self.failures = self.failures.max(limits.probe_after),
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

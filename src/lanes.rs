//! Shares the requests in flight between webhooks, so that no receiver can slow another. Pure: the caller brings the
//! clock, and says when the machine is busy.
//!
//! Every webhook with work has a lane. Room is given by dynamic thresholds (Choudhury and Hahne, *Dynamic Queue Length
//! Thresholds for Shared-Memory Packet Switches*, 1998): a lane may have as many requests in flight as half of what is
//! free, so that greedy lanes get equal shares and there is always room for one more. Within that a lane has a window,
//! like TCP's, that closes while this machine is what limits and opens again when it is not: requests that only wait for
//! a processor delay all others. A receiver whose attempts all fail is probed: one attempt at a time, further and further
//! apart, until one succeeds.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::webhook::WebhookId;

/// The window that a busy machine leaves a lane at least.
const LEAST_WINDOW: usize = 4;
/// A window is twice as wide for every such time since it was last closed: one whose requests take long costs little.
const REOPEN_EVERY: Duration = Duration::from_millis(128);
/// Lanes looked at for the next turn: enough not to miss one, few enough to be quick.
const LOOKED_AT: usize = 64;
const FORGET_AFTER: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;

/// How much there is to share.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests in flight, of all webhooks and of one.
    pub in_flight: usize,
    pub per_webhook: usize,
    /// Turns that wait for room here.
    pub waiting: usize,
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
    /// There is no room to wait: to be offered again when a turn has ended, at the latest after this time.
    Full(T, Duration),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Start<T> {
    pub webhook: WebhookId,
    pub turn: T,
    pub kind: Kind,
}

/// Whether an attempt tests a receiver that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
}

/// All lanes of one worker.
#[derive(Debug)]
pub struct Lanes<T> {
    limits: Limits,
    lanes: HashMap<WebhookId, Lane<T>>,
    /// Lanes with waiting turns, each once, in the order in which they are looked at.
    ready: VecDeque<WebhookId>,
    in_flight: usize,
    waiting: usize,
    busy: bool,
}

#[derive(Debug)]
struct Lane<T> {
    in_flight: usize,
    /// What a busy machine left it, and when.
    closed: Option<(usize, Instant)>,
    /// What a receiver gets that has just recovered.
    recovery: usize,
    fresh: VecDeque<(Instant, T)>,
    due: VecDeque<T>,
    due_was_last: bool,
    /// It stands among the ready.
    listed: bool,
    failures: u32,
    last_ended: Instant,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    next: Instant,
    interval: Duration,
    out: bool,
}

impl<T> Lanes<T> {
    pub fn new(limits: Limits) -> Self {
        let (lanes, ready) = (HashMap::new(), VecDeque::new());
        Self { limits, lanes, ready, in_flight: 0, waiting: 0, busy: false }
    }

    /// While this machine is what limits, lanes take less.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// A turn that came straight from its broker message.
    pub fn offer(&mut self, webhook: WebhookId, turn: T, now: Instant) -> Offer<T> {
        let room = self.room(webhook, now);
        let waiting_limit = (self.limits.waiting.saturating_sub(self.waiting) / 2).max(1);
        let full = self.waiting >= self.limits.waiting;
        let lane = self.lanes.entry(webhook).or_insert_with(|| Lane::new(now));
        if room > 0 && lane.waiting() == 0 {
            return Offer::Start(self.start(webhook, turn, now));
        }
        if lane.probe.is_some() {
            return Offer::Park(turn);
        }
        if !full && lane.waiting() < waiting_limit {
            lane.fresh.push_back((now, turn));
            self.waiting += 1;
            self.list(webhook);
            return Offer::Waits;
        }
        match lane.fresh.front().map(|(since, _)| now - *since) {
            Some(waited) if waited >= self.limits.park_after => {
                let slow = now - lane.last_ended >= self.limits.park_after;
                if slow || !self.busy { Offer::Park(turn) } else { Offer::Full(turn, self.limits.park_after) }
            }
            Some(waited) => Offer::Full(turn, self.limits.park_after - waited),
            None => Offer::Full(turn, self.limits.park_after),
        }
    }

    /// How many due deliveries of a webhook may be claimed.
    pub fn room(&self, webhook: WebhookId, now: Instant) -> usize {
        let free = self.limits.in_flight.saturating_sub(self.in_flight);
        let share = if free > 0 { (free / 2).max(1) } else { 0 };
        let Some(lane) = self.lanes.get(&webhook) else {
            return share.min(self.limits.per_webhook);
        };
        match &lane.probe {
            Some(probe) if probe.out || now < probe.next || lane.in_flight > 0 => 0,
            Some(_) => share.min(1),
            None => {
                let most = share.min(self.limits.per_webhook).min(lane.window(now)).min(lane.recovery);
                most.saturating_sub(lane.in_flight)
            }
        }
    }

    /// A due delivery that was claimed; it may have to wait a moment.
    pub fn claimed(&mut self, webhook: WebhookId, turn: T, now: Instant) {
        let lane = self.lanes.entry(webhook).or_insert_with(|| Lane::new(now));
        lane.due.push_back(turn);
        self.waiting += 1;
        self.list(webhook);
    }

    /// The next waiting turn for which there is room.
    pub fn next(&mut self, now: Instant) -> Option<Start<T>> {
        for _ in 0..self.ready.len().min(LOOKED_AT) {
            let webhook = self.ready.pop_front()?;
            let room = self.room(webhook, now);
            let lane = self.lanes.get_mut(&webhook).expect("a lane with waiting turns stays");
            lane.listed = false;
            if room == 0 {
                self.list(webhook);
                continue;
            }
            // One whose turns were turned away has none.
            let Some(turn) = lane.pop() else { continue };
            self.waiting -= 1;
            if lane.waiting() > 0 {
                self.list(webhook);
            }
            return Some(self.start(webhook, turn, now));
        }
        None
    }

    /// A started turn has ended. Returns what waited in a lane whose receiver is to be probed from now on.
    pub fn ended(&mut self, webhook: WebhookId, kind: Kind, verdict: Verdict, now: Instant) -> Vec<T> {
        self.in_flight -= 1;
        let (limits, busy) = (&self.limits, self.busy);
        let lane = self.lanes.get_mut(&webhook).expect("a lane with turns in flight stays");
        lane.in_flight -= 1;
        lane.last_ended = now;
        let begun = lane.learn(kind, verdict, limits, busy, now);
        let turned_away = if begun { lane.drain() } else { Vec::new() };
        self.waiting -= turned_away.len();
        turned_away
    }

    /// Forgets lanes that have had no work for long.
    pub fn forget_idle(&mut self, now: Instant) {
        let long = FORGET_AFTER.max(2 * self.limits.probe_interval_max);
        self.lanes.retain(|_, lane| lane.listed || lane.in_flight > 0 || now - lane.last_ended < long);
    }

    /// Everything that waits, to be given back.
    pub fn drain(&mut self) -> Vec<T> {
        self.waiting = 0;
        self.lanes.values_mut().flat_map(Lane::drain).collect()
    }

    fn start(&mut self, webhook: WebhookId, turn: T, now: Instant) -> Start<T> {
        self.in_flight += 1;
        let lane = self.lanes.get_mut(&webhook).expect("its caller has looked at it");
        lane.in_flight += 1;
        let Some(probe) = &mut lane.probe else { return Start { webhook, turn, kind: Kind::Usual } };
        probe.out = true;
        probe.next = now + probe.interval;
        Start { webhook, turn, kind: Kind::Probe }
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
            closed: None,
            recovery: usize::MAX,
            fresh: VecDeque::new(),
            due: VecDeque::new(),
            due_was_last: false,
            listed: false,
            failures: 0,
            last_ended: now,
            probe: None,
        }
    }

    fn window(&self, now: Instant) -> usize {
        let Some((window, at)) = self.closed else { return usize::MAX };
        let doublings = (now - at).as_millis() / REOPEN_EVERY.as_millis();
        window.saturating_mul(1 << doublings.min(20))
    }

    fn waiting(&self) -> usize {
        self.fresh.len() + self.due.len()
    }

    /// Fresh and due turns alternate.
    fn pop(&mut self) -> Option<T> {
        let due_first = !self.due_was_last || self.fresh.is_empty();
        let due = if due_first { self.due.pop_front() } else { None };
        self.due_was_last = due.is_some();
        due.or_else(|| self.fresh.pop_front().map(|(_, turn)| turn))
    }

    fn drain(&mut self) -> Vec<T> {
        let fresh = self.fresh.drain(..).map(|(_, turn)| turn);
        self.due.drain(..).chain(fresh).collect()
    }

    /// Whether probing begins.
    fn learn(&mut self, kind: Kind, verdict: Verdict, limits: &Limits, busy: bool, now: Instant) -> bool {
        if kind == Kind::Probe
            && let Some(probe) = &mut self.probe
        {
            probe.out = false;
        }
        match verdict {
            Verdict::Nothing => return false,
            Verdict::Succeeded => {
                self.failures = 0;
                self.recovery = if self.probe.take().is_some() { 2 } else { self.recovery.saturating_mul(2) };
                if busy {
                    self.close(now);
                }
                return false;
            }
            Verdict::Failed => self.failures = self.failures.saturating_add(1),
        }
        match &mut self.probe {
            Some(probe) if kind == Kind::Probe => {
                probe.interval = (probe.interval * 2).min(limits.probe_interval_max);
                probe.next = now + probe.interval;
                false
            }
            Some(_) => false,
            None if self.failures >= limits.probe_after => {
                let interval = limits.probe_interval;
                self.probe = Some(Probe { next: now + interval, interval, out: false });
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

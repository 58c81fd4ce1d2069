//! One webhook's lane: the turns that wait, and what limits its requests apart from other lanes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::activity::LaneActivity;
use super::held_back::{HeldBack, HeldBackBy, REPORTED_AGAIN_AFTER};
use super::limits::LaneLimits;
use super::pace::Pace;
use super::probe::{Pause, Probe};
use super::ready_queue::Ticket;
use super::recovery::Recovery;
use super::slot::{Feedback, Kind};
use super::window::Window;

#[derive(Debug)]
pub(super) struct Lane<T> {
    pub(super) in_flight: usize,
    /// Fresh turns, waiting or in flight.
    pub(super) in_hand: usize,
    /// Fresh turns that wait, and since when.
    pub(super) fresh: VecDeque<(Instant, T)>,
    /// Claimed turns that wait.
    pub(super) due: VecDeque<T>,
    /// The last turn that was started was a claimed one.
    due_was_last: bool,
    window: Window,
    recovery: Recovery,
    /// Failures in a row.
    failures: u32,
    pub(super) probe: Option<Probe>,
    pub(super) pace: Pace,
    pub(super) activity: LaneActivity,
    /// Where the ready queue keeps the lane; `None` if no turn waits.
    pub(super) ticket: Option<Ticket>,
    /// The lane stands in `Lanes::parking_checks`.
    pub(super) is_checked_for_parking: bool,
    /// What held the lane back last, and when.
    held_back: Option<(HeldBackBy, Instant)>,
}

impl<T> Lane<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            in_hand: 0,
            fresh: VecDeque::new(),
            due: VecDeque::new(),
            due_was_last: false,
            window: Window::default(),
            recovery: Recovery::default(),
            failures: 0,
            probe: None,
            pace: Pace::new(now),
            activity: LaneActivity::default(),
            ticket: None,
            is_checked_for_parking: false,
            held_back: None,
        }
    }

    /// How many further requests it may have in flight, whatever other lanes have.
    pub(super) fn room(&self, per_webhook: usize, now: Instant) -> Result<usize, HeldBack> {
        if let Some(probe) = &self.probe {
            return probe.room(self.in_flight, now);
        }
        let recovery = self.recovery.limit_from_failures();
        let most = per_webhook.min(recovery);
        if self.in_flight >= most {
            return Err(if per_webhook <= recovery { HeldBack::PerWebhookCap } else { HeldBack::Recovery });
        }
        let (window, from_pause) = (self.window.width(now), self.recovery.limit_from_pause(now));
        match most.min(window).min(from_pause).saturating_sub(self.in_flight) {
            0 if window <= from_pause => Err(HeldBack::Window { opens: self.window.opens(now) }),
            0 => Err(HeldBack::RecoveryFromPause { look_again: self.window.opens(now) }),
            room => Ok(room),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.fresh.len() + self.due.len()
    }

    pub(super) fn has_work(&self) -> bool {
        self.in_flight + self.waiting() > 0
    }

    /// Whether its receiver takes `long` or longer.
    pub(super) fn is_slow(&self, long: Duration, now: Instant) -> bool {
        self.pace.is_slow(long, self.in_flight, now)
    }

    /// Notes that a limit holds the lane back. Returns whether it is reported: once, and not for every turn.
    pub(super) fn note_held_back(&mut self, by: HeldBackBy, now: Instant) -> bool {
        let last = self.held_back.replace((by, now));
        last.is_none_or(|(limit, at)| limit != by || now - at >= REPORTED_AGAIN_AFTER)
    }

    /// The next turn, and whether it is a fresh one: fresh and claimed turns alternate.
    pub(super) fn pop(&mut self) -> Option<(T, bool)> {
        let due_first = !self.due_was_last || self.fresh.is_empty();
        let due = if due_first { self.due.pop_front() } else { None };
        self.due_was_last = due.is_some();
        due.map(|turn| (turn, false)).or_else(|| self.fresh.pop_front().map(|(_, turn)| (turn, true)))
    }

    /// Takes out all turns that wait.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let fresh = self.fresh.drain(..).map(|(_, turn)| turn);
        self.due.drain(..).chain(fresh).collect()
    }

    /// Counts a request that begins.
    pub(super) fn start(&mut self, now: Instant) -> Kind {
        if self.in_flight == 0 {
            // No request could end before.
            self.pace.last_ended = now;
        }
        self.in_flight += 1;
        let Some(probe) = &mut self.probe else { return Kind::Usual };
        probe.started(now);
        Kind::Probe
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.is_paused(now))
    }

    /// The receiver asked for time, while this many requests were in flight: it gets half as many afterwards. `interval` is
    /// that between probes, should the first attempt after the pause fail.
    pub(super) fn pause(&mut self, pause: Pause, in_flight: usize, interval: Duration, now: Instant) {
        let room_afterwards = (in_flight / 2).max(1);
        match &mut self.probe {
            Some(probe) => probe.pause(pause, room_afterwards, now),
            None => self.probe = Some(Probe::paused(interval, pause, room_afterwards, now)),
        }
    }

    /// Adapts the lane to what an ended turn says about the receiver; the turn is not counted as in flight any more.
    /// Returns whether the turns that wait have to leave the lane, because it is probed or paused.
    pub(super) fn apply_feedback(&mut self, kind: Kind, feedback: Feedback, limits: &LaneLimits, now: Instant) -> bool {
        match feedback {
            Feedback::Nothing => false,
            Feedback::Succeeded => {
                self.succeeded(kind, now);
                false
            }
            Feedback::Paused(pause) => {
                self.pause(pause, self.in_flight + 1, limits.probe_interval, now);
                true
            }
            Feedback::Failed => {
                self.failures = self.failures.saturating_add(1);
                self.failed(kind, limits, now)
            }
            Feedback::Unsignable => {
                self.failures = self.failures.max(limits.probe_after);
                self.failed(kind, limits, now)
            }
        }
    }

    /// This process delayed the request that has just ended.
    pub(super) fn shrink_window(&mut self, now: Instant) {
        self.window.shrink(self.in_flight, now);
    }

    fn succeeded(&mut self, kind: Kind, now: Instant) {
        self.failures = 0;
        let Some(probe) = &self.probe else { return self.recovery.succeeded() };
        // A request that was in flight when the receiver asked for time says nothing about the time after the pause.
        if probe.was_asked_for_time() && (kind != Kind::Probe || probe.is_paused(now)) {
            return;
        }
        match probe.room_after_pause() {
            Some(room) => self.recovery.pause_over(room, now),
            None => self.recovery.failures_over(),
        }
        self.probe = None;
    }

    /// Returns whether a probe begins or goes on.
    fn failed(&mut self, kind: Kind, limits: &LaneLimits, now: Instant) -> bool {
        match &mut self.probe {
            Some(probe) if kind == Kind::Probe && !probe.is_paused(now) => probe.failed(limits.probe_interval_max, now),
            // A request that began before the probes.
            Some(_) => return false,
            None if self.failures < limits.probe_after => return false,
            None => self.probe = Some(Probe::begin(limits.probe_interval, now)),
        }
        true
    }
}

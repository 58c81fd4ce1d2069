//! Pauses of lanes: a receiver that asks for time gets nothing until then, and afterwards begins with half of what it had.

use std::time::{Duration, Instant};

use super::{Lane, Lanes, Probe};
use crate::ids::WebhookId;
use crate::snapshot::ReceiverId;

/// After a pause a lane's room doubles this often, until the receiver asks for time again. A receiver that takes a few
/// requests a second must not get many at once.
const REOPEN_AFTER_PAUSE_EVERY: Duration = Duration::from_secs(2);
/// A paused lane is claimed for this often, to learn whether its webhook is still paused.
const ASK_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;

/// For how long a receiver gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    pub until: Instant,
    /// Who asked: another URL has another receiver.
    pub by: ReceiverId,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Paused {
    pub(super) pause: Pause,
    /// What it gets afterwards.
    room: usize,
    pub(super) ask_again: Instant,
}

impl<T> Lanes<T> {
    /// Until when nothing of a webhook is claimed or started, if its receiver asked for time.
    pub fn paused_until(&self, webhook: WebhookId, now: Instant) -> Option<Instant> {
        self.lanes.get(&webhook).filter(|lane| lane.is_paused(now))?.probe.as_ref().map(|probe| probe.next)
    }

    /// Its receiver asked for time, another worker says. Returns what waited in its lane.
    pub fn pause(&mut self, webhook: WebhookId, pause: Pause, now: Instant) -> Vec<T> {
        let interval = self.limits.probe_interval;
        self.lane(webhook, now).pause(pause, 0, interval, now);
        self.empty(webhook)
    }

    /// The database says that the webhook is not paused. It may not know of the pause yet, so this ends the pause only if
    /// the webhook has another receiver now than the one that asked for time.
    pub fn not_paused(&mut self, webhook: WebhookId, receiver: ReceiverId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&webhook).filter(|lane| lane.is_paused(now)) else { return };
        let Some(probe) = &mut lane.probe else { return };
        let Some(paused) = &mut probe.pause else { return };
        paused.ask_again = now + ASK_AGAIN;
        if paused.pause.by != receiver {
            probe.pause = None;
            probe.next = now;
            self.put_back(webhook);
        }
    }
}

impl<T> Lane<T> {
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.pause.is_some_and(|paused| now < paused.pause.until))
    }

    /// `ended` turns had just been in flight, too. The first to say so of many in flight decides what it gets afterwards.
    pub(super) fn pause(&mut self, pause: Pause, ended: usize, interval: Duration, now: Instant) {
        let half = ((self.in_flight + ended) / 2).max(1);
        let probe = self.probe.get_or_insert(Probe { next: pause.until, interval, pause: None });
        let before = probe.pause.filter(|before| before.pause.by == pause.by);
        let until = before.map_or(pause.until, |before| before.pause.until.max(pause.until));
        probe.next = until;
        probe.pause = Some(Paused {
            pause: Pause { until, ..pause },
            room: before.map_or(half, |before| before.room),
            ask_again: now + ASK_AGAIN,
        });
    }

    /// After a success that did not begin before a pause.
    pub(super) fn recover(&mut self, now: Instant) {
        match self.probe.take() {
            Some(Probe { pause: Some(paused), .. }) => {
                self.recovery = usize::MAX;
                self.reopened = Some((paused.room, now));
            }
            Some(_) => self.recovery = 2,
            None => self.recovery = self.recovery.saturating_mul(2),
        }
    }

    pub(super) fn room_after_pause(&self, now: Instant) -> usize {
        let Some((room, since)) = self.reopened else { return usize::MAX };
        let doublings = (now - since).as_millis() / REOPEN_AFTER_PAUSE_EVERY.as_millis();
        room.saturating_mul(1 << doublings.min(20))
    }
}

//! Probes and pauses: a receiver that fails, or that asked for time, gets one attempt at a time, and not before a time.

use std::time::{Duration, Instant};

use super::held_back::HeldBack;
use crate::snapshot::ReceiverId;

/// A paused lane may claim one delivery this often, which shows whether the database still has the pause.
pub(super) const CLAIMS_EVERY: Duration = Duration::from_secs(10);

/// For how long a receiver gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: Instant,
    /// The receiver that asked. When the webhook gets another URL, it has another receiver, and the pause ends.
    pub(crate) by: ReceiverId,
}

/// A lane with a probe attempts nothing but probes.
#[derive(Debug)]
pub(super) struct Probe {
    /// No attempt begins before.
    next: Instant,
    /// From a failed probe to the next one.
    interval: Duration,
    /// The receiver asked for time. Kept after the end of the pause until an attempt succeeds.
    pause: Option<Paused>,
}

#[derive(Debug, Clone, Copy)]
struct Paused {
    pause: Pause,
    /// Requests in flight that the receiver gets after the pause.
    room_afterwards: usize,
    claims_again: Instant,
}

impl Probe {
    /// For a receiver that fails.
    pub(super) fn begin(interval: Duration, now: Instant) -> Self {
        Self { next: now + interval, interval, pause: None }
    }

    /// For a receiver that asked for time.
    pub(super) fn paused(interval: Duration, pause: Pause, room_afterwards: usize, now: Instant) -> Self {
        let mut probe = Self { next: pause.until, interval, pause: None };
        probe.pause(pause, room_afterwards, now);
        probe
    }

    /// The receiver asked for time. If the same receiver asked before, the later end counts, and `room_afterwards` stays:
    /// the first answer came when the most requests were in flight.
    pub(super) fn pause(&mut self, pause: Pause, room_afterwards: usize, now: Instant) {
        let before = self.pause.filter(|before| before.pause.by == pause.by);
        let until = before.map_or(pause.until, |before| before.pause.until.max(pause.until));
        self.next = until;
        self.pause = Some(Paused {
            pause: Pause { until, ..pause },
            room_afterwards: before.map_or(room_afterwards, |before| before.room_afterwards),
            claims_again: now + CLAIMS_EVERY,
        });
    }

    /// The database has no pause for the webhook, which has this receiver. The database may not have the pause yet, so
    /// this ends the pause only of another receiver. Returns whether it did.
    pub(super) fn end_pause_of_another(&mut self, receiver: ReceiverId, now: Instant) -> bool {
        let Some(paused) = &mut self.pause else { return false };
        paused.claims_again = now + CLAIMS_EVERY;
        let ends = paused.pause.by != receiver;
        if ends {
            self.pause = None;
            self.next = now;
        }
        ends
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.pause.is_some_and(|paused| now < paused.pause.until)
    }

    pub(super) fn was_asked_for_time(&self) -> bool {
        self.pause.is_some()
    }

    pub(super) fn room_after_pause(&self) -> Option<usize> {
        self.pause.map(|paused| paused.room_afterwards)
    }

    /// How many deliveries may be claimed for a lane with this much room.
    pub(super) fn claimable(&self, room: usize, now: Instant) -> usize {
        match self.pause {
            Some(paused) if self.is_paused(now) => usize::from(now >= paused.claims_again),
            _ => room,
        }
    }

    pub(super) fn room(&self, in_flight: usize, now: Instant) -> Result<usize, HeldBack> {
        if in_flight > 0 {
            return Err(HeldBack::ProbeAlone);
        }
        match now < self.next {
            true if self.is_paused(now) => Err(HeldBack::Pause { until: self.next }),
            true => Err(HeldBack::Probe { next: self.next }),
            false => Ok(1),
        }
    }

    pub(super) fn started(&mut self, now: Instant) {
        self.next = now + self.interval;
    }

    pub(super) fn failed(&mut self, longest: Duration, now: Instant) {
        self.interval = (self.interval * 2).min(longest);
        self.next = now + self.interval;
    }
}

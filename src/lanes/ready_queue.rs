//! The lanes with waiting turns. Those that may have room stand in one line; the others are sorted by what holds them
//! back, and cost nothing until that changes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::held_back::HeldBack;
use crate::ids::WebhookId;

/// Where a lane with waiting turns is kept, so that it can be taken out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ticket {
    /// In the line of lanes that may have room.
    Ready,
    /// In no collection: [`ReadyQueue::ready`] is called when one of the lane's requests ends.
    RequestEnds,
    At(Instant, u64),
    Share(usize, u64),
    Reserve(u64),
}

#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    ready: VecDeque<WebhookId>,
    /// Lanes that wait for a time.
    at: BTreeMap<(Instant, u64), WebhookId>,
    /// Lanes that wait for a larger share, by their requests in flight: the one with the fewest has room first.
    share: BTreeMap<(usize, u64), WebhookId>,
    /// Slow lanes that wait for more than the reserve to be free.
    reserve: BTreeMap<u64, WebhookId>,
    /// How many times a lane was put aside so far. Of lanes that wait for the same, the first to come is the first to go.
    pub(super) put_aside: u64,
}

impl ReadyQueue {
    /// Appends a lane to the line of those that may have room.
    pub(super) fn ready(&mut self, webhook: WebhookId) -> Ticket {
        self.ready.push_back(webhook);
        Ticket::Ready
    }

    /// Keeps a lane until what holds it back may have changed.
    pub(super) fn put_aside(&mut self, webhook: WebhookId, why: HeldBack) -> Ticket {
        self.put_aside += 1;
        let count = self.put_aside;
        match why {
            HeldBack::PerWebhookCap | HeldBack::Recovery | HeldBack::ProbeAlone => Ticket::RequestEnds,
            HeldBack::Window { opens: time }
            | HeldBack::RecoveryFromPause { look_again: time }
            | HeldBack::Probe { next: time }
            | HeldBack::Pause { until: time } => {
                self.at.insert((time, count), webhook);
                Ticket::At(time, count)
            }
            HeldBack::Share { in_flight } => {
                self.share.insert((in_flight, count), webhook);
                Ticket::Share(in_flight, count)
            }
            HeldBack::Reserve => {
                self.reserve.insert(count, webhook);
                Ticket::Reserve(count)
            }
            HeldBack::Full => self.ready(webhook),
        }
    }

    /// Takes out a lane that was put aside. Returns false if the lane stands in the line of those that may have room: it
    /// stays there.
    pub(super) fn take_out(&mut self, ticket: Ticket) -> bool {
        match ticket {
            Ticket::Ready => return false,
            Ticket::RequestEnds => {}
            // Not there if its time has come: `next` moved the lane to the line.
            Ticket::At(time, count) => return self.at.remove(&(time, count)).is_some(),
            Ticket::Share(in_flight, count) => drop(self.share.remove(&(in_flight, count))),
            Ticket::Reserve(count) => drop(self.reserve.remove(&count)),
        }
        true
    }

    /// Takes out the next lane to look at: the first in the line, which lanes join whose time has come; else a lane with
    /// fewer requests in flight than `share`; else, with `beyond_reserve`, a slow lane.
    pub(super) fn next(&mut self, share: usize, beyond_reserve: bool, now: Instant) -> Option<WebhookId> {
        while let Some(opened) = self.at.first_entry().filter(|first| first.key().0 <= now) {
            self.ready.push_back(opened.remove());
        }
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        if let Some(first) = self.share.first_entry().filter(|first| first.key().0 < share) {
            return Some(first.remove());
        }
        if beyond_reserve { self.reserve.pop_first().map(|(_, slow)| slow) } else { None }
    }
}

//! The lanes with waiting turns: those that may have room, in the order in which they are looked at, and the others sorted
//! by what they wait for. A lane without room is looked at again when that has come, and costs nothing before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::ids::WebhookId;

/// Why a lane has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Its webhook has as many requests in flight as it may have, however few others there are.
    Own,
    /// Its window or its probe opens at this time.
    Until(Instant),
    /// It has its share of the room: so many requests in flight.
    Share(usize),
    /// It is slow, and the last quarter of the room is not for such lanes.
    Kept,
    /// Nobody has room.
    Full,
}

/// Where a lane stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Ready,
    /// Nowhere: it is put back when one of its requests ends.
    Own,
    Until(Instant, u64),
    Share(usize, u64),
    Kept(u64),
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<WebhookId>,
    until: BTreeMap<(Instant, u64), WebhookId>,
    /// The lane with the fewest requests in flight comes first: a larger share gives room to it before the others.
    share: BTreeMap<(usize, u64), WebhookId>,
    kept: BTreeMap<u64, WebhookId>,
    /// Lanes put aside so far. Of lanes that wait for the same, the one that came first goes first.
    pub(super) count: u64,
}

impl Queue {
    pub(super) fn ready(&mut self, webhook: WebhookId) -> Stand {
        self.ready.push_back(webhook);
        Stand::Ready
    }

    /// Puts a lane aside until there may be room for it.
    pub(super) fn put_aside(&mut self, webhook: WebhookId, why: Blocked) -> Stand {
        self.count += 1;
        let count = self.count;
        match why {
            Blocked::Own => Stand::Own,
            Blocked::Until(time) => {
                self.until.insert((time, count), webhook);
                Stand::Until(time, count)
            }
            Blocked::Share(in_flight) => {
                self.share.insert((in_flight, count), webhook);
                Stand::Share(in_flight, count)
            }
            Blocked::Kept => {
                self.kept.insert(count, webhook);
                Stand::Kept(count)
            }
            Blocked::Full => self.ready(webhook),
        }
    }

    /// Takes a lane out that was put aside. Whether it was: one that is ready stays.
    pub(super) fn take_out(&mut self, stand: Stand) -> bool {
        match stand {
            Stand::Ready => return false,
            Stand::Own => {}
            // It may be ready meanwhile, because its time has come.
            Stand::Until(time, count) => return self.until.remove(&(time, count)).is_some(),
            Stand::Share(in_flight, count) => drop(self.share.remove(&(in_flight, count))),
            Stand::Kept(count) => drop(self.kept.remove(&count)),
        }
        true
    }

    /// The next lane to be looked at: one that is ready or whose time has come, else one with fewer requests in flight than
    /// its share, else a slow one if there is room for such.
    pub(super) fn next(&mut self, share: usize, slow_too: bool, now: Instant) -> Option<WebhookId> {
        while let Some(opened) = self.until.first_entry().filter(|first| first.key().0 <= now) {
            self.ready.push_back(opened.remove());
        }
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        if let Some(first) = self.share.first_entry().filter(|first| first.key().0 < share) {
            return Some(first.remove());
        }
        if slow_too { self.kept.pop_first().map(|(_, slow)| slow) } else { None }
    }
}

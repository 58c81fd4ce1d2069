//! Which fresh turns are parked, so that others are read past them: those that have waited long for their own receiver, and
//! what one lane has far beyond its share when hardly anything more fits in hand.

use std::time::{Duration, Instant};

use super::queue::Blocked;
use super::{Lanes, WAITS};
use crate::ids::WebhookId;

/// A lane's surplus is parked at once when hardly anything more has fitted in hand for so long: less says nothing yet.
const PRESSED: Duration = Duration::from_millis(100);

impl<T> Lanes<T> {
    /// Of one lane: first what has waited long, then what it has too much of.
    pub(super) fn park_some(&mut self, webhook: WebhookId, most: usize, parked: &mut Vec<T>, now: Instant) {
        let (share, delays, park_after) =
            (self.share_in_hand(), self.longest_delay.at(now) * WAITS, self.limits.park_after);
        let lane = self.lane(webhook, now);
        let slow = lane.is_slow(park_after, now);
        let waits = delays.is_zero() || lane.took >= delays || now - lane.last_ended >= park_after;
        let before = parked.len();
        let waited_long = |(since, _): &(Instant, T)| now - *since >= park_after;
        while (slow || (waits && lane.in_hand > share)) && parked.len() < most {
            if !lane.fresh.front().is_some_and(waited_long) {
                break;
            }
            parked.extend(lane.fresh.pop_front().map(|(_, turn)| turn));
            lane.in_hand -= 1;
        }
        self.in_hand -= parked.len() - before;
        if self.takes_more() {
            return;
        }
        let surplus = self.surplus(webhook, now).unwrap_or(0).min(most - parked.len());
        let lane = self.lane(webhook, now);
        // What came last: the rest is what is started next.
        let last = lane.fresh.split_off(lane.fresh.len().saturating_sub(surplus));
        lane.in_hand -= last.len();
        self.in_hand -= last.len();
        parked.extend(last.into_iter().map(|(_, turn)| turn));
    }

    /// What a lane has in hand beyond all measure, if its own receiver is the cause: more than a quarter of all that may be
    /// in hand, and more than keeps the receiver busy. Nothing before much has been in hand for a while.
    pub(super) fn surplus(&self, webhook: WebhookId, now: Instant) -> Option<usize> {
        self.pressed_since.filter(|since| now - *since >= PRESSED)?;
        let lane = self.lanes.get(&webhook)?;
        let enough = (self.limits.in_hand / 4).max(self.share_in_hand()).max(lane.in_flight + lane.in_flight / 2);
        let surplus = lane.in_hand.checked_sub(enough)?;
        // It has all requests that it may have, it is not our own window that limits it, and its attempts take long.
        let full = matches!(self.room_of(lane, now), Err(Blocked::Own | Blocked::Share(_) | Blocked::Kept));
        let waits = lane.took >= self.longest_delay.at(now) * WAITS && 2 * lane.took >= lane.occupied;
        (full && waits).then_some(surplus)
    }

    /// So much in hand that hardly anything more fits.
    pub(super) fn pressing(&self) -> usize {
        self.limits.in_hand - self.limits.in_hand / 4
    }
}

//! Which fresh turns are parked, so that the intake can read others past them: turns that have waited long for their own
//! receiver, and, when hardly anything more fits in hand, what one lane has far beyond its share.

use std::time::{Duration, Instant};

use super::delays::Delay;
use super::held_back::HeldBack;
use super::room::Lanes;
use crate::ids::WebhookId;

/// A lane's surplus is parked only after `in_hand` has been near its limit for this long.
const NEARLY_FULL_FOR: Duration = Duration::from_millis(100);
/// Lanes checked for turns to park per tick. The next tick goes on with the next lanes, so that the lock on the lanes is
/// held shortly however many lanes there are.
const CHECKED_PER_TICK: usize = 512;

impl<T> Lanes<T> {
    /// To be called every few milliseconds, with how long something waits for a processor now. Returns at most `most` fresh
    /// turns for the caller to park.
    pub(crate) fn tick(&mut self, delay: Delay, most: usize, now: Instant) -> Vec<T> {
        self.delay = delay;
        self.longest_delay.note(delay.all, now);
        self.activity.begin_period(now);
        self.forget_some(now);
        match self.in_hand {
            few if few < self.limits.in_hand / 2 => self.nearly_full_since = None,
            many if many >= self.nearly_full() => drop(self.nearly_full_since.get_or_insert(now)),
            _ => {}
        }
        let mut parked = Vec::new();
        for _ in 0..self.parking_checks.len().min(CHECKED_PER_TICK) {
            let Some(webhook) = self.parking_checks.pop_front() else { break };
            if self.in_hand > self.limits.in_hand / 2 && parked.len() < most {
                self.park_long_waiting(webhook, most, &mut parked, now);
                self.park_surplus(webhook, most, &mut parked, now);
            }
            let lane = self.lane(webhook, now);
            lane.is_checked_for_parking = !lane.fresh.is_empty();
            if lane.is_checked_for_parking {
                self.parking_checks.push_back(webhook);
            }
            self.note_work(webhook);
        }
        parked
    }

    /// Parks what has waited long in a lane, if the receiver is the cause: it is slow, or it takes longer than a request
    /// waits for processors and the lane has more than its share in hand.
    fn park_long_waiting(&mut self, webhook: WebhookId, most: usize, parked: &mut Vec<T>, now: Instant) {
        let (share, delays, park_after) =
            (self.share_in_hand(), self.longest_delay.of_a_request(now), self.limits.park_after);
        let lane = self.lane(webhook, now);
        let slow = lane.is_slow(park_after, now);
        let pace = &lane.pace;
        let waits = delays.is_zero() || pace.attempt_time >= delays || pace.has_stood_still(park_after, now);
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
    }

    /// Parks a lane's surplus if nothing more fits in hand.
    fn park_surplus(&mut self, webhook: WebhookId, most: usize, parked: &mut Vec<T>, now: Instant) {
        if self.takes_more() {
            return;
        }
        let surplus = self.surplus(webhook, now).unwrap_or(0).min(most - parked.len());
        let lane = self.lane(webhook, now);
        // The turns that came last, for the others are started next.
        let last = lane.fresh.split_off(lane.fresh.len().saturating_sub(surplus));
        lane.in_hand -= last.len();
        self.in_hand -= last.len();
        parked.extend(last.into_iter().map(|(_, turn)| turn));
    }

    /// How many fresh turns a lane has beyond a quarter of all that may be in hand, beyond its share, and beyond what keeps
    /// its receiver busy. `None` if there are none, if the receiver is not the cause, or if `in_hand` has not been near its
    /// limit for [`NEARLY_FULL_FOR`].
    pub(super) fn surplus(&self, webhook: WebhookId, now: Instant) -> Option<usize> {
        self.nearly_full_since.filter(|since| now - *since >= NEARLY_FULL_FOR)?;
        let lane = self.lanes.get(&webhook)?;
        let enough = (self.limits.in_hand / 4).max(self.share_in_hand()).max(lane.in_flight + lane.in_flight / 2);
        let surplus = lane.in_hand.checked_sub(enough)?;
        // With any other limit the lane waits for a time, or for this process, and not for its receiver.
        let has_all_it_may = matches!(
            self.room_of(lane, now),
            Err(HeldBack::PerWebhookCap
                | HeldBack::Share { .. }
                | HeldBack::Reserve
                | HeldBack::Recovery
                | HeldBack::ProbeAlone)
        );
        let takes_long = lane.pace.attempt_time >= self.longest_delay.of_a_request(now);
        (has_all_it_may && takes_long && lane.pace.waits_for_receiver()).then_some(surplus)
    }

    /// From this many in hand on, hardly anything more fits.
    pub(super) fn nearly_full(&self) -> usize {
        self.limits.in_hand - self.limits.in_hand / 4
    }
}

//! The way of a turn through its lane: offered or claimed, started, ended.

use std::time::{Duration, Instant};

use super::delays::WAITS_PER_REQUEST;
use super::room::Lanes;
use super::slot::{Feedback, Offer, Slot, Start};
use crate::ids::WebhookId;

impl<T> Lanes<T> {
    /// Whether a fresh turn may be offered.
    pub(crate) fn takes_more(&self) -> bool {
        self.in_hand < self.limits.in_hand
    }

    /// A turn that came straight from its broker message.
    pub(crate) fn offer(&mut self, webhook: WebhookId, turn: T, now: Instant) -> Offer<T> {
        let (room, share, park_after) = (self.room(webhook, now), self.share_in_hand(), self.limits.park_after);
        let lane = self.lane(webhook, now);
        if room.is_ok() && lane.waiting() == 0 {
            lane.in_hand += 1;
            self.in_hand += 1;
            return Offer::Start(self.start(webhook, turn, true, now));
        }
        let parks = lane.probe.is_some() || (lane.in_hand >= share && lane.is_slow(park_after, now));
        if let Err(why) = room {
            self.note_held_back(webhook, why, now);
        }
        if parks || (self.in_hand >= self.nearly_full() && self.surplus(webhook, now).is_some()) {
            return Offer::Park(turn);
        }
        let lane = self.lane(webhook, now);
        lane.fresh.push_back((now, turn));
        lane.in_hand += 1;
        let is_checked = std::mem::replace(&mut lane.is_checked_for_parking, true);
        self.in_hand += 1;
        if !is_checked {
            self.parking_checks.push_back(webhook);
        }
        self.enqueue(webhook);
        Offer::Waits
    }

    /// How many fresh turns of a webhook have to be granted at most, if it has a pace: a lane that is probed parks the others.
    pub(crate) fn fresh_room(&self, webhook: WebhookId, now: Instant) -> usize {
        match self.lanes.get(&webhook) {
            Some(lane) if lane.probe.is_some() => self.room(webhook, now).unwrap_or(0).saturating_sub(lane.waiting()),
            _ => usize::MAX,
        }
    }

    /// How many due deliveries of a webhook may be claimed: those that there is room for, and as many again to follow them. A
    /// lane without room for fresh turns that wait claims a few all the same, so that due turns alternate with them.
    pub(crate) fn claimable(&self, webhook: WebhookId, now: Instant) -> usize {
        let room = self.room(webhook, now).unwrap_or(0);
        let Some(lane) = self.lanes.get(&webhook) else { return 2 * room };
        let park_after = self.limits.park_after;
        let turns = match &lane.probe {
            Some(probe) => probe.claimable(room, now),
            None if room == 0 && !lane.fresh.is_empty() => (lane.in_flight / 2).max(1),
            // What is claimed ahead would wait long here, while another worker could attempt it.
            None if lane.pace.attempt_time >= park_after || lane.is_slow(park_after, now) => 2 * room,
            // Many at a time: each claim is a statement.
            None if lane.due.len() <= lane.in_flight / 4 => (2 * room).max(lane.in_flight / 2),
            None => 2 * room,
        };
        turns.saturating_sub(lane.due.len())
    }

    /// The same for deliveries that have to start soon: none are claimed ahead. A paused lane claims one now and then.
    pub(crate) fn claimable_to_start(&self, webhook: WebhookId, now: Instant) -> usize {
        let turns = self.claimable(webhook, now);
        match self.lanes.get(&webhook) {
            Some(lane) if lane.is_paused(now) => turns,
            Some(lane) => turns.min(self.room(webhook, now).unwrap_or(0).saturating_sub(lane.waiting())),
            None => turns.min(self.room(webhook, now).unwrap_or(0)),
        }
    }

    /// A due delivery that was claimed; it may have to wait a moment.
    pub(crate) fn add_claimed(&mut self, webhook: WebhookId, turn: T, now: Instant) {
        self.lane(webhook, now).due.push_back(turn);
        self.enqueue(webhook);
    }

    /// The next waiting turn for which there is room.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Start<T>> {
        while self.free() > 0 {
            let webhook = self.queue.next(self.share(), self.free() > self.reserve(), now)?;
            let Some(lane) = self.lanes.get(&webhook) else { continue };
            let room = self.room_of(lane, now);
            let lane = self.lane(webhook, now);
            lane.ticket = None;
            // All its turns may have been parked meanwhile.
            if lane.waiting() == 0 {
                continue;
            }
            if let Err(why) = room {
                self.note_held_back(webhook, why, now);
                let ticket = self.queue.put_aside(webhook, why);
                self.lane(webhook, now).ticket = Some(ticket);
                continue;
            }
            let Some((turn, fresh)) = lane.pop() else { continue };
            let start = self.start(webhook, turn, fresh, now);
            self.enqueue(webhook);
            return Some(start);
        }
        None
    }

    /// A started turn has ended. `took` is what its attempt took; `None` if it was not attempted. Returns the turns that
    /// waited in the lane if its receiver is probed or paused from now on: the caller parks them, or gives them back.
    pub(crate) fn ended(&mut self, slot: Slot, feedback: Feedback, took: Option<Duration>, now: Instant) -> Vec<T> {
        let Slot { webhook, kind, fresh, began } = slot;
        // An attempt may also take long because of this machine.
        let long = self.limits.park_after;
        let long = long + self.longest_delay.of_a_request(now).min(3 * long);
        let was_delayed_by_us = took.is_some_and(|took| took < self.delay.own * WAITS_PER_REQUEST);
        self.in_flight -= 1;
        self.in_hand -= usize::from(fresh);
        let lane = self.lanes.get_mut(&webhook).expect("a lane with turns in flight is not forgotten");
        lane.in_flight -= 1;
        lane.in_hand -= usize::from(fresh);
        lane.pace.note(took, now - began, long, now);
        let must_leave = lane.apply_feedback(kind, feedback, &self.limits, now);
        if was_delayed_by_us && feedback == Feedback::Succeeded {
            lane.shrink_window(now);
        }
        let turned_away = if must_leave { self.empty(webhook) } else { Vec::new() };
        self.enqueue_again(webhook);
        turned_away
    }

    /// Takes out all turns that wait, for a stop.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let all: Vec<WebhookId> = self.lanes.keys().copied().collect();
        all.into_iter().flat_map(|webhook| self.empty(webhook)).collect()
    }
}

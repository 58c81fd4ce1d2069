//! Shares, windows and limits of lanes; the files beside it hold what is parked, probed and paused.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use uuid::Uuid;

use super::held_back::REPORTED_AGAIN_AFTER;
use super::idle::{CHECKED_AT_ONCE, FORGOTTEN_AFTER};
use super::slot::Kind;
use super::window::{DOUBLES_EVERY, MIN_WIDTH};
use super::*;
use crate::ids::WebhookId;

mod activity;
mod held_back;
mod parking;
mod pauses;
mod probes;

fn limits() -> LaneLimits {
    let (park_after, interval) = (Duration::from_millis(250), Duration::from_secs(1));
    LaneLimits {
        in_flight: 300,
        per_webhook: usize::MAX,
        in_hand: 2000,
        park_after,
        probe_after: 3,
        probe_interval: interval,
        probe_interval_max: 8 * interval,
    }
}

fn webhook(number: u128) -> WebhookId {
    WebhookId(Uuid::from_u128(number))
}

/// Offers turns until no more are started, and says how many were.
fn fill(lanes: &mut Lanes<u32>, id: u128, now: Instant) -> usize {
    (0..1000).take_while(|turn| matches!(lanes.offer(webhook(id), *turn, now), Offer::Start(_))).count()
}

/// What attempts take that wait for nobody.
const QUICK: Duration = Duration::from_millis(2);
/// How much a process delays itself that has too much to do.
const DELAY: Delay = Delay { all: Duration::from_millis(5), own: Duration::from_millis(5) };
const NO_DELAY: Delay = Delay { all: Duration::ZERO, own: Duration::ZERO };
/// Beside a busy neighbour.
const NEIGHBOUR: Delay = Delay { all: Duration::from_millis(50), own: Duration::ZERO };
/// The recorder has room for everything.
const ALL: usize = usize::MAX;

fn end(lanes: &mut Lanes<u32>, id: u128, kind: Kind, feedback: Feedback, now: Instant) -> Vec<u32> {
    lanes.ended(Slot { webhook: webhook(id), kind, fresh: true, began: now }, feedback, Some(QUICK), now)
}

fn succeed(lanes: &mut Lanes<u32>, id: u128, now: Instant) {
    assert!(end(lanes, id, Kind::Usual, Feedback::Succeeded, now).is_empty());
}

fn in_flight(lanes: &Lanes<u32>, id: u128) -> usize {
    lanes.lanes[&webhook(id)].in_flight
}
/// How many requests a lane may have in flight besides those that are.
fn room(lanes: &Lanes<u32>, webhook: WebhookId, now: Instant) -> usize {
    lanes.room(webhook, now).unwrap_or(0)
}

/// Has receivers keep up with more than enough work.
fn work(lanes: &mut Lanes<u32>, ids: std::ops::Range<u128>, now: Instant) {
    for _ in 0..1000 {
        for id in ids.clone() {
            while lanes.lanes.get(&webhook(id)).is_none_or(|lane| lane.waiting() == 0) {
                let _ = lanes.offer(webhook(id), 0, now);
            }
            if in_flight(lanes, id) > 0 {
                succeed(lanes, id, now);
            }
            while lanes.next(now).is_some() {}
        }
    }
}

#[test]
fn a_lane_alone_gets_one_half_and_leaves_the_other() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    assert_eq!(fill(&mut lanes, 1, now), 150);
    assert_eq!(fill(&mut lanes, 2, now), 75);
}

#[test]
fn greedy_lanes_get_equal_shares_and_leave_room_for_another() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    work(&mut lanes, 0..20, now);
    let shares: Vec<_> = (0..20).map(|id| in_flight(&lanes, id)).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 2, "{shares:?}");
    assert!(lanes.in_flight <= 200, "{}", lanes.in_flight);
    assert!(matches!(lanes.offer(webhook(99), 0, now), Offer::Start(_)));
}

#[test]
fn a_busy_machine_closes_the_lanes_whose_requests_end_all_the_time_and_time_opens_them_again() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    work(&mut lanes, 1..2, now);
    assert_eq!(in_flight(&lanes, 1), 150);
    lanes.tick(DELAY, ALL, now);
    work(&mut lanes, 1..2, now);
    assert_eq!(in_flight(&lanes, 1), MIN_WIDTH);
    assert_eq!(room(&lanes, webhook(1), now), 0);
    assert_eq!(room(&lanes, webhook(1), now + DOUBLES_EVERY), MIN_WIDTH);
    assert_eq!(room(&lanes, webhook(1), now + 10 * DOUBLES_EVERY), 150 - MIN_WIDTH);
}
/// Has one receiver that does not answer take what it can.
fn hoard(lanes: &mut Lanes<u32>, id: u128, now: Instant) {
    while lanes.takes_more() {
        let _ = lanes.offer(webhook(id), 0, now);
    }
}
#[test]
fn requests_that_wait_for_their_receiver_are_as_many_as_ever_however_late_timers_are() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    work(&mut lanes, 1..2, now);
    lanes.tick(DELAY, ALL, now);
    for _ in 0..500 {
        let slot = Slot { webhook: webhook(1), kind: Kind::Usual, fresh: true, began: now };
        lanes.ended(slot, Feedback::Succeeded, Some(Duration::from_millis(200)), now);
        let _ = lanes.offer(webhook(1), 0, now);
        while lanes.next(now).is_some() {}
    }
    assert_eq!(in_flight(&lanes, 1), 150);
}

#[test]
fn a_busy_neighbour_neither_closes_a_lane_nor_makes_its_receiver_a_slow_one() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    work(&mut lanes, 1..2, now);
    lanes.tick(NEIGHBOUR, ALL, now);
    let slot = Slot { webhook: webhook(1), kind: Kind::Usual, fresh: true, began: now };
    lanes.ended(slot, Feedback::Succeeded, Some(2 * limits().park_after), now);
    assert!(!lanes.lanes[&webhook(1)].is_slow(limits().park_after, now));
    work(&mut lanes, 1..2, now);
    assert_eq!(in_flight(&lanes, 1), 150);
}

#[test]
fn a_lane_with_room_is_found_behind_any_number_without() {
    let (mut lanes, now) = (Lanes::new(LaneLimits { per_webhook: 1, ..limits() }), Instant::now());
    for id in 0..100 {
        assert!(matches!(lanes.offer(webhook(id), 0, now), Offer::Start(_)));
        assert_eq!(lanes.offer(webhook(id), 1, now), Offer::Waits);
    }
    lanes.add_claimed(webhook(999), 7, now);
    assert_eq!(lanes.next(now).map(|start| start.turn), Some(7));
}

#[test]
fn lanes_without_room_cost_nothing_when_another_ends() {
    const LANES: u128 = 20_000;
    let limits = LaneLimits { in_flight: 2 * LANES as usize, in_hand: 4 * LANES as usize, per_webhook: 1, ..limits() };
    let (mut lanes, now) = (Lanes::new(limits), Instant::now());
    for id in 0..LANES {
        for turn in 0..2 {
            let _ = lanes.offer(webhook(id), turn, now);
        }
    }
    assert!(lanes.next(now).is_none());
    let put_aside = lanes.queue.put_aside;
    succeed(&mut lanes, 500, now);
    assert!(lanes.next(now).is_some_and(|start| start.slot.webhook == webhook(500)));
    assert!(lanes.next(now).is_none());
    assert_eq!(lanes.queue.put_aside - put_aside, 0, "no other lane was looked at");
    let later = now + 2 * FORGOTTEN_AFTER;
    lanes.tick(NO_DELAY, ALL, later);
    assert_eq!((lanes.activity.lanes(), lanes.activity.with_work), (LANES as usize, LANES as usize));
}

#[test]
fn lanes_without_work_are_forgotten_a_few_at_a_time() {
    let (mut lanes, mut now) = (Lanes::new(limits()), Instant::now());
    for id in 0..1000 {
        assert!(matches!(lanes.offer(webhook(id), 0, now), Offer::Start(_)) || id >= 300);
    }
    for id in 0..300 {
        succeed(&mut lanes, id, now);
    }
    now += FORGOTTEN_AFTER;
    let before = lanes.lanes.len();
    lanes.tick(NO_DELAY, ALL, now);
    assert!(before - lanes.lanes.len() <= CHECKED_AT_ONCE);
    (0..1000).for_each(|_| drop(lanes.tick(NO_DELAY, ALL, now)));
    assert_eq!((lanes.lanes.len(), lanes.idle_checks.len()), (700, 700), "those with work stay");
}
#[test]
fn due_and_fresh_turns_alternate() {
    let (mut lanes, now) = (Lanes::new(LaneLimits { per_webhook: 1, ..limits() }), Instant::now());
    assert!(matches!(lanes.offer(webhook(1), 0, now), Offer::Start(_)));
    for turn in 1..=2 {
        assert_eq!(lanes.offer(webhook(1), turn, now), Offer::Waits);
    }
    assert_eq!((room(&lanes, webhook(1), now), lanes.claimable(webhook(1), now)), (0, 1));
    for turn in 11..=13 {
        lanes.add_claimed(webhook(1), turn, now);
    }
    assert_eq!(lanes.claimable(webhook(1), now), 0);
    let mut order = Vec::new();
    succeed(&mut lanes, 1, now);
    while let Some(start) = lanes.next(now) {
        order.push(start.turn);
        assert!(lanes.ended(start.slot, Feedback::Succeeded, Some(QUICK), now).is_empty());
    }
    assert_eq!(order, [11, 1, 12, 2, 13]);
}

proptest! {
    #[test]
    fn whatever_happens_limits_hold_and_every_turn_ends(
        steps in proptest::collection::vec((0..8_u128, 0..4_u8, any::<bool>()), 1..400),
    ) {
        let (mut lanes, mut now) = (Lanes::new(LaneLimits { in_flight: 20, in_hand: 30, ..limits() }), Instant::now());
        let (mut offered, mut over, mut out) = (0, 0, Vec::new());
        for (id, step, busy) in steps {
            now += Duration::from_millis(40);
            over += lanes.tick(if busy { DELAY } else { NO_DELAY }, ALL, now).len();
            match step {
                0 | 1 if lanes.takes_more() => match lanes.offer(webhook(id), 0, now) {
                    Offer::Start(start) => { offered += 1; out.push(start) }
                    Offer::Waits => offered += 1,
                    Offer::Park(_) => {}
                },
                0 | 1 => {}
                2 => if room(&lanes, webhook(id), now) > 0 {
                    offered += 1;
                    lanes.add_claimed(webhook(id), 0, now);
                },
                _ => if let Some(start) = out.pop() {
                    let feedback = if busy { Feedback::Failed } else { Feedback::Succeeded };
                    over += 1 + lanes.ended(start.slot, feedback, Some(QUICK), now).len();
                },
            }
            while let Some(start) = lanes.next(now) {
                out.push(start);
            }
            prop_assert!(out.len() <= 20);
            prop_assert_eq!(out.len(), lanes.in_flight);
            prop_assert!(lanes.in_hand <= 30);
            prop_assert_eq!(lanes.in_hand, lanes.lanes.values().map(|lane| lane.in_hand).sum::<usize>());
            for (id, lane) in &lanes.lanes {
                prop_assert!(lane.waiting() == 0 || room(&lanes, *id, now) == 0, "a lane with room is passed over");
            }
            let at_work = lanes.lanes.values().filter(|lane| lane.in_flight + lane.waiting() > 0).count();
            prop_assert_eq!((at_work, true), (lanes.activity.with_work, lanes.activity.lanes() >= at_work.max(1)));
        }
        over += out.len() + lanes.drain().len();
        prop_assert_eq!(over, offered);
    }
}

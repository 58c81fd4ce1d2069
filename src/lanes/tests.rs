use super::*;
use proptest::prelude::*;
use uuid::Uuid;

fn limits() -> Limits {
    let (park_after, interval) = (Duration::from_millis(250), Duration::from_secs(1));
    Limits {
        in_flight: 300,
        per_webhook: usize::MAX,
        waiting: 100,
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

fn succeed(lanes: &mut Lanes<u32>, id: u128, now: Instant) {
    assert!(lanes.ended(webhook(id), Kind::Usual, Verdict::Succeeded, now).is_empty());
}

/// Has a lane's receiver keep up with more than enough work.
fn widen(lanes: &mut Lanes<u32>, id: u128, now: Instant) {
    for _ in 0..2000 {
        while let Offer::Start(_) | Offer::Waits = lanes.offer(webhook(id), 0, now) {}
        succeed_one(lanes, id, now);
        while lanes.next(now).is_some() {}
    }
}

fn succeed_one(lanes: &mut Lanes<u32>, id: u128, now: Instant) {
    if lanes.lanes[&webhook(id)].in_flight > 0 {
        succeed(lanes, id, now);
    }
}

#[test]
fn a_lane_alone_gets_a_third_and_leaves_room_for_others() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    assert_eq!(fill(&mut lanes, 1, now), 100);
    assert_eq!(fill(&mut lanes, 2, now), 67);
}

#[test]
fn greedy_lanes_get_equal_shares_and_never_everything() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    for _ in 0..3000 {
        for id in 0..20 {
            let _ = lanes.offer(webhook(id), 0, now);
            succeed_one(&mut lanes, id, now);
            while lanes.next(now).is_some() {}
        }
    }
    let shares: Vec<_> = (0..20).map(|id| lanes.lanes[&webhook(id)].in_flight).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 3, "{shares:?}");
    assert!(lanes.in_flight < 300, "{}", lanes.in_flight);
    assert!(matches!(lanes.offer(webhook(99), 0, now), Offer::Start(_)));
}

#[test]
fn a_busy_machine_closes_the_lanes_whose_requests_end_all_the_time_and_time_opens_them_again() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    widen(&mut lanes, 1, now);
    assert_eq!(lanes.lanes[&webhook(1)].in_flight, 100);
    lanes.set_busy(true);
    widen(&mut lanes, 1, now);
    assert_eq!(lanes.lanes[&webhook(1)].in_flight, LEAST_WINDOW);
    assert_eq!(lanes.room(webhook(1), now), 0);
    assert_eq!(lanes.room(webhook(1), now + REOPEN_EVERY), LEAST_WINDOW);
    assert_eq!(lanes.room(webhook(1), now + 10 * REOPEN_EVERY), 148 - LEAST_WINDOW);
}

#[test]
fn nothing_waits_long_behind_a_receiver_that_does_not_answer() {
    let (mut lanes, start) = (Lanes::new(limits()), Instant::now());
    fill(&mut lanes, 1, start);
    let mut waiting = 1;
    while let Offer::Waits = lanes.offer(webhook(1), 0, start) {
        waiting += 1;
    }
    assert!(waiting < 60, "{waiting} waiting: others find no room");
    let Offer::Full(_, wait) = lanes.offer(webhook(1), 7, start) else { panic!("its head is young") };
    assert_eq!(wait, limits().park_after);
    assert_eq!(lanes.offer(webhook(1), 7, start + wait), Offer::Park(7));
    assert!(matches!(lanes.offer(webhook(2), 8, start + wait), Offer::Start(_)));
}

#[test]
fn what_a_busy_machine_has_no_time_for_stays_with_the_broker() {
    let (mut lanes, start) = (Lanes::new(limits()), Instant::now());
    fill(&mut lanes, 1, start);
    while let Offer::Waits = lanes.offer(webhook(1), 0, start) {}
    let later = start + Duration::from_secs(1);
    lanes.set_busy(true);
    succeed(&mut lanes, 1, later);
    assert!(matches!(lanes.offer(webhook(1), 7, later), Offer::Full(7, _)));
}

/// Ends a lane's turns in flight as failures and returns what is turned away.
fn fail_all(lanes: &mut Lanes<u32>, id: u128, now: Instant) -> Vec<u32> {
    let in_flight = lanes.lanes[&webhook(id)].in_flight;
    (0..in_flight).flat_map(|_| lanes.ended(webhook(id), Kind::Usual, Verdict::Failed, now)).collect()
}

fn probe(lanes: &mut Lanes<u32>, now: Instant) -> bool {
    matches!(lanes.offer(webhook(1), 9, now), Offer::Start(Start { kind: Kind::Probe, .. }))
}

#[test]
fn a_receiver_that_only_fails_is_probed_further_and_further_apart() {
    let (mut lanes, start) = (Lanes::new(limits()), Instant::now());
    fill(&mut lanes, 1, start);
    assert_eq!(lanes.offer(webhook(1), 7, start), Offer::Waits);
    // The one that `fill` was left with waits, too.
    assert_eq!(fail_all(&mut lanes, 1, start).len(), 2);
    assert_eq!(lanes.offer(webhook(1), 8, start), Offer::Park(8));
    let (mut now, mut apart) = (start, Vec::new());
    for _ in 0..5 {
        let begun = now;
        while !probe(&mut lanes, now) {
            assert_eq!(lanes.room(webhook(1), now), 0);
            now += Duration::from_millis(100);
        }
        assert!(!probe(&mut lanes, now), "one at a time");
        apart.push((now - begun).as_secs());
        lanes.ended(webhook(1), Kind::Probe, Verdict::Failed, now);
    }
    assert_eq!(apart, [1, 2, 4, 8, 8]);
}

#[test]
fn a_receiver_that_recovers_gets_twice_as_much_after_every_success() {
    let (mut lanes, start) = (Lanes::new(limits()), Instant::now());
    fill(&mut lanes, 1, start);
    fail_all(&mut lanes, 1, start);
    let now = start + Duration::from_secs(1);
    assert!(probe(&mut lanes, now));
    lanes.ended(webhook(1), Kind::Probe, Verdict::Succeeded, now);
    assert_eq!(lanes.room(webhook(1), now), 2);
    assert_eq!(fill(&mut lanes, 1, now), 2);
    succeed(&mut lanes, 1, now);
    assert_eq!(lanes.room(webhook(1), now), 3);
}

#[test]
fn our_own_failure_says_nothing_about_a_receiver() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    for _ in 0..10 {
        let Offer::Start(start) = lanes.offer(webhook(1), 0, now) else { panic!("it is not failing") };
        lanes.ended(start.webhook, start.kind, Verdict::Nothing, now);
    }
    assert_eq!(lanes.room(webhook(1), now), 150);
}

#[test]
fn due_and_fresh_turns_alternate() {
    let (mut lanes, now) = (Lanes::new(Limits { per_webhook: 1, ..limits() }), Instant::now());
    assert!(matches!(lanes.offer(webhook(1), 0, now), Offer::Start(_)));
    for turn in 1..=2 {
        assert_eq!(lanes.offer(webhook(1), turn, now), Offer::Waits);
    }
    for turn in 11..=13 {
        lanes.claimed(webhook(1), turn, now);
    }
    let mut order = Vec::new();
    for _ in 0..5 {
        succeed(&mut lanes, 1, now);
        order.push(lanes.next(now).unwrap().turn);
    }
    assert_eq!(order, [11, 1, 12, 2, 13]);
}

proptest! {
    #[test]
    fn whatever_happens_limits_hold_and_every_turn_ends(
        steps in proptest::collection::vec((0..8_u128, 0..4_u8, any::<bool>()), 1..400),
    ) {
        let (mut lanes, mut now) = (Lanes::new(Limits { in_flight: 20, waiting: 10, ..limits() }), Instant::now());
        let (mut offered, mut over, mut out) = (0, 0, Vec::new());
        for (id, step, busy) in steps {
            now += Duration::from_millis(40);
            lanes.set_busy(busy);
            match step {
                0 | 1 => match lanes.offer(webhook(id), 0, now) {
                    Offer::Start(start) => { offered += 1; out.push(start) }
                    Offer::Waits => offered += 1,
                    Offer::Park(_) | Offer::Full(..) => {}
                },
                2 => if lanes.room(webhook(id), now) > 0 {
                    offered += 1;
                    lanes.claimed(webhook(id), 0, now);
                },
                _ => if let Some(start) = out.pop() {
                    let verdict = if busy { Verdict::Failed } else { Verdict::Succeeded };
                    over += 1 + lanes.ended(start.webhook, start.kind, verdict, now).len();
                },
            }
            while let Some(start) = lanes.next(now) {
                out.push(start);
            }
            prop_assert!(out.len() <= 20);
            prop_assert_eq!(out.len(), lanes.in_flight);
            prop_assert_eq!(lanes.waiting, lanes.lanes.values().map(Lane::waiting).sum::<usize>());
        }
        over += out.len() + lanes.drain().len();
        prop_assert_eq!(over, offered);
    }
}

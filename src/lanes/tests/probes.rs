use super::*;

/// Ends a lane's turns in flight as failures and returns what is turned away.
fn fail_all(lanes: &mut Lanes<u32>, id: u128, now: Instant) -> Vec<u32> {
    (0..in_flight(lanes, id)).flat_map(|_| end(lanes, id, Kind::Usual, Feedback::Failed, now)).collect()
}

fn probe(lanes: &mut Lanes<u32>, now: Instant) -> bool {
    matches!(lanes.offer(webhook(1), 9, now), Offer::Start(Start { slot: Slot { kind: Kind::Probe, .. }, .. }))
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
            assert_eq!(room(&lanes, webhook(1), now), 0);
            now += Duration::from_millis(100);
        }
        assert!(!probe(&mut lanes, now), "one at a time");
        apart.push((now - begun).as_secs());
        end(&mut lanes, 1, Kind::Probe, Feedback::Failed, now);
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
    end(&mut lanes, 1, Kind::Probe, Feedback::Succeeded, now);
    assert_eq!(room(&lanes, webhook(1), now), 2);
    assert_eq!(fill(&mut lanes, 1, now), 2);
    succeed(&mut lanes, 1, now);
    assert_eq!(room(&lanes, webhook(1), now), 3);
}

#[test]
fn our_own_failure_says_nothing_about_a_receiver() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    for _ in 0..10 {
        let Offer::Start(start) = lanes.offer(webhook(1), 0, now) else { panic!("it is not failing") };
        lanes.ended(start.slot, Feedback::Nothing, None, now);
    }
    assert_eq!(room(&lanes, webhook(1), now), 150);
}

#[test]
fn a_lane_none_of_whose_turns_can_be_attempted_is_probed_at_once_and_costs_its_receiver_nothing() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    let Offer::Start(start) = lanes.offer(webhook(1), 0, now) else { panic!("it is not probed yet") };
    lanes.ended(start.slot, Feedback::Unsignable, None, now);
    assert!(matches!(lanes.offer(webhook(1), 1, now), Offer::Park(1)));
    assert_eq!(lanes.claimable(webhook(1), now), 0);
    let later = now + limits().probe_interval;
    assert_eq!(lanes.claimable(webhook(1), later), 1, "one at a time");
    lanes.add_claimed(webhook(1), 2, later);
    let probe = lanes.next(later).expect("its time has come");
    lanes.ended(probe.slot, Feedback::Succeeded, Some(QUICK), later);
    assert!(room(&lanes, webhook(1), later) > 0);
}

#[test]
fn a_lane_that_is_probed_wants_no_grants_for_fresh_turns_that_it_would_park() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    assert_eq!(lanes.fresh_room(webhook(1), now), usize::MAX);
    for turn in 0..3 {
        assert!(matches!(lanes.offer(webhook(1), turn, now), Offer::Start(_)));
    }
    for _ in 0..3 {
        end(&mut lanes, 1, Kind::Usual, Feedback::Failed, now);
    }
    assert_eq!(lanes.fresh_room(webhook(1), now), 0);
    assert_eq!(lanes.fresh_room(webhook(1), now + limits().probe_interval), 1);
}

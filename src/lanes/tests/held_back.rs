use super::*;

/// Takes the reasons counted so far.
fn reasons(lanes: &mut Lanes<u32>) -> Vec<(&'static str, u64)> {
    lanes.take_held_back().counts().map(|(by, count)| (by.as_str(), count)).collect()
}

/// Offers a webhook one turn that its lane does not start, and returns what was counted.
fn refused(lanes: &mut Lanes<u32>, id: u128, now: Instant) -> Vec<(&'static str, u64)> {
    drop(lanes.take_held_back());
    assert!(!matches!(lanes.offer(webhook(id), 0, now), Offer::Start(_)));
    reasons(lanes)
}

#[test]
fn a_turn_that_must_wait_is_counted_by_what_limits_its_lane() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    assert!(matches!(lanes.offer(webhook(1), 0, now), Offer::Start(_)));
    assert_eq!(reasons(&mut lanes), [], "a lane with room is not held back");
    fill(&mut lanes, 1, now);
    assert_eq!(refused(&mut lanes, 1, now), [("share", 1)]);
    // The lane was put aside once, and a turn offered behind another counts by itself.
    assert!(lanes.next(now).is_none());
    assert_eq!(reasons(&mut lanes), [("share", 1)]);

    let mut lanes = Lanes::new(LaneLimits { per_webhook: 1, ..limits() });
    fill(&mut lanes, 1, now);
    assert_eq!(refused(&mut lanes, 1, now), [("per_webhook_cap", 1)]);

    let mut lanes = Lanes::new(LaneLimits { in_flight: 4, ..limits() });
    (1..=4).for_each(|id| assert!(matches!(lanes.offer(webhook(id), 0, now), Offer::Start(_))));
    assert_eq!(refused(&mut lanes, 5, now), [("full", 1)]);
}

#[test]
fn a_lane_that_a_limit_holds_back_is_named_once_and_again_when_that_limit_did_not_for_long() {
    let (mut lanes, now) = (Lanes::new(LaneLimits { per_webhook: 1, ..limits() }), Instant::now());
    assert!(matches!(lanes.offer(webhook(1), 0, now), Offer::Start(_)));
    let mut named = |now: Instant| {
        assert_eq!(lanes.offer(webhook(1), 0, now), Offer::Waits);
        let begun = lanes.take_held_back().begun;
        begun.iter().map(|lane| (lane.webhook, lane.by.as_str(), lane.in_flight, lane.waiting)).collect::<Vec<_>>()
    };
    let cap = (webhook(1), "per_webhook_cap", 1, 0);
    assert_eq!(named(now), [cap]);
    let soon = now + REPORTED_AGAIN_AFTER - Duration::from_millis(1);
    assert_eq!(named(soon), []);
    // It was held back until `soon`.
    assert_eq!(named(now + REPORTED_AGAIN_AFTER), []);
    assert_eq!(named(now + 3 * REPORTED_AGAIN_AFTER), [(webhook(1), "per_webhook_cap", 1, 3)]);
}

#[test]
fn a_slow_receiver_is_held_back_by_the_reserve_and_a_busy_process_by_the_window() {
    let (mut lanes, now) = (Lanes::new(LaneLimits { in_flight: 8, ..limits() }), Instant::now());
    let Offer::Start(slow) = lanes.offer(webhook(1), 0, now) else { panic!("there is room") };
    lanes.ended(slow.slot, Feedback::Succeeded, Some(limits().park_after), now);
    (2..8).for_each(|id| assert!(matches!(lanes.offer(webhook(id), 0, now), Offer::Start(_))));
    assert_eq!(refused(&mut lanes, 1, now), [("reserve", 1)]);

    let mut lanes = Lanes::new(limits());
    lanes.tick(DELAY, ALL, now);
    work(&mut lanes, 1..2, now);
    assert_eq!(refused(&mut lanes, 1, now), [("window", 1)]);
}

#[test]
fn a_failing_receiver_is_held_back_by_probe_and_recovery_and_one_that_asks_for_time_by_its_pause() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    for _ in 0..limits().probe_after {
        let Offer::Start(start) = lanes.offer(webhook(1), 0, now) else { panic!("it is not probed yet") };
        lanes.ended(start.slot, Feedback::Failed, Some(QUICK), now);
    }
    assert_eq!(refused(&mut lanes, 1, now), [("probe", 1)]);
    let later = now + limits().probe_interval;
    let Offer::Start(probe) = lanes.offer(webhook(1), 0, later) else { panic!("the probe's time has come") };
    assert_eq!(refused(&mut lanes, 1, later), [("probe", 1)]);
    lanes.ended(probe.slot, Feedback::Succeeded, Some(QUICK), later);
    assert_eq!(fill(&mut lanes, 1, later), 2);
    assert_eq!(refused(&mut lanes, 1, later), [("recovery", 1)]);

    let pause = Pause { until: now + Duration::from_secs(5), by: crate::snapshot::ReceiverId(1) };
    let Offer::Start(start) = lanes.offer(webhook(2), 0, now) else { panic!("there is room") };
    lanes.ended(start.slot, Feedback::Paused(pause), Some(QUICK), now);
    assert_eq!(refused(&mut lanes, 2, now), [("pause", 1)]);
    let Offer::Start(start) = lanes.offer(webhook(2), 0, pause.until) else { panic!("the pause is over") };
    lanes.ended(start.slot, Feedback::Succeeded, Some(QUICK), pause.until);
    assert_eq!(fill(&mut lanes, 2, pause.until), 1);
    assert_eq!(refused(&mut lanes, 2, pause.until), [("recovery", 1)]);
}

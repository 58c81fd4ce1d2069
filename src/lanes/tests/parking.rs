use super::*;

/// An intake that offers all it can of a backlog, whose receivers take so many milliseconds.
struct Drain {
    lanes: Lanes<u32>,
    now: Instant,
    out: VecDeque<(Instant, u64, Slot)>,
    parked: usize,
    delivered: usize,
}

impl Drain {
    fn new() -> Self {
        let lanes = Lanes::new(LaneLimits { in_flight: 500, in_hand: 750, ..limits() });
        Self { lanes, now: Instant::now(), out: VecDeque::new(), parked: 0, delivered: 0 }
    }

    /// One tick: what has ended ends, what may start starts. Returns how much of the backlog is left.
    fn tick(&mut self, backlog: &mut VecDeque<u128>, millis: impl Fn(u128) -> u64, delay: Delay) {
        self.now += Duration::from_millis(10);
        self.parked += self.lanes.tick(delay, ALL, self.now).len();
        let over = |(began, takes, _): &(Instant, u64, Slot)| self.now - *began >= Duration::from_millis(*takes);
        let (ended, out): (Vec<_>, _) = self.out.drain(..).partition(over);
        self.out = out.into();
        for (_, takes, slot) in ended {
            self.lanes.ended(slot, Feedback::Succeeded, Some(Duration::from_millis(takes)), self.now);
            self.delivered += 1;
        }
        while self.lanes.takes_more()
            && let Some(id) = backlog.pop_front()
        {
            match self.lanes.offer(webhook(id), 0, self.now) {
                Offer::Start(start) => self.out.push_back((self.now, millis(id), start.slot)),
                Offer::Waits => {}
                Offer::Park(_) => self.parked += 1,
            }
        }
        while let Some(start) = self.lanes.next(self.now) {
            let id = start.slot.webhook.0.as_u128();
            self.out.push_back((self.now, millis(id), start.slot));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_flood_is_read_past_whatever_its_receiver_needs_and_keeps_it_busy(takes in 20..5_000_u64, others in 0..20_u128) {
        let (mut drain, mut beats) = (Drain::new(), 0);
        let mut backlog: VecDeque<u128> = (0..5_000).map(|n| if n % 10 == 0 && others > 0 { 1 + n % others } else { 0 }).collect();
        while !backlog.is_empty() {
            drain.tick(&mut backlog, |id| if id == 0 { takes } else { 10 }, NO_DELAY);
            beats += 1;
            prop_assert!(beats < 60, "{} left", backlog.len());
            let lane = &drain.lanes.lanes[&webhook(0)];
            prop_assert!(beats < 20 || lane.in_flight >= 100 || backlog.len() < 500, "{} in flight", lane.in_flight);
        }
    }

    #[test]
    fn a_backlog_of_many_accounts_is_not_parked(accounts in 5..200_u128, takes in 1..25_u64) {
        let mut drain = Drain::new();
        let mut backlog: VecDeque<u128> = (0..2_500).map(|n| n % accounts).collect();
        // No receiver takes always the same time, or the same lanes would always be the first.
        let vary = std::cell::Cell::new(0);
        while !backlog.is_empty() {
            let millis = |_| takes / 2 + vary.replace((vary.get() + 7919) % (takes + 1));
            drain.tick(&mut backlog, millis, NO_DELAY);
        }
        prop_assert_eq!(drain.parked, 0);
    }

    #[test]
    fn what_this_process_has_no_time_for_is_not_parked(takes in 1..30_u64) {
        let mut drain = Drain::new();
        let mut backlog: VecDeque<u128> = std::iter::repeat_n(0, 3_000).collect();
        while !backlog.is_empty() {
            drain.tick(&mut backlog, |_| takes, DELAY);
        }
        prop_assert_eq!(drain.parked, 0);
    }
}

#[test]
fn what_waits_for_the_recorder_is_not_parked() {
    let (mut lanes, start) = (Lanes::new(LaneLimits { in_flight: 500, in_hand: 750, ..limits() }), Instant::now());
    hoard(&mut lanes, 1, start);
    let mut now = start;
    for _ in 0..20 {
        now += Duration::from_millis(10);
        assert!(lanes.tick(NO_DELAY, ALL, now).is_empty());
        let slot = Slot { webhook: webhook(1), kind: Kind::Usual, fresh: true, began: now - Duration::from_millis(90) };
        lanes.ended(slot, Feedback::Succeeded, Some(QUICK), now);
        while lanes.next(now).is_some() {}
        hoard(&mut lanes, 1, now);
    }
}

#[test]
fn what_waits_long_for_its_own_receiver_is_parked() {
    let (mut lanes, start) = (Lanes::new(LaneLimits { in_flight: 60, in_hand: 100, ..limits() }), Instant::now());
    assert!(matches!(lanes.offer(webhook(2), 0, start), Offer::Start(_)));
    hoard(&mut lanes, 1, start);
    assert!(lanes.tick(NO_DELAY, ALL, start).is_empty(), "it has not waited yet");
    let parked = lanes.tick(NO_DELAY, ALL, start + limits().park_after).len();
    assert!(lanes.in_hand <= 50, "only {parked} parked");
    assert!(lanes.takes_more());
    assert!(lanes.tick(NO_DELAY, ALL, start + limits().park_after).is_empty());
}

#[test]
fn what_a_busy_machine_has_no_time_for_is_not_parked() {
    let (mut lanes, start) = (Lanes::new(LaneLimits { in_flight: 60, in_hand: 100, ..limits() }), Instant::now());
    hoard(&mut lanes, 1, start);
    let later = start + Duration::from_secs(1);
    succeed(&mut lanes, 1, later);
    assert!(lanes.tick(DELAY, ALL, later).is_empty());
    assert!(!lanes.tick(DELAY, ALL, later + limits().park_after).is_empty(), "nothing has ended for long");
}

#[test]
fn many_slow_receivers_leave_the_others_their_share() {
    let (mut lanes, mut now) = (Lanes::new(LaneLimits { in_flight: 500, in_hand: 750, ..limits() }), Instant::now());
    let mut slow = VecDeque::new();
    for beat in 0..1000 {
        now += Duration::from_millis(10);
        let slow_events = (0..100).filter(|id| (id + beat) % 4 == 0);
        for id in slow_events {
            if lanes.takes_more()
                && let Offer::Start(start) = lanes.offer(webhook(id), 0, now)
            {
                slow.push_back((now, start.slot));
            }
        }
        while let Some((_, slot)) = slow.pop_front_if(|(began, _)| now - *began >= Duration::from_secs(4)) {
            let _ = lanes.ended(slot, Feedback::Succeeded, Some(Duration::from_secs(4)), now);
        }
        let _ = lanes.tick(if beat % 2 == 0 { DELAY } else { NO_DELAY }, ALL, now);
        while let Some(start) = lanes.next(now) {
            slow.push_back((now, start.slot));
        }
        if beat < 50 {
            continue;
        }
        for id in 100..200 {
            assert!(lanes.takes_more(), "{} in hand at beat {beat}", lanes.in_hand);
            let Offer::Start(start) = lanes.offer(webhook(id), 0, now) else { panic!("{id} waits at beat {beat}") };
            assert!(lanes.ended(start.slot, Feedback::Succeeded, Some(QUICK), now).is_empty());
        }
    }
}

#[test]
fn how_long_all_lanes_together_are_nearly_full_is_counted_anew_once_they_are_half_empty() {
    let (mut lanes, start) = (Lanes::<u32>::new(LaneLimits { in_hand: 1000, ..limits() }), Instant::now());
    let nearly_full = lanes.nearly_full();
    let mut since = |in_hand, millis| {
        lanes.in_hand = in_hand;
        lanes.tick(NO_DELAY, ALL, start + Duration::from_millis(millis));
        lanes.nearly_full_since
    };
    let first = start + Duration::from_millis(1);
    assert_eq!(since(nearly_full - 1, 0), None);
    assert_eq!(since(nearly_full, 1), Some(first));
    assert_eq!([since(1000, 2), since(500, 3)], [Some(first); 2]);
    assert_eq!(since(499, 4), None);
}

#[test]
fn no_more_is_parked_than_the_caller_takes_and_nothing_while_half_the_room_is_free() {
    let (mut lanes, mut now) = (Lanes::new(LaneLimits { in_hand: 10, per_webhook: 1, ..limits() }), Instant::now());
    for turn in 0..8 {
        assert!(matches!(lanes.offer(webhook(1), turn, now), Offer::Start(_) | Offer::Waits));
    }
    now += limits().park_after;
    assert!(lanes.tick(NO_DELAY, 0, now).is_empty());
    assert_eq!(lanes.tick(NO_DELAY, 1, now), [1]);
    assert_eq!([lanes.tick(NO_DELAY, 1, now), lanes.tick(NO_DELAY, 1, now)], [[2], [3]]);
    assert!(lanes.tick(NO_DELAY, ALL, now).is_empty(), "five of ten are in hand");
}

#[test]
fn a_lane_is_slow_while_a_request_takes_long_and_not_because_it_was_idle() {
    let (mut lanes, mut now, long) = (Lanes::new(limits()), Instant::now(), limits().park_after);
    let is_slow = |lanes: &Lanes<u32>, now| lanes.lanes[&webhook(1)].is_slow(long, now);
    for _ in 0..2 {
        assert!(matches!(lanes.offer(webhook(1), 0, now), Offer::Start(_)));
        assert!(!is_slow(&lanes, now + long - Duration::from_nanos(1)));
        assert!(is_slow(&lanes, now + long));
        succeed(&mut lanes, 1, now);
        now += 10 * long;
        assert!(!is_slow(&lanes, now));
    }
}

#[test]
fn the_average_time_of_attempts_follows_each_new_one_by_an_eighth() {
    let mut pace = crate::lanes::pace::Pace::new(Instant::now());
    for (took, average) in [(800, 800), (1600, 900), (100, 800)] {
        pace.note(Some(Duration::from_micros(took)), Duration::ZERO, limits().park_after, Instant::now());
        assert_eq!(pace.attempt_time, Duration::from_micros(average));
    }
    pace.note(None, Duration::ZERO, limits().park_after, Instant::now());
    assert_eq!(pace.attempt_time, Duration::from_micros(800), "no attempt was made");
}

#[test]
fn of_a_quick_receiver_only_what_waits_for_it_and_is_beyond_its_share_is_parked() {
    let share = 25;
    for (millis, delay, parked) in [(2, NO_DELAY, 79 - share), (2, DELAY, 0), (100, DELAY, 79 - share)] {
        let (mut lanes, mut now) =
            (Lanes::new(LaneLimits { in_hand: 100, per_webhook: 1, ..limits() }), Instant::now());
        assert!(matches!(lanes.offer(webhook(2), 0, now), Offer::Start(_)));
        let Offer::Start(first) = lanes.offer(webhook(1), 0, now) else { panic!("it has room") };
        for turn in 1..80 {
            assert_eq!(lanes.offer(webhook(1), turn, now), Offer::Waits);
        }
        now += limits().park_after;
        lanes.ended(first.slot, Feedback::Succeeded, Some(Duration::from_millis(millis)), now);
        assert!(lanes.next(now).is_some());
        assert_eq!(lanes.share_in_hand(), share);
        assert_eq!(lanes.tick(delay, ALL, now).len(), parked, "{millis} ms, {delay:?}");
    }
}

#[test]
fn of_a_surplus_no_more_is_parked_than_the_caller_takes_and_the_newest_first() {
    let (mut lanes, now) = (Lanes::new(LaneLimits { in_hand: 100, per_webhook: 1, ..limits() }), Instant::now());
    for turn in 0..100 {
        assert!(!matches!(lanes.offer(webhook(1), turn, now), Offer::Park(_)));
    }
    assert!(lanes.tick(NO_DELAY, 3, now).is_empty(), "it has just become full");
    assert_eq!(lanes.tick(NO_DELAY, 3, now + Duration::from_millis(100)), [97, 98, 99]);
    assert_eq!((lanes.in_hand, lanes.lanes[&webhook(1)].in_hand), (97, 97));
}

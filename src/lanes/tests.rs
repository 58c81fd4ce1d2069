use super::*;
use proptest::prelude::*;
use uuid::Uuid;

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

fn end(lanes: &mut Lanes<u32>, id: u128, kind: Kind, verdict: Feedback, now: Instant) -> Vec<u32> {
    lanes.ended(Slot { webhook: webhook(id), kind, fresh: true, began: now }, verdict, Some(QUICK), now)
}

fn succeed(lanes: &mut Lanes<u32>, id: u128, now: Instant) {
    assert!(end(lanes, id, Kind::Usual, Feedback::Succeeded, now).is_empty());
}

fn in_flight(lanes: &Lanes<u32>, id: u128) -> usize {
    lanes.lanes[&webhook(id)].in_flight
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
    lanes.beat(DELAY, ALL, now);
    work(&mut lanes, 1..2, now);
    assert_eq!(in_flight(&lanes, 1), LEAST_WINDOW);
    assert_eq!(lanes.room(webhook(1), now), 0);
    assert_eq!(lanes.room(webhook(1), now + REOPEN_EVERY), LEAST_WINDOW);
    assert_eq!(lanes.room(webhook(1), now + 10 * REOPEN_EVERY), 150 - LEAST_WINDOW);
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
    lanes.beat(DELAY, ALL, now);
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
    lanes.beat(NEIGHBOUR, ALL, now);
    let slot = Slot { webhook: webhook(1), kind: Kind::Usual, fresh: true, began: now };
    lanes.ended(slot, Feedback::Succeeded, Some(2 * limits().park_after), now);
    assert!(!lanes.lanes[&webhook(1)].slow);
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
    lanes.claimed(webhook(999), 7, now);
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
    let put_aside = lanes.queue.count;
    succeed(&mut lanes, 500, now);
    assert!(lanes.next(now).is_some_and(|start| start.slot.webhook == webhook(500)));
    assert!(lanes.next(now).is_none());
    assert_eq!(lanes.queue.count - put_aside, 0, "no other lane was looked at");
    let later = now + 2 * FORGET_AFTER;
    lanes.beat(NO_DELAY, ALL, later);
    assert_eq!((lanes.active(), lanes.at_work), (LANES as usize, LANES as usize));
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
    now += FORGET_AFTER;
    let before = lanes.lanes.len();
    lanes.beat(NO_DELAY, ALL, now);
    assert!(before - lanes.lanes.len() <= LOOKED_AT_TO_FORGET);
    (0..1000).for_each(|_| drop(lanes.beat(NO_DELAY, ALL, now)));
    assert_eq!((lanes.lanes.len(), lanes.known.len()), (700, 700), "those with work stay");
}

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

    /// One beat: what has ended ends, what may start starts. Returns how much of the backlog is left.
    fn beat(&mut self, backlog: &mut VecDeque<u128>, millis: impl Fn(u128) -> u64, delay: Delay) {
        self.now += Duration::from_millis(10);
        self.parked += self.lanes.beat(delay, ALL, self.now).len();
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
            drain.beat(&mut backlog, |id| if id == 0 { takes } else { 10 }, NO_DELAY);
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
            drain.beat(&mut backlog, millis, NO_DELAY);
        }
        prop_assert_eq!(drain.parked, 0);
    }

    #[test]
    fn what_this_process_has_no_time_for_is_not_parked(takes in 1..30_u64) {
        let mut drain = Drain::new();
        let mut backlog: VecDeque<u128> = std::iter::repeat_n(0, 3_000).collect();
        while !backlog.is_empty() {
            drain.beat(&mut backlog, |_| takes, DELAY);
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
        assert!(lanes.beat(NO_DELAY, ALL, now).is_empty());
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
    assert!(lanes.beat(NO_DELAY, ALL, start).is_empty(), "it has not waited yet");
    let parked = lanes.beat(NO_DELAY, ALL, start + limits().park_after).len();
    assert!(lanes.in_hand <= 50, "only {parked} parked");
    assert!(lanes.takes_more());
    assert!(lanes.beat(NO_DELAY, ALL, start + limits().park_after).is_empty());
}

#[test]
fn what_a_busy_machine_has_no_time_for_is_not_parked() {
    let (mut lanes, start) = (Lanes::new(LaneLimits { in_flight: 60, in_hand: 100, ..limits() }), Instant::now());
    hoard(&mut lanes, 1, start);
    let later = start + Duration::from_secs(1);
    succeed(&mut lanes, 1, later);
    assert!(lanes.beat(DELAY, ALL, later).is_empty());
    assert!(!lanes.beat(DELAY, ALL, later + limits().park_after).is_empty(), "nothing has ended for long");
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
        let _ = lanes.beat(if beat % 2 == 0 { DELAY } else { NO_DELAY }, ALL, now);
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
            assert_eq!(lanes.room(webhook(1), now), 0);
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
        lanes.ended(start.slot, Feedback::Nothing, None, now);
    }
    assert_eq!(lanes.room(webhook(1), now), 150);
}

#[test]
fn a_lane_none_of_whose_turns_can_be_attempted_is_probed_at_once_and_costs_its_receiver_nothing() {
    let (mut lanes, now) = (Lanes::new(limits()), Instant::now());
    let Offer::Start(start) = lanes.offer(webhook(1), 0, now) else { panic!("it is not probed yet") };
    lanes.ended(start.slot, Feedback::Held, None, now);
    assert!(matches!(lanes.offer(webhook(1), 1, now), Offer::Park(1)));
    assert_eq!(lanes.claimable(webhook(1), now), 0);
    let later = now + limits().probe_interval;
    assert_eq!(lanes.claimable(webhook(1), later), 1, "one at a time");
    lanes.claimed(webhook(1), 2, later);
    let probe = lanes.next(later).expect("its time has come");
    lanes.ended(probe.slot, Feedback::Succeeded, Some(QUICK), later);
    assert!(lanes.room(webhook(1), later) > 0);
}

#[test]
fn due_and_fresh_turns_alternate() {
    let (mut lanes, now) = (Lanes::new(LaneLimits { per_webhook: 1, ..limits() }), Instant::now());
    assert!(matches!(lanes.offer(webhook(1), 0, now), Offer::Start(_)));
    for turn in 1..=2 {
        assert_eq!(lanes.offer(webhook(1), turn, now), Offer::Waits);
    }
    assert_eq!((lanes.room(webhook(1), now), lanes.claimable(webhook(1), now)), (0, 1));
    for turn in 11..=13 {
        lanes.claimed(webhook(1), turn, now);
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
            over += lanes.beat(if busy { DELAY } else { NO_DELAY }, ALL, now).len();
            match step {
                0 | 1 if lanes.takes_more() => match lanes.offer(webhook(id), 0, now) {
                    Offer::Start(start) => { offered += 1; out.push(start) }
                    Offer::Waits => offered += 1,
                    Offer::Park(_) => {}
                },
                0 | 1 => {}
                2 => if lanes.room(webhook(id), now) > 0 {
                    offered += 1;
                    lanes.claimed(webhook(id), 0, now);
                },
                _ => if let Some(start) = out.pop() {
                    let verdict = if busy { Feedback::Failed } else { Feedback::Succeeded };
                    over += 1 + lanes.ended(start.slot, verdict, Some(QUICK), now).len();
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
                prop_assert!(lane.waiting() == 0 || lanes.room(*id, now) == 0, "a lane with room is passed over");
            }
            let at_work = lanes.lanes.values().filter(|lane| lane.in_flight + lane.waiting() > 0).count();
            prop_assert_eq!((at_work, true), (lanes.at_work, lanes.active() >= at_work.max(1)));
        }
        over += out.len() + lanes.drain().len();
        prop_assert_eq!(over, offered);
    }
}

use super::super::probe::CLAIMS_EVERY;
use super::*;
use crate::snapshot::ReceiverId;

const SECOND: Duration = Duration::from_secs(1);
const WEBHOOK: WebhookId = WebhookId(Uuid::nil());

fn lanes() -> Lanes<u32> {
    Lanes::new(limits())
}

fn asked(until: Instant) -> Pause {
    Pause { until, by: ReceiverId(1) }
}

/// Starts as many turns as there is room for.
fn fill(lanes: &mut Lanes<u32>, now: Instant) -> Vec<Slot> {
    let start = |turn| match lanes.offer(WEBHOOK, turn, now) {
        Offer::Start(start) => Some(start.slot),
        Offer::Waits | Offer::Park(_) => None,
    };
    (0..1000).map_while(start).collect()
}

fn started(offer: Offer<u32>) -> Slot {
    let Offer::Start(Start { slot, .. }) = offer else { panic!("{offer:?}") };
    slot
}

#[test]
fn a_lane_whose_receiver_asks_for_time_waits_is_probed_once_and_begins_with_half_of_what_it_had() {
    let (mut lanes, now) = (lanes(), Instant::now());
    let mut out = fill(&mut lanes, now);
    assert_eq!(out.len(), 150);
    assert_eq!(lanes.ended(out.remove(0), Feedback::Paused(asked(now + 5 * SECOND)), None, now), [150], "what waited");
    // Requests that were out already: they neither end the pause, nor make it shorter, nor the room smaller.
    for slot in out.drain(..50) {
        assert!(lanes.ended(slot, Feedback::Succeeded, None, now + SECOND).is_empty());
    }
    for slot in out {
        lanes.ended(slot, Feedback::Paused(asked(now + 2 * SECOND)), None, now + SECOND);
    }
    let (before, over) = (now + 4 * SECOND, now + 5 * SECOND);
    assert_eq!(lanes.paused_until(WEBHOOK, before), Some(over));
    assert_eq!((lanes.offer(WEBHOOK, 7, before), lanes.claimable(WEBHOOK, before)), (Offer::Park(7), 0));
    assert_eq!(lanes.claimable(WEBHOOK, over), 1);
    let probe = started(lanes.offer(WEBHOOK, 8, over));
    assert_eq!((lanes.offer(WEBHOOK, 9, over), lanes.claimable(WEBHOOK, over)), (Offer::Park(9), 0));
    lanes.ended(probe, Feedback::Succeeded, None, over);
    assert_eq!(room(&lanes, WEBHOOK, over), 75);
    assert_eq!(room(&lanes, WEBHOOK, over + 2 * SECOND), 150);
}

#[test]
fn a_probe_that_is_asked_for_time_again_waits_so_long_and_no_longer() {
    let (mut lanes, mut now) = (lanes(), Instant::now());
    let first = started(lanes.offer(WEBHOOK, 0, now));
    lanes.ended(first, Feedback::Paused(asked(now + 2 * SECOND)), None, now);
    for _ in 0..5 {
        now += 2 * SECOND;
        let probe = started(lanes.offer(WEBHOOK, 0, now));
        lanes.ended(probe, Feedback::Paused(asked(now + 2 * SECOND)), None, now);
    }
    now += 2 * SECOND;
    let probe = started(lanes.offer(WEBHOOK, 0, now));
    lanes.ended(probe, Feedback::Failed, None, now);
    assert_eq!(lanes.paused_until(WEBHOOK, now), None);
    assert_eq!(lanes.claimable(WEBHOOK, now + SECOND), 0, "it fails now, and is probed as if it had only failed");
    assert_eq!(lanes.claimable(WEBHOOK, now + 2 * SECOND), 1);
}

#[test]
fn what_the_database_says_pauses_a_lane_and_another_receiver_ends_its_pause() {
    let (mut lanes, now) = (lanes(), Instant::now());
    let out = fill(&mut lanes, now);
    assert_eq!(lanes.pause(WEBHOOK, asked(now + 3600 * SECOND), now), [150]);
    out.into_iter().for_each(|slot| drop(lanes.ended(slot, Feedback::Succeeded, None, now)));
    lanes.not_paused(WEBHOOK, ReceiverId(1), now);
    assert_eq!(lanes.offer(WEBHOOK, 1, now), Offer::Park(1), "the database may not know of it yet");
    let later = now + CLAIMS_EVERY;
    assert_eq!((lanes.claimable(WEBHOOK, later), room(&lanes, WEBHOOK, later)), (1, 0), "it is asked for");
    lanes.pause(WEBHOOK, asked(now + 3600 * SECOND), later);
    assert_eq!(lanes.claimable(WEBHOOK, later), 0);
    lanes.not_paused(WEBHOOK, ReceiverId(2), later);
    started(lanes.offer(WEBHOOK, 2, later));
}

proptest! {
    #[test]
    fn nothing_starts_during_a_pause_and_one_at_a_time_until_a_success_after_it(
        steps in proptest::collection::vec((0..10_u8, 0..1500_u64), 1..200),
    ) {
        let (mut lanes, mut now, mut out) = (lanes(), Instant::now(), Vec::<Slot>::new());
        let (mut until, mut probing): (Option<Instant>, Option<Slot>) = (None, None);
        for (step, millis) in steps {
            now += Duration::from_millis(millis);
            let paused = until.is_some_and(|until| now < until);
            match (step, out.pop()) {
                (0, Some(slot)) => {
                    let asked_for = now + Duration::from_millis(millis) + SECOND;
                    lanes.ended(slot, Feedback::Paused(asked(asked_for)), None, now);
                    until = until.max(Some(asked_for));
                    probing = probing.filter(|probe| *probe != slot);
                }
                (1..5, Some(slot)) => {
                    lanes.ended(slot, Feedback::Succeeded, None, now);
                    if probing == Some(slot) && !paused {
                        until = None;
                    }
                    probing = probing.filter(|probe| *probe != slot);
                }
                (_, slot) => {
                    out.extend(slot);
                    let offer = lanes.offer(WEBHOOK, 0, now);
                    match offer {
                        Offer::Start(start) => {
                            prop_assert!(!paused);
                            if until.is_some() {
                                prop_assert!(out.is_empty(), "a probe goes alone");
                                probing = Some(start.slot);
                            }
                            out.push(start.slot);
                        }
                        Offer::Waits => prop_assert!(until.is_none()),
                        Offer::Park(_) => {}
                    }
                }
            }
            while let Some(start) = lanes.next(now) {
                prop_assert!(until.is_none());
                out.push(start.slot);
            }
        }
    }
}

#[test]
fn a_pause_is_kept_when_idle_lanes_are_forgotten() {
    let (mut lanes, now) = (lanes(), Instant::now());
    let slot = started(lanes.offer(WEBHOOK, 0, now));
    lanes.ended(slot, Feedback::Paused(asked(now + 2 * FORGOTTEN_AFTER)), None, now);
    let mut is_known = |time| {
        lanes.tick(NO_DELAY, ALL, time);
        lanes.lanes.contains_key(&WEBHOOK)
    };
    assert!(is_known(now + FORGOTTEN_AFTER));
    assert!(!is_known(now + 2 * FORGOTTEN_AFTER));
}

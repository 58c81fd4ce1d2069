//! The rule against its definition, and what it must never take for an outage.

use super::*;
use proptest::prelude::*;

fn account(number: usize) -> AccountId {
    AccountId::parse(&format!("acc_{number}")).unwrap()
}

/// An answer, or a failure of an account's host, and the milliseconds since the last one.
type Event = (u64, Option<(usize, usize)>);

fn event(accounts: usize, hosts: usize) -> impl Strategy<Value = Event> {
    let failure = (0..accounts, 0..hosts);
    (0..2_000_u64, prop_oneof![1 => Just(None), 30 => failure.prop_map(Some)])
}

/// The definition, looked up in everything that happened.
fn is_outage(history: &[(Instant, Option<(usize, usize)>)], now: Instant) -> bool {
    let within = |time: Duration| history.iter().filter(move |(at, _)| now - *at < time);
    let since_answer = history.iter().rposition(|(_, failed)| failed.is_none()).map_or(0, |last| last + 1);
    let counted = || history[since_answer..].iter().filter(|(at, _)| now - *at < COUNTED_FOR);
    let failures = || counted().filter_map(|(_, failed)| *failed);
    let accounts: BTreeSet<usize> = failures().map(|(account, _)| account).collect();
    let hosts: BTreeSet<usize> = failures().map(|(_, host)| host).collect();
    accounts.len() >= 5 && hosts.len() >= 10 && within(WINDOW).all(|(_, failed)| failed.is_some())
}

/// Each is a host of an account, and all of them fail at once.
fn no_outage(failures: Vec<(usize, usize)>) -> Result<(), TestCaseError> {
    let (mut egress, now) = (Egress::default(), Instant::now());
    for (number, host) in failures {
        prop_assert_ne!(egress.unreached(&account(number), &host.to_string(), now), Reachability::Out);
    }
    Ok(())
}

proptest! {
    #[test]
    fn an_outage_begins_as_defined_and_ends_with_any_answer(
        events in proptest::collection::vec(event(8, 16), 0..150),
    ) {
        let (mut egress, mut now, mut history, mut out) = (Egress::default(), Instant::now(), Vec::new(), false);
        for (millis, failed) in events {
            now += Duration::from_millis(millis);
            history.push((now, failed));
            match failed {
                Some((account_number, host)) => {
                    let reachability = egress.unreached(&account(account_number), &host.to_string(), now);
                    out = out || is_outage(&history, now);
                    prop_assert_eq!(reachability == Reachability::Out, out);
                }
                None => {
                    prop_assert_eq!(egress.answered(now).is_some(), out);
                    out = false;
                }
            }
            prop_assert_eq!(egress.is_out(), out);
        }
    }

    #[test]
    fn a_few_accounts_are_no_outage_however_many_of_their_hosts_are_dead(
        failures in proptest::collection::vec((0..4_usize, 0..10_000_usize), 0..150),
    ) {
        no_outage(failures)?;
    }

    #[test]
    fn a_few_hosts_are_no_outage_however_many_accounts_use_them(
        failures in proptest::collection::vec((0..1_000_usize, 0..9_usize), 0..60),
    ) {
        no_outage(failures)?;
    }

    #[test]
    fn whoever_answers_now_and_then_keeps_it_from_being_an_outage(
        failures in proptest::collection::vec((0..50_usize, 0..500_usize), 0..100),
        apart in 1..10_000_u64, answers_every in 1..20_u64,
    ) {
        let (mut egress, start) = (Egress::default(), Instant::now());
        egress.answered(start);
        for (index, (number, host)) in failures.into_iter().enumerate() {
            let millis = index as u64 * apart / answers_every;
            let now = start + Duration::from_millis(millis);
            if (index as u64).is_multiple_of(answers_every) {
                egress.answered(now);
            }
            prop_assert_ne!(egress.unreached(&account(number), &host.to_string(), now), Reachability::Out);
        }
    }
}

#[test]
fn three_dead_webhooks_of_a_quiet_installation_are_doubtful_at_most() {
    let (mut egress, now) = (Egress::default(), Instant::now());
    for minute in 0..60 {
        for number in 0..3 {
            let now = now + Duration::from_secs(60 * minute);
            assert_ne!(egress.unreached(&account(number), &number.to_string(), now), Reachability::Out);
        }
    }
}

#[test]
fn an_outage_is_noticed_when_nobody_has_answered_for_long_though_nothing_else_fails() {
    let (mut egress, start) = (Egress::default(), Instant::now());
    egress.answered(start);
    for number in 0..10 {
        let reachability = egress.unreached(&account(number), &number.to_string(), start + Duration::from_secs(5));
        assert_ne!(reachability, Reachability::Out);
    }
    assert_eq!(egress.reachability(start + Duration::from_secs(9)), Reachability::Doubtful);
    assert_eq!(egress.reachability(start + WINDOW), Reachability::Out);
    assert_eq!(egress.answered(start + 2 * WINDOW), Some(WINDOW));
}

#[test]
fn what_fails_all_at_once_just_after_the_last_answer_counts_when_nobody_has_answered_for_the_window() {
    let (mut egress, start) = (Egress::default(), Instant::now());
    egress.answered(start);
    for host in 0..10 {
        egress.unreached(&account(host % 5), &host.to_string(), start + Duration::from_millis(50));
    }
    assert_eq!(egress.reachability(start + WINDOW - Duration::from_millis(1)), Reachability::Doubtful);
    assert_eq!(egress.reachability(start + WINDOW + Duration::from_secs(1)), Reachability::Out);
}

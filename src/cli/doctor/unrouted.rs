//! What becomes of an event that no queue takes: whether it is kept, and how many are.
//!
//! AMQP shows our exchange and queue. The policy that leads there is only told by the management plugin. Nothing is published to
//! try it: every publish to the events exchange would be an event of somebody's.

use super::Check;
use crate::config::Queue;
use crate::management::{Leads, Way};
use crate::queue::{Depth, UnroutedQueue};

const CHECK: &str = "unrouted";

/// What the management plugin tells, or why it could not be asked; `None` if `amqp.management_url` is not set.
pub(super) type Told = Option<Result<Ways, String>>;

/// What becomes of an event that no queue takes, at each exchange that gives events to queues.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) events: Way,
    /// At the exchange that spreads events over several queues, if there are several.
    pub(super) shards: Option<Way>,
}

/// A part of what the check says, with what to do if that is needed.
struct Said(String, Option<String>);

impl Said {
    fn fine(detail: impl Into<String>) -> Self {
        Self(detail.into(), None)
    }

    fn faulty(detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self(detail.into(), Some(advice.into()))
    }
}

/// `found` is what keeps such events, or why the broker does not tell.
pub(super) fn check(found: &Result<UnroutedQueue, String>, told: &Told, queue: &Queue) -> Check {
    let found = match found {
        Ok(found) => found,
        Err(why) => return Check::warns(CHECK, format!("not checked: {why}"), "solve that first"),
    };
    let mut said = vec![way(told, queue)];
    let ways = told.as_ref().and_then(|told| told.as_ref().ok());
    said.extend(ways.and_then(|ways| way_of_shards(ways, queue)));
    let is_kept = matches!(
        ways, Some(Ways { events: Way::To { leads: Leads::To(bound), .. }, .. }) if bound.contains(&queue.unrouted_queue)
    );
    said.extend(declared(found, is_kept));
    if let Some(Depth { messages: messages @ 1.., .. }) = found.depth {
        said.insert(0, Said::faulty(format!("{messages} wait"), "see `penr-webhooks dead-letters list`"));
    }
    let (details, advice): (Vec<_>, Vec<_>) = said.into_iter().map(|Said(detail, advice)| (detail, advice)).unzip();
    let advice: Vec<_> = advice.into_iter().flatten().collect();
    match advice.is_empty() {
        true => Check::ok(CHECK, details.join("; ")),
        false => Check::warns(CHECK, details.join("; "), advice.join("; ")),
    }
}

fn way(told: &Told, queue: &Queue) -> Said {
    let Queue { events_exchange, unrouted_queue, .. } = queue;
    let way = match told {
        None => {
            return Said::fine("what becomes of events that no queue takes cannot be told without amqp.management_url");
        }
        Some(Err(why)) => {
            let detail = format!("what becomes of events that no queue takes is not known: {why}");
            return Said::faulty(detail, "solve that first");
        }
        Some(Ok(Ways { events, .. })) => events,
    };
    match way {
        Way::NoExchange => Said::faulty(
            format!("{events_exchange} is not declared yet: no policy can be in force for it"),
            "the first worker declares it: ask again then",
        ),
        Way::Dropped => Said::faulty(
            format!(
                "events that no queue takes are not kept: {events_exchange} has no alternate exchange, so that they vanish unless \
                 they are published as mandatory"
            ),
            format!("keep them: {}", policy(queue)),
        ),
        Way::Unread { policy } => Said::faulty(
            format!(
                "what becomes of events that no queue takes is not known: the policy {policy} applies to {events_exchange}, and this \
                 user may not read it"
            ),
            "give the user of amqp.management_url the tag policymaker",
        ),
        Way::To { exchange, set_by, leads } => {
            let to = format!("events that no queue takes go to {exchange}, by {set_by}");
            match leads {
                Leads::NotThere => Said::faulty(
                    format!("{to}, which does not exist: they vanish unless they are published as mandatory"),
                    "correct the name; a worker with the rights for it declares ours, and its log says what it lacks",
                ),
                Leads::To(bound) if bound.contains(unrouted_queue) => {
                    Said::fine(format!("{to}, and are kept in {unrouted_queue}"))
                }
                Leads::To(bound) if bound.is_empty() => Said::faulty(
                    format!("{to}, to which nothing is bound: they vanish"),
                    format!("bind {unrouted_queue} to it; a worker with the rights for it does that for ours"),
                ),
                Leads::To(_) => {
                    Said::fine(format!("{to}, which is none of ours: `dead-letters list` does not show them"))
                }
            }
        }
    }
}

/// With several queues, an event of a known type has left the events exchange by the time that no queue takes it: the alternate
/// exchange of the next exchange is asked.
fn way_of_shards(Ways { events, shards }: &Ways, queue: &Queue) -> Option<Said> {
    let Way::To { exchange: wanted, .. } = events else { return None };
    match shards.as_ref()? {
        Way::To { exchange, .. } if exchange == wanted => None,
        // Whether it is declared is told by the check `topology`, and whether a policy may be read above.
        Way::NoExchange | Way::Unread { .. } => None,
        Way::Dropped | Way::To { .. } => Some(Said::faulty(
            format!(
                "{} does not send them there, so that events vanish while none of the queues is there",
                queue.shards_exchange
            ),
            format!("set one policy for both exchanges: {}", policy(queue)),
        )),
    }
}

/// The policy that makes our exchange the alternate exchange, as a command.
fn policy(queue: &Queue) -> String {
    let escaped = |name: &str| name.replace('.', r"\.");
    let (events, shards, unrouted) =
        (escaped(&queue.events_exchange), escaped(&queue.shards_exchange), &queue.unrouted_exchange);
    format!(
        "`rabbitmqctl set_policy penr-unrouted '^({events}|{shards})$' '{{\"alternate-exchange\":\"{unrouted}\"}}' --apply-to exchanges`"
    )
}

/// Our exchange and queue as AMQP shows them. What this user may not check is no fault where the plugin shows that all is well.
fn declared(found: &UnroutedQueue, is_kept: bool) -> Vec<Said> {
    let UnroutedQueue { missing, different, unchecked, .. } = found;
    let mut said = Vec::new();
    if !different.is_empty() {
        let advice = "delete it once it is empty, and a worker declares it anew; until then workers use a queue as it is, and no exchange of another type";
        said.push(Said::faulty(different.join("; "), advice));
    }
    if !missing.is_empty() {
        let advice =
            "the first worker that has the rights declares it; the others go on without it, and say so in their log";
        said.push(Said::faulty(format!("not declared: {}", missing.join(", ")), advice));
    }
    if !unchecked.is_empty() && !is_kept {
        said.push(Said::faulty(unchecked.to_string(), unchecked.needed()));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn to(set_by: &str, exchange: &str, leads: Leads) -> Way {
        Way::To { exchange: exchange.to_owned(), set_by: set_by.to_owned(), leads }
    }

    fn told(set_by: &str, exchange: &str, leads: Leads) -> Told {
        only(to(set_by, exchange, leads))
    }

    /// Of one queue.
    fn only(events: Way) -> Told {
        Some(Ok(Ways { events, shards: None }))
    }

    fn bound(names: &[&str]) -> Leads {
        Leads::To(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn it_is_told_where_events_go_that_no_queue_takes() {
        let queue = Queue::example();
        let of = |told: &Told| {
            let Check { status, detail, .. } = check(&Ok(UnroutedQueue::default()), told, &queue);
            (status, detail)
        };
        let cases = [
            (told("the policy p", "unrouted", bound(&["unrouted.queue"])), Status::Ok, "are kept in unrouted.queue"),
            (
                told("the policy p", "other", bound(&["unrouted.queue"])),
                Status::Ok,
                "go to other, by the policy p, and are kept",
            ),
            (told("the policy p", "other", bound(&["q"])), Status::Ok, "which is none of ours"),
            (told("the policy p", "unrouted", bound(&[])), Status::Warns, "to which nothing is bound: they vanish"),
            (
                told("the policy p", "gone", Leads::NotThere),
                Status::Warns,
                "gone, by the policy p, which does not exist",
            ),
            (only(Way::Dropped), Status::Warns, "events has no alternate exchange"),
            (only(Way::Unread { policy: "p".into() }), Status::Warns, "the policy p applies to events"),
            (only(Way::NoExchange), Status::Warns, "events is not declared yet"),
            (None, Status::Ok, "without amqp.management_url"),
            (Some(Err("it is away".into())), Status::Warns, "not known: it is away"),
        ];
        for (told, status, words) in &cases {
            let found = of(told);
            assert!(found.0 == *status && found.1.contains(words), "{words}: {found:?}");
        }
    }

    #[test]
    fn what_waits_and_what_is_amiss_with_our_queue_is_a_warning() {
        let queue = Queue::example();
        let kept = told("the policy p", "unrouted", bound(&["unrouted.queue"]));
        let waiting = UnroutedQueue { depth: Some(Depth { messages: 3, consumers: 0 }), ..UnroutedQueue::default() };
        let check_of = |found: UnroutedQueue| check(&Ok(found), &kept, &queue);
        let said = check_of(waiting);
        assert!(said.status == Status::Warns && said.detail.starts_with("3 wait; events that no"), "{said:?}");
        let missing = UnroutedQueue { missing: vec!["the queue unrouted.queue".into()], ..UnroutedQueue::default() };
        let said = check_of(missing);
        assert!(
            said.status == Status::Warns && said.detail.ends_with("not declared: the queue unrouted.queue"),
            "{said:?}"
        );
        let unseen = check(&Err("set AMQP_URL".into()), &kept, &queue);
        assert!(unseen.status == Status::Warns && unseen.detail == "not checked: set AMQP_URL", "{unseen:?}");
    }

    #[test]
    fn the_policy_is_advised_as_a_command() {
        let expected = r#"`rabbitmqctl set_policy penr-unrouted '^(all\.events|shards)$' '{"alternate-exchange":"unrouted"}' --apply-to exchanges`"#;
        assert_eq!(policy(&Queue { events_exchange: "all.events".into(), ..Queue::example() }), expected);
    }

    #[test]
    fn with_several_queues_the_exchange_that_spreads_events_must_send_them_the_same_way() {
        let kept = || to("the policy p", "unrouted", bound(&["unrouted.queue"]));
        let other = to("the policy q", "other", bound(&["q"]));
        let cases = [
            (Some(Way::Dropped), Status::Warns),
            (Some(other), Status::Warns),
            (Some(kept()), Status::Ok),
            (Some(Way::NoExchange), Status::Ok),
            (None, Status::Ok),
        ];
        for (shards, status) in cases {
            let told = Some(Ok(Ways { events: kept(), shards }));
            let said = check(&Ok(UnroutedQueue::default()), &told, &Queue::example());
            let is_named = said.detail.contains("shards does not send them there");
            assert!(said.status == status && is_named == (status == Status::Warns), "{told:?}: {said:?}");
        }
    }
}

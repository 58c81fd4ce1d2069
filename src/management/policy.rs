//! Which policies break a promise of ours about a queue. Pure.
//!
//! RabbitMQ combines a queue's arguments with a policy and an operator policy (<https://www.rabbitmq.com/docs/policies>). If
//! two of them set the same limit, the lower one is in force. If two set `overflow`, a quorum queue uses the policy's value;
//! for any other key it uses the argument's.

use serde_json::{Map, Value};

use crate::config::Queue;

/// One of our queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OurQueue {
    /// The worker queue: events that wait for a worker.
    Events,
    /// The dead queue.
    DeadLetters,
    /// The bounded queue of events that no queue takes.
    Unrouted,
}

/// A limit or a rule in force for a queue that breaks a promise of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Harm {
    /// The key as in a policy, such as `max-length`.
    pub(crate) key: &'static str,
    /// The value in force; empty if nothing is set.
    pub(crate) value: String,
    pub(crate) set_by: SetBy,
    /// Whether messages are lost. Otherwise they are only not delivered.
    pub(crate) loses: bool,
    /// What happens to which messages, for an operator.
    pub(crate) consequence: &'static str,
}

/// What sets a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetBy {
    Policy,
    /// The queue was declared with the value, or without any.
    Argument,
}

/// What is in force for a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InForce<'a> {
    /// The queue's arguments, whose keys begin with `x-`.
    pub(crate) arguments: &'a Map<String, Value>,
    /// The policy and the operator policy, merged.
    pub(crate) policy: &'a Map<String, Value>,
}

/// Every harm for a queue, those that lose messages first. `expected` is how a worker declares it.
pub(crate) fn harms(queue: OurQueue, in_force: InForce<'_>, expected: &Queue) -> Vec<Harm> {
    let mut found = match queue {
        OurQueue::Events => of_events(in_force, expected),
        OurQueue::DeadLetters => of_dead_letters(in_force, expected),
        OurQueue::Unrouted => of_unrouted(in_force, expected),
    };
    found.sort_by_key(|harm| !harm.loses);
    found
}

fn of_events(queue: InForce<'_>, expected: &Queue) -> Vec<Harm> {
    let mut found = Vec::new();
    let exchange = queue.rule("dead-letter-exchange");
    found.extend(match &exchange {
        Some((value, _)) if *value == expected.dead_exchange => None,
        Some(_) => harm(exchange.clone(), "dead-letter-exchange", Loses(true), "what is rejected goes elsewhere"),
        None => unset("dead-letter-exchange", "what is rejected, or handed out too often, is dropped"),
    });
    found.extend(other_than("at-least-once", queue.rule("dead-letter-strategy"), "dead-letter-strategy"));
    found.extend(other_than("reject-publish", queue.overflow(), "overflow"));
    let refuses = queue.refuses_when_full();
    for key in ["max-length", "max-length-bytes"] {
        let consequence = match refuses {
            true => "once so much waits, publishing is refused",
            false => "once so much waits, the oldest events become dead letters",
        };
        found.extend(harm(queue.limit(key), key, Loses(false), consequence));
    }
    let late = "an event that waits longer, say in an outage, becomes a dead letter and is not delivered";
    found.extend(harm(queue.limit("message-ttl"), "message-ttl", Loses(false), late));
    let often = queue.limit("delivery-limit").filter(|(limit, _)| *limit >= 0 && *limit < expected.delivery_limit);
    let lost_links = "an event handed out so often, say by connections that were lost, becomes a dead letter";
    found.extend(harm(often, "delivery-limit", Loses(false), lost_links));
    found.extend(expiry(queue));
    found
}

fn of_dead_letters(queue: InForce<'_>, expected: &Queue) -> Vec<Harm> {
    let mut found = Vec::new();
    let often = queue.limit("delivery-limit").filter(|(limit, _)| *limit >= 0 && *limit < expected.dead_delivery_limit);
    found.extend(harm(often, "delivery-limit", Loses(true), "a dead letter that was read so often is dropped"));
    found.extend(match queue.limit("delivery-limit") {
        None => unset("delivery-limit", "RabbitMQ 4 drops a dead letter that was read 20 times"),
        Some(_) => None,
    });
    let late = "dead letters are dropped after that time";
    found.extend(harm(queue.limit("message-ttl"), "message-ttl", Loses(true), late));
    let refuses = queue.refuses_when_full();
    for key in ["max-length", "max-length-bytes"] {
        let consequence = match refuses {
            true => "once so much is there, further ones stay behind in the queue of the workers",
            false => "once so much is there, the oldest dead letters are dropped",
        };
        found.extend(harm(queue.limit(key), key, Loses(!refuses), consequence));
    }
    found.extend(expiry(queue));
    found
}

/// It is bounded in any case, so a lower bound is no harm.
fn of_unrouted(queue: InForce<'_>, expected: &Queue) -> Vec<Harm> {
    let mut found = Vec::new();
    let often = queue.limit("delivery-limit").filter(|(limit, _)| *limit >= 0 && *limit < expected.dead_delivery_limit);
    found.extend(harm(often, "delivery-limit", Loses(true), "an unrouted event that was read so often is dropped"));
    let late = "unrouted events are dropped after that time";
    found.extend(harm(queue.limit("message-ttl"), "message-ttl", Loses(true), late));
    let refused = queue.overflow().filter(|(overflow, _)| overflow != "drop-head");
    found.extend(harm(
        refused,
        "overflow",
        Loses(true),
        "once it is full, new events are lost or refused, not the oldest",
    ));
    found.extend(expiry(queue));
    found
}

fn expiry(queue: InForce<'_>) -> Option<Harm> {
    let deleted = "the queue is deleted with all that is in it when nobody has used it for that time";
    harm(queue.limit("expires"), "expires", Loses(true), deleted)
}

struct Loses(bool);

fn harm<T: ToString>(
    found: Option<(T, SetBy)>,
    key: &'static str,
    Loses(loses): Loses,
    consequence: &'static str,
) -> Option<Harm> {
    found.map(|(value, set_by)| Harm { key, value: value.to_string(), set_by, loses, consequence })
}

/// A key that is not set and that a worker would have declared.
fn unset(key: &'static str, consequence: &'static str) -> Option<Harm> {
    harm(Some(("", SetBy::Argument)), key, Loses(true), consequence)
}

/// A rule with another value than ours. RabbitMQ loses no message on its way to the dead queue only if `dead-letter-strategy`
/// and `overflow` are as we declare them.
fn other_than(ours: &str, rule: Option<(String, SetBy)>, key: &'static str) -> Option<Harm> {
    let consequence = "what is rejected may be lost when the broker dies meanwhile";
    match rule {
        Some((rule, _)) if rule == ours => None,
        None => unset(key, consequence),
        other => harm(other, key, Loses(true), consequence),
    }
}

impl InForce<'_> {
    /// A limit: the lower one of argument and policy. A negative delivery limit means no limit (RabbitMQ 4).
    pub(crate) fn limit(&self, key: &str) -> Option<(i64, SetBy)> {
        let number = |from: &Map<String, Value>, key: &str| from.get(key).and_then(Value::as_i64);
        let argument = number(self.arguments, &format!("x-{key}")).map(|limit| (limit, SetBy::Argument));
        let policy = number(self.policy, key).map(|limit| (limit, SetBy::Policy));
        // If both are equal, the first one counts as the origin: the policy changes nothing.
        argument.into_iter().chain(policy).min_by_key(|(limit, _)| (*limit < 0, *limit))
    }

    /// A rule: the argument's value, or else the policy's.
    fn rule(&self, key: &str) -> Option<(String, SetBy)> {
        self.argument(key).or_else(|| self.policy(key))
    }

    /// `overflow`: the policy's value, or else the argument's.
    fn overflow(&self) -> Option<(String, SetBy)> {
        self.policy("overflow").or_else(|| self.argument("overflow"))
    }

    fn argument(&self, key: &str) -> Option<(String, SetBy)> {
        text(self.arguments, &format!("x-{key}")).map(|rule| (rule, SetBy::Argument))
    }

    fn policy(&self, key: &str) -> Option<(String, SetBy)> {
        text(self.policy, key).map(|rule| (rule, SetBy::Policy))
    }

    fn refuses_when_full(&self) -> bool {
        self.overflow().is_some_and(|(overflow, _)| overflow == "reject-publish")
    }
}

fn text(from: &Map<String, Value>, key: &str) -> Option<String> {
    from.get(key).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What a worker declares.
    fn declared(queue: OurQueue) -> Map<String, Value> {
        let arguments = match queue {
            OurQueue::DeadLetters => json!({"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}),
            OurQueue::Events => json!({
                "x-queue-type": "quorum", "x-delivery-limit": 100, "x-dead-letter-exchange": "dead",
                "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
            }),
            OurQueue::Unrouted => json!({
                "x-queue-type": "quorum", "x-delivery-limit": 1_000_000, "x-max-length-bytes": 1_000_000,
                "x-overflow": "drop-head",
            }),
        };
        map(arguments)
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// Each harm as its key and `loses` or `hinders`.
    fn found(queue: OurQueue, arguments: &Map<String, Value>, policy: Value) -> Vec<String> {
        let policy = map(policy);
        let harms = harms(queue, InForce { arguments, policy: &policy }, &Queue::example());
        let said = |harm: &Harm| format!("{} {}", harm.key, if harm.loses { "loses" } else { "hinders" });
        harms.iter().map(said).collect()
    }

    #[test]
    fn each_policy_is_judged_by_what_it_does_to_either_queue() {
        let table: &[(Value, &[&str], &[&str])] = &[
            (json!({}), &[], &[]),
            (json!({"delivery-limit": 3}), &["delivery-limit hinders"], &["delivery-limit loses"]),
            (json!({"delivery-limit": 100}), &[], &["delivery-limit loses"]),
            (json!({"delivery-limit": 2_000_000}), &[], &[]),
            (json!({"message-ttl": 60_000}), &["message-ttl hinders"], &["message-ttl loses"]),
            (json!({"max-length": 10}), &["max-length hinders"], &["max-length loses"]),
            (json!({"max-length-bytes": 10}), &["max-length-bytes hinders"], &["max-length-bytes loses"]),
            (json!({"max-length": 10, "overflow": "reject-publish"}), &["max-length hinders"], &["max-length hinders"]),
            (
                json!({"max-length": 10, "overflow": "drop-head"}),
                &["overflow loses", "max-length hinders"],
                &["max-length loses"],
            ),
            // The policy's `overflow` is in force, and without a limit it does no harm to the dead queue.
            (json!({"overflow": "drop-head"}), &["overflow loses"], &[]),
            (json!({"overflow": "reject-publish"}), &[], &[]),
            (json!({"expires": 1_000}), &["expires loses"], &["expires loses"]),
            // Our own arguments are in force.
            (json!({"dead-letter-exchange": "x", "dead-letter-strategy": "y"}), &[], &[]),
            // Keys of other kinds of queues, or without consequence.
            (json!({"queue-version": 2, "queue-mode": "lazy", "ha-mode": "all", "max-in-memory-length": 1}), &[], &[]),
        ];
        for (policy, events, dead) in table {
            assert_eq!(found(OurQueue::Events, &declared(OurQueue::Events), policy.clone()), *events, "{policy}");
            assert_eq!(
                found(OurQueue::DeadLetters, &declared(OurQueue::DeadLetters), policy.clone()),
                *dead,
                "{policy}"
            );
        }
    }

    #[test]
    fn a_policy_harms_unrouted_events_if_it_drops_others_than_the_oldest_of_a_full_queue() {
        let of = |policy: Value| found(OurQueue::Unrouted, &declared(OurQueue::Unrouted), policy);
        let nothing: [&str; 0] = [];
        assert_eq!(of(json!({"max-length": 10, "max-length-bytes": 10, "overflow": "drop-head"})), nothing);
        let harmful = json!({"delivery-limit": 3, "message-ttl": 1, "overflow": "reject-publish", "expires": 1});
        let all = ["delivery-limit loses", "message-ttl loses", "overflow loses", "expires loses"];
        assert_eq!(of(harmful), all);
    }

    #[test]
    fn a_queue_that_somebody_declared_without_our_arguments_is_judged_too() {
        let bare = map(json!({"x-queue-type": "quorum"}));
        let all = ["dead-letter-exchange loses", "dead-letter-strategy loses", "overflow loses"];
        assert_eq!(found(OurQueue::Events, &bare, json!({})), all);
        let by_policy =
            json!({"dead-letter-exchange": "dead", "dead-letter-strategy": "at-least-once", "overflow": "drop-head"});
        assert_eq!(found(OurQueue::Events, &bare, by_policy), ["overflow loses"]);
        let elsewhere = json!({"dead-letter-exchange": "x", "dead-letter-strategy": "at-most-once"});
        assert_eq!(found(OurQueue::Events, &bare, elsewhere), all);
        assert_eq!(found(OurQueue::DeadLetters, &bare, json!({})), ["delivery-limit loses"]);
    }

    #[test]
    fn a_harm_says_whether_a_policy_or_an_argument_sets_it() {
        let arguments = map(json!({"x-delivery-limit": 5}));
        let of = |policy: Value| {
            let policy = map(policy);
            harms(OurQueue::DeadLetters, InForce { arguments: &arguments, policy: &policy }, &Queue::example())[0]
                .clone()
        };
        let Harm { value, set_by, .. } = of(json!({"delivery-limit": 3}));
        assert_eq!((value.as_str(), set_by), ("3", SetBy::Policy));
        let Harm { value, set_by, .. } = of(json!({"delivery-limit": 7}));
        assert_eq!((value.as_str(), set_by), ("5", SetBy::Argument));
        let Harm { value, set_by, .. } = of(json!({"delivery-limit": -1}));
        assert_eq!((value.as_str(), set_by), ("5", SetBy::Argument));
    }

    #[test]
    fn a_queue_that_a_policy_keeps_from_refusing_drops_what_is_old() {
        let (arguments, policy) = (declared(OurQueue::Events), map(json!({"overflow": "drop-head", "max-length": 9})));
        let harms = harms(OurQueue::Events, InForce { arguments: &arguments, policy: &policy }, &Queue::example());
        let said: Vec<_> = harms.iter().map(|harm| (harm.value.as_str(), harm.set_by, harm.consequence)).collect();
        let overflow = ("drop-head", SetBy::Policy, "what is rejected may be lost when the broker dies meanwhile");
        let length = ("9", SetBy::Policy, "once so much waits, the oldest events become dead letters");
        assert_eq!(said, [overflow, length]);
    }

    proptest! {
        /// A lower limit never has fewer harms.
        #[test]
        fn a_lower_limit_is_no_better(
            key in prop::sample::select(vec!["delivery-limit", "message-ttl", "max-length", "max-length-bytes", "expires"]),
            one in 0..3_000_000_i64, other in 0..3_000_000_i64,
        ) {
            for queue in [OurQueue::Events, OurQueue::DeadLetters] {
                let of = |limit: i64| found(queue, &declared(queue), json!({key: limit}));
                prop_assert!(of(one.min(other)).len() >= of(one.max(other)).len());
            }
        }
    }
}

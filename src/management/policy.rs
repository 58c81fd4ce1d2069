//! Which policies break what we promise for a queue. Pure.
//!
//! RabbitMQ lays a policy and an operator policy over a queue's own arguments. Of two limits the lower one counts. Of two
//! values of `overflow` a quorum queue takes the policy's, of anything else the argument:
//! <https://www.rabbitmq.com/docs/policies>.

use serde_json::{Map, Value};

use crate::config::Queue;

/// Which of our queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Events that wait for a worker.
    Events,
    DeadLetters,
}

/// A limit or a rule of a queue under which we cannot keep a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harm {
    /// As policies spell it, such as `max-length`.
    pub key: &'static str,
    /// As RabbitMQ has it; empty if nothing is set.
    pub value: String,
    pub set_by: SetBy,
    /// Whether something is lost. Else it is only kept from being delivered.
    pub loses: bool,
    /// What happens to what.
    pub consequence: &'static str,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetBy {
    Policy,
    /// The queue was declared so, or without it.
    Argument,
}

/// What is in force for a queue.
#[derive(Debug, Clone, Copy)]
pub struct InForce<'a> {
    /// With their `x-`.
    pub arguments: &'a Map<String, Value>,
    /// The policy and the operator policy as one.
    pub policy: &'a Map<String, Value>,
}

/// All of them, those that lose something first.
pub fn harms(kept: Kept, queue: InForce<'_>, expected: &Queue) -> Vec<Harm> {
    let mut found = match kept {
        Kept::Events => of_events(queue, expected),
        Kept::DeadLetters => of_dead_letters(queue, expected),
    };
    found.sort_by_key(|harm| !harm.loses);
    found
}

fn of_events(queue: InForce<'_>, expected: &Queue) -> Vec<Harm> {
    let mut found = Vec::new();
    let dying = queue.rule("dead-letter-exchange");
    found.extend(match &dying {
        Some((value, _)) if *value == expected.dead_exchange => None,
        Some(_) => harm(dying.clone(), "dead-letter-exchange", Loses(true), "what is rejected goes elsewhere"),
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

/// What a queue lacks that we would have declared it with.
fn unset(key: &'static str, consequence: &'static str) -> Option<Harm> {
    harm(Some(("", SetBy::Argument)), key, Loses(true), consequence)
}

/// RabbitMQ moves dead letters without losing any only if both rules are as we declare them.
fn other_than(ours: &str, rule: Option<(String, SetBy)>, key: &'static str) -> Option<Harm> {
    let consequence = "what is rejected may be lost when the broker dies meanwhile";
    match rule {
        Some((rule, _)) if rule == ours => None,
        None => unset(key, consequence),
        other => harm(other, key, Loses(true), consequence),
    }
}

impl InForce<'_> {
    /// The lower one of both. A negative one, which RabbitMQ 4 knows as a delivery limit, is no limit.
    pub fn limit(&self, key: &str) -> Option<(i64, SetBy)> {
        let number = |from: &Map<String, Value>, key: &str| from.get(key).and_then(Value::as_i64);
        let argument = number(self.arguments, &format!("x-{key}")).map(|limit| (limit, SetBy::Argument));
        let policy = number(self.policy, key).map(|limit| (limit, SetBy::Policy));
        // With equal ones a policy changes nothing.
        argument.into_iter().chain(policy).min_by_key(|(limit, _)| (*limit < 0, *limit))
    }

    /// The argument, else the policy.
    fn rule(&self, key: &str) -> Option<(String, SetBy)> {
        self.argument(key).or_else(|| self.policy(key))
    }

    /// The policy, else the argument.
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
    use std::time::Duration;

    fn expected() -> Queue {
        Queue {
            events_exchange: "events".into(),
            worker_queue: "queue".into(),
            dead_exchange: "dead".into(),
            dead_queue: "dead".into(),
            notices_exchange: "notices".into(),
            delivery_limit: 100,
            dead_delivery_limit: 1_000_000,
            confirm_timeout: Duration::from_secs(10),
        }
    }

    /// What a worker declares.
    fn declared(kept: Kept) -> Map<String, Value> {
        let arguments = match kept {
            Kept::DeadLetters => json!({"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}),
            Kept::Events => json!({
                "x-queue-type": "quorum", "x-delivery-limit": 100, "x-dead-letter-exchange": "dead",
                "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish",
            }),
        };
        map(arguments)
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// `key` and a word for each.
    fn found(kept: Kept, arguments: &Map<String, Value>, policy: Value) -> Vec<String> {
        let policy = map(policy);
        let harms = harms(kept, InForce { arguments, policy: &policy }, &expected());
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
            // Of `overflow` the policy's counts, and without a limit it does no harm to the dead queue.
            (json!({"overflow": "drop-head"}), &["overflow loses"], &[]),
            (json!({"overflow": "reject-publish"}), &[], &[]),
            (json!({"expires": 1_000}), &["expires loses"], &["expires loses"]),
            // Our own arguments count more.
            (json!({"dead-letter-exchange": "x", "dead-letter-strategy": "y"}), &[], &[]),
            // Of other kinds of queues, or of no consequence.
            (json!({"queue-version": 2, "queue-mode": "lazy", "ha-mode": "all", "max-in-memory-length": 1}), &[], &[]),
        ];
        for (policy, events, dead) in table {
            assert_eq!(found(Kept::Events, &declared(Kept::Events), policy.clone()), *events, "{policy}");
            assert_eq!(found(Kept::DeadLetters, &declared(Kept::DeadLetters), policy.clone()), *dead, "{policy}");
        }
    }

    #[test]
    fn a_queue_that_somebody_declared_without_our_arguments_is_judged_too() {
        let bare = map(json!({"x-queue-type": "quorum"}));
        let all = ["dead-letter-exchange loses", "dead-letter-strategy loses", "overflow loses"];
        assert_eq!(found(Kept::Events, &bare, json!({})), all);
        let by_policy =
            json!({"dead-letter-exchange": "dead", "dead-letter-strategy": "at-least-once", "overflow": "drop-head"});
        assert_eq!(found(Kept::Events, &bare, by_policy), ["overflow loses"]);
        let elsewhere = json!({"dead-letter-exchange": "x", "dead-letter-strategy": "at-most-once"});
        assert_eq!(found(Kept::Events, &bare, elsewhere), all);
        assert_eq!(found(Kept::DeadLetters, &bare, json!({})), ["delivery-limit loses"]);
    }

    #[test]
    fn a_harm_says_whether_a_policy_or_an_argument_sets_it() {
        let arguments = map(json!({"x-delivery-limit": 5}));
        let of = |policy: Value| {
            let policy = map(policy);
            harms(Kept::DeadLetters, InForce { arguments: &arguments, policy: &policy }, &expected())[0].clone()
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
        let (arguments, policy) = (declared(Kept::Events), map(json!({"overflow": "drop-head", "max-length": 9})));
        let harms = harms(Kept::Events, InForce { arguments: &arguments, policy: &policy }, &expected());
        let said: Vec<_> = harms.iter().map(|harm| (harm.value.as_str(), harm.set_by, harm.consequence)).collect();
        let overflow = ("drop-head", SetBy::Policy, "what is rejected may be lost when the broker dies meanwhile");
        let length = ("9", SetBy::Policy, "once so much waits, the oldest events become dead letters");
        assert_eq!(said, [overflow, length]);
    }

    proptest! {
        /// Whatever a policy sets, a lower limit is never judged more mildly.
        #[test]
        fn a_lower_limit_is_no_better(
            key in prop::sample::select(vec!["delivery-limit", "message-ttl", "max-length", "max-length-bytes", "expires"]),
            one in 0..3_000_000_i64, other in 0..3_000_000_i64,
        ) {
            for kept in [Kept::Events, Kept::DeadLetters] {
                let of = |limit: i64| found(kept, &declared(kept), json!({key: limit}));
                prop_assert!(of(one.min(other)).len() >= of(one.max(other)).len());
            }
        }
    }
}

//! RabbitMQ's management plugin, if `amqp.management_url` is set: policies, members of the queues, alarms.

use futures_util::future::try_join_all;

use super::unrouted::{Told, Ways};
use super::{Check, Deadline, millis};
use crate::config::{Queue, Settings};
use crate::error_chain;
use crate::management::{Management, ManagementError, OurQueue, QueueDescription, SetBy};
use crate::tls;

const OF_QUEUES: [&str; 2] = ["policies", "members"];

/// Our queues with their names, and what the plugin says of them; `None` if not declared.
type Found = [(OurQueue, String, Option<QueueDescription>)];

/// The checks, and what becomes of events that no queue takes, or why the plugin does not tell. Makes no checks and asks nothing
/// unless `amqp.management_url` is set.
pub(super) async fn checks(settings: &Settings, deadline: Deadline) -> (Vec<Check>, Told) {
    if settings.amqp.management.is_none() {
        return (Vec::new(), None);
    }
    let unreadable = |detail: String, error: &ManagementError| {
        let check = Check::warns("management", detail, advice(error));
        const WHY: &str = "the management plugin is not read";
        let checks = [vec![check], Check::skipped(&[&OF_QUEUES[..], &["alarms"]].concat(), WHY)].concat();
        (checks, Some(Err(WHY.to_owned())))
    };
    let management = match Management::new(&settings.amqp) {
        Ok(Some(management)) => management,
        Ok(None) => return (Vec::new(), None),
        Err(error) => return unreadable(error_chain(&error), &error),
    };
    let greeted = match within(deadline, management.check_login()).await {
        Ok(took) => format!("{} answers the user {} in {}", management.url(), management.user(), millis(took)),
        Err(error) => return unreadable(format!("{}: {}", management.url(), error_chain(&error)), &error),
    };
    let queues = within(deadline, async {
        let workers = settings.queue.all_shards().map(|shard| (OurQueue::Events, shard.queue));
        let others = [
            (OurQueue::DeadLetters, settings.queue.dead_queue.clone()),
            (OurQueue::Unrouted, settings.queue.unrouted_queue.clone()),
        ];
        let ours = workers.chain(others);
        try_join_all(ours.map(async |(kept, name)| {
            let described = management.queue(&name).await?;
            Ok::<_, ManagementError>((kept, name, described))
        }))
        .await
    });
    let (queues, alarms, unrouted) = tokio::join!(
        queues,
        within(deadline, management.alarms()),
        within(deadline, ways_of_unrouted(&management, &settings.queue))
    );
    let of_queues = match queues {
        Ok(mut found) => {
            // Workers do without this one, which comes last: the check `unrouted` tells whether it is there.
            let needed = found.len() - 1;
            found.retain(|(kept, _, described)| *kept != OurQueue::Unrouted || described.is_some());
            vec![policies(&found, &settings.queue), members(&found[..needed])]
        }
        Err(error) => {
            let fault = |check| Check::warns(check, error_chain(&error), advice(&error));
            OF_QUEUES.map(fault).to_vec()
        }
    };
    let alarms = match alarms {
        Ok(found) => in_alarm(&found),
        Err(error) => Check::warns("alarms", error_chain(&error), advice(&error)),
    };
    (
        [vec![Check::ok("management", greeted)], of_queues, vec![alarms]].concat(),
        Some(unrouted.map_err(|error| error_chain(&error))),
    )
}

async fn ways_of_unrouted(management: &Management, queue: &Queue) -> Result<Ways, ManagementError> {
    let events = management.way_of_unrouted(&queue.events_exchange).await?;
    let shards = match queue.is_sharded() {
        true => Some(management.way_of_unrouted(&queue.shards_exchange).await?),
        false => None,
    };
    Ok(Ways { events, shards })
}

async fn within<T>(
    deadline: Deadline,
    question: impl Future<Output = Result<T, ManagementError>>,
) -> Result<T, ManagementError> {
    deadline.wait(question).await.map_err(|late| ManagementError::Unreachable(anyhow::Error::msg(late)))?
}

fn advice(error: &ManagementError) -> String {
    let advice = match error {
        ManagementError::Unreachable(error) => {
            let refused = error.chain().find_map(|cause| tls::refused_certificate(cause, "amqp.ca_file"));
            if let Some(why) = refused {
                return format!("its certificate is refused: {why}");
            }
            "is the plugin on (`rabbitmq-plugins enable rabbitmq_management`), and is amqp.management_url right?"
        }
        ManagementError::Refused { .. } => {
            "give the user the tag management (`rabbitmqctl set_user_tags`) and rights in our virtual host, or put a user that \
             has them into amqp.management_url"
        }
        ManagementError::OtherServer(_) => "correct amqp.management_url: host, port and path before /api",
        ManagementError::Setup(_) => "solve that first",
        ManagementError::Login(_) => "correct AMQP_URL",
    };
    advice.to_owned()
}

const NARROW_POLICY: &str = "exempt our queues: a narrower pattern, or a policy of higher priority without it";
const DECLARE_ANEW: &str = "what a queue's own argument sets goes with the queue: delete it once it is empty, and a worker \
                            declares it anew";
const ASK_AGAIN: &str = "ask again in a few seconds; it cannot tell where its statistics are off";
const DECLARED_BY_WORKER: &str = "the first worker declares it: ask again then";

fn policies(found: &Found, expected: &Queue) -> Check {
    let (mut problems, mut loses, mut harmless) = (Vec::new(), false, Vec::new());
    let (mut unknown, mut advice) = (Vec::new(), Vec::new());
    for (kept, name, queue) in found {
        let Some(queue) = queue else {
            unknown.push((format!("{name} is not declared yet: nothing is known of it"), DECLARED_BY_WORKER));
            continue;
        };
        if queue.in_force.is_none() {
            unknown.push((format!("the plugin does not tell which apply to {name}"), ASK_AGAIN));
        }
        let harms = queue.harms(*kept, expected);
        if harms.is_empty() {
            harmless.extend(queue.policies().iter().map(|policy| format!("{policy} on {name}")));
        }
        for harm in harms {
            loses |= harm.loses;
            let value = if harm.value.is_empty() { "is not set" } else { harm.value.as_str() };
            let by = queue.origin_of(&harm);
            problems.push(format!("{name}: {} {value}, by {by}: {}", harm.key, harm.consequence));
            advice.push(if harm.set_by == SetBy::Policy { NARROW_POLICY } else { DECLARE_ANEW });
        }
    }
    let is_harmless = problems.is_empty();
    for (said, what_to_do) in unknown {
        problems.push(said);
        advice.push(what_to_do);
    }
    match (problems.is_empty(), is_harmless, loses) {
        (true, ..) if harmless.is_empty() => Check::ok("policies", "none applies to our queues"),
        (true, ..) => Check::ok("policies", format!("{}, which do no harm", harmless.join(", "))),
        (_, false, true) => Check::fails("policies", problems.join("; "), each_once(&advice)),
        _ => Check::warns("policies", problems.join("; "), each_once(&advice)),
    }
}

fn each_once(advice: &[&str]) -> String {
    let first = |(at, one): (usize, &&str)| !advice[..at].contains(one);
    let once: Vec<_> = advice.iter().enumerate().filter(|(at, one)| first((*at, *one))).map(|(_, one)| *one).collect();
    once.join("; ")
}

fn members(found: &Found) -> Check {
    let (mut others, mut lost, mut fewer, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut undeclared, mut untold) = (Vec::new(), Vec::new());
    for (_, name, queue) in found {
        let Some(QueueDescription { kind, members, online, .. }) = queue else {
            undeclared.push(format!("{name} is not declared yet"));
            continue;
        };
        let (of, there) = (members.len(), members.iter().filter(|member| online.contains(member)).count());
        let told = format!("{there} of {of} members of {name} are online");
        if kind != "quorum" {
            others.push(format!("{name} is a {kind} queue, which loses what it holds with its node"));
        } else if of == 0 {
            untold.push(format!("the members of {name} are not told"));
        } else if there * 2 <= of {
            lost.push(format!("{told}, too few to go on"));
        } else if there < of {
            fewer.push(told);
        } else {
            all.push(told);
        }
    }
    let faults = [
        (&others, "delete it if it may go: a worker declares a quorum queue"),
        (&lost, "bring the nodes back: without a majority nothing goes in or out"),
        (&fewer, "bring back what is missing, lest one more stops the queue"),
        (&undeclared, DECLARED_BY_WORKER),
        (&untold, ASK_AGAIN),
    ];
    let told = [&others[..], &lost, &fewer, &undeclared, &untold, &all].concat().join("; ");
    let advice: Vec<_> = faults.iter().filter(|(queues, _)| !queues.is_empty()).map(|(_, advice)| *advice).collect();
    match (others.is_empty() && lost.is_empty(), advice.is_empty()) {
        (false, _) => Check::fails("members", told, advice.join("; ")),
        (_, false) => Check::warns("members", told, advice.join("; ")),
        _ => Check::ok("members", told),
    }
}

/// RabbitMQ's name of the alarm that stops new connections. The other alarms block publishers.
const OPEN_FILES: &str = "file descriptors";

fn in_alarm(alarms: &[String]) -> Check {
    let (open_files, resources): (Vec<_>, Vec<_>) = alarms.iter().partition(|alarm| alarm.starts_with(OPEN_FILES));
    let kinds = [
        (
            resources,
            "the broker takes nothing from publishers",
            "give it memory or disk space; what waits is delivered meanwhile",
        ),
        (open_files, "the node takes no new connections", "raise its limit of open files"),
    ];
    let there = kinds.iter().filter(|(alarms, ..)| !alarms.is_empty());
    let said = |(alarms, means, _): &(Vec<&String>, _, _)| {
        format!("{}: {means}", alarms.iter().map(|alarm| alarm.as_str()).collect::<Vec<_>>().join(", "))
    };
    let (details, advice): (Vec<_>, Vec<_>) = there.map(|kind| (said(kind), kind.2)).unzip();
    match details.is_empty() {
        true => Check::ok("alarms", "none"),
        false => Check::fails("alarms", details.join("; "), advice.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn nodes(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("rabbit@{number}")).collect()
    }

    fn queue(members: usize, online: usize) -> Option<QueueDescription> {
        Some(QueueDescription {
            kind: "quorum".into(),
            members: nodes(members),
            online: nodes(online),
            ..QueueDescription::default()
        })
    }

    #[test]
    fn a_queue_without_a_majority_of_its_members_fails() {
        let of = |events, dead| {
            members(&[(OurQueue::Events, "a".to_owned(), events), (OurQueue::DeadLetters, "b".to_owned(), dead)])
        };
        let statuses =
            |cases: [(usize, usize); 5]| cases.map(|(all, online)| of(queue(1, 1), queue(all, online)).status);
        let expected = [Status::Ok, Status::Ok, Status::Warns, Status::Fails, Status::Fails];
        assert_eq!(statuses([(1, 1), (3, 3), (3, 2), (3, 1), (2, 1)]), expected);
        assert_eq!(of(queue(0, 0), queue(3, 3)).status, Status::Warns);
        let undeclared = of(None, queue(3, 3));
        assert_eq!((undeclared.status, undeclared.advice.as_deref()), (Status::Warns, Some(DECLARED_BY_WORKER)));
        let classic = of(queue(1, 1), Some(QueueDescription { kind: "classic".into(), ..QueueDescription::default() }));
        assert!(classic.status == Status::Fails && classic.detail.contains("b is a classic queue"), "{classic:?}");
        let short = of(queue(3, 3), queue(3, 1));
        assert!(short.detail.contains("1 of 3 members of b are online, too few"), "{short:?}");
    }

    #[test]
    fn policies_that_are_not_told_are_no_good_news() {
        let expected = Settings::load(None, [], |_| Err(std::io::ErrorKind::NotFound.into())).unwrap().queue;
        let of = |in_force: Option<serde_json::Value>| {
            let in_force = in_force.map(|policy| policy.as_object().unwrap().clone());
            let arguments = serde_json::json!({"x-delivery-limit": 1_000_000}).as_object().unwrap().clone();
            let dead = || QueueDescription {
                in_force: in_force.clone(),
                arguments: arguments.clone(),
                ..QueueDescription::default()
            };
            policies(
                &[
                    (OurQueue::DeadLetters, "a".to_owned(), Some(dead())),
                    (OurQueue::DeadLetters, "b".to_owned(), Some(dead())),
                ],
                &expected,
            )
        };
        let untold = of(None);
        assert!(untold.status == Status::Warns && untold.detail.ends_with("apply to b"), "{untold:?}");
        assert_eq!(untold.advice.as_deref(), Some(ASK_AGAIN));
        assert_eq!(of(Some(serde_json::json!({}))).status, Status::Ok);
        let harmful = of(Some(serde_json::json!({"max-length": 5})));
        assert!(
            harmful.status == Status::Fails && harmful.detail.starts_with("a: max-length 5, by a policy:"),
            "{harmful:?}"
        );
    }

    #[test]
    fn of_a_queue_that_is_not_declared_yet_nothing_is_known() {
        let expected = Settings::load(None, [], |_| Err(std::io::ErrorKind::NotFound.into())).unwrap().queue;
        let none = policies(
            &[(OurQueue::Events, "a".to_owned(), None), (OurQueue::DeadLetters, "b".to_owned(), None)],
            &expected,
        );
        assert_eq!((none.status, none.advice.as_deref()), (Status::Warns, Some(DECLARED_BY_WORKER)));
        assert!(none.detail.contains("a is not declared yet") && none.detail.contains("; b is not"), "{none:?}");
        // The declared queue comes first. The advice depends on who has set the harmful value.
        let arguments = serde_json::json!({"x-delivery-limit": 5}).as_object().unwrap().clone();
        let in_force = serde_json::json!({"max-length": 5}).as_object().cloned();
        let dead = Some(QueueDescription { in_force, arguments, ..QueueDescription::default() });
        let harmful = policies(
            &[(OurQueue::Events, "a".to_owned(), None), (OurQueue::DeadLetters, "b".to_owned(), dead)],
            &expected,
        );
        assert_eq!(harmful.status, Status::Fails);
        assert!(harmful.detail.starts_with("b: ") && harmful.detail.ends_with("nothing is known of it"), "{harmful:?}");
        assert_eq!(harmful.advice.unwrap(), [DECLARE_ANEW, NARROW_POLICY, DECLARED_BY_WORKER].join("; "));
    }

    #[test]
    fn an_alarm_is_a_failure_and_says_whom_it_stops() {
        assert_eq!(in_alarm(&[]).status, Status::Ok);
        let memory = in_alarm(&["memory on rabbit@a".to_owned()]);
        assert!(memory.status == Status::Fails && memory.detail.ends_with("nothing from publishers"), "{memory:?}");
        let both = in_alarm(&["file descriptors on rabbit@a".to_owned(), "disk space on rabbit@b".to_owned()]);
        let detail = "disk space on rabbit@b: the broker takes nothing from publishers; file descriptors on rabbit@a: the \
                      node takes no new connections";
        assert_eq!(both.detail, detail);
    }
}

//! What RabbitMQ's management plugin tells, where `amqp.management_url` is set: policies, members of the queues, alarms.

use tokio::time::timeout_at;

use super::{Check, Deadline, PATIENCE, millis};
use crate::config::{Queue, Settings};
use crate::error_chain;
use crate::management::{Described, Kept, Management, ManagementError};

const OF_QUEUES: [&str; 2] = ["policies", "members"];

/// Our queues by name, with what is told of them.
type Found<'a> = [(Kept, &'a str, Option<Described>); 2];

/// None unless it is set.
pub(super) async fn checks(settings: &Settings, deadline: Deadline) -> Vec<Check> {
    if settings.amqp.management.is_none() {
        return Vec::new();
    }
    let unreadable = |detail: String, error: &ManagementError| {
        let check = Check::warns("management", detail, advice(error));
        [vec![check], Check::skipped(&[&OF_QUEUES[..], &["alarms"]].concat(), "the management plugin is not read")]
            .concat()
    };
    let management = match Management::new(&settings.amqp) {
        Ok(Some(management)) => management,
        Ok(None) => return Vec::new(),
        Err(error) => return unreadable(error_chain(&error), &error),
    };
    let greeted = match within(deadline, management.greet()).await {
        Ok(took) => format!("{} answers the user {} in {}", management.url(), management.user(), millis(took)),
        Err(error) => return unreadable(format!("{}: {}", management.url(), error_chain(&error)), &error),
    };
    let queues = within(deadline, async {
        let Queue { worker_queue, dead_queue, .. } = &settings.queue;
        let (events, dead) = tokio::try_join!(management.queue(worker_queue), management.queue(dead_queue))?;
        Ok([(Kept::Events, worker_queue.as_str(), events), (Kept::DeadLetters, dead_queue.as_str(), dead)])
    });
    let (queues, alarms) = tokio::join!(queues, within(deadline, management.alarms()));
    let of_queues = match queues {
        Ok(found) => vec![policies(&found, &settings.queue), members(&found)],
        Err(error) => {
            let fault = |check| Check::warns(check, error_chain(&error), advice(&error));
            OF_QUEUES.map(fault).to_vec()
        }
    };
    let alarms = match alarms {
        Ok(found) => in_alarm(&found),
        Err(error) => Check::warns("alarms", error_chain(&error), advice(&error)),
    };
    [vec![Check::ok("management", greeted)], of_queues, vec![alarms]].concat()
}

async fn within<T>(
    Deadline(deadline): Deadline,
    question: impl Future<Output = Result<T, ManagementError>>,
) -> Result<T, ManagementError> {
    let late = |_| ManagementError::Unreachable(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()));
    timeout_at(deadline, question).await.map_err(late)?
}

fn advice(error: &ManagementError) -> &'static str {
    match error {
        ManagementError::Unreachable(_) => {
            "is the plugin on (`rabbitmq-plugins enable rabbitmq_management`), and is amqp.management_url right?"
        }
        ManagementError::Refused { .. } => {
            "give the user the tag management (`rabbitmqctl set_user_tags`) and rights in our virtual host, or put a user that \
             has them into amqp.management_url"
        }
        ManagementError::Another(_) => "correct amqp.management_url: host, port and path before /api",
        ManagementError::Setup(_) => "cure that first",
        ManagementError::Login(_) => "correct AMQP_URL",
    }
}

fn policies(found: &Found<'_>, expected: &Queue) -> Check {
    let (mut problems, mut loses, mut harmless, mut untold) = (Vec::new(), false, Vec::new(), Vec::new());
    for (kept, name, queue) in found {
        let Some(queue) = queue else { continue };
        if queue.in_force.is_none() {
            untold.push(*name);
        }
        let harms = queue.harms(*kept, expected);
        if harms.is_empty() {
            harmless.extend(queue.policies().iter().map(|policy| format!("{policy} on {name}")));
        }
        for harm in harms {
            loses |= harm.loses;
            let value = if harm.value.is_empty() { "is not set" } else { harm.value.as_str() };
            let by = queue.named(&harm);
            problems.push(format!("{name}: {} {value}, by {by}: {}", harm.key, harm.consequence));
        }
    }
    let advice = "exempt our queues: a narrower pattern, or a policy of higher priority without it";
    match (problems.is_empty(), loses) {
        (false, true) => Check::fails("policies", problems.join("; "), advice),
        (false, false) => Check::warns("policies", problems.join("; "), advice),
        (true, _) if !untold.is_empty() => {
            let detail = format!("the plugin does not tell which apply to {}", untold.join(", "));
            Check::warns("policies", detail, "ask again in a few seconds; it cannot tell where its statistics are off")
        }
        (true, _) if harmless.is_empty() => Check::ok("policies", "none applies to our queues"),
        (true, _) => Check::ok("policies", format!("{}, which do no harm", harmless.join(", "))),
    }
}

fn members(found: &Found<'_>) -> Check {
    let (mut others, mut lost, mut fewer, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (_, name, queue) in found {
        let Some(Described { kind, members, online, .. }) = queue else {
            fewer.push(format!("{name} is not declared yet"));
            continue;
        };
        let (of, there) = (members.len(), members.iter().filter(|member| online.contains(member)).count());
        let told = format!("{there} of {of} members of {name} are online");
        if kind != "quorum" {
            others.push(format!("{name} is a {kind} queue, which loses what it holds with its node"));
        } else if of == 0 {
            fewer.push(format!("the members of {name} are not told"));
        } else if there * 2 <= of {
            lost.push(format!("{told}, too few to go on"));
        } else if there < of {
            fewer.push(told);
        } else {
            all.push(told);
        }
    }
    let told = [&others[..], &lost, &fewer, &all].concat().join("; ");
    match (others.is_empty(), lost.is_empty(), fewer.is_empty()) {
        (false, ..) => Check::fails("members", told, "delete it if it may go: a worker declares a quorum queue"),
        (_, false, _) => {
            Check::fails("members", told, "bring the nodes back: without a majority nothing goes in or out")
        }
        (_, _, false) => Check::warns("members", told, "bring back what is missing, lest one more stops the queue"),
        _ => Check::ok("members", told),
    }
}

fn in_alarm(alarms: &[String]) -> Check {
    match alarms {
        [] => Check::ok("alarms", "none"),
        alarms => {
            let detail = format!("{}: the broker takes nothing from publishers", alarms.join(", "));
            Check::fails("alarms", detail, "give it memory or disk space; what waits is delivered meanwhile")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn nodes(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("rabbit@{number}")).collect()
    }

    fn queue(members: usize, online: usize) -> Option<Described> {
        Some(Described {
            kind: "quorum".into(),
            members: nodes(members),
            online: nodes(online),
            ..Described::default()
        })
    }

    #[test]
    fn a_queue_without_a_majority_of_its_members_fails() {
        let of = |events, dead| members(&[(Kept::Events, "a", events), (Kept::DeadLetters, "b", dead)]);
        let statuses =
            |cases: [(usize, usize); 5]| cases.map(|(all, online)| of(queue(1, 1), queue(all, online)).status);
        let expected = [Status::Ok, Status::Ok, Status::Warns, Status::Fails, Status::Fails];
        assert_eq!(statuses([(1, 1), (3, 3), (3, 2), (3, 1), (2, 1)]), expected);
        assert_eq!(of(queue(0, 0), queue(3, 3)).status, Status::Warns);
        assert_eq!(of(None, None).status, Status::Warns);
        let classic = of(queue(1, 1), Some(Described { kind: "classic".into(), ..Described::default() }));
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
            let dead = Described { in_force, arguments, ..Described::default() };
            policies(&[(Kept::Events, "a", None), (Kept::DeadLetters, "b", Some(dead))], &expected)
        };
        let untold = of(None);
        assert!(untold.status == Status::Warns && untold.detail.ends_with("apply to b"), "{untold:?}");
        assert_eq!(of(Some(serde_json::json!({}))).status, Status::Ok);
        let harmful = of(Some(serde_json::json!({"max-length": 5})));
        assert!(
            harmful.status == Status::Fails && harmful.detail.starts_with("b: max-length 5, by a policy:"),
            "{harmful:?}"
        );
    }

    #[test]
    fn an_alarm_is_a_failure() {
        assert_eq!(in_alarm(&[]).status, Status::Ok);
        assert_eq!(in_alarm(&["memory on rabbit@a".to_owned()]).status, Status::Fails);
    }
}

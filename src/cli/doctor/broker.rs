//! RabbitMQ: the server, what is declared there, and whether a message comes through.

use std::time::Duration;

use super::versions::{RABBITMQ, Version};
use super::{Check, Deadline, Status, millis};
use crate::config::{Queue, Settings};
use crate::queue::{self, Broker, Depth, Quorum, RoundTrip, Topology, UnroutedQueue, check_quorum, knows_shards};

/// Somebody has deleted it: what workers reject, or others publish, has no destination.
const MISSING_UNDER_WORKERS: &str = "missing although workers consume";
const DECLARED_AGAIN: &str = "workers declare it again within seconds; if not, see their log";

const OF_TOPOLOGY: [&str; 3] = ["topology", "worker_queue", "dead_letters"];

/// RabbitMQ, as AMQP shows it.
pub(super) struct Seen {
    pub(super) checks: Vec<Check>,
    /// How many consumers the worker queue has, if the broker tells.
    pub(super) consumers: Option<u32>,
    /// What keeps events that no queue takes, or why the broker does not tell.
    pub(super) unrouted: Result<UnroutedQueue, String>,
}

pub(super) async fn checks(settings: &Settings, deadline: Deadline) -> Seen {
    let unseen = |checks, why: &str| Seen { checks, consumers: None, unrouted: Err(why.to_owned()) };
    let dependent = [&OF_TOPOLOGY[..], &["round_trip"]].concat();
    if let Err(missing) = settings.amqp_url() {
        let why = missing.to_string();
        return unseen(Check::skipped(&[&["broker"], &dependent[..]].concat(), &why), &why);
    }
    let broker = match deadline.answer(Broker::connect(&settings.amqp)).await {
        Ok(broker) => broker,
        Err(error) => {
            let is_read = queue::check_address(&settings.amqp).is_ok();
            let advice = if is_read { "is it up, and is AMQP_URL right?" } else { "correct it: workers do not start" };
            let check = Check::fails("broker", error, advice);
            const WHY: &str = "the broker does not answer";
            return unseen([vec![check], Check::skipped(&dependent, WHY)].concat(), WHY);
        }
    };
    let mut checks = vec![version(&broker)];
    checks.extend(topology(&broker, &settings.queue, deadline).await);
    let unrouted = deadline.answer(broker.unrouted(&settings.queue)).await;
    checks.extend(plugin(settings, deadline).await);
    let consumers = fewest_consumers(&broker, &settings.queue, deadline).await;
    // After the topology, for this check consumes and would be counted as a worker.
    match deadline.answer(check_quorum(&settings.amqp, &settings.queue)).await {
        Ok(Quorum::Lost(queue)) => without_quorum(&mut checks, &queue),
        Ok(Quorum::There | Quorum::NotAsked) => {}
        // If the broker does not answer, the other checks say so.
        Err(error) => tracing::debug!(error, "the queue was not asked for its quorum"),
    }
    // Last, for a broker in alarm reads nothing more from a connection that publishes.
    checks.push(round_trip(&broker, &settings.queue, deadline).await);
    if let Err(error) = deadline.answer(broker.close()).await {
        tracing::debug!(error, "closing the connection to the broker failed");
    }
    Seen { checks, consumers, unrouted }
}

/// The number of consumers that stay, of all worker queues: a worker whose queue is quiet adds one for a moment, to see whether the
/// queue answers.
async fn fewest_consumers(broker: &Broker, queue: &Queue, deadline: Deadline) -> Option<u32> {
    let mut fewest: Option<u32> = None;
    for _ in 0..3 {
        let mut consumers = 0;
        for shard in queue.all_shards() {
            consumers += deadline.answer(broker.depth(&shard.queue)).await.ok()??.consumers;
        }
        fewest = Some(fewest.map_or(consumers, |fewest| fewest.min(consumers)));
        if consumers == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fewest
}

fn version(broker: &Broker) -> Check {
    let encrypted = if broker.encrypted { "with TLS" } else { "without TLS" };
    let Broker { node, version, .. } = broker;
    let mut detail = format!("RabbitMQ {version} at {node} answers in {}, {encrypted}", millis(broker.latency));
    broker.unserved.iter().for_each(|unserved| detail.extend(["; ", unserved]));
    let check = RABBITMQ.check("broker", Version::of_rabbitmq(version), detail);
    match check.status {
        Status::Ok if !broker.unserved.is_empty() => {
            Check::warns("broker", check.detail, "bring the others back, or correct AMQP_URL")
        }
        _ => check,
    }
}

async fn topology(broker: &Broker, queue: &Queue, deadline: Deadline) -> Vec<Check> {
    match deadline.answer(broker.topology(queue)).await {
        Ok(found) => vec![declared(&found), worker_queues(&found), dead_letters(&found)],
        Err(error) => {
            let check = Check::fails("topology", error, "may this user configure what [queue] names?");
            [vec![check], Check::skipped(&OF_TOPOLOGY[1..], "the topology cannot be read")].concat()
        }
    }
}

/// Makes no check unless the settings have several worker queues.
async fn plugin(settings: &Settings, deadline: Deadline) -> Option<Check> {
    const PLUGIN: &str = "rabbitmq_consistent_hash_exchange";
    if !settings.queue.is_sharded() {
        return None;
    }
    Some(match deadline.answer(knows_shards(&settings.amqp, &settings.queue)).await {
        Ok(Some(true)) => Check::ok("shards", format!("the plugin {PLUGIN} is enabled")),
        Ok(Some(false)) => {
            let advice = format!(
                "`rabbitmq-plugins enable {PLUGIN}` on every node, or set queue.shards to 1: until then workers take no events"
            );
            Check::fails("shards", format!("the plugin {PLUGIN} is not enabled"), advice)
        }
        Ok(None) => Check::warns(
            "shards",
            format!("whether the plugin {PLUGIN} is enabled is not checked: this user may not make itself an exchange"),
            "look at `rabbitmq-plugins list --enabled` on every node",
        ),
        Err(error) => Check::fails("shards", error, "is it up?"),
    })
}

fn declared(found: &Topology) -> Check {
    let Topology { missing, different, unchecked, .. } = found;
    if !different.is_empty() {
        let advice = "delete it if it may go, or choose other names under [queue]: workers do not start";
        return Check::fails("topology", different.join("; "), advice);
    }
    match missing.join(", ") {
        none if none.is_empty() && !unchecked.is_empty() => {
            Check::warns("topology", unchecked.to_string(), unchecked.remedy())
        }
        none if none.is_empty() => Check::ok("topology", "exchanges and queues are as a worker declares them"),
        missing if found.has_workers() => {
            Check::fails("topology", format!("{MISSING_UNDER_WORKERS}: {missing}"), DECLARED_AGAIN)
        }
        missing => Check::warns("topology", format!("not declared yet: {missing}"), "the first worker declares it"),
    }
}

fn worker_queues(found: &Topology) -> Check {
    let [(_, Some(Depth { messages, consumers }))] = found.worker_queues[..] else { return several(found) };
    let detail = format!("{messages} events wait, {consumers} workers consume");
    let check = match consumers {
        0 => {
            Check::warns("worker_queue", detail, "start a worker, unless everything is held: see `penr-webhooks holds`")
        }
        _ => Check::ok("worker_queue", detail),
    };
    check_left_over(check, found)
}

fn several(found: &Topology) -> Check {
    if found.worker_queues.iter().any(|(_, depth)| depth.is_none()) {
        return unseen("worker_queue", found);
    }
    let seen: Vec<_> = found.worker_queues.iter().filter_map(|(queue, depth)| Some((queue, (*depth)?))).collect();
    let detail: Vec<_> = seen
        .iter()
        .map(|(queue, Depth { messages, consumers })| {
            format!("{queue}: {messages} events wait, {consumers} workers consume")
        })
        .collect();
    let check = match seen.iter().any(|(_, depth)| depth.consumers == 0) {
        true => {
            let advice =
                "start a worker that takes each queue: worker.shards names their numbers, and is empty for all";
            Check::warns("worker_queue", detail.join("; "), advice)
        }
        false => Check::ok("worker_queue", detail.join("; ")),
    };
    check_left_over(check, found)
}

/// Events in a queue of former settings would wait for ever.
fn check_left_over(check: Check, found: &Topology) -> Check {
    if found.left_over.is_empty() {
        return check;
    }
    let mut detail = check.detail;
    for (queue, Depth { messages, consumers }) in &found.left_over {
        detail += &format!("; {queue} exists, too: {messages} events wait, {consumers} workers consume");
    }
    let advice =
        "these settings do not have these queues: raise queue.shard_queues until they are empty, then delete them";
    Check::warns("worker_queue", detail, advice)
}

/// A queue that was not seen: not declared, or hidden by newer brokers from a user who has no right on it.
fn unseen(check: &'static str, found: &Topology) -> Check {
    match found.missing.is_empty() {
        true => Check::warns(check, "not shown to this user", found.unchecked.remedy()),
        false => Check::warns(check, "not declared yet", "the first worker declares it"),
    }
}

fn without_quorum(checks: &mut [Check], queue: &str) {
    let advice = format!(
        "start the nodes that are down: `rabbitmq-queues quorum_status {queue}` names its members and says which are there"
    );
    let found = Check::fails("worker_queue", "no quorum: the broker answers, and the queue does not", advice);
    checks.iter_mut().filter(|check| check.check == found.check).for_each(|check| *check = found.clone());
}

fn dead_letters(found: &Topology) -> Check {
    match found.dead_queue {
        None if found.has_workers() && !found.missing.is_empty() => {
            Check::fails("dead_letters", MISSING_UNDER_WORKERS, DECLARED_AGAIN)
        }
        None => unseen("dead_letters", found),
        Some(Depth { messages: 0, .. }) => Check::ok("dead_letters", "none"),
        Some(Depth { messages, .. }) => {
            Check::warns("dead_letters", format!("{messages} wait"), "see `penr-webhooks dead-letters list`")
        }
    }
}

async fn round_trip(broker: &Broker, queue: &Queue, deadline: Deadline) -> Check {
    match deadline.answer(broker.round_trip(queue)).await {
        Ok(RoundTrip::Took(took)) => {
            Check::ok("round_trip", format!("published, confirmed and consumed in {}", millis(took)))
        }
        Ok(RoundTrip::Forbidden(lack)) => {
            let advice = format!("{}; workers do without, `dead-letters requeue` does not", lack.remedy());
            Check::warns("round_trip", format!("not tried: {}", lack.problem()), advice)
        }
        Err(error) => {
            Check::fails("round_trip", error, "look at permissions, and for alarms: `rabbitmq-diagnostics alarms`")
        }
    }
}

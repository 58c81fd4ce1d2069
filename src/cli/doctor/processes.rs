//! Who works here: the processes that were seen lately, whether every consumer of the worker queue is one of theirs, and
//! whether PostgreSQL has room for their connections.

use std::collections::BTreeMap;

use super::super::running::Running;
use super::{Check, Deadline};
use crate::config::Settings;
use crate::management::{Management, QueueConsumer};
use crate::ops::Role;
use crate::presence::{self, GONE_AFTER};
use crate::queue::{QUORUM_TAG, tag_prefix};
use crate::store::{SeenProcess, Server};

/// The processes, and the consumers: `count` of them there are as the broker tells.
pub(super) async fn checks(
    settings: &Settings,
    running: &Running,
    schema_is_older: bool,
    count: Option<u32>,
    deadline: Deadline,
) -> Vec<Check> {
    let seen = match running.processes() {
        Ok(seen) => seen,
        Err(because) => {
            let because = format!("it is not known which processes run: {because}");
            return Check::skipped(&["processes", "consumers"], &because);
        }
    };
    let processes = processes(running, schema_is_older);
    let Some(count) = count else {
        return [vec![processes], Check::skipped(&["consumers"], "the broker does not tell them")].concat();
    };
    let told = named_consumers(settings, deadline).await.unwrap_or_default();
    vec![processes, consumers(count as usize, seen, &unknown(&told, seen))]
}

/// Counts the processes, and names those of another version: they may be forgotten ones.
fn processes(running: &Running, schema_is_older: bool) -> Check {
    const MIXED: &str = "bring all to one version, unless an upgrade is under way";
    let seen = running.processes().unwrap_or_default();
    if seen.is_empty() {
        return Check::ok("processes", format!("none was seen in the last {} s", GONE_AFTER.as_secs()));
    }
    let mut roles: BTreeMap<&str, usize> = BTreeMap::new();
    seen.iter().for_each(|process| *roles.entry(&process.role).or_default() += 1);
    let roles: Vec<String> = roles.iter().map(|(role, count)| format!("{count} {role}")).collect();
    let others: Vec<String> = running.of_other_versions().collect();
    let (roles, ours) = (roles.join(", "), env!("CARGO_PKG_VERSION"));
    let (detail, mixed) = match others.is_empty() {
        true => (format!("seen: {roles}, all of this version {ours}"), None),
        false => (
            format!("seen: {roles}; this program is {ours}, others are: {}", others.join(", ")),
            Some(MIXED.to_owned()),
        ),
    };
    let waiting = schema_is_older.then(|| running.waiting_for_migrate()).flatten();
    match running.too_far_apart().or(waiting).or(mixed) {
        Some(advice) => Check::warns("processes", detail, advice),
        None => Check::ok("processes", detail),
    }
}

/// A worker has a consumer for each of its queues.
fn consumers(count: usize, seen: &[SeenProcess], unknown: &[&QueueConsumer]) -> Check {
    const ADVICE: &str = "stop it if it is not yours: it takes events that are then not delivered. Workers of a release that \
                          does not write who it is are not seen either";
    let workers: Vec<_> = seen.iter().filter(|process| process.role != "api").collect();
    let theirs: usize = workers.iter().map(|worker| worker.figures.queues.as_ref().map_or(1, Vec::len)).sum();
    let workers = workers.len();
    let detail = format!("{count} consume from the worker queue, {workers} workers are seen");
    let names: Vec<String> = unknown.iter().map(|consumer| consumer.to_string()).collect();
    if !names.is_empty() {
        return Check::warns("consumers", format!("{detail}; nobody's: {}", names.join(", ")), ADVICE);
    }
    if count > theirs {
        let more = count - theirs;
        let advice =
            format!("{ADVICE}. `rabbitmqctl list_consumers`, or amqp.management_url and this check, say who it is");
        return Check::warns("consumers", format!("{detail}: {more} more than workers"), advice);
    }
    Check::ok("consumers", detail)
}

/// The consumers that are of no process that was seen.
fn unknown<'a>(consumers: &'a [QueueConsumer], seen: &[SeenProcess]) -> Vec<&'a QueueConsumer> {
    let ours: Vec<String> = seen.iter().map(|process| tag_prefix(process.id)).collect();
    let is_ours = |tag: &str| tag == QUORUM_TAG || ours.iter().any(|prefix| tag.starts_with(prefix));
    consumers.iter().filter(|consumer| !is_ours(&consumer.tag)).collect()
}

/// Who consumes, if the management plugin tells. Its other checks say why it does not.
async fn named_consumers(settings: &Settings, deadline: Deadline) -> Option<Vec<QueueConsumer>> {
    let management = Management::new(&settings.amqp).ok()??;
    let mut consumers = Vec::new();
    for shard in settings.queue.all_shards() {
        match deadline.answer(management.consumers(&shard.queue)).await {
            Ok(of_queue) => consumers.extend(of_queue),
            Err(error) => {
                tracing::debug!(error, "the management plugin does not tell the consumers");
                return None;
            }
        }
    }
    Some(consumers)
}

/// Whether PostgreSQL has room for the connections of all processes that were seen, beside what others use.
pub(super) fn connections(server: &Server, pool_size: usize, running: &Running) -> Check {
    let (used, room, others) = (server.connections_used, server.connections, server.connections_of_others);
    let of_one = presence::connections(Role::Api, pool_size);
    let processes = running.processes().unwrap_or_default();
    let needed: u64 = processes.iter().map(|process| process.figures.connections.unwrap_or(of_one)).sum();
    let detail = match processes.len() {
        0 => format!("{used} of {room} in use, {others} by others; a worker or an API takes up to {of_one}"),
        1 => format!("{used} of {room} in use, {others} by others; the process that is seen takes up to {needed}"),
        count => format!(
            "{used} of {room} in use, {others} by others; the {count} processes that are seen take up to {needed}"
        ),
    };
    let advice = "raise max_connections, lower database.pool_size, or run fewer processes";
    let left = u64::try_from(room - others).unwrap_or(0);
    if left < needed.max(of_one) || (processes.is_empty() && u64::try_from(room - used).unwrap_or(0) < of_one) {
        return Check::warns("connections", detail, advice);
    }
    Check::ok("connections", detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::super::Status;
    use super::*;
    use crate::figures::Figures;
    use crate::ids::ProcessId;

    fn process(number: u128, role: &str, version: &str) -> SeenProcess {
        SeenProcess {
            id: ProcessId(Uuid::from_u128(number)),
            role: role.to_owned(),
            version: version.to_owned(),
            host: "a".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            age: Duration::ZERO,
            figures: Figures::default(),
        }
    }

    fn consumer(tag: &str) -> QueueConsumer {
        QueueConsumer { tag: tag.to_owned(), ..QueueConsumer::default() }
    }

    #[test]
    fn a_consumer_whose_tag_names_no_process_that_is_seen_is_nobodys() {
        let seen = [process(1, "worker", "1.0.0")];
        let own = format!("{}4f", tag_prefix(seen[0].id));
        let told = [consumer(&own), consumer(QUORUM_TAG), consumer("penr-webhooks-other"), consumer("ctag1.1")];
        let unknown = unknown(&told, &seen);
        assert_eq!(unknown, [&told[2], &told[3]]);
        assert_eq!(consumers(3, &seen, &unknown).status, Status::Warns);
        assert_eq!(consumers(1, &seen, &[]).status, Status::Ok);
        assert_eq!(consumers(0, &seen, &[]).status, Status::Ok, "it was killed a moment ago");
        assert_eq!(consumers(2, &seen, &[]).status, Status::Warns);
        let mut of_two_queues = process(1, "worker", "1.0.0");
        of_two_queues.figures.queues = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(consumers(2, &[of_two_queues], &[]).status, Status::Ok);
    }

    #[test]
    fn a_process_of_another_version_is_named() {
        let ours = env!("CARGO_PKG_VERSION");
        let check = |seen: Vec<SeenProcess>| processes(&Running::seen_lately(seen), false);
        assert_eq!(check(vec![process(1, "worker", ours), process(2, "api", ours)]).status, Status::Ok);
        let mixed = check(vec![process(1, "worker", ours), process(2, "worker", "0.0.1")]);
        assert!(mixed.status == Status::Warns && mixed.detail.contains("worker 0.0.1 on a"), "{mixed:?}");
        assert!(mixed.detail.contains("seen: 2 worker;"), "{mixed:?}");
    }
}

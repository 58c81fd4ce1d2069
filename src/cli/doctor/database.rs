//! Postgres: the server, the schema, and whether the stored secrets can be used.

use std::time::Duration;

use jiff::SignedDuration;

use super::super::running::Running;
use super::processes;
use super::versions::{POSTGRESQL, Version};
use super::{Check, Deadline, Status, millis, rights};
use crate::config::{Retention, Settings};
use crate::error_chain;
use crate::store::{
    AnswerCheck, AnswerId, LockRoom, Schema, SecretCheck, Server, SessionFault, SnapshotHolder, Store, StoreError,
};

/// Signatures carry this machine's time, and receivers usually allow five minutes.
const MAX_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_secs(5);

/// Fewer days than this are warned about: workers make partitions every hour, so something keeps them from it.
const ENOUGH_PARTITION_DAYS: i32 = 3;

/// A transaction that is open for longer is warned about: the tables grow meanwhile.
const OLD_TRANSACTION: Duration = Duration::from_secs(600);
const MANY_TRANSACTIONS: i64 = 1_000_000;

/// Partitions of one table beside those of its retention, in days: yesterday, today, a week ahead, and those being dropped.
const DAYS_BESIDE_RETENTION: u64 = 12;

/// How many transactions that lock the partitions of all days there should be room for: a backup, the build of an index, a
/// recovery over a long time, somebody who reads the whole log.
const USES_OF_ALL_PARTITIONS: i64 = 8;

const OF_SERVER: [&str; 11] = [
    "durability",
    "connections",
    "clock",
    "snapshots",
    "schema",
    "rights",
    "search_path",
    "retention",
    "partitions",
    "locks",
    "secrets",
];

/// What the database tells.
pub(super) struct OfDatabase {
    pub(super) checks: Vec<Check>,
    pub(super) running: Running,
    /// The schema is not the one that this program needs.
    pub(super) schema_is_older: bool,
}

impl OfDatabase {
    fn unknown(checks: Vec<Check>, because: &str) -> Self {
        Self { checks, running: Running::unknown(because), schema_is_older: false }
    }
}

pub(super) async fn checks(settings: &Settings, deadline: Deadline) -> OfDatabase {
    let unusable = |check| {
        const SILENT: &str = "the database does not answer";
        OfDatabase::unknown([vec![check], Check::skipped(&OF_SERVER, SILENT)].concat(), SILENT)
    };
    if let Err(missing) = settings.database_url() {
        let missing = missing.to_string();
        return OfDatabase::unknown(Check::skipped(&[&["database"][..], &OF_SERVER].concat(), &missing), &missing);
    }
    let store = match Store::new(&settings.database) {
        Ok(store) => store,
        Err(error) => return unusable(Check::fails("database", error_chain(&error), "correct it")),
    };
    let found = async {
        match store.check_sessions().await {
            Err(StoreError::Sessions(fault)) => Ok(Err(fault)),
            checked => checked.and(store.server().await).map(Ok),
        }
    };
    let server = match deadline.answer(found).await {
        Ok(Ok(server)) => server,
        Ok(Err(fault)) => return unusable(Check::fails("database", fault.to_string(), SessionFault::ADVICE)),
        Err(error) => return unusable(Check::fails("database", error, "is it up, and is DATABASE_URL right?")),
    };
    let running = deadline.wait(Running::find(&store)).await.unwrap_or_else(|late| Running::unknown(&late));
    let connections = processes::connections(&server, settings.database.pool_size, &running);
    let mut checks = vec![version(&server), durability(&server), connections, clock(&server)];
    checks.push(snapshots(&deadline.answer(store.snapshot_holders()).await));
    let (schema, tables) = tables(&store, settings, deadline).await;
    let schema_is_older = schema.status == Status::Fails;
    checks.push(schema);
    checks.extend(tables);
    OfDatabase { checks, running, schema_is_older }
}

/// The check of the schema, and those of what is in it.
async fn tables(store: &Store, settings: &Settings, deadline: Deadline) -> (Check, Vec<Check>) {
    let migrate = "run `penr-webhooks migrate`";
    let schema = match deadline.answer(store.schema()).await {
        Ok(Schema::Current { version }) => Check::ok("schema", format!("version {version}, as this program needs it")),
        Ok(Schema::Newer { version, ours }) => {
            Check::ok("schema", format!("version {version}, newer than this program's {ours}, which it serves too"))
        }
        Ok(Schema::Older { version, ours }) => {
            Check::fails("schema", format!("version {version}, this program needs {ours}"), migrate)
        }
        Ok(Schema::Missing) => Check::fails("schema", "there is none", migrate),
        Err(error) => Check::fails("schema", error, "solve that first"),
    };
    if schema.status == Status::Fails {
        let skipped = Check::skipped(
            &["rights", "search_path", "retention", "partitions", "locks", "secrets"],
            "the schema is not the one needed",
        );
        return (schema, skipped);
    }
    let (rights, partitions, locks, secrets) = tokio::join!(
        rights::checks(store, &settings.retention, deadline),
        partitions(store, deadline),
        locks(store, &settings.retention, deadline),
        secrets(store, settings, deadline)
    );
    (schema, [rights, vec![partitions, locks, secrets]].concat())
}

fn version(server: &Server) -> Check {
    let encrypted = if server.encrypted { "with TLS" } else { "without TLS" };
    let (version, latency) = (&server.version, millis(server.latency));
    let detail = format!("PostgreSQL {version} answers in {latency}, {encrypted}");
    if server.read_only {
        return Check::fails("database", format!("{detail}, and is read-only"), "have DATABASE_URL name the primary");
    }
    POSTGRESQL.check("database", Version::of_postgres(server.version_number), detail)
}

fn durability(server: &Server) -> Check {
    if server.unsafe_settings.is_empty() {
        return Check::ok("durability", "what was recorded survives a crash");
    }
    let off = server.unsafe_settings.join(", ");
    Check::warns("durability", format!("{off} off: a crash may lose what was recorded"), "switch it on")
}

fn clock(server: &Server) -> Check {
    let (difference, ahead) = (server.clock_ahead.abs(), server.clock_ahead.is_positive());
    let detail = match (difference > SignedDuration::from_millis(100), ahead) {
        (false, _) => "this machine's and the database's agree".to_owned(),
        (true, true) => format!("the database's is {} s ahead of this machine's", difference.as_secs()),
        (true, false) => format!("the database's is {} s behind this machine's", difference.as_secs()),
    };
    if difference > MAX_CLOCK_DIFFERENCE {
        let advice = "synchronise both: receivers refuse signatures whose time is wrong";
        return Check::warns("clock", detail, advice);
    }
    Check::ok("clock", detail)
}

/// Warns about whoever keeps PostgreSQL from removing dead rows: tables grow meanwhile.
fn snapshots(holders: &Result<Vec<SnapshotHolder>, String>) -> Check {
    let holders = match holders {
        Err(error) => return Check::warns("snapshots", error.clone(), "make pg_stat_activity readable for this role"),
        Ok(holders) => holders,
    };
    let old = |holder: &&SnapshotHolder| {
        holder.age.unwrap_or_default() > OLD_TRANSACTION || holder.transactions > MANY_TRANSACTIONS
    };
    let is_old = holders.iter().any(|holder| old(&holder));
    let Some(holder) = holders.iter().find(old).or(holders.first()) else {
        return Check::ok("snapshots", "nobody keeps old rows from being removed");
    };
    let since = match holder.age {
        Some(age) => format!("for {}", humantime::format_duration(Duration::from_secs(age.as_secs()))),
        None => format!("for {} transactions", holder.transactions),
    };
    let detail = format!("{} keeps old rows from being removed {since}", holder.name);
    match is_old {
        true => Check::warns("snapshots", detail, "end it: the tables grow as long as it stays"),
        false => Check::ok("snapshots", detail),
    }
}

async fn partitions(store: &Store, deadline: Deadline) -> Check {
    let advice = "run `penr-webhooks migrate`, which says what is in the way; workers and APIs make them every hour";
    let found =
        async { Ok::<_, StoreError>((store.partition_days().await?, store.default_partitions().await?.join(", "))) };
    match deadline.answer(found).await {
        Err(error) => Check::fails("partitions", error, "make the tables readable for this role"),
        Ok((0, defaults)) if defaults.is_empty() => {
            Check::fails("partitions", "today's are missing: nothing can be recorded", advice)
        }
        Ok((0, defaults)) => {
            let detail =
                format!("today's are missing: only what {defaults} takes can be recorded, and it cannot be sent again");
            Check::fails("partitions", detail, advice)
        }
        Ok((days @ ..ENOUGH_PARTITION_DAYS, _)) => {
            Check::warns("partitions", format!("made for today and {} days ahead only", days - 1), advice)
        }
        Ok((days, defaults)) => of_default(days, &defaults),
    }
}

fn of_default(days: i32, defaults: &str) -> Check {
    let made = format!("made for today and {} days ahead", days - 1);
    if defaults.is_empty() {
        return Check::ok("partitions", made);
    }
    let detail =
        format!("{made}; {defaults} takes what is of another day: it is never dropped and cannot be sent again");
    Check::warns("partitions", detail, "detach it, and keep its rows elsewhere")
}

async fn locks(store: &Store, retention: &Retention, deadline: Deadline) -> Check {
    match deadline.answer(store.lock_room()).await {
        Err(error) => Check::fails("locks", error, "make the tables readable for this role"),
        Ok(room) => room_for_locks(room, retention),
    }
}

fn room_for_locks(room: LockRoom, retention: &Retention) -> Check {
    let days = |kept: Duration| i64::try_from(kept.as_secs() / 86_400 + DAYS_BESIDE_RETENTION).unwrap_or(i64::MAX);
    let all = days(retention.events).saturating_mul(room.events_day)
        + days(retention.attempts).saturating_mul(room.attempts_day);
    let (has, needs) = (room.per_session * room.sessions, all.saturating_mul(USES_OF_ALL_PARTITIONS));
    let detail = format!("room for {has}, the partitions of the retention may take {needs}");
    if has < needs {
        let enough = (needs + room.sessions - 1) / room.sessions;
        let advice =
            format!("set PostgreSQL's max_locks_per_transaction to {enough} or more, or shorten the retention");
        return Check::warns("locks", detail, advice);
    }
    Check::ok("locks", detail)
}

async fn secrets(store: &Store, settings: &Settings, deadline: Deadline) -> Check {
    // Not `settings.keyring()`, which refuses published keys: those are checked elsewhere.
    let Some(keyring) = &settings.keyring else {
        return Check::skipped(&["secrets"], "security.encryption_keys is not set").remove(0);
    };
    match deadline.answer(store.check_secrets(keyring)).await {
        Err(error) => {
            Check::fails("secrets", error, "make the tables webhooks and kept_answers readable for this role")
        }
        Ok(found) => opened(&found),
    }
}

fn opened(found: &SecretCheck) -> Check {
    let needed = |(id, count): &(String, u64)| format!("{count} webhooks need the key `{id}`, which is not configured");
    let mut problems: Vec<String> = found.unknown_keys.iter().map(needed).collect();
    if found.damaged > 0 {
        let damaged =
            format!("the secrets or headers of {} webhooks do not decrypt with the key of their id", found.damaged);
        problems.push(damaged);
    }
    problems.extend(answers(&found.answers));
    let SecretCheck { webhooks, opened, .. } = found;
    if !problems.is_empty() {
        let advice = "bring the keys back in security.encryption_keys; until then those deliveries wait, and requests that \
                      are repeated with their Idempotency-Key are answered 500";
        return Check::fails("secrets", format!("{} ({webhooks} webhooks in all)", problems.join("; ")), advice);
    }
    Check::ok("secrets", format!("the keys of all {webhooks} webhooks are configured, the newest {opened} were opened"))
}

fn answers(found: &AnswerCheck) -> Vec<String> {
    let needed = |(id, count, newest): &(String, u64, AnswerId)| {
        format!("{count} kept answers need the key `{id}`, which is not configured; the newest is that {newest}")
    };
    let damaged = found.damaged.as_ref();
    let damaged = damaged.map(|id| format!("the kept answer {id} does not decrypt with the key of its id"));
    found.unknown_keys.iter().map(needed).chain(damaged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Server {
        Server {
            version: "17.12".into(),
            version_number: 170_012,
            latency: Duration::from_millis(1),
            encrypted: true,
            read_only: false,
            unsafe_settings: Vec::new(),
            connections: 97,
            connections_used: 5,
            connections_of_others: 5,
            clock_ahead: SignedDuration::ZERO,
        }
    }

    #[test]
    fn a_server_of_another_version_than_tested_is_warned_about_and_an_old_one_fails() {
        assert_eq!(version(&healthy()).status, Status::Ok);
        let of = |number| version(&Server { version_number: number, ..healthy() }).status;
        assert_eq!([130_021, 140_005, 190_000].map(of), [Status::Fails, Status::Warns, Status::Warns]);
    }

    #[test]
    fn clocks_more_than_five_seconds_apart_are_warned_about() {
        let apart = |seconds| clock(&Server { clock_ahead: SignedDuration::from_secs(seconds), ..healthy() });
        assert_eq!([apart(0).status, apart(5).status, apart(-5).status], [Status::Ok; 3]);
        assert_eq!([apart(6).status, apart(-6).status], [Status::Warns; 2]);
        assert!(apart(6).detail.contains("6 s ahead") && apart(-6).detail.contains("6 s behind"));
    }

    #[test]
    fn a_snapshot_that_is_kept_for_long_is_warned_about() {
        let held = |seconds, transactions| {
            let age = Some(Duration::from_secs(seconds));
            snapshots(&Ok(vec![SnapshotHolder { name: "session 1".into(), transactions, age }])).status
        };
        assert_eq!([held(600, 10), held(1, MANY_TRANSACTIONS)], [Status::Ok; 2]);
        assert_eq!([held(601, 0), held(1, MANY_TRANSACTIONS + 1)], [Status::Warns; 2]);
        assert_eq!(snapshots(&Ok(Vec::new())).status, Status::Ok);
        let slot = SnapshotHolder { name: "replication slot s".into(), transactions: 5_000_000, age: None };
        let young = SnapshotHolder { name: "session 2".into(), transactions: 0, age: Some(Duration::from_millis(3)) };
        let check = snapshots(&Ok(vec![young, slot]));
        assert!(check.status == Status::Warns && check.detail.starts_with("replication slot s"), "{}", check.detail);
    }

    #[test]
    fn a_pool_that_finds_no_room_is_warned_about() {
        let of = |server: Server, pool_size| {
            processes::connections(&server, pool_size, &Running::seen_lately(Vec::new())).status
        };
        assert_eq!(of(healthy(), 88), Status::Ok);
        assert_eq!(of(healthy(), 89), Status::Warns);
        assert_eq!(of(Server { connections_used: 120, ..healthy() }, 2), Status::Warns);
        assert_eq!(of(Server { connections_of_others: 95, ..healthy() }, 2), Status::Warns);
    }

    #[test]
    fn a_retention_whose_partitions_need_more_locks_than_there_are_is_warned_about() {
        let room = LockRoom { per_session: 64, sessions: 100, events_day: 2, attempts_day: 4 };
        let kept = |days: u64| Duration::from_secs(days * 86_400);
        let of = |days| room_for_locks(room, &Retention { events: kept(30), attempts: kept(days) });
        assert_eq!([of(30).status, of(120).status], [Status::Ok; 2]);
        let year = of(365);
        assert_eq!(year.status, Status::Warns);
        assert!(year.advice.unwrap().contains("max_locks_per_transaction to 128 or more"));
        assert_eq!(
            room_for_locks(LockRoom { per_session: 128, ..room }, &Retention { events: kept(30), attempts: kept(365) })
                .status,
            Status::Ok
        );
    }
}

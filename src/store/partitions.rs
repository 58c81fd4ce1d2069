//! Makes the coming days' partitions and drops those that retention has ended.
//!
//! A partition that is to be dropped is first marked by a comment, then detached, then dropped. If the process ends in
//! between, the next run continues with the marked ones. Nothing else is dropped: a table that somebody detached, or that
//! only has such a name, stays. Readers and writers go on meanwhile. The lock that keeps others from using an old event is
//! held for the moment of marking only.
//!
//! Any role that may run the functions for it makes partitions. Only their owner drops them: PostgreSQL detaches beside
//! readers and writers in no function.

use std::time::Duration;

use deadpool_postgres::Object;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::{Client, Row};

use super::migrate::DAYS_AHEAD;
use super::schema::{self, Place};
use super::{Store, StoreError, column, lock_of_schema};
use crate::config::Retention;

/// Any number but the migration's. Held shared by whoever makes use of old events, exclusively while those that expire
/// are marked. One for the whole database, as releases before have it: nobody holds it for long.
pub(super) const LOCK: i64 = 0x7065_6e72_7061_7274;
/// Held by the one session that makes partitions with the schema of a release before.
const MAKING_AS_BEFORE: i64 = 0x7065_6e72_6d61_6b65;
/// Held by the one session that detaches and drops.
const DROPPING: i64 = 0x7065_6e72_6472_6f70;

const DAY: u64 = 24 * 60 * 60;
const TABLES: [&str; 2] = ["events", "attempts"];

/// Days of a table that are dropped within an hour. Every day one more expires; many at once are a clock that jumped, or a
/// retention that was shortened, and there is time to notice.
const AT_ONCE: usize = 3;
/// Retention trusts no clock from which another differs by more.
const MAX_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_hours(24);

/// The comment of partitions that retention has ended, before the table's OID: a table that a dump brings back with its
/// comment is another one.
macro_rules! mark {
    () => {
        "penr-webhooks: past its retention, to be dropped, "
    };
}

/// The attached partitions of some tables, those that are DEFAULT left out, with the days from `since` to before `until`
/// that they are for as a whole. Operators may have added some with other names and spans. Bounds are read only after the join:
/// other tables' are of other types.
///
/// Also for sessions whose search path has schemas in which others may have functions and operators: every operator has
/// arguments of exactly its types, so that no other fits better.
macro_rules! attached_partitions {
    ($tables:literal) => {
        concat!(
            "(SELECT k.oid, k.relation, k.name, k.parent, k.detach_pending, k.marked,
                coalesce((substring(k.bound FROM 'FROM \\(''([^'']+)''\\)')::timestamptz AT TIME ZONE k.zone
                          + interval '1 day - 1 microsecond')::date, '-infinity') AS since,
                coalesce((substring(k.bound FROM 'TO \\(''([^'']+)''\\)')::timestamptz AT TIME ZONE k.zone)::date,
                         'infinity') AS until
            FROM (
                SELECT c.oid, c.oid::regclass::text AS relation, c.relname::text AS name, p.relname::text AS parent,
                    i.inhdetachpending AS detach_pending, pg_catalog.pg_get_expr(c.relpartbound, 0::oid) AS bound,
                    d.objoid IS NOT NULL AS marked,
                    CASE p.relname WHEN 'events' THEN pg_catalog.current_setting('timezone') ELSE 'UTC' END AS zone
                FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
                LEFT JOIN pg_description d ON d.objoid = c.oid AND d.objsubid = 0
                    AND d.classoid = 'pg_class'::regclass::oid AND d.description = '",
            $crate::store::partitions::mark!(),
            "' || c.oid::text
                WHERE i.inhparent IN (",
            $tables,
            ") OFFSET 0
            ) AS k
            WHERE k.bound <> 'DEFAULT')"
        )
    };
}

pub(super) use {attached_partitions, mark};

/// Why partitions were not dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    #[error("another session holds the lock")]
    Locked,
    /// Nothing of these tables will be dropped by this role.
    #[error(
        "this role does not own the tables: their owner drops them, by `penr-webhooks migrate --retention` once a day"
    )]
    NotOwner,
    #[error("the database's clock and this machine's differ by {} hours", .0.as_hours())]
    Clocks(SignedDuration),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<tokio_postgres::Error> for DropError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What retention came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub partitions: Vec<String>,
    /// Expired partitions that are left for later.
    pub left: usize,
}

/// A partition that ended before its table's retention.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expired {
    /// With its schema, for statements; and without, for people.
    relation: String,
    name: String,
    oid: u32,
    detach_pending: bool,
    marked: bool,
}

/// One of `TABLES`.
struct Table<'a> {
    place: &'a Place,
    name: &'static str,
}

impl Table<'_> {
    /// With its schema.
    fn path(&self) -> String {
        format!("{}.{}", self.place.name, self.name)
    }
}

impl Store {
    /// Makes the partitions from yesterday to some days ahead that are missing, each on its own. Fails with the first
    /// that could not be made, after all were tried.
    pub async fn make_partitions(&self) -> Result<(), StoreError> {
        let (session, place) = self.session_of_upkeep().await?;
        make_missing(&session, &place).await
    }

    /// Drops the oldest partitions of `events` and `attempts` that ended before their retention, a few at a time. One
    /// session works at a time. What keeps one table's from being dropped does not keep the other's.
    pub async fn drop_expired(&self, retention: &Retention) -> Result<Dropped, DropError> {
        let (mut session, place) = self.session_of_upkeep().await?;
        let clock = session.query_one("SELECT clock_timestamp() AS clock", &[]).await?;
        check_clocks(column(&clock, "clock"), Timestamp::now())?;
        if !column::<bool>(&session.query_one(OWNED, &[&place.name]).await?, "owned") {
            forget_closed(&session, &place, retention.events).await?;
            return Err(DropError::NotOwner);
        }
        let locked = session.query_one(TRY_DROPPING, &[&DROPPING, &place.name]).await?;
        if !column::<bool>(&locked, "locked") {
            return Err(DropError::Locked);
        }
        let mut left = Ok(0);
        for (table, retention) in TABLES.into_iter().zip([retention.events, retention.attempts]) {
            match detach_expired(&mut session, &Table { place: &place, name: table }, days(retention)).await {
                Ok(more) => left = left.map(|left| left + more),
                Err(error) => left = left.and(Err(error)),
            }
        }
        let (partitions, all) = drop_detached(&session, &place).await;
        let forgotten = forget_closed(&session, &place, retention.events).await;
        if !partitions.is_empty() {
            tracing::info!(dropped = ?partitions, "retention ended");
        }
        let left = left?;
        all.and(forgotten).map(|()| Dropped { partitions, left })
    }

    /// How many partitions of the table that has the most of them are past their retention.
    pub async fn expired_partitions(&self, retention: &Retention) -> Result<usize, StoreError> {
        let tables = || TABLES.into_iter().zip([retention.events, retention.attempts]);
        let count = async |client: &mut Object| {
            let (transaction, path) = schema::undisturbed(client).await?;
            let mut most = 0;
            for (name, retention) in tables() {
                let table = Table { place: &path.home(), name };
                most = most.max(
                    transaction.query(&table.place.within(EXPIRED), &[&table.path(), &days(retention)]).await?.len(),
                );
            }
            transaction.rollback().await.map(|()| most)
        };
        self.connection().await?.ask(count).await
    }

    /// A session whose every wait the server ends, also when this process is gone.
    async fn session_of_upkeep(&self) -> Result<(Client, Place), StoreError> {
        let (session, place) = self.session_at_home().await?;
        session
            .batch_execute(
                "SET statement_timeout = '60s'; SET lock_timeout = '10s'; SET timezone = 'UTC';
                 SET idle_session_timeout = '60s'; SET idle_in_transaction_session_timeout = '10s'",
            )
            .await?;
        // Not every operating system can tell a server that its client has gone.
        let _ = session.batch_execute("SET client_connection_check_interval = '2s'").await;
        Ok((session, place))
    }
}

fn days(retention: Duration) -> i32 {
    i32::try_from(retention.as_secs() / DAY).unwrap_or(i32::MAX)
}

/// Each in a transaction of its own, so that one that cannot be made keeps no other from being made.
pub(super) async fn make_missing(session: &Client, place: &Place) -> Result<(), StoreError> {
    let made_by = session.query_one(MADE_BY, &[&place.name]).await?;
    let for_all_roles: bool = column(&made_by, "for_all_roles");
    if !for_all_roles {
        // The functions of releases before find their tables, and whatever they call, on the search path.
        session.batch_execute(&place.within("SET search_path = {home}")).await?;
    }
    if column(&made_by, "as_first") {
        return make_as_before(session).await;
    }
    let mut made = Ok(());
    for day in -1..=DAYS_AHEAD {
        for table in TABLES {
            let make = match for_all_roles {
                true => format!("SELECT {}.make_{table}_partition($1::integer)", place.name),
                false => {
                    format!("SELECT make_partition('{table}'::text, (now() AT TIME ZONE 'UTC')::date + $1::integer)")
                }
            };
            let result = session.execute(&make, &[&day]).await.map(drop).map_err(StoreError::from);
            made = made.and(result.map_err(in_the_way));
        }
    }
    made
}

/// By which functions: a worker may meet the schema of a release before.
const MADE_BY: &str = "
    SELECT to_regprocedure($1::text || '.make_events_partition(integer)') IS NOT NULL AS for_all_roles,
        to_regprocedure($1::text || '.make_partition(text, date)') IS NULL AS as_first";

/// With the schema of V1 to V7, a partition is made under a lock that everybody else waits behind: one process at
/// a time, and not for long. The session frees what it holds when it ends, which is next.
async fn make_as_before(session: &Client) -> Result<(), StoreError> {
    let locked = session.query_one("SELECT pg_try_advisory_lock($1) AS locked", &[&MAKING_AS_BEFORE]).await?;
    if column(&locked, "locked") {
        session.batch_execute("SET lock_timeout = '2s'").await?;
        session.execute("SELECT make_partitions($1::integer)", &[&DAYS_AHEAD]).await?;
    }
    Ok(())
}

/// `make_partition` raises an exception of its own only for a table in the way, by its name or by its bounds.
fn in_the_way(error: StoreError) -> StoreError {
    match error {
        StoreError::Refused(cause) => StoreError::Schema(cause.context("rename or detach the table in the way")),
        error => error,
    }
}

/// The only place where two clocks are compared: a mistake here would cost customers their log.
fn check_clocks(database: Timestamp, ours: Timestamp) -> Result<(), DropError> {
    let difference = database.duration_since(ours);
    if difference.abs() > MAX_CLOCK_DIFFERENCE { Err(DropError::Clocks(difference)) } else { Ok(()) }
}

/// Marks a table's oldest expired partitions and detaches all that are marked. Returns how many are left for later.
async fn detach_expired(session: &mut Client, table: &Table<'_>, days: i32) -> Result<usize, DropError> {
    let lately = session.query_one(&table.place.within(CHOSEN_LATELY), &[&table.name]).await?;
    let lately = usize::try_from(column::<i64>(&lately, "chosen")).unwrap_or(AT_ONCE);
    let expired = expired(session.query(&table.place.within(EXPIRED), &[&table.path(), &days]).await?);
    unmark_others(session, table, &expired).await?;
    let (now, later) = choose(expired, lately);
    if now.iter().any(|partition| !partition.marked) {
        mark_all(session, table, days, &now).await?;
    }
    // One that was begun keeps the table's others from being begun: also one that is not ours to drop.
    for row in session.query(DETACH_PENDING, &[&table.path()]).await? {
        let relation: String = column(&row, "relation");
        session.batch_execute(&format!("ALTER TABLE {} DETACH PARTITION {relation} FINALIZE", table.path())).await?;
    }
    let with_default = column(&session.query_one(HAS_DEFAULT, &[&table.path()]).await?, "has_default");
    for Expired { relation, .. } in now.iter().filter(|partition| !partition.detach_pending) {
        let detach = format!("ALTER TABLE {} DETACH PARTITION {relation}", table.path());
        if with_default {
            // PostgreSQL then detaches only under a lock that everybody else waits behind: rather try again later.
            let transaction = session.transaction().await?;
            transaction.batch_execute(&format!("SET LOCAL lock_timeout = '500ms'; {detach}")).await?;
            transaction.commit().await?;
        } else {
            session.batch_execute(&format!("{detach} CONCURRENTLY")).await?;
        }
    }
    Ok(later)
}

/// Takes the mark back from partitions that have not expired any more, such as after the retention was made longer.
async fn unmark_others(session: &Client, table: &Table<'_>, expired: &[Expired]) -> Result<(), DropError> {
    for row in session.query(MARKED, &[&table.path()]).await? {
        let relation: String = column(&row, "relation");
        if expired.iter().all(|expired| expired.relation != relation) {
            session.batch_execute(&format!("COMMENT ON TABLE {relation} IS NULL")).await?;
            tracing::info!(partition = relation, "its retention is not over any more, it is not dropped");
        }
    }
    Ok(())
}

/// Of a table's expired partitions, oldest first, those to drop now, and how many wait. One that is marked was counted
/// when it was.
fn choose(expired: Vec<Expired>, chosen_lately: usize) -> (Vec<Expired>, usize) {
    let (mut now, fresh): (Vec<Expired>, Vec<Expired>) = expired.into_iter().partition(|expired| expired.marked);
    let room = AT_ONCE.saturating_sub(chosen_lately).min(fresh.len());
    let later = fresh.len() - room;
    now.extend(fresh.into_iter().take(room));
    (now, later)
}

/// From here on nobody makes use of these partitions' events.
async fn mark_all(session: &mut Client, table: &Table<'_>, days: i32, chosen: &[Expired]) -> Result<(), DropError> {
    let transaction = session.transaction().await?;
    let fresh = || chosen.iter().filter(|expired| !expired.marked);
    for Expired { relation, name, oid, .. } in fresh() {
        transaction.batch_execute(&format!("COMMENT ON TABLE {relation} IS '{}{oid}'", mark!())).await?;
        transaction.execute(&table.place.within(CHOOSE), &[name]).await?;
    }
    // Those who are about to use an old event finish first. Whoever comes later waits for this transaction, so not long.
    transaction.batch_execute("SET LOCAL lock_timeout = '1s'").await?;
    let lock = transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(StoreError::from);
    match lock {
        Err(StoreError::Busy(_)) => return Err(DropError::Locked),
        lock => lock?,
    };
    let still = expired(transaction.query(&table.place.within(EXPIRED), &[&table.path(), &days]).await?);
    let names: Vec<&str> = fresh().map(|expired| expired.name.as_str()).collect();
    if !names.iter().all(|name| still.iter().any(|expired| expired.name == *name)) {
        let used = anyhow::anyhow!("a delivery that waits now needs a partition that was to be dropped");
        return Err(StoreError::Busy(used).into());
    }
    tracing::info!(partitions = ?names, "dropping partitions past their retention");
    Ok(transaction.commit().await?)
}

/// Also what an earlier run detached and did not come to drop. Tells what was dropped, whatever failed.
async fn drop_detached(session: &Client, place: &Place) -> (Vec<String>, Result<(), DropError>) {
    let (mut dropped, mut result) = (Vec::new(), Ok(()));
    let detached = match session.query(DETACHED, &[&place.name]).await {
        Ok(detached) => detached,
        Err(error) => return (dropped, Err(error.into())),
    };
    for name in detached.iter().map(|row| column::<String>(row, "name")) {
        match session.batch_execute(&format!("DROP TABLE {}.{name}", place.name)).await {
            Ok(()) => dropped.push(name),
            Err(error) => result = Err(error.into()),
        }
    }
    (dropped, result)
}

async fn forget_closed(session: &Client, place: &Place, events: Duration) -> Result<(), DropError> {
    let table = Table { place, name: "events" };
    while session.execute(&place.within(FORGET_CLOSED), &[&days(events), &table.path()]).await? > 0 {}
    Ok(())
}

fn expired(rows: Vec<Row>) -> Vec<Expired> {
    let expired = |row: Row| Expired {
        relation: column(&row, "relation"),
        name: column(&row, "name"),
        oid: column(&row, "oid"),
        detach_pending: column(&row, "detach_pending"),
        marked: column(&row, "marked"),
    };
    rows.into_iter().map(expired).collect()
}

const TRY_DROPPING: &str = concat!("SELECT pg_try_advisory_lock(", lock_of_schema!("$1", "$2"), ") AS locked");

const OWNED: &str = "
    SELECT bool_and(pg_has_role(relowner, 'USAGE')) AS owned FROM pg_class
    WHERE oid IN (($1::text || '.events')::regclass, ($1::text || '.attempts')::regclass)";

const CHOOSE: &str = "INSERT INTO {home}.dropped_partitions (partition) VALUES ($1)";

/// A table's daily partitions that ended so many days ago. One that a waiting delivery references is kept. The waiting
/// deliveries are read once, and only if anything has expired.
const EXPIRED: &str = concat!(
    "WITH old AS MATERIALIZED (
        SELECT * FROM ",
    attached_partitions!("$1::text::regclass"),
    " AS partitions
        WHERE name ~ '^(events|attempts)_[0-9]{8}$' AND until <= (now() AT TIME ZONE 'UTC')::date - $2::integer
    ), needed AS MATERIALIZED (
        SELECT DISTINCT event_day FROM {home}.pending_deliveries WHERE event_day < (SELECT max(until) FROM old)
    )
    SELECT relation, name, oid, detach_pending, marked FROM old
    WHERE NOT (parent = 'events' AND EXISTS (SELECT FROM needed WHERE event_day >= since AND event_day < until))
    ORDER BY since"
);

/// A little less than an hour, lest a run that is a moment early finds no room. Those of a clock that was ahead for a
/// while do not count.
const CHOSEN_LATELY: &str = "
    SELECT count(*) AS chosen FROM {home}.dropped_partitions
    WHERE partition ~ ($1::text || '_[0-9]{8}$') AND chosen_at BETWEEN now() - interval '59 minutes' AND now()";

const MARKED: &str = concat!(
    "SELECT relation FROM ",
    attached_partitions!("$1::text::regclass"),
    " AS partitions WHERE marked AND NOT detach_pending"
);

const DETACH_PENDING: &str = "
    SELECT inhrelid::regclass::text AS relation FROM pg_inherits
    WHERE inhparent = $1::text::regclass AND inhdetachpending";

const HAS_DEFAULT: &str =
    "SELECT partdefid <> 0 AS has_default FROM pg_partitioned_table WHERE partrelid = $1::text::regclass";

const DETACHED: &str = concat!(
    "SELECT c.relname::text AS name
    FROM pg_class c JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
    WHERE d.description = '",
    mark!(),
    "' || c.oid AND c.relkind = 'r' AND NOT c.relispartition AND c.relname ~ '^(events|attempts)_[0-9]{8}$'
        AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
        AND c.relnamespace = $1::text::regnamespace
    ORDER BY c.relname"
);

/// A closed delivery whose event is gone cannot be recovered. An operator's partition may keep events that are older than
/// the retention. A few at a time, to hold no lock for long; those that somebody
/// holds another time.
const FORGET_CLOSED: &str = concat!(
    "WITH kept AS MATERIALIZED (SELECT since, until FROM ",
    attached_partitions!("$2::text::regclass"),
    " AS partitions)
    DELETE FROM {home}.closed_deliveries WHERE id = ANY (ARRAY(
        SELECT id FROM {home}.closed_deliveries
        WHERE event_day < (now() AT TIME ZONE 'UTC')::date - $1::integer
            AND NOT EXISTS (SELECT FROM kept WHERE event_day >= since AND event_day < until)
        LIMIT 10000 FOR UPDATE SKIP LOCKED))"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn days(count: usize, marked: usize) -> Vec<Expired> {
        let day = |n: usize| Expired {
            relation: format!("public.events_{n}"),
            name: format!("events_{n}"),
            oid: u32::try_from(n).unwrap(),
            detach_pending: false,
            marked: n < marked,
        };
        (0..count).map(day).collect()
    }

    #[test]
    fn three_days_are_dropped_at_once_the_oldest_first() {
        assert_eq!(choose(days(2, 0), 0), (days(2, 0), 0));
        assert_eq!(choose(days(60, 0), 0), (days(3, 0), 57));
    }

    #[test]
    fn what_was_chosen_within_the_hour_is_counted_and_what_was_begun_goes_on() {
        assert_eq!(choose(days(5, 0), 2), (days(1, 0), 4));
        assert_eq!(choose(days(5, 3), 3), (days(3, 3), 2));
        assert_eq!(choose(days(5, 2), 2), (days(3, 2), 2));
    }

    #[test]
    fn clocks_more_than_a_day_apart_stop_retention() {
        let ours = Timestamp::UNIX_EPOCH;
        for (hours, agree) in [(0, true), (24, true), (25, false), (-24, true), (-25, false), (1440, false)] {
            let database = ours + SignedDuration::from_hours(hours);
            assert_eq!(check_clocks(database, ours).is_ok(), agree, "{hours}");
        }
    }
}

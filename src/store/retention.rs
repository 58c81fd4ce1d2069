//! Drops the partitions that are past their retention.
//!
//! A partition is first marked by a comment, then detached, then dropped. If the process ends in between, the next run
//! continues with the marked ones. Nothing else is dropped: a table that an operator detached, or that only has such a name,
//! stays. Others read and write meanwhile; the lock that keeps them from using an old event is held only while marking.
//!
//! Only the owner of the tables drops partitions: PostgreSQL offers no way to detach concurrently inside a function, which
//! could lend its rights.

use std::time::Duration;

use deadpool_postgres::Object;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::{Client, Row};

use super::partitions::{EVENTS_IN_USE, TABLES, attached_partitions, mark};
use super::schema::{self, Home};
use super::sql::{LOCK_FOR_TRANSACTION, TRY_LOCK_OF_SCHEMA};
use super::{Store, StoreError, column};
use crate::config::Retention;

/// The number of the advisory lock of the one session that detaches and drops.
const DROPPING: i64 = 0x7065_6e72_6472_6f70;

/// The seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// Partitions of a table that are dropped within an hour. Every day one more expires. Many at once mean that a clock jumped
/// or that a retention was shortened: this leaves an operator time to notice.
const DROPPED_AN_HOUR: usize = 3;
/// Retention stops while the database's clock and this machine's differ by more.
const MAX_CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_hours(24);

/// Why partitions were not dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DropError {
    /// Another session is dropping partitions, or used old events for longer than a second: try again.
    #[error("another session holds the lock")]
    Locked,
    /// Only the owner of the tables can drop their partitions, whatever rights are granted.
    #[error(
        "this role does not own the tables: their owner drops them, by `penr-webhooks migrate --retention` once a day"
    )]
    NotOwner,
    /// One of the clocks is wrong, and nobody knows which: nothing is dropped until an operator has set it.
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

/// What one run of retention did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub partitions: Vec<String>,
    /// The number of expired partitions that later runs will drop.
    pub left: usize,
}

/// A partition whose days are all past the retention of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expired {
    /// The name with the schema.
    relation: String,
    /// The name without the schema.
    name: String,
    oid: u32,
    detach_pending: bool,
    marked: bool,
}

/// One of `TABLES`.
struct Table<'a> {
    home: &'a Home,
    name: &'static str,
}

impl Table<'_> {
    /// With its schema.
    fn path(&self) -> String {
        format!("{}.{}", self.home.name, self.name)
    }
}

impl Store {
    /// Drops the oldest partitions of `events` and `attempts` that are past their retention, three of a table an hour, and
    /// forgets closed deliveries whose events are gone. One session works at a time. A failure with one table does not keep
    /// the partitions of the other from being dropped.
    ///
    /// # Errors
    ///
    /// See [`DropError`]. Partitions that were dropped before the error stay dropped; the next run continues.
    pub(crate) async fn drop_expired(&self, retention: &Retention) -> Result<Dropped, DropError> {
        let (mut session, home) = self.session_of_upkeep().await?;
        let clock = session.query_one("SELECT clock_timestamp() AS clock", &[]).await?;
        check_clocks(column(&clock, "clock"), Timestamp::now())?;
        if !column::<bool>(&session.query_one(OWNED, &[&home.name]).await?, "owned") {
            delete_unrecoverable(&session, &home, retention.events).await?;
            return Err(DropError::NotOwner);
        }
        let locked = session.query_one(TRY_LOCK_OF_SCHEMA, &[&DROPPING, &home.name]).await?;
        if !column::<bool>(&locked, "locked") {
            return Err(DropError::Locked);
        }
        let mut left = Ok(0);
        for (table, retention) in TABLES.into_iter().zip([retention.events, retention.attempts]) {
            match detach_expired(&mut session, &Table { home: &home, name: table }, days(retention)).await {
                Ok(more) => left = left.map(|left| left + more),
                Err(error) => left = left.and(Err(error)),
            }
        }
        let (partitions, all) = drop_detached(&session, &home).await;
        let forgotten = delete_unrecoverable(&session, &home, retention.events).await;
        if !partitions.is_empty() {
            tracing::info!(dropped = ?partitions, "retention ended");
        }
        let left = left?;
        all.and(forgotten).map(|()| Dropped { partitions, left })
    }

    /// The number of partitions that are past their retention, of the table that has more of them.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] without the tables; else the database is not available or busy: try again.
    pub(crate) async fn expired_partitions(&self, retention: &Retention) -> Result<usize, StoreError> {
        let tables = || TABLES.into_iter().zip([retention.events, retention.attempts]);
        let count = async |client: &mut Object| {
            let (transaction, path) = schema::with_pg_catalog_only(client).await?;
            let mut most = 0;
            for (name, retention) in tables() {
                let table = Table { home: &path.home(), name };
                most = most.max(
                    transaction.query(&table.home.within(EXPIRED), &[&table.path(), &days(retention)]).await?.len(),
                );
            }
            transaction.rollback().await.map(|()| most)
        };
        self.connection().await?.ask(count).await
    }
}

fn days(retention: Duration) -> i32 {
    i32::try_from(retention.as_secs() / DAY).unwrap_or(i32::MAX)
}

/// The only place where the clocks of two machines are compared. A clock that is wrong by a month would otherwise have a
/// month of the customers' log dropped.
fn check_clocks(database: Timestamp, ours: Timestamp) -> Result<(), DropError> {
    let difference = database.duration_since(ours);
    if difference.abs() > MAX_CLOCK_DIFFERENCE { Err(DropError::Clocks(difference)) } else { Ok(()) }
}

/// Marks the oldest expired partitions of a table and detaches all that are marked. Returns how many are left for later.
async fn detach_expired(session: &mut Client, table: &Table<'_>, days: i32) -> Result<usize, DropError> {
    let lately = session.query_one(&table.home.within(CHOSEN_LATELY), &[&table.name]).await?;
    let lately = usize::try_from(column::<i64>(&lately, "chosen")).unwrap_or(DROPPED_AN_HOUR);
    let expired = expired(session.query(&table.home.within(EXPIRED), &[&table.path(), &days]).await?);
    unmark_others(session, table, &expired).await?;
    let (now, later) = choose(expired, lately);
    if now.iter().any(|partition| !partition.marked) {
        mark_all(session, table, days, &now).await?;
    }
    // PostgreSQL allows one pending detach per table, so one that was interrupted is finished first, whoever began it.
    for row in session.query(DETACH_PENDING, &[&table.path()]).await? {
        let relation: String = column(&row, "relation");
        session.batch_execute(&format!("ALTER TABLE {} DETACH PARTITION {relation} FINALIZE", table.path())).await?;
    }
    let with_default = column(&session.query_one(HAS_DEFAULT, &[&table.path()]).await?, "has_default");
    for Expired { relation, .. } in now.iter().filter(|partition| !partition.detach_pending) {
        let detach = format!("ALTER TABLE {} DETACH PARTITION {relation}", table.path());
        if with_default {
            // With a DEFAULT partition PostgreSQL detaches only under a lock that keeps everybody out: it is asked for
            // shortly, and again in the next run.
            let transaction = session.transaction().await?;
            transaction.batch_execute(&format!("SET LOCAL lock_timeout = '500ms'; {detach}")).await?;
            transaction.commit().await?;
        } else {
            session.batch_execute(&format!("{detach} CONCURRENTLY")).await?;
        }
    }
    Ok(later)
}

/// Removes the mark from partitions that are within the retention again, such as after it was made longer.
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

/// Returns which of a table's expired partitions, given oldest first, are dropped now, and how many are left for later.
/// Marked ones are always dropped now: they were counted within the hour in which they were marked.
fn choose(expired: Vec<Expired>, chosen_lately: usize) -> (Vec<Expired>, usize) {
    let (mut now, fresh): (Vec<Expired>, Vec<Expired>) = expired.into_iter().partition(|expired| expired.marked);
    let room = DROPPED_AN_HOUR.saturating_sub(chosen_lately).min(fresh.len());
    let later = fresh.len() - room;
    now.extend(fresh.into_iter().take(room));
    (now, later)
}

/// Marks partitions. Once this is committed, no transaction uses their events.
async fn mark_all(session: &mut Client, table: &Table<'_>, days: i32, chosen: &[Expired]) -> Result<(), DropError> {
    let transaction = session.transaction().await?;
    let fresh = || chosen.iter().filter(|expired| !expired.marked);
    for Expired { relation, name, oid, .. } in fresh() {
        transaction.batch_execute(&format!("COMMENT ON TABLE {relation} IS '{}{oid}'", mark!())).await?;
        transaction.execute(&table.home.within(CHOOSE), &[name]).await?;
    }
    // Waits for transactions that are using old events. Later ones wait for this transaction, so it must not wait long.
    transaction.batch_execute("SET LOCAL lock_timeout = '1s'").await?;
    let locked = transaction.execute(LOCK_FOR_TRANSACTION, &[&EVENTS_IN_USE]).await.map_err(StoreError::from);
    match locked {
        Err(StoreError::Busy(_)) => return Err(DropError::Locked),
        locked => locked?,
    };
    let still = expired(transaction.query(&table.home.within(EXPIRED), &[&table.path(), &days]).await?);
    let names: Vec<&str> = fresh().map(|expired| expired.name.as_str()).collect();
    if !names.iter().all(|name| still.iter().any(|expired| expired.name == *name)) {
        let used = anyhow::anyhow!("a delivery that waits now needs a partition that was to be dropped");
        return Err(StoreError::Busy(used).into());
    }
    tracing::info!(partitions = ?names, "dropping partitions past their retention");
    Ok(transaction.commit().await?)
}

/// Drops the partitions that this run and interrupted ones have detached. Returns the names of those that were dropped, also
/// after an error.
async fn drop_detached(session: &Client, home: &Home) -> (Vec<String>, Result<(), DropError>) {
    let (mut dropped, mut result) = (Vec::new(), Ok(()));
    let detached = match session.query(DETACHED, &[&home.name]).await {
        Ok(detached) => detached,
        Err(error) => return (dropped, Err(error.into())),
    };
    for name in detached.iter().map(|row| column::<String>(row, "name")) {
        match session.batch_execute(&format!("DROP TABLE {}.{name}", home.name)).await {
            Ok(()) => dropped.push(name),
            Err(error) => result = Err(error.into()),
        }
    }
    (dropped, result)
}

async fn delete_unrecoverable(session: &Client, home: &Home, events: Duration) -> Result<(), DropError> {
    let table = Table { home, name: "events" };
    while session.execute(&home.within(DELETE_UNRECOVERABLE), &[&days(events), &table.path()]).await? > 0 {}
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

const OWNED: &str = "
    SELECT bool_and(pg_has_role(relowner, 'USAGE')) AS owned FROM pg_class
    WHERE oid IN (($1::text || '.events')::regclass, ($1::text || '.attempts')::regclass)";

const CHOOSE: &str = "INSERT INTO {home}.dropped_partitions (partition) VALUES ($1)";

/// The expired partitions of a table: those of a day whose end is `$2` days ago. A partition of events that a pending
/// delivery still needs is left out.
///
/// - `old`: the daily partitions past the retention.
/// - `needed`: the days of events that pending deliveries need, read once, and only if there are old partitions.
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

/// The number of partitions that were chosen within the hour. A minute less, because the next run may come a moment before
/// the hour is over. Rows of the future, from a clock that was wrong, do not count.
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

/// Deletes closed deliveries whose events are gone, 10,000 at a time: they cannot be recovered. Rows that another transaction
/// has locked are left to the next run. `kept` has the days of all attached partitions: one that an operator made may hold
/// events that are older than the retention.
const DELETE_UNRECOVERABLE: &str = concat!(
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

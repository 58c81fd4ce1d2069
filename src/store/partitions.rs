//! Makes the partitions of the coming days, and reads which partitions are attached.
//!
//! Any role that may run the functions of the schema makes partitions; `retention` drops them.

use tokio_postgres::Client;

use super::schema::Home;
use super::{Store, StoreError, column};

/// The partitioned tables.
pub(super) const TABLES: [&str; 2] = ["events", "attempts"];

/// Partitions are made this many days ahead.
pub(super) const DAYS_AHEAD: i32 = 7;

/// The number of an advisory lock. Any number but that of `migration_lock`. Transactions that use old events hold it shared;
/// retention holds it exclusively while it marks partitions of events. It is one for the whole database, as in earlier
/// releases: no session holds it for long.
pub(super) const EVENTS_IN_USE: i64 = 0x7065_6e72_7061_7274;
/// The number of the advisory lock of the one session that makes partitions with the schema of V1 to V7.
const MAKING_WITH_V7: i64 = 0x7065_6e72_6d61_6b65;

/// The comment of partitions that retention is about to drop. The table's OID follows it: a table that was restored from a
/// dump has the comment, but another OID.
macro_rules! mark {
    () => {
        "penr-webhooks: past its retention, to be dropped, "
    };
}

/// A sub-select of the attached partitions of some tables, without DEFAULT partitions. Columns: `oid`; `relation`, the name
/// with its schema; `name`, without it; `parent`; `detach_pending`; `marked`, whether retention is about to drop it; `since`
/// and `until`, the first day that the partition holds as a whole and the day after the last one. Operators may have added
/// partitions with other names and of several days.
///
/// Other roles may have put functions and operators into a schema of the search path. So every operand here has exactly the
/// operator's types, and no other operator fits better. `OFFSET 0` has the bounds read after the join: those of other tables
/// are of other types, and the casts would fail.
macro_rules! attached_partitions {
    ($tables:literal) => {
        concat!(
            "(SELECT oid, relation, name, parent, detach_pending, marked,
                coalesce((substring(bound FROM 'FROM \\(''([^'']+)''\\)')::timestamptz AT TIME ZONE zone
                          + interval '1 day - 1 microsecond')::date, '-infinity') AS since,
                coalesce((substring(bound FROM 'TO \\(''([^'']+)''\\)')::timestamptz AT TIME ZONE zone)::date,
                         'infinity') AS until
            FROM (
                SELECT child.oid, child.oid::regclass::text AS relation, child.relname::text AS name,
                    whole.relname::text AS parent, attached.inhdetachpending AS detach_pending,
                    pg_catalog.pg_get_expr(child.relpartbound, 0::oid) AS bound, note.objoid IS NOT NULL AS marked,
                    CASE whole.relname WHEN 'events' THEN pg_catalog.current_setting('timezone') ELSE 'UTC' END AS zone
                FROM pg_inherits attached JOIN pg_class child ON child.oid = attached.inhrelid
                JOIN pg_class whole ON whole.oid = attached.inhparent
                LEFT JOIN pg_description note ON note.objoid = child.oid AND note.objsubid = 0
                    AND note.classoid = 'pg_class'::regclass::oid AND note.description = '",
            $crate::store::partitions::mark!(),
            "' || child.oid::text
                WHERE attached.inhparent IN (",
            $tables,
            ") OFFSET 0
            ) AS children
            WHERE bound <> 'DEFAULT')"
        )
    };
}

pub(super) use {attached_partitions, mark};

impl Store {
    /// Makes the partitions from yesterday to a week ahead that are missing, each on its own: one that cannot be made does
    /// not keep the others from being made.
    ///
    /// # Errors
    ///
    /// The first error, after all were tried. [`StoreError::Schema`]: a table with a partition's name, or a partition of
    /// part of a day, is in the way. [`StoreError::Denied`]: the role may not run the functions. Else try again.
    pub(crate) async fn make_partitions(&self) -> Result<(), StoreError> {
        let (session, home) = self.session_of_upkeep().await?;
        make_missing(&session, &home).await
    }

    /// A session that the server ends after a minute of any wait, also when this process is gone.
    pub(super) async fn session_of_upkeep(&self) -> Result<(Client, Home), StoreError> {
        let (session, home) = self.session_at_home().await?;
        session
            .batch_execute(
                "SET statement_timeout = '60s'; SET lock_timeout = '10s'; SET timezone = 'UTC';
                 SET idle_session_timeout = '60s'; SET idle_in_transaction_session_timeout = '10s'",
            )
            .await?;
        // Only some operating systems tell a server that its client has gone; on others this setting is refused.
        let _ = session.batch_execute("SET client_connection_check_interval = '2s'").await;
        Ok((session, home))
    }
}

/// Makes each missing partition in a transaction of its own.
pub(super) async fn make_missing(session: &Client, home: &Home) -> Result<(), StoreError> {
    let made_by = session.query_one(MADE_BY, &[&home.name]).await?;
    let for_all_roles: bool = column(&made_by, "for_all_roles");
    if !for_all_roles {
        // The functions of V1 to V8 find their tables, and the functions they call, on the search path.
        session.batch_execute(&home.within("SET search_path = {home}")).await?;
    }
    if column(&made_by, "only_v7") {
        return make_with_v7(session).await;
    }
    let mut made = Ok(());
    for day in -1..=DAYS_AHEAD {
        for table in TABLES {
            let make = match for_all_roles {
                true => format!("SELECT {}.make_{table}_partition($1::integer)", home.name),
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

/// Which functions the schema has, for a worker may run with the schema of an earlier release. `for_all_roles`: those of V9.
/// `only_v7`: `make_partitions` alone.
const MADE_BY: &str = "
    SELECT to_regprocedure($1::text || '.make_events_partition(integer)') IS NOT NULL AS for_all_roles,
        to_regprocedure($1::text || '.make_partition(text, date)') IS NULL AS only_v7";

/// With the schema of V1 to V7, making a partition locks the whole table against readers and writers. So one process does
/// it at a time, and waits for the lock no longer than 2 s. The advisory lock is freed when the session ends, which is next.
async fn make_with_v7(session: &Client) -> Result<(), StoreError> {
    let locked = session.query_one("SELECT pg_try_advisory_lock($1) AS locked", &[&MAKING_WITH_V7]).await?;
    if column(&locked, "locked") {
        session.batch_execute("SET lock_timeout = '2s'").await?;
        session.execute("SELECT make_partitions($1::integer)", &[&DAYS_AHEAD]).await?;
    }
    Ok(())
}

/// `make_partition` raises an exception of its own only if a table with that name or those bounds is in the way.
fn in_the_way(error: StoreError) -> StoreError {
    match error {
        StoreError::Refused(cause) => StoreError::Schema(cause.context("rename or detach the table in the way")),
        error => error,
    }
}

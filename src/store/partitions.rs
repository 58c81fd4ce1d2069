//! Makes the coming days' partitions and drops those that retention has ended.

use std::time::Duration;

use super::migrate::DAYS_AHEAD;
use super::{Store, StoreError, column};

/// Any number but the migration's. Held shared by whoever makes use of old events.
pub(super) const LOCK: i64 = 0x7065_6e72_7061_7274;
const DAY: u64 = 24 * 60 * 60;

impl Store {
    /// Makes partitions ahead and drops `events` and `attempts` older than their retention. Returns what was dropped.
    /// One replica works at a time; the others do nothing.
    pub async fn keep_partitions(&self, events: Duration, attempts: Duration) -> Result<Vec<String>, StoreError> {
        let session = self.own_session().await?;
        let locked = session.query_one("SELECT pg_try_advisory_lock($1) AS locked", &[&LOCK]).await?;
        if !column::<bool>(&locked, "locked") {
            return Ok(Vec::new());
        }
        // Whoever waits for the parent table's lock makes everyone else wait: rather try again later.
        session.batch_execute("SET statement_timeout = 0; SET lock_timeout = '2s'").await?;
        session.execute("SELECT make_partitions($1)", &[&DAYS_AHEAD]).await?;
        session.batch_execute("SET lock_timeout = 0").await?;
        let mut dropped = Vec::new();
        for (table, retention) in [("events", events), ("attempts", attempts)] {
            let days = i32::try_from(retention.as_secs() / DAY).unwrap_or(i32::MAX);
            for row in session.query(EXPIRED, &[&table, &days]).await? {
                let partition: String = column(&row, "partition");
                // Not inside a transaction: readers and writers of the table go on meanwhile.
                let pending: bool = column(&row, "detach_pending");
                let how = if pending { "FINALIZE" } else { "CONCURRENTLY" };
                session.batch_execute(&format!("ALTER TABLE {table} DETACH PARTITION {partition} {how}")).await?;
            }
        }
        // Also what an earlier run detached and did not come to drop.
        for row in session.query(DETACHED, &[]).await? {
            let partition: String = column(&row, "partition");
            session.batch_execute(&format!("DROP TABLE {partition}")).await?;
            dropped.push(partition);
        }
        while session.execute(FORGET_CLOSED, &[]).await? > 0 {}
        Ok(dropped)
    }
}

/// Partitions that ended more than so many days ago. One that a waiting delivery references is kept. Names are read as
/// dates only after the join: a plan that reads all tables' names first meets names that are none.
const EXPIRED: &str = "
    WITH partitions AS MATERIALIZED (
        SELECT c.relname AS name, i.inhdetachpending AS detach_pending, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = to_regclass($1::text)
    )
    SELECT quote_ident(name) AS partition, detach_pending FROM partitions
    WHERE day < (now() AT TIME ZONE 'UTC')::date - $2::integer
      AND NOT ($1::text = 'events' AND EXISTS (SELECT FROM pending_deliveries p WHERE p.event_day = day))
    ORDER BY name";

const DETACHED: &str = "
    SELECT quote_ident(c.relname) AS partition FROM pg_class c
    WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
      AND c.relkind = 'r' AND NOT c.relispartition AND c.relname ~ '^(events|attempts)_[0-9]{8}$'
      AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)";

/// A closed delivery whose event is gone cannot be recovered. A few at a time, to hold no lock for long.
const FORGET_CLOSED: &str = "
    DELETE FROM closed_deliveries WHERE id IN (
        SELECT id FROM closed_deliveries WHERE event_day < (
            SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD'))
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass)
        LIMIT 10000)";

//! Makes the coming days' partitions and drops those that retention has ended.

use std::time::Duration;

use super::migrate::DAYS_AHEAD;
use super::{Store, StoreError, column};

/// Any number but the migration's.
const LOCK: i64 = 0x7065_6e72_7061_7274;
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
        session.execute("SELECT make_partitions($1)", &[&DAYS_AHEAD]).await?;
        let mut dropped = Vec::new();
        for (table, retention) in [("events", events), ("attempts", attempts)] {
            let days = i32::try_from(retention.as_secs() / DAY).unwrap_or(i32::MAX);
            for row in session.query(EXPIRED, &[&table, &days]).await? {
                let partition: String = column(&row, "partition");
                // Not inside a transaction: readers and writers of the table go on meanwhile.
                let pending: bool = column(&row, "detach_pending");
                let how = if pending { "FINALIZE" } else { "CONCURRENTLY" };
                session.batch_execute(&format!("ALTER TABLE {table} DETACH PARTITION {partition} {how}")).await?;
                session.batch_execute(&format!("DROP TABLE {partition}")).await?;
                dropped.push(partition);
            }
        }
        session.execute(FORGET_CLOSED, &[]).await?;
        Ok(dropped)
    }
}

/// Partitions that ended more than so many days ago. One that a waiting delivery references is kept.
const EXPIRED: &str = "
    SELECT quote_ident(c.relname) AS partition, i.inhdetachpending AS detach_pending
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass($1::text)
      AND to_date(right(c.relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date - $2::integer
      AND NOT ($1::text = 'events' AND EXISTS (
          SELECT FROM pending_deliveries p WHERE p.event_day = to_date(right(c.relname, 8), 'YYYYMMDD')))
    ORDER BY c.relname";

/// A closed delivery whose event is gone cannot be recovered.
const FORGET_CLOSED: &str = "
    DELETE FROM closed_deliveries WHERE event_day < (
        SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD'))
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass)";

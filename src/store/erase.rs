//! Erases what is kept of one account: its webhooks, events, attempts, pending and closed deliveries, recoveries, notices, and
//! the answers that are kept for requests with an `Idempotency-Key`.
//!
//! Each statement is a short transaction of its own, over a bounded number of rows, so others read and write meanwhile. An
//! erasure that was interrupted is begun again: the webhooks are deleted late, because log rows and deliveries name no account.
//! For the same reason the events come after these: they tell to whom a webhook belonged that was deleted before (see
//! `traces`).

use deadpool_postgres::Object;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::{LogWindow, within_window};
use super::headers_and_pace::HeadersAndPace;
use super::inactive_since::InactiveSince;
use super::sql::query;
use super::{Params, Position, Store, StoreError, TypedParams, column, count};
use crate::ids::AccountId;

/// Rows that one statement counts or deletes.
const BATCH: i64 = 2000;
/// Webhooks that one statement changes.
const WEBHOOKS: i64 = 500;

/// What to do with the rows of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Erasure {
    /// Count them, and change nothing.
    Count,
    Delete,
}

/// How many rows were found, or erased.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Erased {
    pub webhooks: u64,
    pub events: u64,
    pub attempts: u64,
    pub pending_deliveries: u64,
    pub closed_deliveries: u64,
    pub kept_answers: u64,
}

/// A table of deliveries, and its column that orders those of a webhook in an index.
#[derive(Clone, Copy)]
struct Deliveries {
    table: &'static str,
    time: &'static str,
}

const PENDING: Deliveries = Deliveries { table: "pending_deliveries", time: "due_at" };
const CLOSED: Deliveries = Deliveries { table: "closed_deliveries", time: "closed_at" };

impl Store {
    /// Whether this role may delete events and log rows. Only the owner of the tables may, unless somebody granted it.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn may_erase(&self) -> Result<bool, StoreError> {
        let sql = "SELECT has_table_privilege('events', 'DELETE') AND has_table_privilege('attempts', 'DELETE') AS may";
        Ok(self.query(sql, &[]).await?.first().is_some_and(|row| column(row, "may")))
    }

    /// Switches all webhooks of an account off, so that nothing is sent to them and no event is looked up for them.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only.
    pub(crate) async fn switch_all_off(&self, account: &AccountId) -> Result<(), StoreError> {
        // A disabled webhook still gets closed deliveries; one that its owner switched off does not.
        let switch_off = switch_off(self.inactive_since().await?);
        self.repeat(&switch_off, &[&account.as_str(), &WEBHOOKS]).await.map(drop)
    }

    /// Counts or deletes everything of an account but its webhooks. `webhooks` is what [`Store::webhooks_with_traces`] found.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only, or this role may not delete. What was deleted stays deleted.
    pub(crate) async fn erase_traces(
        &self,
        account: &AccountId,
        webhooks: &[Uuid],
        erasure: Erasure,
    ) -> Result<Erased, StoreError> {
        let mut erased = Erased::default();
        for window in self.log_days().await?.windows(None) {
            for webhook in webhooks {
                erased.attempts += self.erase_attempts(*webhook, window, erasure).await?;
            }
        }
        for webhook in webhooks {
            erased.pending_deliveries += self.erase_deliveries(PENDING, *webhook, erasure).await?;
            erased.closed_deliveries += self.erase_deliveries(CLOSED, *webhook, erasure).await?;
        }
        erased.events = self.erase_events(account, erasure).await?;
        erased.kept_answers = self.erase_answers(account, erasure).await?;
        if erasure == Erasure::Delete {
            for webhooks in webhooks.chunks(usize::try_from(WEBHOOKS).unwrap_or(usize::MAX)) {
                self.execute("DELETE FROM recoveries WHERE webhook_id = ANY ($1)", &[&webhooks]).await?;
                if self.headers_and_pace().await? == HeadersAndPace::Kept {
                    self.execute("DELETE FROM paces WHERE webhook_id = ANY ($1)", &[&webhooks]).await?;
                }
            }
            self.erase_notices(account).await?;
            self.forget_hold_of(account).await?;
        }
        Ok(erased)
    }

    /// Deletes the account's webhooks, and returns their ids.
    ///
    /// # Errors
    ///
    /// As [`Store::erase_traces`].
    pub(crate) async fn delete_webhooks(&self, account: &AccountId) -> Result<Vec<Uuid>, StoreError> {
        let (mut deleted, delete) = (Vec::new(), self.deletion(DELETE_WEBHOOKS).await?);
        loop {
            let rows = self.query_to_write(&delete, &[&account.as_str(), &WEBHOOKS]).await?;
            if rows.is_empty() {
                return Ok(deleted);
            }
            deleted.extend(rows.iter().map(|row| column::<Uuid>(row, "id")));
        }
    }

    /// Repeats a statement that changes a bounded number of rows until it finds none. Returns how many it has changed.
    async fn repeat(&self, sql: &str, params: Params<'_>) -> Result<u64, StoreError> {
        let mut changed = 0;
        loop {
            match self.execute(sql, params).await? {
                0 => return Ok(changed),
                more => changed += more,
            }
        }
    }

    async fn erase_attempts(&self, webhook: Uuid, window: LogWindow, erasure: Erasure) -> Result<u64, StoreError> {
        let sql = erasure.of(
            "attempts",
            concat!("webhook_id = $1 AND created_at >= $4 AND created_at <= $5 AND ", within_window!("$2", "$3")),
        );
        let (mut erased, mut until) = (0, window.until);
        loop {
            let params: TypedParams<'_> = &[
                (&webhook, Type::UUID),
                (&window.from, Type::TIMESTAMPTZ),
                (&until, Type::TIMESTAMPTZ),
                (&BATCH, Type::INT8),
            ];
            let newest = self.query_planned_anew(NEWEST_ATTEMPTS, params).await?;
            let span: Option<(Option<Timestamp>, Option<Timestamp>)> =
                newest.first().map(|row| (column(row, "oldest"), column(row, "newest")));
            let Some((Some(oldest), Some(newest))) = span else { return Ok(erased) };
            let params: TypedParams<'_> = &[
                (&webhook, Type::UUID),
                (&window.from, Type::TIMESTAMPTZ),
                (&until, Type::TIMESTAMPTZ),
                (&oldest, Type::TIMESTAMPTZ),
                (&newest, Type::TIMESTAMPTZ),
            ];
            erased += self.count_or_delete(&sql, params, erasure).await?;
            until = Some(oldest);
        }
    }

    async fn count_deliveries(&self, of: Deliveries, webhook: Uuid) -> Result<u64, StoreError> {
        let Deliveries { table, time } = of;
        let page = format!(
            "SELECT {time} AS time, id FROM {table}
             WHERE webhook_id = $1 AND {time} >= $2 AND ({time}, id) > ($2, $3) ORDER BY {time}, id LIMIT $4"
        );
        let (mut found, mut after) = (0, Position { time: Timestamp::UNIX_EPOCH, id: Uuid::nil() });
        loop {
            let rows = self.query(&page, &[&webhook, &after.time, &after.id, &BATCH]).await?;
            let Some(last) = rows.last() else { return Ok(found) };
            after = Position { time: column(last, "time"), id: column(last, "id") };
            found += rows.len() as u64;
        }
    }

    /// Of pending or closed deliveries. A transaction that has locked some of them is waited for.
    async fn erase_deliveries(&self, of: Deliveries, webhook: Uuid, erasure: Erasure) -> Result<u64, StoreError> {
        if erasure == Erasure::Count {
            return self.count_deliveries(of, webhook).await;
        }
        let table = of.table;
        let found = format!("SELECT id FROM {table} WHERE webhook_id = $1 LIMIT $2");
        let lock = format!("SELECT FROM {table} WHERE id = ANY ($1) ORDER BY id FOR UPDATE");
        // A delivery that was closed or recovered meanwhile may be in the other table: the next pass finds it there.
        let delete = format!("DELETE FROM {table} WHERE id = ANY ($1)");
        let mut erased = 0;
        loop {
            let work = async |client: &mut Object| {
                let transaction = client.transaction().await?;
                let params: Params<'_> = &[&webhook, &BATCH];
                let rows = query(&transaction, &found, params).await?;
                let ids: Vec<Uuid> = rows.iter().map(|row| column(row, "id")).collect();
                query(&transaction, &lock, &[&ids]).await?;
                query(&transaction, &delete, &[&ids]).await?;
                transaction.commit().await?;
                Ok(ids.len() as u64)
            };
            match self.write(work).await? {
                0 => return Ok(erased),
                more => erased += more,
            }
        }
    }

    /// Events have no index by account, so all are read, in the order of their key.
    async fn erase_events(&self, account: &AccountId, erasure: Erasure) -> Result<u64, StoreError> {
        let sql = erasure.of("events", EVENTS_OF_PAGE);
        let (mut erased, mut after) = (0, (jiff::civil::date(1, 1, 1), Uuid::nil()));
        loop {
            let params: TypedParams<'_> = &[(&after.0, Type::DATE), (&after.1, Type::UUID), (&BATCH, Type::INT8)];
            let end = self.query_planned_anew(END_OF_PAGE, params).await?;
            let end: Option<(Date, Uuid)> = end.first().map(|row| (column(row, "day"), column(row, "key")));
            // Beyond the last whole page: to the end of the table.
            let last = end.unwrap_or((jiff::civil::date(9999, 12, 31), Uuid::max()));
            let params: TypedParams<'_> = &[
                (&after.0, Type::DATE),
                (&after.1, Type::UUID),
                (&last.0, Type::DATE),
                (&last.1, Type::UUID),
                (&account.as_str(), Type::TEXT),
            ];
            erased += self.count_or_delete(&sql, params, erasure).await?;
            match end {
                Some(end) => after = end,
                None => return Ok(erased),
            }
        }
    }

    async fn erase_answers(&self, account: &AccountId, erasure: Erasure) -> Result<u64, StoreError> {
        if !self.keeps_answers().await? {
            return Ok(0);
        }
        if erasure == Erasure::Delete {
            return self.repeat(DELETE_ANSWERS, &[&account.as_str(), &BATCH]).await;
        }
        let (mut found, mut after) = (0, String::new());
        loop {
            let rows = self.query(ANSWERS, &[&account.as_str(), &after, &BATCH]).await?;
            let Some(last) = rows.last() else { return Ok(found) };
            after = column(last, "key");
            found += rows.len() as u64;
        }
    }

    /// Notices have no index by account either.
    async fn erase_notices(&self, account: &AccountId) -> Result<(), StoreError> {
        let mut after = Uuid::nil();
        loop {
            let end = self.query(END_OF_NOTICES, &[&after, &BATCH]).await?;
            let end = end.first().map(|row| column::<Uuid>(row, "id"));
            self.execute(DELETE_NOTICES, &[&after, &end.unwrap_or(Uuid::max()), &account.as_str()]).await?;
            match end {
                Some(end) => after = end,
                None => return Ok(()),
            }
        }
    }

    async fn count_or_delete(&self, sql: &str, params: TypedParams<'_>, erasure: Erasure) -> Result<u64, StoreError> {
        let rows = match erasure {
            Erasure::Count => self.query_planned_anew(sql, params).await?,
            Erasure::Delete => self.write(async |client: &mut Object| client.query_typed(sql, params).await).await?,
        };
        Ok(rows.first().map_or(0, |row| count(row, "rows")))
    }
}

impl Erased {
    /// The sum of what two passes found.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            webhooks: self.webhooks + other.webhooks,
            events: self.events + other.events,
            attempts: self.attempts + other.attempts,
            pending_deliveries: self.pending_deliveries + other.pending_deliveries,
            closed_deliveries: self.closed_deliveries + other.closed_deliveries,
            kept_answers: self.kept_answers + other.kept_answers,
        }
    }
}

impl Erasure {
    /// A statement that counts or deletes the rows of a table, and returns how many.
    fn of(self, table: &str, condition: &str) -> String {
        match self {
            Self::Count => format!("SELECT count(*) AS rows FROM {table} WHERE {condition}"),
            Self::Delete => format!(
                "WITH gone AS (DELETE FROM {table} WHERE {condition} RETURNING true) SELECT count(*) AS rows FROM gone"
            ),
        }
    }
}

fn switch_off(inactive_since: InactiveSince) -> String {
    let noted = inactive_since.note("webhooks", "false");
    format!(
        "UPDATE webhooks SET active = false, disabled_reason = NULL, activation = activation + active::integer {noted}
        WHERE id = ANY (ARRAY(
            SELECT id FROM webhooks WHERE account_id = $1 AND (active OR disabled_reason IS NOT NULL)
            ORDER BY created_at, id LIMIT $2))
        AND (active OR disabled_reason IS NOT NULL)"
    )
}

const DELETE_WEBHOOKS: &str = "
    DELETE FROM webhooks WHERE id = ANY (ARRAY(SELECT id FROM webhooks WHERE account_id = $1 ORDER BY created_at, id LIMIT $2))";

const ANSWERS: &str = "SELECT key FROM kept_answers WHERE account_id = $1 AND key > $2 ORDER BY key LIMIT $3";

const DELETE_ANSWERS: &str = "
    DELETE FROM kept_answers WHERE account_id = $1
        AND key = ANY (ARRAY(SELECT key FROM kept_answers WHERE account_id = $1 ORDER BY key LIMIT $2))";

/// The last notice of the page after `$1`, if the page is full.
const END_OF_NOTICES: &str = "SELECT id FROM notices WHERE id > $1 ORDER BY id OFFSET $2::bigint - 1 LIMIT 1";

const DELETE_NOTICES: &str = "
    DELETE FROM notices WHERE id > $1 AND id <= $2 AND body::jsonb ->> 'account_id' = $3";

/// The times of the newest attempts of a webhook that are left in a window.
const NEWEST_ATTEMPTS: &str = concat!(
    "SELECT min(created_at) AS oldest, max(created_at) AS newest FROM (
        SELECT created_at FROM attempts WHERE webhook_id = $1 AND ",
    within_window!("$2", "$3"),
    "   ORDER BY created_at DESC LIMIT (SELECT $4::bigint)) AS newest"
);

/// The last event of the page after `($1, $2)`, if the page is full.
const END_OF_PAGE: &str = "
    SELECT day, key FROM events WHERE day >= $1 AND (day, key) > ($1, $2)
    ORDER BY day, key OFFSET (SELECT $3::bigint - 1) LIMIT 1";

const EVENTS_OF_PAGE: &str = "
    day >= $1 AND (day, key) > ($1, $2) AND day <= $3 AND (day, key) <= ($3, $4) AND account_id = $5::text";

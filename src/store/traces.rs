//! Finds the webhooks of an account, also those that were deleted while rows of theirs were kept.
//!
//! Log rows, pending and closed deliveries name a webhook and an event, but no account. A webhook's events are all of one
//! account, so one event that is kept tells whose a deleted webhook was. Each statement reads a bounded number of rows.

use std::collections::HashSet;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::{LogWindow, within_window};
use super::{Position, Store, StoreError, TypedParams, column};
use crate::ids::AccountId;

/// Webhooks that one statement reads.
const WEBHOOKS: i64 = 500;
/// Rows of a webhook whose events one statement looks up.
const ROWS: i64 = 500;

/// A table with rows of webhooks, and the two statements about it.
struct Place {
    /// Of the log: these days of it.
    window: LogWindow,
    webhooks: &'static str,
    owner: &'static str,
}

impl Store {
    /// The account's webhooks. Those that were deleted are among them as long as a log row, a pending or a closed delivery of
    /// theirs is kept together with its event.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn webhooks_with_traces(&self, account: &AccountId) -> Result<Vec<Uuid>, StoreError> {
        let mut found = self.webhooks_of(account).await?;
        let whole = LogWindow { from: None, until: None };
        let deliveries = [
            Place { window: whole, webhooks: WEBHOOKS_OF_PENDING, owner: OWNER_OF_PENDING },
            Place { window: whole, webhooks: WEBHOOKS_OF_CLOSED, owner: OWNER_OF_CLOSED },
        ];
        let log = self.log_days().await?.windows(None);
        let log = log.map(|window| Place { window, webhooks: WEBHOOKS_OF_LOG, owner: OWNER_OF_LOG });
        let mut decided = HashSet::new();
        for place in deliveries.into_iter().chain(log) {
            for webhook in self.deleted_webhooks(&place).await? {
                if decided.contains(&webhook) {
                    continue;
                }
                let Some(owner) = self.owner(&place, webhook).await? else { continue };
                decided.insert(webhook);
                if owner == account.as_str() {
                    found.push(webhook);
                }
            }
        }
        Ok(found)
    }

    /// The webhooks that the account has now.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn webhooks_of(&self, account: &AccountId) -> Result<Vec<Uuid>, StoreError> {
        let (mut ids, mut after) = (Vec::new(), None::<Position>);
        loop {
            let (time, id) = after.map(|after| (after.time, after.id)).unzip();
            let rows = self.query(WEBHOOKS_OF_ACCOUNT, &[&account.as_str(), &time, &id, &WEBHOOKS]).await?;
            let Some(last) = rows.last() else { return Ok(ids) };
            after = Some(Position { time: column(last, "created_at"), id: column(last, "id") });
            ids.extend(rows.iter().map(|row| column::<Uuid>(row, "id")));
        }
    }

    /// The webhooks that have rows there and were deleted.
    async fn deleted_webhooks(&self, place: &Place) -> Result<Vec<Uuid>, StoreError> {
        let (mut deleted, mut after) = (Vec::new(), Uuid::nil());
        loop {
            let params: TypedParams<'_> = &[
                (&after, Type::UUID),
                (&WEBHOOKS, Type::INT8),
                (&place.window.from, Type::TIMESTAMPTZ),
                (&place.window.until, Type::TIMESTAMPTZ),
            ];
            let rows = self.query_planned_anew(place.webhooks, params).await?;
            let Some(last) = rows.last() else { return Ok(deleted) };
            after = column(last, "webhook_id");
            let gone = rows.iter().filter(|row| column(row, "is_deleted"));
            deleted.extend(gone.map(|row| column::<Uuid>(row, "webhook_id")));
        }
    }

    /// The account of a webhook's rows there, if the event of one is kept.
    async fn owner(&self, place: &Place, webhook: Uuid) -> Result<Option<String>, StoreError> {
        let mut before = None::<Position>;
        loop {
            let (time, id) = before.map(|before| (before.time, before.id)).unzip();
            let params: TypedParams<'_> = &[
                (&webhook, Type::UUID),
                (&ROWS, Type::INT8),
                (&place.window.from, Type::TIMESTAMPTZ),
                (&place.window.until, Type::TIMESTAMPTZ),
                (&time, Type::TIMESTAMPTZ),
                (&id, Type::UUID),
            ];
            let rows = self.query_planned_anew(place.owner, params).await?;
            let Some(last) = rows.first() else { return Ok(None) };
            if let Some(owner) = column(last, "account_id") {
                return Ok(Some(owner));
            }
            before = Some(Position { time: column(last, "time"), id: column(last, "id") });
        }
    }
}

const WEBHOOKS_OF_ACCOUNT: &str = "
    SELECT id, created_at FROM webhooks
    WHERE account_id = $1 AND (created_at, id) > (coalesce($2::timestamptz, '-infinity'),
        coalesce($3::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at, id LIMIT $4";

/// The next webhooks of a table, found by jumping through its index from one id to the next, and whether each was deleted.
macro_rules! webhooks_of {
    ($table:literal, $within:expr) => {
        concat!(
            "WITH RECURSIVE step (webhook_id, place) AS (
                SELECT $1::uuid, 0::bigint
                UNION ALL
                SELECT (
                    SELECT webhook_id FROM ",
            $table,
            "       WHERE webhook_id > step.webhook_id AND ",
            $within,
            "       ORDER BY webhook_id LIMIT 1), place + 1
                FROM step WHERE step.webhook_id IS NOT NULL AND place < $2::bigint
            )
            SELECT webhook_id, NOT EXISTS (SELECT FROM webhooks WHERE id = step.webhook_id) AS is_deleted
            FROM step WHERE webhook_id IS NOT NULL AND place > 0 ORDER BY place"
        )
    };
}

/// The last row of the next page of a webhook's rows, newest first, and the account of an event on that page.
macro_rules! owner_of {
    ($table:literal, $time:literal, $within:expr) => {
        concat!(
            "WITH page AS (
                SELECT event_day, event_key, ",
            $time,
            " AS time, id FROM ",
            $table,
            "   WHERE webhook_id = $1 AND ",
            $within,
            " AND ",
            $time,
            " <= coalesce($5::timestamptz, 'infinity') AND (",
            $time,
            ", id) < (coalesce($5::timestamptz, 'infinity'), coalesce($6::uuid, $1))
                ORDER BY ",
            $time,
            " DESC, id DESC LIMIT (SELECT $2::bigint)
            )
            SELECT time, id, (
                SELECT account_id FROM page CROSS JOIN LATERAL (
                    SELECT account_id FROM events WHERE day = page.event_day AND key = page.event_key LIMIT 1) AS event
                LIMIT 1) AS account_id
            FROM page ORDER BY time, id LIMIT 1"
        )
    };
}

const WEBHOOKS_OF_PENDING: &str = webhooks_of!("pending_deliveries", "true");
const WEBHOOKS_OF_CLOSED: &str = webhooks_of!("closed_deliveries", "true");
const WEBHOOKS_OF_LOG: &str = webhooks_of!("attempts", within_window!("$3", "$4"));

const OWNER_OF_PENDING: &str = owner_of!("pending_deliveries", "due_at", "true");
const OWNER_OF_CLOSED: &str = owner_of!("closed_deliveries", "closed_at", "true");
const OWNER_OF_LOG: &str = owner_of!("attempts", "created_at", within_window!("$3", "$4"));

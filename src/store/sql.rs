//! Pieces of SQL, and ways to run it, that several statements share.

use deadpool_postgres::Transaction;
use tokio_postgres::{Error, Row};

use super::Params;

/// The webhook `$1` if the account `$2` has it. Everyone (null) may name a webhook that was deleted.
pub(super) const OWN_WEBHOOK: &str = "(SELECT id FROM webhooks WHERE id = $1::uuid AND account_id = $2::text
    UNION ALL SELECT $1::uuid WHERE $2::text IS NULL LIMIT 1)";

/// A claim number above all that a delivery ever had, those of deleted rows included: microseconds since 1970. So a result of
/// an old claim is never taken for one of the new row.
pub(super) const NEW_CLAIM: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The end of an INSERT into `closed_deliveries`: a delivery that was closed before gets the new closing.
pub(super) const LATEST_CLOSING_STANDS: &str = "
    ON CONFLICT (id) DO UPDATE SET event_day = excluded.event_day, event_key = excluded.event_key,
        reason = excluded.reason, attempts_made = excluded.attempts_made, closed_at = excluded.closed_at";

/// Two common table expressions that close pending deliveries. `chosen` is a query for their ids, which locks the rows, and
/// `reason` an expression over a row of `removed`.
///
/// - `removed`: the pending rows, deleted.
/// - `closed`: the same deliveries, written to `closed_deliveries`.
pub(super) fn close_chosen(chosen: &str, reason: &str) -> String {
    format!(
        "removed AS (
            DELETE FROM pending_deliveries WHERE id = ANY (ARRAY({chosen}))
            RETURNING id, webhook_id, activation, event_day, event_key, attempts_made
        ), closed AS (
            INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
            SELECT id, webhook_id, event_day, event_key, {reason}, attempts_made FROM removed ORDER BY id
            {LATEST_CLOSING_STANDS}
        )"
    )
}

/// Locks the pending rows with these ids, in their order. Comes before every statement that changes several of them.
pub(super) const LOCK_PENDING: &str = "SELECT FROM pending_deliveries WHERE id = ANY ($1) ORDER BY id FOR UPDATE";

/// Takes the advisory lock `$1` of the schema `$2` until the session ends. Column `locked`: false if another session has it.
///
/// Advisory locks belong to the whole database. The number that is locked differs by schema, so that installations in two
/// schemas do not wait for each other. In `public` it is `$1` itself, as earlier releases use it in all schemas.
pub(super) const TRY_LOCK_OF_SCHEMA: &str = "SELECT pg_try_advisory_lock($1::bigint # CASE $2::text
    WHEN 'public' THEN 0::bigint ELSE pg_catalog.hashtextextended($2::text, 0::bigint) END) AS locked";

/// Waits for the advisory lock `$1` and holds it until the transaction ends.
pub(super) const LOCK_FOR_TRANSACTION: &str = "SELECT pg_advisory_xact_lock($1)";

/// Runs a statement, prepared once for each session, and returns its rows.
pub(super) async fn query(transaction: &Transaction<'_>, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
    let statement = transaction.prepare_cached(sql).await?;
    transaction.query(&statement, params).await
}

/// Runs a statement, prepared once for each session, whose rows are not needed.
pub(super) async fn execute(transaction: &Transaction<'_>, sql: &str, params: Params<'_>) -> Result<(), Error> {
    let statement = transaction.prepare_cached(sql).await?;
    transaction.execute(&statement, params).await.map(drop)
}

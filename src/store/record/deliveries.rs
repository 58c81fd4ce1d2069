//! Writes the pending and closed deliveries of a batch of results. The statements come in the store's lock order (the head of
//! `store.rs`).

use std::sync::LazyLock;

use deadpool_postgres::Transaction;
use tokio_postgres::Error;
use uuid::Uuid;

use crate::delivery::ClosedReason;
use crate::store::sql::{LATEST_CLOSING_STANDS, LOCK_PENDING, NEW_CLAIM, execute};
use crate::store::turn_result::{TurnResult, collect};

/// The results of a batch by what they do to the rows of their deliveries, each in the order of ids. A success that closes
/// nothing is in `succeeded` only.
pub(super) struct Deliveries<'a> {
    /// Came straight from their broker message, and are attempted again: they get a pending row.
    first: Vec<&'a TurnResult>,
    /// Were claimed, and are attempted again: their pending row changes.
    again: Vec<&'a TurnResult>,
    closed: Vec<&'a TurnResult>,
    succeeded: Vec<&'a TurnResult>,
}

impl<'a> Deliveries<'a> {
    pub(super) fn of(batch: &[&'a TurnResult]) -> Self {
        let mut rows: Vec<&TurnResult> = batch.to_vec();
        // The sort is stable: of two results of one delivery the earlier one stays first.
        rows.sort_by_key(|result| result.delivery.id);
        let those = |which: fn(&TurnResult) -> bool| rows.iter().copied().filter(|result| which(result)).collect();
        Self {
            first: those(|result| result.claim.is_none() && result.wait().is_some()),
            again: those(|result| result.claim.is_some() && result.wait().is_some()),
            closed: those(|result| result.closed_reason().is_some()),
            succeeded: those(TurnResult::succeeded),
        }
    }

    /// Whether more than one statement changes pending rows. Then all rows are locked before, in one order.
    fn locks_pending(&self) -> bool {
        !self.again.is_empty() || !self.closed.is_empty()
    }

    pub(super) async fn insert_pending(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let rows = &self.first;
        if rows.is_empty() {
            return Ok(());
        }
        execute(
            transaction,
            &INSERT_PENDING,
            &[
                &collect(rows, |result| result.delivery.id.0),
                &collect(rows, |result| result.delivery.webhook.id.0),
                &collect(rows, |result| result.delivery.webhook.activation),
                &collect(rows, |result| result.delivery.row.day),
                &collect(rows, |result| result.delivery.row.key),
                &collect(rows, TurnResult::attempts_made),
                &collect(rows, |result| result.next_trigger().as_str()),
                &collect(rows, |result| result.wait().unwrap_or_default().as_secs_f64()),
                &collect(rows, |result| result.waited().as_secs_f64()),
            ],
        )
        .await
    }

    pub(super) async fn lock_pending(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if !self.locks_pending() {
            return Ok(());
        }
        let rows = self.again.iter().chain(&self.closed).chain(&self.succeeded);
        let ids: Vec<Uuid> = rows.map(|result| result.delivery.id.0).collect();
        execute(transaction, LOCK_PENDING, &[&ids]).await
    }

    pub(super) async fn update_pending(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let rows = &self.again;
        if rows.is_empty() {
            return Ok(());
        }
        execute(
            transaction,
            UPDATE_PENDING,
            &[
                &collect(rows, |result| result.delivery.id.0),
                &collect(rows, |result| result.claim.unwrap_or_default()),
                &collect(rows, TurnResult::attempts_made),
                &collect(rows, |result| result.wait().unwrap_or_default().as_secs_f64()),
            ],
        )
        .await
    }

    pub(super) async fn close(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let rows = &self.closed;
        if rows.is_empty() {
            return Ok(());
        }
        execute(
            transaction,
            &CLOSE,
            &[
                &collect(rows, |result| result.delivery.id.0),
                &collect(rows, |result| result.claim),
                &collect(rows, |result| result.delivery.webhook.id.0),
                &collect(rows, |result| result.delivery.row.day),
                &collect(rows, |result| result.delivery.row.key),
                &collect(rows, |result| result.closed_reason().map(ClosedReason::as_str)),
                &collect(rows, TurnResult::attempts_made),
                &collect(&self.succeeded, |result| result.delivery.id.0),
            ],
        )
        .await
    }

    /// A success ends the delivery whatever its claim: a duplicate event, or a late result, may find it pending or closed.
    pub(super) async fn delete_pending(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let delete = if self.locks_pending() { DELETE_PENDING_UNWAITING } else { DELETE_PENDING };
        self.delete_succeeded(transaction, delete).await
    }

    /// Comes after the statements on pending rows: these may wait for a transaction that closes the delivery, and only a later
    /// statement sees that.
    pub(super) async fn delete_closed(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let delete = if self.closed.is_empty() { DELETE_CLOSED } else { DELETE_CLOSED_UNWAITING };
        self.delete_succeeded(transaction, delete).await
    }

    async fn delete_succeeded(&self, transaction: &Transaction<'_>, delete: &str) -> Result<(), Error> {
        if self.succeeded.is_empty() {
            return Ok(());
        }
        execute(transaction, delete, &[&collect(&self.succeeded, |result| result.delivery.id.0)]).await
    }
}

/// The id is made of the webhook and the event, so a duplicate event finds its delivery pending already.
static INSERT_PENDING: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO pending_deliveries
            (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at, claim, created_at)
        SELECT id, webhook_id, activation, event_day, event_key, attempts_made, trigger,
            now() + make_interval(secs => wait), {NEW_CLAIM}, now() - make_interval(secs => waited)
        FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::date[], $5::uuid[], $6::integer[], $7::text[], $8::float8[],
                $9::float8[])
            AS result (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, wait, waited)
        ON CONFLICT DO NOTHING"
    )
});

const UPDATE_PENDING: &str = "
    UPDATE pending_deliveries pending
    SET attempts_made = result.attempts_made, due_at = now() + make_interval(secs => result.wait), trigger = 'retry',
        claim = pending.claim + 1
    FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::float8[]) AS result (id, claim, attempts_made, wait)
    WHERE pending.id = ANY ($1) AND pending.id = result.id AND pending.claim = result.claim";

/// Closes deliveries.
///
/// - `given`: the results that close a delivery.
/// - `there`: the ids of those that have a pending row, whatever its claim.
/// - `removed`: the ids of those whose pending row has the result's claim, and is deleted.
/// - `closing`: one row for each delivery to close: those removed, and those that came straight from their broker message and
///   have no pending row. An event that came twice may close its delivery twice, even in one batch: the closing after the
///   most attempts stands.
///
/// The closed rows of deliveries that succeeded (`$8`), which are deleted next, are written here as they are. So they are
/// locked in one order with the rows that are closed here.
///
/// `id = ANY ($1)` has PostgreSQL find the rows by their ids: a plan that was made while the table was small must not read
/// all of it later.
static CLOSE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH given AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::date[], $5::uuid[], $6::text[], $7::integer[])
                AS given (id, claim, webhook_id, event_day, event_key, reason, attempts_made)
        ), there AS MATERIALIZED (
            SELECT id FROM pending_deliveries WHERE id = ANY ($1)
        ), removed AS (
            DELETE FROM pending_deliveries pending USING given
            WHERE pending.id = ANY ($1) AND pending.id = given.id AND pending.claim = given.claim
            RETURNING pending.id
        ), closing AS (
            SELECT DISTINCT ON (id) id, webhook_id, event_day, event_key, reason, attempts_made, now() AS closed_at
            FROM given
            WHERE id IN (SELECT id FROM removed) OR (claim IS NULL AND id NOT IN (SELECT id FROM there))
            ORDER BY id, attempts_made DESC
        )
        INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made, closed_at)
        SELECT * FROM closing
        UNION ALL
        SELECT id, webhook_id, event_day, event_key, reason, attempts_made, closed_at FROM closed_deliveries
        WHERE id = ANY ($8) AND id NOT IN (SELECT id FROM closing)
        ORDER BY id {LATEST_CLOSING_STANDS}"
    )
});

/// Deletes the rows of deliveries that succeeded, locked in the order of their ids.
const DELETE_PENDING: &str = "
    DELETE FROM pending_deliveries WHERE id = ANY (ARRAY(
        SELECT id FROM pending_deliveries WHERE id = ANY ($1) ORDER BY id FOR UPDATE))";
const DELETE_CLOSED: &str = "
    DELETE FROM closed_deliveries WHERE id = ANY (ARRAY(
        SELECT id FROM closed_deliveries WHERE id = ANY ($1) ORDER BY id FOR UPDATE))";

/// The same if this transaction has already locked other rows of the table. A row that another transaction has inserted just
/// now is skipped: waiting for it would break the lock order. At worst a delivery that succeeded is attempted once more.
const DELETE_PENDING_UNWAITING: &str = "
    DELETE FROM pending_deliveries WHERE id = ANY (ARRAY(
        SELECT id FROM pending_deliveries WHERE id = ANY ($1) ORDER BY id FOR UPDATE SKIP LOCKED))";
const DELETE_CLOSED_UNWAITING: &str = "
    DELETE FROM closed_deliveries WHERE id = ANY (ARRAY(
        SELECT id FROM closed_deliveries WHERE id = ANY ($1) ORDER BY id FOR UPDATE SKIP LOCKED))";

pub(super) fn statements() -> [&'static str; 8] {
    [
        &INSERT_PENDING,
        LOCK_PENDING,
        UPDATE_PENDING,
        &CLOSE,
        DELETE_PENDING,
        DELETE_PENDING_UNWAITING,
        DELETE_CLOSED,
        DELETE_CLOSED_UNWAITING,
    ]
}

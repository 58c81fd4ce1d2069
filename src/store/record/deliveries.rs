//! What a batch does to pending and closed deliveries, in the store's order of locks.

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::super::due::latest_closing_stands;
use super::super::recover::new_claim;
use super::super::turn_result::TurnResult;
use super::{collect, execute};
use crate::delivery::ClosedReason;

/// What a batch does to the rows of its deliveries, each in the order of their ids.
pub(super) struct Deliveries<'a> {
    /// Attempted straight from their broker message, to be attempted again.
    first: Vec<&'a TurnResult>,
    /// Claimed, to be attempted again.
    again: Vec<&'a TurnResult>,
    closed: Vec<&'a TurnResult>,
    succeeded: Vec<&'a TurnResult>,
}

impl<'a> Deliveries<'a> {
    pub(super) fn of(batch: &'a [TurnResult]) -> Self {
        let mut rows: Vec<&TurnResult> = batch.iter().collect();
        // Stable: of a delivery that is twice in the batch the earlier result stays first.
        rows.sort_by_key(|finished| finished.delivery.id);
        let those = |which: fn(&TurnResult) -> bool| rows.iter().copied().filter(|finished| which(finished)).collect();
        Self {
            first: those(|f| f.claim.is_none() && f.wait().is_some()),
            again: those(|f| f.claim.is_some() && f.wait().is_some()),
            closed: those(|f| f.closed().is_some()),
            succeeded: those(TurnResult::succeeded),
        }
    }

    /// Whether pending rows are changed by more than one statement, so that they must be locked beforehand.
    fn locks_pending(&self) -> bool {
        !self.again.is_empty() || !self.closed.is_empty()
    }

    pub(super) async fn insert_pending(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        let rows = &self.first;
        if rows.is_empty() {
            return Ok(());
        }
        execute(
            transaction,
            INSERT_PENDING,
            &[
                &collect(rows, |f| f.delivery.id.0),
                &collect(rows, |f| f.delivery.webhook.id.0),
                &collect(rows, |f| f.delivery.webhook.activation),
                &collect(rows, |f| f.delivery.row.day),
                &collect(rows, |f| f.delivery.row.key),
                &collect(rows, TurnResult::attempts_made),
                &collect(rows, |f| f.next_trigger().as_str()),
                &collect(rows, |f| f.wait().unwrap_or_default().as_secs_f64()),
            ],
        )
        .await
    }

    pub(super) async fn lock_pending(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        if !self.locks_pending() {
            return Ok(());
        }
        let rows = self.again.iter().chain(&self.closed).chain(&self.succeeded);
        let ids: Vec<Uuid> = rows.map(|finished| finished.delivery.id.0).collect();
        execute(transaction, LOCK_PENDING, &[&ids]).await
    }

    pub(super) async fn update_pending(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        let rows = &self.again;
        if rows.is_empty() {
            return Ok(());
        }
        execute(
            transaction,
            UPDATE_PENDING,
            &[
                &collect(rows, |f| f.delivery.id.0),
                &collect(rows, |f| f.claim.unwrap_or_default()),
                &collect(rows, TurnResult::attempts_made),
                &collect(rows, |f| f.wait().unwrap_or_default().as_secs_f64()),
            ],
        )
        .await
    }

    pub(super) async fn close(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        let rows = &self.closed;
        if rows.is_empty() {
            return Ok(());
        }
        execute(
            transaction,
            CLOSE,
            &[
                &collect(rows, |f| f.delivery.id.0),
                &collect(rows, |f| f.claim),
                &collect(rows, |f| f.delivery.webhook.id.0),
                &collect(rows, |f| f.delivery.row.day),
                &collect(rows, |f| f.delivery.row.key),
                &collect(rows, |f| f.closed().map(ClosedReason::as_str)),
                &collect(rows, TurnResult::attempts_made),
                &collect(&self.succeeded, |f| f.delivery.id.0),
            ],
        )
        .await
    }

    /// Whoever succeeded, the delivery is done: also one that a duplicate event or a late result finds pending or closed.
    pub(super) async fn delete_pending(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        let delete = if self.locks_pending() { DELETE_PENDING_LOCKED } else { DELETE_PENDING };
        self.delete_succeeded(transaction, delete).await
    }

    /// A statement of its own after the pending rows: it sees also what was closed while one of these was waited for.
    pub(super) async fn delete_closed(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        let delete = if self.closed.is_empty() { DELETE_CLOSED } else { DELETE_CLOSED_LOCKED };
        self.delete_succeeded(transaction, delete).await
    }

    async fn delete_succeeded(&self, transaction: &Transaction<'_>, delete: &str) -> Result<(), tokio_postgres::Error> {
        if self.succeeded.is_empty() {
            return Ok(());
        }
        execute(transaction, delete, &[&collect(&self.succeeded, |f| f.delivery.id.0)]).await
    }
}

/// The id is the pair of webhook and event: a duplicate event finds its delivery pending already. The claim is above all
/// the delivery ever had, also those of rows that are gone: no old result is taken for a new one.
const INSERT_PENDING: &str = concat!(
    "INSERT INTO pending_deliveries
        (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at, claim)
    SELECT id, webhook_id, activation, event_day, event_key, attempts_made, trigger, now() + make_interval(secs => wait), ",
    new_claim!(),
    " FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::date[], $5::uuid[], $6::integer[], $7::text[], $8::float8[])
        AS p (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, wait)
    ON CONFLICT DO NOTHING"
);

const LOCK_PENDING: &str = "SELECT FROM pending_deliveries WHERE id = ANY ($1) ORDER BY id FOR UPDATE";

const UPDATE_PENDING: &str = "
    UPDATE pending_deliveries p
    SET attempts_made = r.attempts_made, due_at = now() + make_interval(secs => r.wait), trigger = 'retry',
        claim = p.claim + 1
    FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::float8[]) AS r (id, claim, attempts_made, wait)
    WHERE p.id = ANY ($1) AND p.id = r.id AND p.claim = r.claim";

/// Rows are found by the array of their ids: a plan made while the table was small must not read all of it later. An event
/// that came twice may close its delivery twice, even in one batch: the latest closing stands. The closed rows
/// of deliveries that succeeded ($8), which are deleted next, are written as they are: that locks them in one order with
/// those that are closed here.
const CLOSE: &str = concat!(
    "WITH given AS (
        SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::date[], $5::uuid[], $6::text[], $7::integer[])
            AS g (id, claim, webhook_id, event_day, event_key, reason, attempts_made)
    ), there AS MATERIALIZED (
        SELECT id FROM pending_deliveries WHERE id = ANY ($1)
    ), removed AS (
        DELETE FROM pending_deliveries p USING given g
        WHERE p.id = ANY ($1) AND p.id = g.id AND p.claim = g.claim RETURNING p.id
    ), closing AS (
        SELECT DISTINCT ON (g.id)
            g.id, g.webhook_id, g.event_day, g.event_key, g.reason, g.attempts_made, now() AS closed_at
        FROM given g
        WHERE g.id IN (SELECT id FROM removed)
           OR (g.claim IS NULL AND g.id NOT IN (SELECT id FROM there))
        ORDER BY g.id, g.attempts_made DESC
    )
    INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made, closed_at)
    SELECT * FROM closing
    UNION ALL
    SELECT id, webhook_id, event_day, event_key, reason, attempts_made, closed_at FROM closed_deliveries
    WHERE id = ANY ($8) AND id NOT IN (SELECT id FROM closing)
    ORDER BY id ",
    latest_closing_stands!()
);

/// A row that another transaction has just inserted and holds may be skipped where its kind is locked already: to wait for
/// it would break the order, and at worst a delivery that succeeded is attempted once more.
macro_rules! delete_in_order {
    ($table:literal, $held:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE id = ANY (ARRAY(SELECT id FROM ",
            $table,
            " WHERE id = ANY ($1) ORDER BY id FOR UPDATE ",
            $held,
            "))"
        )
    };
}

const DELETE_PENDING: &str = delete_in_order!("pending_deliveries", "");
const DELETE_PENDING_LOCKED: &str = delete_in_order!("pending_deliveries", "SKIP LOCKED");
const DELETE_CLOSED: &str = delete_in_order!("closed_deliveries", "");
const DELETE_CLOSED_LOCKED: &str = delete_in_order!("closed_deliveries", "SKIP LOCKED");

pub(super) const STATEMENTS: [&str; 8] = [
    INSERT_PENDING,
    LOCK_PENDING,
    UPDATE_PENDING,
    CLOSE,
    DELETE_PENDING,
    DELETE_PENDING_LOCKED,
    DELETE_CLOSED,
    DELETE_CLOSED_LOCKED,
];

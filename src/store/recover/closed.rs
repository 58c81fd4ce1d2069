//! Reads closed deliveries page by page, with whether their events are still stored.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::Error;
use uuid::Uuid;

use super::events::stored_events;
use crate::ids::WebhookId;
use crate::store::sql::query;
use crate::store::{Params, Position, column};

/// The deliveries of a webhook that were closed in a span of time.
#[derive(Debug, Clone, Copy)]
pub struct ClosedSpan {
    pub since: Timestamp,
    /// Deliveries that are closed later do not belong to the span: one that is recovered and fails at once is not recovered
    /// again.
    pub until: Timestamp,
    /// The number of deliveries whose events are stored.
    pub recoverable: u64,
    /// The number of deliveries whose events are gone: retention has dropped them, or an operator has erased them.
    pub dropped: u64,
}

/// Before all closed deliveries.
pub(super) const FIRST: Position = Position { time: Timestamp::UNIX_EPOCH, id: Uuid::nil() };

/// A page of closed deliveries, in the order in which they were closed.
pub(super) struct ClosedPage {
    /// The number of deliveries on the page.
    pub(super) rows: u64,
    /// Those whose events are stored.
    pub(super) recoverable: Vec<ClosedRow>,
    /// The last delivery of the page, if there may be more after it.
    pub(super) next: Option<Position>,
}

pub(super) struct ClosedRow {
    pub(super) id: Uuid,
    pub(super) event_day: Date,
    pub(super) event_key: Uuid,
}

/// Reads a page of closed deliveries. It locks no rows, so it may come before statements that do.
pub(super) async fn read_closed(
    transaction: &Transaction<'_>,
    webhook: WebhookId,
    span: &ClosedSpan,
    after: Position,
    limit: i64,
) -> Result<ClosedPage, Error> {
    let params: Params<'_> = &[&webhook.0, &span.since, &span.until, &after.time, &after.id, &limit];
    let rows = query(transaction, CLOSED, params).await?;
    let position = |row| Position { time: column(row, "closed_at"), id: column(row, "id") };
    let next = rows.last().filter(|_| i64::try_from(rows.len()) == Ok(limit)).map(position);
    let events: Vec<(Date, Uuid)> =
        rows.iter().map(|row| (column(row, "event_day"), column(row, "event_key"))).collect();
    let stored = stored_events(transaction, &events).await?;
    let closed = |row| ClosedRow {
        id: column(row, "id"),
        event_day: column(row, "event_day"),
        event_key: column(row, "event_key"),
    };
    let recoverable = rows.iter().map(closed).filter(|row| stored.contains(&(row.event_day, row.event_key))).collect();
    Ok(ClosedPage { rows: rows.len() as u64, recoverable, next })
}

const CLOSED: &str = "
    SELECT id, event_day, event_key, closed_at FROM closed_deliveries
    WHERE webhook_id = $1 AND closed_at BETWEEN $2 AND $3 AND (closed_at, id) > ($4, $5)
    ORDER BY closed_at, id LIMIT $6";

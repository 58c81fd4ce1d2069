//! Recovers a webhook's closed deliveries: makes them pending again, from the beginning of their schedule.
//!
//! A delivery is moved, never copied, in one transaction that holds the row of its webhook. So nothing is doubled and nothing
//! is lost if a recovery is repeated, interrupted, or done by two processes at once. Switching the webhook off happens before
//! or after such a transaction, never in between.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::LazyLock;
use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::partitions::EVENTS_IN_USE;
use super::sql::{LOCK_PENDING, NEW_CLAIM, query};
use super::{Params, Position, Scope, Store, StoreError, column};
use crate::ids::WebhookId;

mod closed;
mod events;

pub use closed::ClosedSpan;
use closed::{ClosedRow, FIRST, read_closed};
pub(super) use events::stored_events;

/// Deliveries that one transaction moves: so few that a customer's change of the webhook, and results of these deliveries,
/// wait only briefly.
const BATCH: i64 = 500;
/// Closed deliveries that one transaction counts.
const PAGE: i64 = 10_000;
/// Closed deliveries that another transaction has locked are tried so often, with this time in between.
const TRIES: u32 = 100;
const TRIES_APART: Duration = Duration::from_millis(200);

/// Why a delivery is not sent again.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("there is no such webhook")]
    UnknownWebhook,
    #[error("the webhook is switched off")]
    Off,
    /// With the reason for which we disabled it.
    #[error("the webhook was disabled: {0}")]
    Disabled(String),
    #[error("the webhook has no such delivery")]
    UnknownDelivery,
    #[error("the delivery's event is no longer kept")]
    EventDropped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The span that is recovered. It ends now, by Postgres's clock, or before.
#[derive(Debug, Clone, Copy)]
pub enum RecoverySpan {
    Since(Timestamp),
    /// From the first time on, and before the second.
    Between(Timestamp, Timestamp),
    /// This long ago, by Postgres's clock.
    Ago(Duration),
}

impl RecoverySpan {
    /// From `since` on and before `until`; `None` if this is no span, because the end is not later.
    pub(crate) fn between(since: Timestamp, until: Timestamp) -> Option<Self> {
        (since < until).then_some(Self::Between(since, until))
    }
}

/// What became of a request to recover a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requested {
    Stored,
    /// Nothing was stored: the webhook has an unfinished request for another span.
    Unfinished,
}

/// A recovery that was requested.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovery {
    pub webhook: WebhookId,
    pub span: ClosedSpan,
}

/// The years of times that Postgres stores and RFC 3339 can write.
pub(crate) const YEARS: RangeInclusive<i16> = 1970..=9999;

impl Store {
    /// Counts the deliveries that [`Store::recover`] would recover, `most` at most.
    ///
    /// # Errors
    ///
    /// [`RecoverError::UnknownWebhook`], [`RecoverError::Off`] or [`RecoverError::Disabled`] if the webhook cannot get
    /// deliveries; else the database is not available or busy.
    pub async fn count_closed(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        span: RecoverySpan,
        most: i64,
    ) -> Result<ClosedSpan, RecoverError> {
        let state = self.query(WEBHOOK_STATE, &[&webhook.0, &scope.account()]).await?;
        check_active(state.first())?;
        Ok(self.count_span(webhook, span, most).await?)
    }

    /// As [`Store::count_closed`], also for a webhook that is switched off.
    ///
    /// # Errors
    ///
    /// [`RecoverError::UnknownWebhook`]; else the database is not available or busy.
    pub(crate) async fn count_recoverable(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        span: RecoverySpan,
        most: i64,
    ) -> Result<ClosedSpan, RecoverError> {
        let state = self.query(WEBHOOK_STATE, &[&webhook.0, &scope.account()]).await?;
        state.first().ok_or(RecoverError::UnknownWebhook)?;
        Ok(self.count_span(webhook, span, most).await?)
    }

    async fn count_span(&self, webhook: WebhookId, asked: RecoverySpan, most: i64) -> Result<ClosedSpan, StoreError> {
        let (time, ago, before) = match asked {
            RecoverySpan::Since(time) => (Some(time), None, None),
            RecoverySpan::Between(time, before) => (Some(time), None, Some(before)),
            RecoverySpan::Ago(ago) => (None, Some(ago.as_secs_f64()), None),
        };
        let rows = self.query(SPAN, &[&time, &ago, &before]).await?;
        let row = rows.first().expect("a span is one row");
        let mut span =
            ClosedSpan { since: column(row, "since"), until: column(row, "until"), recoverable: 0, dropped: 0 };
        let (mut next, mut left) = (Some(FIRST), most);
        while let Some(after) = next.filter(|_| left > 0) {
            let limit = left.min(PAGE);
            let page = async |client: &mut Object| {
                let transaction = client.transaction().await?;
                let page = read_closed(&transaction, webhook, &span, after, limit).await?;
                transaction.commit().await?;
                Ok(page)
            };
            let page = self.write(page).await?;
            let recoverable = u64::try_from(page.recoverable.len()).unwrap_or(u64::MAX);
            span.recoverable += recoverable;
            span.dropped += page.rows - recoverable;
            left -= PAGE;
            next = page.next;
        }
        Ok(span)
    }

    /// Recovers all deliveries of a span. They fall due one after the other, `rate` a second, after those that were recovered
    /// before. `recovered` is called with the number of deliveries after each transaction; these stay recovered if a later
    /// transaction fails.
    ///
    /// # Errors
    ///
    /// As [`Store::count_closed`]. [`StoreError::Busy`] also if other transactions keep some deliveries locked for long:
    /// recover the same span again.
    pub async fn recover(
        &self,
        webhook: WebhookId,
        span: &ClosedSpan,
        rate: u32,
        mut recovered: impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        for _ in 0..TRIES {
            let (mut next, mut skipped) = (Some(FIRST), false);
            while let Some(after) = next {
                let batch = self.recover_batch(webhook, span, rate, after).await?;
                if batch.recovered > 0 {
                    recovered(batch.recovered);
                }
                skipped |= batch.skipped;
                next = batch.next;
            }
            if !skipped {
                return Ok(());
            }
            tokio::time::sleep(TRIES_APART).await;
        }
        let locked = anyhow::anyhow!("other transactions keep some closed deliveries locked: try again");
        Err(StoreError::Busy(locked).into())
    }

    /// Stores a request to recover a span, for the process that carries it out. A second request for the same webhook widens
    /// the span of the first if the two have a common part. If they have none, it is refused until the first is finished: one
    /// span over both would also recover what lies between them.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: perhaps the request was stored, if only the answer is missing.
    pub(crate) async fn request_recovery(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        span: &ClosedSpan,
    ) -> Result<Requested, StoreError> {
        let stored = self.execute(REQUEST, &[&webhook.0, &scope.account(), &span.since, &span.until]).await?;
        Ok(if stored > 0 { Requested::Stored } else { Requested::Unfinished })
    }

    /// The requested recoveries that are not finished, 100 at most.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn recoveries(&self) -> Result<Vec<Recovery>, StoreError> {
        let rows = self.query("SELECT webhook_id, since, until FROM recoveries ORDER BY until LIMIT 100", &[]).await?;
        let recovery = |row| Recovery {
            webhook: WebhookId(column(row, "webhook_id")),
            span: ClosedSpan { since: column(row, "since"), until: column(row, "until"), recoverable: 0, dropped: 0 },
        };
        Ok(rows.iter().map(recovery).collect())
    }

    /// Deletes the request of a recovery that is finished, unless a second request has widened its span meanwhile.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: the recovery is carried out again, and finds nothing to do.
    pub(crate) async fn finish_recovery(&self, done: &Recovery) -> Result<(), StoreError> {
        let delete = "DELETE FROM recoveries WHERE webhook_id = $1 AND since = $2 AND until = $3";
        self.execute(delete, &[&done.webhook.0, &done.span.since, &done.span.until]).await.map(drop)
    }

    async fn recover_batch(
        &self,
        webhook: WebhookId,
        span: &ClosedSpan,
        rate: u32,
        after: Position,
    ) -> Result<Batch, RecoverError> {
        // The account was checked when the span was counted.
        let scope = Scope::Everyone;
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            if let Err(refused) = lock_active(&transaction, scope, webhook).await? {
                return Ok(Err(refused));
            }
            let page = read_closed(&transaction, webhook, span, after, BATCH).await?;
            let recovered = move_to_pending(&transaction, webhook, span, &page.recoverable, rate).await?;
            transaction.commit().await?;
            let skipped = recovered < page.recoverable.len();
            Ok(Ok(Batch { recovered: recovered as u64, skipped, next: page.next }))
        };
        self.write(work).await?
    }
}

/// What one transaction of a recovery did.
struct Batch {
    recovered: u64,
    /// Whether some deliveries stay closed for now: another transaction has locked or moved them.
    skipped: bool,
    /// The last delivery of the batch, if there may be more after it.
    next: Option<Position>,
}

/// Makes closed deliveries pending and returns how many. Those that another transaction has moved or locked are left out.
///
/// The statements keep the store's lock order (the head of `store.rs`), and each relies on the one before:
///
/// 1. Insert the pending rows that are not there, by id. An insert may wait for another transaction's insert of the same id,
///    so it comes before any lock on a pending row.
/// 2. Lock and change the pending rows that were there, by id.
/// 3. Delete the closed rows. Only now is it known which of them are still closed and not locked.
/// 4. Delete the pending rows of step 1 whose closed rows step 3 did not delete: they belong to another transaction.
async fn move_to_pending(
    transaction: &Transaction<'_>,
    webhook: WebhookId,
    span: &ClosedSpan,
    closed: &[ClosedRow],
    rate: u32,
) -> Result<usize, Error> {
    if closed.is_empty() {
        return Ok(0);
    }
    let rate = f64::from(rate);
    let start: Timestamp = match query(transaction, START, &[&webhook.0]).await?.first() {
        Some(row) => column(row, "start"),
        None => return Ok(0),
    };
    // The wait follows the order of closing, the statements the order of ids.
    let mut rows: Vec<(&ClosedRow, f64)> =
        closed.iter().zip(0..).map(|(row, place)| (row, f64::from(place) / rate)).collect();
    rows.sort_by_key(|(row, _)| row.id);
    let ids: Vec<Uuid> = rows.iter().map(|(row, _)| row.id).collect();
    let days: Vec<Date> = rows.iter().map(|(row, _)| row.event_day).collect();
    let keys: Vec<Uuid> = rows.iter().map(|(row, _)| row.event_key).collect();
    let waits: Vec<f64> = rows.iter().map(|(_, wait)| *wait).collect();
    let params: Params<'_> = &[&webhook.0, &start, &ids, &days, &keys, &waits];
    let inserted = query(transaction, &INSERT_PENDING, params).await?;
    query(transaction, LOCK_PENDING, &[&ids]).await?;
    query(transaction, &REACTIVATE_PENDING, params).await?;
    let deleted = query(transaction, DELETE_CLOSED, &[&ids, &span.since, &span.until]).await?;
    let deleted: HashSet<Uuid> = deleted.iter().map(|row| column(row, "id")).collect();
    let still_closed: Vec<Uuid> =
        inserted.iter().map(|row| column(row, "id")).filter(|id| !deleted.contains(id)).collect();
    if !still_closed.is_empty() {
        query(transaction, "DELETE FROM pending_deliveries WHERE id = ANY ($1)", &[&still_closed]).await?;
    }
    let spread = closed.len() as f64 / rate;
    query(transaction, CONTINUE_AFTER, &[&webhook.0, &start, &spread]).await?;
    Ok(deleted.len())
}

/// Locks the row of an active webhook, and keeps retention from dropping events, until the transaction ends.
pub(super) async fn lock_active(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    webhook: WebhookId,
) -> Result<Result<(), RecoverError>, Error> {
    query(transaction, "SELECT pg_advisory_xact_lock_shared($1)", &[&EVENTS_IN_USE]).await?;
    Ok(check_active(query(transaction, &LOCK_WEBHOOK, &[&webhook.0, &scope.account()]).await?.first()))
}

fn check_active(state: Option<&Row>) -> Result<(), RecoverError> {
    let row = state.ok_or(RecoverError::UnknownWebhook)?;
    let disabled: Option<String> = column(row, "disabled_reason");
    match disabled {
        _ if column(row, "active") => Ok(()),
        Some(reason) => Err(RecoverError::Disabled(reason)),
        None => Err(RecoverError::Off),
    }
}

const REQUEST: &str = "
    INSERT INTO recoveries (webhook_id, since, until)
    SELECT id, $3, $4 FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id)
    ON CONFLICT (webhook_id) DO UPDATE
    SET since = least(recoveries.since, excluded.since), until = greatest(recoveries.until, excluded.until)
    WHERE recoveries.since <= excluded.until AND excluded.since <= recoveries.until";

const WEBHOOK_STATE: &str = "
    SELECT active, disabled_reason FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id)";

static LOCK_WEBHOOK: LazyLock<String> = LazyLock::new(|| format!("{WEBHOOK_STATE} FOR NO KEY UPDATE"));

const SPAN: &str = "
    SELECT coalesce($1::timestamptz, now() - make_interval(secs => $2::float8)) AS since,
        least(now(), $3::timestamptz - interval '1 microsecond') AS until";

/// Deliveries that were recovered before fall due before these.
const START: &str = "SELECT greatest(recovering_until, statement_timestamp()) AS start FROM webhooks WHERE id = $1";

/// The next recovery of the webhook begins after the last of these.
const CONTINUE_AFTER: &str = "
    UPDATE webhooks SET recovering_until = $2::timestamptz + make_interval(secs => $3) WHERE id = $1";

/// Skips deliveries that are pending already.
static INSERT_PENDING: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO pending_deliveries
            (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at, claim)
        SELECT closed.id, webhook.id, webhook.activation, closed.event_day, closed.event_key, 0, 'resend',
            $2::timestamptz + make_interval(secs => closed.wait), {NEW_CLAIM}
        FROM unnest($3::uuid[], $4::date[], $5::uuid[], $6::float8[]) AS closed (id, event_day, event_key, wait)
        JOIN webhooks webhook ON webhook.id = $1
        ORDER BY closed.id
        ON CONFLICT DO NOTHING RETURNING id"
    )
});

/// A delivery may be closed and pending at once, because its event came twice. Its pending row stays as it is, unless the
/// webhook was off in between: such a row would be cancelled, so it becomes a recovered one.
static REACTIVATE_PENDING: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE pending_deliveries pending
        SET activation = webhook.activation, event_day = closed.event_day, event_key = closed.event_key,
            attempts_made = 0, trigger = 'resend', due_at = $2::timestamptz + make_interval(secs => closed.wait),
            claim = greatest(pending.claim + 1, {NEW_CLAIM})
        FROM unnest($3::uuid[], $4::date[], $5::uuid[], $6::float8[]) AS closed (id, event_day, event_key, wait),
            webhooks webhook
        WHERE pending.id = closed.id AND webhook.id = $1 AND pending.activation < webhook.activation"
    )
});

/// Skips rows that another transaction has locked: it may be a success that is about to delete the row. A delivery that was
/// closed again after the span is left out.
const DELETE_CLOSED: &str = "
    DELETE FROM closed_deliveries WHERE id = ANY (ARRAY(
        SELECT id FROM closed_deliveries WHERE id = ANY ($1) AND closed_at BETWEEN $2 AND $3
        ORDER BY id FOR UPDATE SKIP LOCKED))
    RETURNING id";

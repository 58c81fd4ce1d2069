//! Takes a webhook's closed deliveries back to the beginning of their schedule.
//!
//! A delivery is moved, never copied, in one transaction that holds its webhook's row: repeated, interrupted or done by
//! two at once, nothing is doubled and nothing is lost. Switching the webhook off comes before or after, never between.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Params, Position, Scope, Store, StoreError, column, partitions};
use crate::ids::WebhookId;

mod events;

pub(super) use events::stored_events;

/// Deliveries moved by one transaction, short enough that the webhook's own results do not wait for long.
const BATCH: i64 = 500;
/// Closed deliveries counted by one transaction.
const PAGE: i64 = 10_000;
/// Closed deliveries that somebody else holds are asked for again, so often and after so long.
const TRIES: u32 = 100;
const HELD_WAIT: Duration = Duration::from_millis(200);

/// Why a delivery stays what it is.
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

/// From when on closed deliveries are recovered.
#[derive(Debug, Clone, Copy)]
pub enum Since {
    Time(Timestamp),
    /// So long ago, by Postgres's clock.
    Ago(Duration),
}

/// A webhook's deliveries that were closed in a span of time.
#[derive(Debug, Clone, Copy)]
pub struct ClosedSpan {
    pub since: Timestamp,
    /// What is closed later is not part of it: a recovered delivery that fails at once is recovered once.
    pub until: Timestamp,
    pub recoverable: u64,
    /// Those whose event is gone: retention has dropped it, or somebody has erased it.
    pub dropped: u64,
}

/// A span that somebody asked to have recovered.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    pub webhook: WebhookId,
    pub span: ClosedSpan,
}

/// Years of a time that Postgres keeps and RFC 3339 writes.
pub const YEARS: RangeInclusive<i16> = 1970..=9999;

impl Store {
    /// Counts what `recover` would take, and no further than `most`. Refused as that would be.
    pub async fn closed(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        since: Since,
        most: i64,
    ) -> Result<ClosedSpan, RecoverError> {
        let state = self.query(STATE, &[&webhook.0, &scope.account()]).await?;
        active(state.first())?;
        let (time, ago) = match since {
            Since::Time(time) => (Some(time), None),
            Since::Ago(ago) => (None, Some(ago.as_secs_f64())),
        };
        let rows = self.query(SPAN, &[&time, &ago]).await?;
        let row = rows.first().expect("a span is one row");
        let mut closed =
            ClosedSpan { since: column(row, "since"), until: column(row, "until"), recoverable: 0, dropped: 0 };
        let (mut after, mut left) = (Some(FIRST), most);
        while let Some(place) = after.filter(|_| left > 0) {
            let limit = left.min(PAGE);
            let page = async |client: &mut Object| {
                let transaction = client.transaction().await?;
                let page = closed_page(&transaction, webhook, &closed, place, limit).await?;
                transaction.commit().await?;
                Ok(page)
            };
            let page = self.write(page).await?;
            let recoverable = u64::try_from(page.recoverable.len()).unwrap_or(u64::MAX);
            closed.recoverable += recoverable;
            closed.dropped += page.rows - recoverable;
            left -= PAGE;
            after = page.next;
        }
        Ok(closed)
    }

    /// Takes them all back, due one after the other at `rate` a second after what was recovered before. Tells how many
    /// after each batch; those are recovered, whatever becomes of the rest.
    pub async fn recover(
        &self,
        webhook: WebhookId,
        span: &ClosedSpan,
        rate: u32,
        mut recovered: impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        for _ in 0..TRIES {
            let (mut after, mut held) = (Some(FIRST), false);
            while let Some(place) = after {
                let batch = self.recover_batch(webhook, span, rate, place).await?;
                if batch.recovered > 0 {
                    recovered(batch.recovered);
                }
                held |= batch.held;
                after = batch.next;
            }
            if !held {
                return Ok(());
            }
            tokio::time::sleep(HELD_WAIT).await;
        }
        let held = anyhow::anyhow!("some closed deliveries are held by somebody else: try again");
        Err(StoreError::Busy(held).into())
    }

    /// Notes down that a span is to be recovered, for whoever carries it out. A second wish for the same webhook widens
    /// the first.
    pub async fn ask_to_recover(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        span: &ClosedSpan,
    ) -> Result<(), StoreError> {
        self.execute(ASK, &[&webhook.0, &scope.account(), &span.since, &span.until]).await.map(drop)
    }

    /// The recoveries that were asked for and are not done.
    pub async fn recoveries(&self) -> Result<Vec<Recovery>, StoreError> {
        let rows = self.query("SELECT webhook_id, since, until FROM recoveries ORDER BY until LIMIT 100", &[]).await?;
        let recovery = |row| Recovery {
            webhook: WebhookId(column(row, "webhook_id")),
            span: ClosedSpan { since: column(row, "since"), until: column(row, "until"), recoverable: 0, dropped: 0 },
        };
        Ok(rows.iter().map(recovery).collect())
    }

    /// Ends a recovery, unless it was widened meanwhile.
    pub async fn forget_recovery(&self, done: &Recovery) -> Result<(), StoreError> {
        let forget = "DELETE FROM recoveries WHERE webhook_id = $1 AND since = $2 AND until = $3";
        self.execute(forget, &[&done.webhook.0, &done.span.since, &done.span.until]).await.map(drop)
    }

    async fn recover_batch(
        &self,
        webhook: WebhookId,
        span: &ClosedSpan,
        rate: u32,
        after: Position,
    ) -> Result<Batch, RecoverError> {
        // Whoever asks was told of `span` for this webhook.
        let scope = Scope::Everyone;
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            if let Err(refused) = lock_active(&transaction, scope, webhook).await? {
                return Ok(Err(refused));
            }
            let page = closed_page(&transaction, webhook, span, after, BATCH).await?;
            let recovered = move_to_pending(&transaction, webhook, span, &page.recoverable, rate).await?;
            transaction.commit().await?;
            let held = recovered < page.recoverable.len();
            Ok(Ok(Batch { recovered: recovered as u64, held, next: page.next }))
        };
        self.write(work).await?
    }
}

/// What became of a batch.
struct Batch {
    recovered: u64,
    /// Some stay closed for now: somebody holds them, or has just taken them.
    held: bool,
    /// The last of it, if there may be more.
    next: Option<Position>,
}

/// Before all closed deliveries.
const FIRST: Position = Position { time: Timestamp::UNIX_EPOCH, id: Uuid::nil() };

/// Some closed deliveries, in the order of their closing.
struct Page {
    rows: u64,
    /// Those whose event is still there.
    recoverable: Vec<ClosedRow>,
    next: Option<Position>,
}

struct ClosedRow {
    id: Uuid,
    event_day: Date,
    event_key: Uuid,
}

/// Locks nothing, so that it may come before whatever takes locks.
async fn closed_page(
    transaction: &Transaction<'_>,
    webhook: WebhookId,
    span: &ClosedSpan,
    after: Position,
    limit: i64,
) -> Result<Page, tokio_postgres::Error> {
    let params: Params<'_> = &[&webhook.0, &span.since, &span.until, &after.time, &after.id, &limit];
    let rows = query(transaction, CLOSED, params).await?;
    let place = |row| Position { time: column(row, "closed_at"), id: column(row, "id") };
    let next = rows.last().filter(|_| i64::try_from(rows.len()) == Ok(limit)).map(place);
    let events: Vec<(Date, Uuid)> =
        rows.iter().map(|row| (column(row, "event_day"), column(row, "event_key"))).collect();
    let stored = stored_events(transaction, &events).await?;
    let closed = |row| ClosedRow {
        id: column(row, "id"),
        event_day: column(row, "event_day"),
        event_key: column(row, "event_key"),
    };
    let recoverable = rows.iter().map(closed).filter(|row| stored.contains(&(row.event_day, row.event_key))).collect();
    Ok(Page { rows: rows.len() as u64, recoverable, next })
}

/// Makes closed deliveries pending, in the store's order of locks: inserts, rows that are pending already, closed rows.
/// Returns how many. One that somebody else has taken meanwhile, or holds, is left to them.
async fn move_to_pending(
    transaction: &Transaction<'_>,
    webhook: WebhookId,
    span: &ClosedSpan,
    closed: &[ClosedRow],
    rate: u32,
) -> Result<usize, tokio_postgres::Error> {
    if closed.is_empty() {
        return Ok(0);
    }
    let rate = f64::from(rate);
    let start: Timestamp = match query(transaction, START, &[&webhook.0]).await?.first() {
        Some(row) => column(row, "start"),
        None => return Ok(0),
    };
    let mut rows: Vec<(&ClosedRow, f64)> =
        closed.iter().zip(0..).map(|(row, place)| (row, f64::from(place) / rate)).collect();
    rows.sort_by_key(|(row, _)| row.id);
    let ids: Vec<Uuid> = rows.iter().map(|(row, _)| row.id).collect();
    let days: Vec<Date> = rows.iter().map(|(row, _)| row.event_day).collect();
    let keys: Vec<Uuid> = rows.iter().map(|(row, _)| row.event_key).collect();
    let waits: Vec<f64> = rows.iter().map(|(_, wait)| *wait).collect();
    let params: Params<'_> = &[&webhook.0, &start, &ids, &days, &keys, &waits];
    let inserted = query(transaction, INSERT_AGAIN, params).await?;
    query(transaction, LOCK_PENDING, &[&ids]).await?;
    query(transaction, UPDATE_AGAIN, params).await?;
    let taken = query(transaction, TAKE_CLOSED, &[&ids, &span.since, &span.until]).await?;
    let taken: HashSet<Uuid> = taken.iter().map(|row| column(row, "id")).collect();
    let vain = inserted.iter().map(|row| column(row, "id")).filter(|id| !taken.contains(id)).collect::<Vec<Uuid>>();
    if !vain.is_empty() {
        query(transaction, "DELETE FROM pending_deliveries WHERE id = ANY ($1)", &[&vain]).await?;
    }
    let spread = closed.len() as f64 / rate;
    query(transaction, CONTINUE, &[&webhook.0, &start, &spread]).await?;
    Ok(taken.len())
}

/// Holds an active webhook's row, and retention off the events, until the transaction ends.
pub(super) async fn lock_active(
    transaction: &Transaction<'_>,
    scope: Scope<'_>,
    webhook: WebhookId,
) -> Result<Result<(), RecoverError>, tokio_postgres::Error> {
    query(transaction, "SELECT pg_advisory_xact_lock_shared($1)", &[&partitions::LOCK]).await?;
    Ok(active(query(transaction, LOCK, &[&webhook.0, &scope.account()]).await?.first()))
}

fn active(state: Option<&Row>) -> Result<(), RecoverError> {
    let row = state.ok_or(RecoverError::UnknownWebhook)?;
    let disabled: Option<String> = column(row, "disabled_reason");
    match disabled {
        _ if column(row, "active") => Ok(()),
        Some(reason) => Err(RecoverError::Disabled(reason)),
        None => Err(RecoverError::Off),
    }
}

pub(super) async fn query(
    transaction: &Transaction<'_>,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = transaction.prepare_cached(sql).await?;
    transaction.query(&statement, params).await
}

/// Above all claims that the delivery ever had, also those of rows that are gone: no old result is taken for a new one.
macro_rules! new_claim {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}
pub(super) use new_claim;

const ASK: &str = "
    INSERT INTO recoveries (webhook_id, since, until)
    SELECT id, $3, $4 FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id)
    ON CONFLICT (webhook_id) DO UPDATE
    SET since = least(recoveries.since, excluded.since), until = greatest(recoveries.until, excluded.until)";

macro_rules! state {
    () => {
        "SELECT active, disabled_reason FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id)"
    };
}

const STATE: &str = state!();
const LOCK: &str = concat!(state!(), " FOR NO KEY UPDATE");

const SPAN: &str = "
    SELECT coalesce($1::timestamptz, now() - make_interval(secs => $2::float8)) AS since, now() AS until";

const CLOSED: &str = "
    SELECT id, event_day, event_key, closed_at FROM closed_deliveries
    WHERE webhook_id = $1 AND closed_at BETWEEN $2 AND $3 AND (closed_at, id) > ($4, $5)
    ORDER BY closed_at, id LIMIT $6";

/// What was recovered before falls due first.
const START: &str = "SELECT greatest(recovering_until, statement_timestamp()) AS start FROM webhooks WHERE id = $1";

const INSERT_AGAIN: &str = concat!(
    "INSERT INTO pending_deliveries
         (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at, claim)
     SELECT d.id, w.id, w.activation, d.event_day, d.event_key, 0, 'resend', $2::timestamptz + make_interval(secs => d.wait), ",
    new_claim!(),
    " FROM unnest($3::uuid[], $4::date[], $5::uuid[], $6::float8[]) AS d (id, event_day, event_key, wait)
      JOIN webhooks w ON w.id = $1
      ORDER BY d.id
      ON CONFLICT DO NOTHING RETURNING id"
);

const LOCK_PENDING: &str = "SELECT FROM pending_deliveries WHERE id = ANY ($1) ORDER BY id FOR UPDATE";

/// One that is pending already, for its event came twice, keeps its place, unless it would be cancelled there.
const UPDATE_AGAIN: &str = concat!(
    "UPDATE pending_deliveries p
     SET activation = w.activation, event_day = d.event_day, event_key = d.event_key, attempts_made = 0,
         trigger = 'resend', due_at = $2::timestamptz + make_interval(secs => d.wait), claim = greatest(p.claim + 1, ",
    new_claim!(),
    ") FROM unnest($3::uuid[], $4::date[], $5::uuid[], $6::float8[]) AS d (id, event_day, event_key, wait),
          webhooks w
     WHERE p.id = d.id AND w.id = $1 AND p.activation < w.activation"
);

/// Skips what somebody holds, who may be a result that is about to remove it. What was closed anew meanwhile is not part
/// of the span.
const TAKE_CLOSED: &str = "
    DELETE FROM closed_deliveries WHERE id = ANY (ARRAY(
        SELECT id FROM closed_deliveries WHERE id = ANY ($1) AND closed_at BETWEEN $2 AND $3
        ORDER BY id FOR UPDATE SKIP LOCKED))
    RETURNING id";

const CONTINUE: &str = "
    UPDATE webhooks SET recovering_until = $2::timestamptz + make_interval(secs => $3) WHERE id = $1";

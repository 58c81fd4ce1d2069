//! Takes deliveries back to the beginning of their schedule, one (resend) or all that were closed (recover).
//!
//! A delivery is moved, never copied, in one transaction that holds its webhook's row: repeated, interrupted or done by
//! two at once, nothing is doubled and nothing is lost. Switching the webhook off comes before or after, never between.

use std::ops::RangeInclusive;
use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::within_window;
use super::partitions::attached_partitions;
use super::{Params, Scope, Store, StoreError, TypedParams, column, count, partitions};
use crate::delivery::DeliveryId;
use crate::webhook::WebhookId;

/// Deliveries moved by one transaction, short enough that the webhook's own results do not wait for long.
const BATCH: i64 = 500;
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
pub struct Closed {
    pub since: Timestamp,
    /// What is closed later is not part of it: a recovered delivery that fails at once is recovered once.
    pub until: Timestamp,
    pub recoverable: u64,
    /// Those whose event retention has dropped.
    pub dropped: u64,
}

/// A span that somebody asked to have recovered.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    pub webhook: WebhookId,
    pub span: Closed,
}

/// Years of a time that Postgres keeps and RFC 3339 writes.
pub const YEARS: RangeInclusive<i16> = 1970..=9999;

impl Store {
    /// Makes a delivery, whether it is pending, closed or succeeded, due now with its whole schedule before it. The
    /// result of an attempt under way no longer decides about it, unless that is a success.
    pub async fn resend(&self, scope: Scope<'_>, webhook: WebhookId, delivery: DeliveryId) -> Result<(), RecoverError> {
        let found = self.find_event(scope, webhook, delivery).await?;
        let mut connection = self.connection().await?;
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            if let Err(refused) = lock_active(&transaction, scope, webhook).await? {
                return Ok(Err(refused));
            }
            let Some((day, key)) = found else { return Ok(Err(RecoverError::UnknownDelivery)) };
            // From here on retention is held off.
            if query(&transaction, KEPT, &[&day]).await?.is_empty() {
                return Ok(Err(RecoverError::EventDropped));
            }
            query(&transaction, RESEND, &[&webhook.0, &delivery.0, &day, &key]).await?;
            // Last, so that it finds also what was closed while the row above was waited for.
            query(&transaction, FORGET_CLOSED, &[&delivery.0]).await?;
            transaction.commit().await?;
            Ok(Ok(()))
        };
        connection.bounded(work).await?
    }

    /// Where a delivery's event is stored. One that came twice may be stored twice: then the one that is kept. The log
    /// is looked through last, newest days first.
    async fn find_event(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        delivery: DeliveryId,
    ) -> Result<Option<(Date, Uuid)>, StoreError> {
        let place = |row: &Row| (column(row, "event_day"), column(row, "event_key"));
        let account = scope.account();
        let waiting = self.query(FIND_WAITING, &[&webhook.0, &delivery.0, &account]).await?;
        let mut found = waiting.first().map(place);
        if waiting.first().is_some_and(|row| column(row, "kept")) {
            return Ok(found);
        }
        for window in self.log_days().await?.windows(None) {
            let params: TypedParams<'_> = &[
                (&webhook.0, Type::UUID),
                (&delivery.0, Type::UUID),
                (&account, Type::TEXT),
                (&window.from, Type::TIMESTAMPTZ),
                (&window.until, Type::TIMESTAMPTZ),
            ];
            let rows = self.query_planned_anew(FIND_ATTEMPTED, params).await?;
            let Some(row) = rows.first() else { continue };
            if column(row, "kept") {
                return Ok(Some(place(row)));
            }
            found = found.or_else(|| Some(place(row)));
        }
        Ok(found)
    }

    /// Counts what `recover` would take, and no further than `most`. Refused as that would be.
    pub async fn closed(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        since: Since,
        most: i64,
    ) -> Result<Closed, RecoverError> {
        let state = self.query(STATE, &[&webhook.0, &scope.account()]).await?;
        active(state.first())?;
        let (time, ago) = match since {
            Since::Time(time) => (Some(time), None),
            Since::Ago(ago) => (None, Some(ago.as_secs_f64())),
        };
        Ok(closed(&self.query(COUNT, &[&webhook.0, &time, &ago, &most]).await?))
    }

    /// Takes them all back, due one after the other at `rate` a second after what was recovered before. Tells how many
    /// after each batch; those are recovered, whatever becomes of the rest.
    pub async fn recover(
        &self,
        webhook: WebhookId,
        span: &Closed,
        rate: u32,
        mut recovered: impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        for _ in 0..TRIES {
            loop {
                match self.recover_batch(webhook, span, rate).await? {
                    0 => break,
                    count => recovered(count),
                }
            }
            if self.query(LEFT, &[&webhook.0, &span.since, &span.until]).await?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(HELD_WAIT).await;
        }
        let held = anyhow::anyhow!("some closed deliveries are held by somebody else: try again");
        Err(StoreError::Busy(held).into())
    }

    /// Notes down that a span is to be recovered, for whoever carries it out. A second wish for the same webhook widens
    /// the first.
    pub async fn ask_to_recover(&self, scope: Scope<'_>, webhook: WebhookId, span: &Closed) -> Result<(), StoreError> {
        self.execute(ASK, &[&webhook.0, &scope.account(), &span.since, &span.until]).await.map(drop)
    }

    /// The recoveries that were asked for and are not done.
    pub async fn recoveries(&self) -> Result<Vec<Recovery>, StoreError> {
        let rows = self.query("SELECT webhook_id, since, until FROM recoveries ORDER BY until LIMIT 100", &[]).await?;
        let recovery = |row| Recovery {
            webhook: WebhookId(column(row, "webhook_id")),
            span: Closed { since: column(row, "since"), until: column(row, "until"), recoverable: 0, dropped: 0 },
        };
        Ok(rows.iter().map(recovery).collect())
    }

    /// Ends a recovery, unless it was widened meanwhile.
    pub async fn forget_recovery(&self, done: &Recovery) -> Result<(), StoreError> {
        let forget = "DELETE FROM recoveries WHERE webhook_id = $1 AND since = $2 AND until = $3";
        self.execute(forget, &[&done.webhook.0, &done.span.since, &done.span.until]).await.map(drop)
    }

    async fn recover_batch(&self, webhook: WebhookId, span: &Closed, rate: u32) -> Result<u64, RecoverError> {
        // Whoever asks was told of `span` for this webhook.
        let scope = Scope::Everyone;
        let mut connection = self.connection().await?;
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            if let Err(refused) = lock_active(&transaction, scope, webhook).await? {
                return Ok(Err(refused));
            }
            let params: Params<'_> = &[&webhook.0, &span.since, &span.until, &BATCH, &f64::from(rate)];
            let rows = query(&transaction, RECOVER, params).await?;
            transaction.commit().await?;
            Ok(Ok(rows.first().map_or(0, |row| count(row, "recovered"))))
        };
        connection.bounded(work).await?
    }
}

/// Holds an active webhook's row, and retention off the events, until the transaction ends.
async fn lock_active(
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

fn closed(rows: &[Row]) -> Closed {
    let row = rows.first().expect("a count is one row");
    let (since, until) = (column(row, "since"), column(row, "until"));
    Closed { since, until, recoverable: count(row, "recoverable"), dropped: count(row, "dropped") }
}

async fn query(
    transaction: &Transaction<'_>,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let statement = transaction.prepare_cached(sql).await?;
    transaction.query(&statement, params).await
}

/// Events go with their whole partition, from the moment that retention has marked it. A day ten years ago stands for all
/// before it.
macro_rules! event_is_kept {
    ($day:literal) => {
        concat!(
            $day,
            " = ANY (ARRAY(
            SELECT greatest(since, current_date - 3660) + n FROM ",
            attached_partitions!("'events'::regclass"),
            " AS partitions
            CROSS JOIN LATERAL generate_series(
                0, least(until, current_date + 366) - greatest(since, current_date - 3660) - 1) AS n
            WHERE NOT detach_pending AND NOT marked))"
        )
    };
}

/// Into `pending_deliveries p`. The claim is above all the delivery ever had, also those of rows that are gone: no old
/// result is taken for a new one.
macro_rules! pending_again {
    ($due_at:literal, $from:literal) => {
        concat!(
            "INSERT INTO pending_deliveries AS p
                 (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at, claim)
             SELECT d.id, w.id, w.activation, d.event_day, d.event_key, 0, 'resend', ",
            $due_at,
            ", (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
             FROM ",
            $from,
            " ON CONFLICT (id) DO UPDATE
             SET activation = excluded.activation, event_day = excluded.event_day, event_key = excluded.event_key,
                 attempts_made = 0, trigger = 'resend', due_at = excluded.due_at,
                 claim = greatest(p.claim + 1, excluded.claim)"
        )
    };
}

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

/// The webhook, if the account has it.
macro_rules! own_webhook {
    () => {
        "webhook_id = (SELECT id FROM webhooks WHERE id = $1 AND account_id = coalesce($3::text, account_id))"
    };
}

const FIND_WAITING: &str = concat!(
    "SELECT event_day, event_key, ",
    event_is_kept!("event_day"),
    " AS kept
    FROM (
        SELECT event_day, event_key FROM pending_deliveries WHERE id = $2 AND ",
    own_webhook!(),
    " UNION ALL SELECT event_day, event_key FROM closed_deliveries WHERE id = $2 AND ",
    own_webhook!(),
    ") AS found
    ORDER BY kept DESC, event_day DESC LIMIT 1"
);

/// A test's event is not stored.
const FIND_ATTEMPTED: &str = concat!(
    "SELECT event_day, event_key, ",
    event_is_kept!("event_day"),
    " AS kept
    FROM attempts
    WHERE delivery_id = $2 AND trigger <> 'test' AND ",
    own_webhook!(),
    " AND ",
    within_window!("$4", "$5"),
    " ORDER BY kept DESC, event_day DESC LIMIT 1"
);

const KEPT: &str = concat!("SELECT WHERE ", event_is_kept!("$1::date"));

const RESEND: &str = pending_again!(
    "statement_timestamp()",
    "(SELECT $2::uuid AS id, $3::date AS event_day, $4::uuid AS event_key) AS d JOIN webhooks w ON w.id = $1"
);

const FORGET_CLOSED: &str = "DELETE FROM closed_deliveries WHERE id = $1";

const COUNT: &str = concat!(
    "SELECT span.since, span.until,
        count(c.kept) FILTER (WHERE c.kept) AS recoverable, count(c.kept) FILTER (WHERE NOT c.kept) AS dropped
    FROM (
        SELECT coalesce($2::timestamptz, now() - make_interval(secs => $3::float8)) AS since, now() AS until
    ) AS span
    LEFT JOIN LATERAL (
        SELECT ",
    event_is_kept!("event_day"),
    " AS kept FROM closed_deliveries
        WHERE webhook_id = $1 AND closed_at BETWEEN span.since AND span.until LIMIT $4
    ) AS c ON true
    GROUP BY span.since, span.until"
);

const LEFT: &str = concat!(
    "SELECT FROM closed_deliveries WHERE webhook_id = $1 AND closed_at BETWEEN $2 AND $3 AND ",
    event_is_kept!("event_day"),
    " LIMIT 1"
);

/// Skips what a result is about to remove, whose transaction may be waiting for our lock. One that is pending already,
/// for its event came twice, keeps its place, unless it would be cancelled there.
const RECOVER: &str = concat!(
    "WITH chosen AS (
        SELECT id FROM closed_deliveries WHERE webhook_id = $1 AND closed_at BETWEEN $2 AND $3 AND ",
    event_is_kept!("event_day"),
    " ORDER BY closed_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM closed_deliveries c USING chosen WHERE c.id = chosen.id
        RETURNING c.id, c.webhook_id, c.event_day, c.event_key, c.closed_at
    ), spread AS (
        SELECT *, row_number() OVER (ORDER BY closed_at, id) - 1 AS place FROM taken
    ), pending AS (",
    pending_again!(
        "greatest(w.recovering_until, statement_timestamp()) + make_interval(secs => d.place / $5::float8)",
        "spread d JOIN webhooks w ON w.id = d.webhook_id"
    ),
    " WHERE p.activation < excluded.activation
    ), counted AS (
        SELECT count(*) AS recovered FROM taken
    ), continued AS (
        UPDATE webhooks
        SET recovering_until = greatest(recovering_until, statement_timestamp())
                               + make_interval(secs => recovered / $5::float8)
        FROM counted WHERE id = $1 AND recovered > 0
    )
    SELECT recovered FROM counted"
);

//! Writes what became of deliveries: one transaction for a whole batch.
//!
//! A batch is written wholly or not at all, and writing it twice is found out by its attempt ids.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Transaction;
use futures_util::future::try_join_all;
use jiff::civil::Date;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::{Params, Store, StoreError, column, health};
use crate::config::Health;
use crate::delivery::{Attempt, ClosedReason, Delivery, Trigger};
use crate::retry::Step;

/// A delivery's turn that is over.
#[derive(Debug)]
pub struct Finished {
    pub delivery: Delivery,
    /// The claim it was attempted under; `None` for one that came straight from its broker message.
    pub claim: Option<i64>,
    pub ending: Ending,
}

/// How a turn ended.
#[derive(Debug)]
pub enum Ending {
    Attempted(Attempt, Step),
    NotAttempted(ClosedReason),
    /// It is to be claimed when its receiver has room.
    Parked,
}

impl Finished {
    /// The wait before the next attempt, if there is one.
    fn wait(&self) -> Option<Duration> {
        match &self.ending {
            Ending::Attempted(_, Step::RetryIn(wait) | Step::RepeatIn(wait)) => Some(*wait),
            Ending::Parked => Some(Duration::ZERO),
            _ => None,
        }
    }

    fn closed(&self) -> Option<ClosedReason> {
        match &self.ending {
            Ending::Attempted(_, step) => step.closes(),
            Ending::NotAttempted(reason) => Some(*reason),
            Ending::Parked => None,
        }
    }

    fn succeeded(&self) -> bool {
        matches!(self.ending, Ending::Attempted(_, Step::Succeeded))
    }

    /// Attempts that count; one that failed through our own fault does not.
    fn attempts_made(&self) -> i32 {
        let made = match &self.ending {
            Ending::Attempted(_, Step::RepeatIn(_)) | Ending::NotAttempted(_) | Ending::Parked => {
                self.delivery.attempt - 1
            }
            Ending::Attempted(..) => self.delivery.attempt,
        };
        i32::try_from(made).unwrap_or(i32::MAX)
    }

    fn attempt(&self) -> Option<&Attempt> {
        match &self.ending {
            Ending::Attempted(attempt, _) => Some(attempt),
            Ending::NotAttempted(_) | Ending::Parked => None,
        }
    }

    /// Why its next attempt will be made.
    fn next_trigger(&self) -> Trigger {
        match &self.ending {
            Ending::Parked => self.delivery.trigger,
            Ending::Attempted(..) | Ending::NotAttempted(_) => Trigger::Retry,
        }
    }
}

#[cfg(test)]
impl Finished {
    /// A turn of an event with this body, owed to the webhook with this number.
    pub(crate) fn example(webhook: u128, activation: i32, body: &'static [u8], ending: Ending) -> Self {
        use crate::delivery::{DeliveryId, EventRow, Trigger};
        use crate::event::{AccountId, Event, EventId, EventType};
        use crate::webhook::{Snapshot, SnapshotState, WebhookId};

        let id = WebhookId(Uuid::from_u128(webhook));
        let event = Event {
            id: EventId::parse("evt_1").unwrap(),
            event_type: EventType::parse("content.created").unwrap(),
            account_id: AccountId::parse("acc_1").unwrap(),
            body: body.into(),
        };
        let delivery = Delivery {
            id: DeliveryId::of(id, &event.id),
            row: EventRow::new(event, Date::default(), Uuid::nil()).into(),
            webhook: Snapshot { id, activation, state: SnapshotState::Off }.into(),
            trigger: Trigger::Event,
            attempt: 1,
        };
        Self { delivery, claim: None, ending }
    }
}

impl Store {
    /// Writes a batch: events not stored yet, log rows, and what is pending or closed now. A result whose claim is no
    /// longer the newest adds its log row, and nothing else to its delivery.
    pub async fn record(&self, batch: &[Finished], health: &Health) -> Result<(), StoreError> {
        let mut connection = self.connection().await?;
        let write = async |client: &mut deadpool_postgres::Object| {
            let transaction = client.transaction().await?;
            write_batch(&transaction, batch, health).await?;
            transaction.commit().await
        };
        connection.bounded(write).await?;
        batch.iter().for_each(|finished| finished.delivery.row.mark_stored());
        Ok(())
    }

    /// Writes a test's log row, and nothing else: neither its delivery nor its webhook learns of it.
    pub async fn record_test(&self, delivery: &Delivery, attempt: &Attempt) -> Result<(), StoreError> {
        let ending = Ending::Attempted(attempt.clone(), Step::Succeeded);
        let finished = [Finished { delivery: delivery.clone(), claim: None, ending }];
        let mut connection = self.connection().await?;
        let write = async |client: &mut deadpool_postgres::Object| {
            let transaction = client.transaction().await?;
            insert_attempts(&transaction, &finished).await?;
            transaction.commit().await
        };
        connection.bounded(write).await
    }

    /// Whether a batch, whose commit was not answered, was written all the same.
    pub async fn is_recorded(&self, batch: &[Finished]) -> Result<bool, StoreError> {
        let attempts: Vec<(Uuid, Uuid)> =
            batch.iter().filter_map(|f| Some((f.attempt()?.id, f.delivery.id.0))).collect();
        let (ids, deliveries): (Vec<Uuid>, Vec<Uuid>) = attempts.into_iter().unzip();
        let rows = self.query(IS_RECORDED, &[&ids, &deliveries]).await?;
        Ok(rows.first().is_some_and(|row| column(row, "recorded")))
    }
}

const IS_RECORDED: &str =
    "SELECT EXISTS (SELECT FROM attempts WHERE delivery_id = ANY ($2) AND id = ANY ($1)) AS recorded";

const STATEMENTS: [&str; 7] =
    [INSERT_EVENTS, INSERT_ATTEMPTS, INSERT_PENDING, UPDATE_PENDING, DELETE_SUCCEEDED, CLOSE, health::UPDATE];

/// The statements do not depend on each other's answers, so all are sent before the first answer is awaited.
///
/// They are prepared beforehand and polled in one order, which is then that of sending and of taking locks. When one
/// fails, those after it fail because the transaction has, which is not the reason.
async fn write_batch(
    transaction: &Transaction<'_>,
    batch: &[Finished],
    health: &Health,
) -> Result<(), tokio_postgres::Error> {
    try_join_all(STATEMENTS.map(|sql| transaction.prepare_cached(sql))).await?;
    let written: [_; STATEMENTS.len()] = tokio::join!(
        biased;
        insert_events(transaction, batch),
        insert_attempts(transaction, batch),
        insert_pending(transaction, batch),
        update_pending(transaction, batch),
        delete_succeeded(transaction, batch),
        close(transaction, batch),
        health::update(transaction, batch, health),
    )
    .into();
    let failed = written.into_iter().filter_map(Result::err);
    let reason = failed.min_by_key(|error| error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    reason.map_or(Ok(()), Err)
}

pub(super) async fn execute(
    transaction: &Transaction<'_>,
    sql: &str,
    params: Params<'_>,
) -> Result<(), tokio_postgres::Error> {
    let statement = transaction.prepare_cached(sql).await?;
    transaction.execute(&statement, params).await.map(drop)
}

/// One array per column, for `unnest`.
fn collect<'a, T>(rows: &[&'a Finished], value: impl Fn(&'a Finished) -> T) -> Vec<T> {
    rows.iter().map(|row| value(row)).collect()
}

async fn insert_events(transaction: &Transaction<'_>, batch: &[Finished]) -> Result<(), tokio_postgres::Error> {
    let missing = batch.iter().map(|f| &f.delivery.row).filter(|row| !row.is_stored());
    // In one order, so that two transactions cannot wait for each other.
    let rows: BTreeMap<Uuid, _> = missing.map(|row| (row.key, row)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let days: Vec<Date> = rows.values().map(|row| row.day).collect();
    let keys: Vec<Uuid> = rows.values().map(|row| row.key).collect();
    let accounts: Vec<&str> = rows.values().map(|row| row.event.account_id.as_str()).collect();
    let ids: Vec<&str> = rows.values().map(|row| row.event.id.as_str()).collect();
    let types: Vec<&str> = rows.values().map(|row| row.event.event_type.as_str()).collect();
    let bodies: Vec<&[u8]> = rows.values().map(|row| &row.event.body[..]).collect();
    execute(transaction, INSERT_EVENTS, &[&days, &keys, &accounts, &ids, &types, &bodies]).await
}

/// In the select list, where row by row is taken: in FROM all bodies would be copied beforehand, to disk if they are many.
const INSERT_EVENTS: &str = "
    INSERT INTO events (day, key, account_id, event_id, event_type, body)
    SELECT unnest($1::date[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
           unnest($6::bytea[])
    ON CONFLICT DO NOTHING";

async fn insert_attempts(transaction: &Transaction<'_>, batch: &[Finished]) -> Result<(), tokio_postgres::Error> {
    let rows: Vec<(&Finished, &Attempt)> = batch.iter().filter_map(|f| Some((f, f.attempt()?))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let finished: Vec<&Finished> = rows.iter().map(|(finished, _)| *finished).collect();
    let attempts = || rows.iter().map(|(_, attempt)| *attempt);
    let millis = |attempt: &Attempt| i32::try_from(attempt.duration.as_millis()).unwrap_or(i32::MAX);
    execute(
        transaction,
        INSERT_ATTEMPTS,
        &[
            &attempts().map(|a| a.id).collect::<Vec<_>>(),
            &collect(&finished, |f| f.delivery.webhook.id.0),
            &collect(&finished, |f| f.delivery.id.0),
            &collect(&finished, |f| f.delivery.row.day),
            &collect(&finished, |f| f.delivery.row.key),
            &collect(&finished, |f| f.delivery.event().id.as_str()),
            &collect(&finished, |f| f.delivery.event().event_type.as_str()),
            &collect(&finished, |f| f.delivery.trigger.as_str()),
            &collect(&finished, |f| i32::try_from(f.delivery.attempt).unwrap_or(i32::MAX)),
            &attempts().map(|a| a.outcome.http_status().map(i32::from)).collect::<Vec<_>>(),
            &attempts().map(millis).collect::<Vec<_>>(),
            &attempts().map(|a| a.outcome.error()).collect::<Vec<_>>(),
            &attempts().map(|a| a.outcome.snippet()).collect::<Vec<_>>(),
            &attempts().map(|a| a.started.elapsed().as_secs_f64()).collect::<Vec<_>>(),
            &collect(&finished, |f| f.wait().map(|wait| wait.as_secs_f64())),
        ],
    )
    .await
}

const INSERT_ATTEMPTS: &str = "
    INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
                          http_status, duration_ms, error, response_snippet, created_at, next_attempt_at)
    SELECT id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
           http_status, duration_ms, error, response_snippet,
           now() - make_interval(secs => age), now() + make_interval(secs => wait)
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::date[], $5::uuid[], $6::text[], $7::text[], $8::text[],
                $9::integer[], $10::integer[], $11::integer[], $12::text[], $13::text[], $14::float8[], $15::float8[])
        AS a (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
              http_status, duration_ms, error, response_snippet, age, wait)";

async fn insert_pending(transaction: &Transaction<'_>, batch: &[Finished]) -> Result<(), tokio_postgres::Error> {
    let rows: Vec<&Finished> = batch.iter().filter(|f| f.claim.is_none() && f.wait().is_some()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    execute(
        transaction,
        INSERT_PENDING,
        &[
            &collect(&rows, |f| f.delivery.id.0),
            &collect(&rows, |f| f.delivery.webhook.id.0),
            &collect(&rows, |f| f.delivery.webhook.activation),
            &collect(&rows, |f| f.delivery.row.day),
            &collect(&rows, |f| f.delivery.row.key),
            &collect(&rows, Finished::attempts_made),
            &collect(&rows, |f| f.next_trigger().as_str()),
            &collect(&rows, |f| f.wait().unwrap_or_default().as_secs_f64()),
        ],
    )
    .await
}

/// The id is the pair of webhook and event: a duplicate event finds its delivery pending already.
const INSERT_PENDING: &str = "
    INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at)
    SELECT id, webhook_id, activation, event_day, event_key, attempts_made, trigger, now() + make_interval(secs => wait)
    FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::date[], $5::uuid[], $6::integer[], $7::text[], $8::float8[])
        AS p (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, wait)
    ON CONFLICT DO NOTHING";

async fn update_pending(transaction: &Transaction<'_>, batch: &[Finished]) -> Result<(), tokio_postgres::Error> {
    let rows: Vec<&Finished> = batch.iter().filter(|f| f.claim.is_some() && f.wait().is_some()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    execute(
        transaction,
        UPDATE_PENDING,
        &[
            &collect(&rows, |f| f.delivery.id.0),
            &collect(&rows, |f| f.claim.unwrap_or_default()),
            &collect(&rows, Finished::attempts_made),
            &collect(&rows, |f| f.wait().unwrap_or_default().as_secs_f64()),
        ],
    )
    .await
}

const UPDATE_PENDING: &str = "
    UPDATE pending_deliveries p
    SET attempts_made = r.attempts_made, due_at = now() + make_interval(secs => r.wait), trigger = 'retry',
        claim = p.claim + 1
    FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::float8[]) AS r (id, claim, attempts_made, wait)
    WHERE p.id = r.id AND p.claim = r.claim";

/// Whoever succeeded, the delivery is done: also one that a duplicate event or a late result finds pending or closed.
async fn delete_succeeded(transaction: &Transaction<'_>, batch: &[Finished]) -> Result<(), tokio_postgres::Error> {
    let rows: Vec<&Finished> = batch.iter().filter(|f| f.succeeded()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let ids = collect(&rows, |f| f.delivery.id.0);
    execute(transaction, DELETE_SUCCEEDED, &[&ids]).await
}

const DELETE_SUCCEEDED: &str = "
    WITH closed AS (DELETE FROM closed_deliveries WHERE id = ANY ($1))
    DELETE FROM pending_deliveries WHERE id = ANY ($1)";

async fn close(transaction: &Transaction<'_>, batch: &[Finished]) -> Result<(), tokio_postgres::Error> {
    let rows: Vec<&Finished> = batch.iter().filter(|f| f.closed().is_some()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    execute(
        transaction,
        CLOSE,
        &[
            &collect(&rows, |f| f.delivery.id.0),
            &collect(&rows, |f| f.claim),
            &collect(&rows, |f| f.delivery.webhook.id.0),
            &collect(&rows, |f| f.delivery.row.day),
            &collect(&rows, |f| f.delivery.row.key),
            &collect(&rows, |f| f.closed().map(ClosedReason::as_str)),
            &collect(&rows, Finished::attempts_made),
        ],
    )
    .await
}

/// An event that came twice may close its delivery twice, even in one batch: the latest closing stands.
const CLOSE: &str = "
    WITH given AS (
        SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::date[], $5::uuid[], $6::text[], $7::integer[])
            AS g (id, claim, webhook_id, event_day, event_key, reason, attempts_made)
    ), removed AS (
        DELETE FROM pending_deliveries p USING given g WHERE p.id = g.id AND p.claim = g.claim RETURNING p.id
    )
    INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
    SELECT DISTINCT ON (g.id) g.id, g.webhook_id, g.event_day, g.event_key, g.reason, g.attempts_made FROM given g
    WHERE g.id IN (SELECT id FROM removed)
       OR (g.claim IS NULL AND NOT EXISTS (SELECT FROM pending_deliveries p WHERE p.id = g.id))
    ORDER BY g.id, g.attempts_made DESC
    ON CONFLICT (id) DO UPDATE SET event_day = excluded.event_day, event_key = excluded.event_key,
        reason = excluded.reason, attempts_made = excluded.attempts_made, closed_at = excluded.closed_at";

//! Writes what became of deliveries: one transaction for a whole batch.
//!
//! A batch is written wholly or not at all, and writing it twice is found out by its attempt ids. Its transaction holds
//! an advisory lock named by its first attempt, so that whoever asks whether it was written can wait for its end.

use std::collections::BTreeMap;

use deadpool_postgres::{Object, Transaction};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::IsolationLevel;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::health::{self, Observations};
use super::turn_result::{Ending, TurnResult};
use super::{AS_A_WRITE, Params, Store, StoreError, TypedParams, column};
use crate::config::HealthThresholds;
use crate::delivery::{Attempt, Delivery};
use crate::retry::Step;

mod deliveries;

use deliveries::Deliveries;

impl Store {
    /// Writes a batch: events not stored yet, log rows, and what is pending or closed now. A result whose claim is no
    /// longer the newest adds its log row, and nothing else to its delivery. Of the observations it writes those of
    /// webhooks that nobody holds; the others are [`Observations::left`] once the batch is known to be written.
    pub async fn record(
        &self,
        batch: &[TurnResult],
        observations: &mut Observations,
        health: &HealthThresholds,
    ) -> Result<(), StoreError> {
        let write = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let of_health = self.health_statement(&transaction, observations).await?;
            write_batch(&transaction, batch, observations, health, of_health).await?;
            transaction.commit().await
        };
        self.write(write).await?;
        batch.iter().for_each(|finished| finished.delivery.row.mark_stored());
        Ok(())
    }

    /// Writes a test's log row, and nothing else: neither its delivery nor its webhook learns of it.
    pub async fn record_test(&self, delivery: &Delivery, attempt: &Attempt) -> Result<(), StoreError> {
        let ending = Ending::Attempted(attempt.clone(), Step::Succeeded);
        let finished = [TurnResult { delivery: delivery.clone(), claim: None, ending }];
        let write = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            insert_attempts(&transaction, &finished).await?;
            transaction.commit().await
        };
        self.write(write).await
    }

    /// Whether a batch, whose commit was not answered, was written all the same. Waits for a commit that is still under
    /// way: its transaction holds the batch's lock from before the commit until what it wrote can be seen. Busy if that
    /// takes too long.
    pub async fn is_recorded(&self, batch: &[TurnResult]) -> Result<bool, StoreError> {
        let attempts: Vec<(Uuid, Uuid)> =
            batch.iter().filter_map(|f| Some((f.attempt()?.id, f.delivery.id.0))).collect();
        let (ids, deliveries): (Vec<Uuid>, Vec<Uuid>) = attempts.into_iter().unzip();
        let oldest = batch.iter().filter_map(|f| Some(f.attempt()?.started.elapsed())).max().unwrap_or_default();
        let ask = async |client: &mut Object| {
            // Each statement sees what was committed before it began: the second one begins when the lock is ours.
            let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
            lock_batch(&transaction, batch).await?;
            let begin = transaction.query_one(LONG_BEFORE, &[&oldest.as_secs_f64()]).await?;
            let begin: Timestamp = column(&begin, "begin");
            let params: TypedParams<'_> =
                &[(&ids, Type::UUID_ARRAY), (&deliveries, Type::UUID_ARRAY), (&begin, Type::TIMESTAMPTZ)];
            // Planned for this time: a plan for any time locks every partition of the log.
            let rows = transaction.query_typed(IS_RECORDED, params).await?;
            let recorded = rows.first().is_some_and(|row| column(row, "recorded"));
            if recorded {
                transaction.batch_execute(AS_A_WRITE).await?;
            }
            transaction.commit().await?;
            Ok(recorded)
        };
        self.write(ask).await
    }
}

/// A day before so many seconds ago, for Postgres's clock may have been set meanwhile.
const LONG_BEFORE: &str = "SELECT now() - make_interval(secs => $1, days => 1) AS begin";

const IS_RECORDED: &str = "
    SELECT EXISTS (
        SELECT FROM attempts WHERE delivery_id = ANY ($2) AND id = ANY ($1) AND created_at >= $3) AS recorded";

/// The statements do not depend on each other's answers, so all are sent before the first answer is awaited.
///
/// They are prepared beforehand and polled in one order, which is then that of sending and of taking locks (the module
/// `store` has the rule). Health, the last, is prepared when there is some. When one fails, those after it fail because
/// the transaction has, which is not the reason.
async fn write_batch(
    transaction: &Transaction<'_>,
    batch: &[TurnResult],
    observations: &mut Observations,
    health: &HealthThresholds,
    of_health: &str,
) -> Result<(), tokio_postgres::Error> {
    let own = [LOCK_BATCH, INSERT_EVENTS, INSERT_ATTEMPTS].into_iter();
    try_join_all(own.chain(deliveries::STATEMENTS).map(|sql| transaction.prepare_cached(sql))).await?;
    let deliveries = Deliveries::of(batch);
    let written: [_; 10] = tokio::join!(
        biased;
        lock_batch(transaction, batch),
        insert_events(transaction, batch),
        insert_attempts(transaction, batch),
        deliveries.insert_pending(transaction),
        deliveries.lock_pending(transaction),
        deliveries.update_pending(transaction),
        deliveries.close(transaction),
        deliveries.delete_pending(transaction),
        deliveries.delete_closed(transaction),
        health::update(transaction, observations, health, of_health),
    )
    .into();
    let failed = written.into_iter().filter_map(Result::err);
    let reason = failed.min_by_key(|error| error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    reason.map_or(Ok(()), Err)
}

/// A batch without attempts can be written twice without harm and takes no lock. The second time, all its rows are there.
async fn lock_batch(transaction: &Transaction<'_>, batch: &[TurnResult]) -> Result<(), tokio_postgres::Error> {
    let Some(first) = batch.iter().find_map(TurnResult::attempt) else {
        return transaction.batch_execute(AS_A_WRITE).await;
    };
    // The variant bits of a UUID make it negative: the advisory locks with fixed names are not.
    let (_, name) = first.id.as_u64_pair();
    execute(transaction, LOCK_BATCH, &[&name.cast_signed()]).await
}

const LOCK_BATCH: &str = "SELECT pg_advisory_xact_lock($1)";

async fn execute(transaction: &Transaction<'_>, sql: &str, params: Params<'_>) -> Result<(), tokio_postgres::Error> {
    let statement = transaction.prepare_cached(sql).await?;
    transaction.execute(&statement, params).await.map(drop)
}

/// One array per column, for `unnest`.
fn collect<'a, T>(rows: &[&'a TurnResult], value: impl Fn(&'a TurnResult) -> T) -> Vec<T> {
    rows.iter().map(|row| value(row)).collect()
}

async fn insert_events(transaction: &Transaction<'_>, batch: &[TurnResult]) -> Result<(), tokio_postgres::Error> {
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

async fn insert_attempts(transaction: &Transaction<'_>, batch: &[TurnResult]) -> Result<(), tokio_postgres::Error> {
    let rows: Vec<(&TurnResult, &Attempt)> = batch.iter().filter_map(|f| Some((f, f.attempt()?))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let finished: Vec<&TurnResult> = rows.iter().map(|(finished, _)| *finished).collect();
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

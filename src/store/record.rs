//! Records the results of deliveries, a whole batch in one transaction.
//!
//! A batch is written completely or not at all. If a commit had no answer, its attempt ids tell whether it was written: the
//! transaction holds an advisory lock, named after the batch's first attempt, so `is_recorded` can wait for its end.

use deadpool_postgres::{Object, Transaction};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio_postgres::IsolationLevel;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::health;
use super::observations::Observations;
use super::sql::{LOCK_FOR_TRANSACTION, execute};
use super::turn_result::{Ending, TurnResult};
use super::{Store, StoreError, TypedParams, WAIT_FOR_STANDBY, column};
use crate::config::HealthThresholds;
use crate::delivery::{Attempt, Delivery};
use crate::retry::Step;

mod attempts;
mod deliveries;
mod events;

use attempts::InsertAttempts;
use deliveries::Deliveries;
use events::InsertEvents;

impl Store {
    /// Records a batch: events that are not stored yet, log rows, and pending and closed deliveries. A result whose claim is no
    /// longer the newest adds a log row and does not change its delivery. Observations of webhooks that another transaction
    /// has locked are not written. `Observations::left` returns them; call it after the commit.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Unavailable`]: perhaps the batch was written, if only the answer of its commit is missing; ask
    ///   [`Store::is_recorded`].
    /// - [`StoreError::Busy`], [`StoreError::ReadOnly`]: nothing was written. Try again, with fewer results if
    ///   [`StoreError::ran_out_of_time`].
    /// - [`StoreError::Refused`]: one of the results cannot be stored. Nothing was written.
    /// - [`StoreError::NotMigrated`]: a partition is missing. Nothing was written.
    pub async fn record(
        &self,
        batch: &[impl AsRef<TurnResult>],
        observations: &mut Observations,
        health: &HealthThresholds,
    ) -> Result<(), StoreError> {
        let batch = &references(batch);
        let write = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let health_statement = self.health_statement(&transaction, observations).await?;
            let columns = self.attempt_columns(&transaction).await?;
            let attempts = InsertAttempts::of(batch, columns);
            let events = self.insert_events(&transaction, batch).await?;
            let statements = Statements { events, attempts, health: health_statement };
            write_batch(&transaction, batch, observations, health, statements).await?;
            transaction.commit().await
        };
        self.write(write).await?;
        batch.iter().for_each(|result| result.delivery.row.mark_stored());
        Ok(())
    }

    /// Writes the log row of a test, and changes neither a delivery nor the webhook's health.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: the test is perhaps not in the log.
    pub(crate) async fn record_test(&self, delivery: &Delivery, attempt: &Attempt) -> Result<(), StoreError> {
        let ending = Ending::Attempted(attempt.clone(), Step::Succeeded);
        let result = [TurnResult { delivery: delivery.clone(), claim: None, ending, received: None }];
        let write = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let (columns, batch) = (self.attempt_columns(&transaction).await?, references(&result));
            InsertAttempts::of(&batch, columns).write(&transaction, &batch).await?;
            transaction.commit().await
        };
        self.write(write).await
    }

    /// Whether a batch was written although its commit had no answer. If the commit is still under way, waits for it: its
    /// transaction holds the batch's lock until its rows are visible.
    ///
    /// # Errors
    ///
    /// It is not known whether the batch was written: ask again. [`StoreError::Busy`] if the commit takes too long.
    pub async fn is_recorded(&self, batch: &[impl AsRef<TurnResult>]) -> Result<bool, StoreError> {
        let batch = &references(batch);
        let attempts: Vec<(Uuid, Uuid)> =
            batch.iter().filter_map(|result| Some((result.attempt()?.id, result.delivery.id.0))).collect();
        let (ids, deliveries): (Vec<Uuid>, Vec<Uuid>) = attempts.into_iter().unzip();
        let oldest =
            batch.iter().filter_map(|result| Some(result.attempt()?.started.elapsed())).max().unwrap_or_default();
        let ask = async |client: &mut Object| {
            // At this level each statement sees what was committed before it began. The statement on the log begins when this
            // transaction has the lock.
            let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
            lock_batch(&transaction, batch).await?;
            let begin = transaction.query_one(LONG_BEFORE, &[&oldest.as_secs_f64()]).await?;
            let begin: Timestamp = column(&begin, "begin");
            let params: TypedParams<'_> =
                &[(&ids, Type::UUID_ARRAY), (&deliveries, Type::UUID_ARRAY), (&begin, Type::TIMESTAMPTZ)];
            // Planned for this very time: a plan for all times would lock every partition of the log.
            let rows = transaction.query_typed(IS_RECORDED, params).await?;
            let recorded = rows.first().is_some_and(|row| column(row, "recorded"));
            if recorded {
                transaction.batch_execute(WAIT_FOR_STANDBY).await?;
            }
            transaction.commit().await?;
            Ok(recorded)
        };
        self.write(ask).await
    }
}

/// The time `$1` seconds and a day ago. The day is for a clock of Postgres that was set meanwhile.
const LONG_BEFORE: &str = "SELECT now() - make_interval(secs => $1, days => 1) AS begin";

const IS_RECORDED: &str = "
    SELECT EXISTS (
        SELECT FROM attempts WHERE delivery_id = ANY ($2) AND id = ANY ($1) AND created_at >= $3) AS recorded";

/// The statements that depend on which columns the schema has.
#[derive(Clone, Copy)]
struct Statements {
    events: InsertEvents,
    attempts: InsertAttempts,
    health: &'static str,
}

/// Writes a batch. No statement needs the answer of another, so all are sent before the first answer is awaited.
///
/// They reach the server in the order of the `join!`, because it is `biased` and all statements are prepared before it. So
/// they take their locks in the store's order (the head of `store.rs`). Only the statement for health may still be prepared
/// then; it is the last. If one statement fails, all after it fail too, with `in_failed_sql_transaction`: the error returned
/// is that of the first.
async fn write_batch(
    transaction: &Transaction<'_>,
    batch: &[&TurnResult],
    observations: &mut Observations,
    health: &HealthThresholds,
    statements: Statements,
) -> Result<(), tokio_postgres::Error> {
    let own = [LOCK_FOR_TRANSACTION, statements.events.sql(), statements.attempts.sql()].into_iter();
    try_join_all(own.chain(deliveries::statements()).map(|sql| transaction.prepare_cached(sql))).await?;
    let deliveries = Deliveries::of(batch);
    let written: [_; 10] = tokio::join!(
        biased;
        lock_batch(transaction, batch),
        statements.events.write(transaction, batch),
        statements.attempts.write(transaction, batch),
        deliveries.insert_pending(transaction),
        deliveries.lock_pending(transaction),
        deliveries.update_pending(transaction),
        deliveries.close(transaction),
        deliveries.delete_pending(transaction),
        deliveries.delete_closed(transaction),
        health::update(transaction, observations, health, statements.health),
    )
    .into();
    let failed = written.into_iter().filter_map(Result::err);
    let reason = failed.min_by_key(|error| error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    reason.map_or(Ok(()), Err)
}

/// Takes the batch's advisory lock. A batch without attempts takes none: writing it twice does no harm. If all its rows are
/// there already, the transaction writes nothing, but its commit must wait for the synchronous standby all the same.
async fn lock_batch(transaction: &Transaction<'_>, batch: &[&TurnResult]) -> Result<(), tokio_postgres::Error> {
    let Some(first) = batch.iter().find_map(|result| result.attempt()) else {
        return transaction.batch_execute(WAIT_FOR_STANDBY).await;
    };
    // A UUID's variant bits make this number negative; the advisory locks with fixed numbers are positive.
    let (_, name) = first.id.as_u64_pair();
    execute(transaction, LOCK_FOR_TRANSACTION, &[&name.cast_signed()]).await
}

/// The results that the worker keeps together with what else belongs to them.
fn references(batch: &[impl AsRef<TurnResult>]) -> Vec<&TurnResult> {
    batch.iter().map(AsRef::as_ref).collect()
}

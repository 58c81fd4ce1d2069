//! Writes the log rows of a batch of results.

use std::sync::LazyLock;

use deadpool_postgres::Transaction;
use tokio_postgres::Error;
use tokio_postgres::types::ToSql;

use crate::delivery::{Answer, Attempt, Outcome};
use crate::store::attempt_columns::AttemptColumns;
use crate::store::sql::execute;
use crate::store::turn_result::{TurnResult, collect};

/// Inserts log rows into a schema with these columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct InsertAttempts {
    columns: AttemptColumns,
    /// Whether an attempt of the batch has a cause, kept headers or a cut answer. Nearly all batches have none of these, and
    /// each column costs time at the server even if all its values are null.
    has_details: bool,
}

impl InsertAttempts {
    pub(super) fn of(batch: &[&TurnResult], columns: AttemptColumns) -> Self {
        let has_details = |outcome: &Outcome| match outcome.answer() {
            Some(answer) => answer.headers.is_some() || answer.truncated,
            None => outcome.error_detail().is_some(),
        };
        let mut attempts = batch.iter().filter_map(|result| result.attempt());
        Self { columns, has_details: attempts.any(|attempt| has_details(&attempt.outcome)) }
    }

    pub(super) fn sql(self) -> &'static str {
        self.statement().0
    }

    /// The statement, and how many of the parameters it has: those from the first on.
    fn statement(self) -> (&'static str, usize) {
        match (self.columns, self.has_details) {
            (AttemptColumns::All, true) => (&INSERT, 19),
            (AttemptColumns::All, false) => (&INSERT_WITHOUT_DETAILS, 16),
            (AttemptColumns::BeforeV12, _) => (&INSERT_BEFORE_V12, 15),
        }
    }

    /// Writes a row for each result that has an attempt.
    pub(super) async fn write(self, transaction: &Transaction<'_>, batch: &[&TurnResult]) -> Result<(), Error> {
        let rows: Vec<(&TurnResult, &Attempt)> =
            batch.iter().filter_map(|result| Some((*result, result.attempt()?))).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let results: Vec<&TurnResult> = rows.iter().map(|(result, _)| *result).collect();
        let attempts: Vec<&Attempt> = rows.iter().map(|(_, attempt)| *attempt).collect();
        let millis = |attempt: &Attempt| i32::try_from(attempt.duration.as_millis()).unwrap_or(i32::MAX);
        let params: &[&(dyn ToSql + Sync)] = &[
            &of_each(&attempts, |attempt| attempt.id),
            &collect(&results, |result| result.delivery.webhook.id.0),
            &collect(&results, |result| result.delivery.id.0),
            &collect(&results, |result| result.delivery.row.day),
            &collect(&results, |result| result.delivery.row.key),
            &collect(&results, |result| result.delivery.event().id.as_str()),
            &collect(&results, |result| result.delivery.event().event_type.as_str()),
            &collect(&results, |result| result.delivery.trigger.as_str()),
            &collect(&results, |result| i32::try_from(result.delivery.attempt).unwrap_or(i32::MAX)),
            &of_each(&attempts, |attempt| attempt.outcome.http_status().map(i32::from)),
            &of_each(&attempts, millis),
            &of_each(&attempts, |attempt| attempt.outcome.error()),
            &of_each(&attempts, |attempt| answer(attempt)?.snippet.as_deref()),
            &of_each(&attempts, |attempt| attempt.started.elapsed().as_secs_f64()),
            &collect(&results, |result| result.wait().map(|wait| wait.as_secs_f64())),
            &of_each(&attempts, |attempt| attempt.signed_at),
            &of_each(&attempts, |attempt| attempt.outcome.error_detail()),
            &of_each(&attempts, |attempt| answer(attempt)?.headers.as_deref()),
            // Null takes no place in the row.
            &of_each(&attempts, |attempt| answer(attempt)?.truncated.then_some(true)),
        ];
        let (sql, count) = self.statement();
        execute(transaction, sql, &params[..count]).await
    }
}

fn answer(attempt: &Attempt) -> Option<&Answer> {
    attempt.outcome.answer()
}

/// One array for a column of `unnest`: a value of each attempt.
fn of_each<'a, T>(attempts: &[&'a Attempt], value: impl Fn(&'a Attempt) -> T) -> Vec<T> {
    attempts.iter().map(|attempt| value(attempt)).collect()
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    insert(
        ", signed_at, error_detail, response_headers, response_truncated",
        ", signed_at, error_detail, response_headers::json, response_truncated",
        ", $16::bigint[], $17::text[], $18::text[], $19::boolean[]",
    )
});
static INSERT_WITHOUT_DETAILS: LazyLock<String> =
    LazyLock::new(|| insert(", signed_at", ", signed_at", ", $16::bigint[]"));
static INSERT_BEFORE_V12: LazyLock<String> = LazyLock::new(|| insert("", "", ""));

/// The statement with further columns: their names, their values, and the parameters, one array for each.
fn insert(names: &str, values: &str, params: &str) -> String {
    format!(
        "INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
                               http_status, duration_ms, error, response_snippet, created_at, next_attempt_at{names})
         SELECT id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
                http_status, duration_ms, error, response_snippet,
                now() - make_interval(secs => age), now() + make_interval(secs => wait){values}
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::date[], $5::uuid[], $6::text[], $7::text[], $8::text[],
                     $9::integer[], $10::integer[], $11::integer[], $12::text[], $13::text[], $14::float8[],
                     $15::float8[]{params})
             AS a (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
                   http_status, duration_ms, error, response_snippet, age, wait{names})"
    )
}

//! Reads the webhook log.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Place, Scope, Store, StoreError, column};
use crate::delivery::DeliveryId;
use crate::event::EventType;
use crate::webhook::{WebhookId, optional_rfc3339, rfc3339};

/// Rows of the log that one answer looks at: those that a filter leaves out cost time too.
const LOOKED_AT: i64 = 5000;

/// One attempt as the API shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogRow {
    pub id: Uuid,
    pub delivery_id: Uuid,
    pub event_id: String,
    pub event_type: String,
    /// Why it was made: `event`, `retry`, `test` or `resend`.
    pub trigger: String,
    /// Counted from 1.
    pub attempt: i32,
    /// `success` or `failed`.
    pub status: &'static str,
    pub http_status: Option<i32>,
    pub duration_ms: i32,
    /// What went wrong: `blocked_address`, `invalid_url`, `dns`, `connect`, `tls`, `timeout`, `protocol`, `http_status`
    /// or `internal`.
    pub error: Option<String>,
    /// The cleaned beginning of the answer's body.
    pub response_snippet: Option<String>,
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
}

/// Which attempts are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    pub status: Option<LogStatus>,
    pub event_type: Option<EventType>,
    pub delivery: Option<DeliveryId>,
    /// Only what is older than this.
    pub before: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStatus {
    Success,
    Failed,
}

/// A part of the log, newest first.
#[derive(Debug)]
pub struct LogPage {
    pub rows: Vec<LogRow>,
    /// Where to go on: there may be more before it, even if this page is not full.
    pub next: Option<Place>,
}

impl Store {
    /// A webhook's newest attempts, newest first. Of an account that does not have the webhook there are none.
    pub async fn log(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        filter: &LogFilter,
        limit: u32,
    ) -> Result<LogPage, StoreError> {
        let before = filter.before.map(|place| (place.time, place.id)).unzip();
        let event_type = filter.event_type.as_ref().map(EventType::as_str);
        let succeeded = filter.status.map(|status| status == LogStatus::Success);
        let limit = i64::from(limit);
        // One row more tells whether there is another page.
        let wanted = limit + 1;
        let account = scope.account();
        let filtered = event_type.is_some() || filter.delivery.is_some() || filter.status == Some(LogStatus::Success);
        let looked_at = if filtered { LOOKED_AT.max(wanted) } else { wanted };
        let delivery = filter.delivery.map(|delivery| delivery.0);
        let all: [&(dyn tokio_postgres::types::ToSql + Sync); 9] =
            [&webhook.0, &account, &before.0, &before.1, &event_type, &succeeded, &wanted, &looked_at, &delivery];
        let rows = match filter.status {
            _ if delivery.is_some() => self.query(LOG_OF_DELIVERY, &all).await?,
            Some(LogStatus::Failed) => self.query(LOG_OF_FAILURES, &all[..8]).await?,
            _ => self.query(LOG, &all[..8]).await?,
        };
        Ok(page(&rows, usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

fn page(rows: &[Row], limit: usize) -> LogPage {
    let place = |row: &Row| Place { time: column(row, "created_at"), id: column(row, "id") };
    // The last row looked at comes too, whether or not it is wanted, if more of the log lies before it.
    let (wanted, rest): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| column(row, "wanted"));
    let next = match wanted.len() > limit {
        true => wanted.get(limit.saturating_sub(1)).map(|row| place(row)),
        false => rest.first().map(|row| place(row)),
    };
    LogPage { rows: wanted.into_iter().take(limit).map(log_row).collect(), next }
}

/// As in `stats`, the planner must not know the limit.
macro_rules! log {
    ($more:literal) => {
        concat!(
            "WITH looked_at AS MATERIALIZED (
                SELECT a.*, row_number() OVER (ORDER BY a.created_at DESC, a.id DESC) AS position FROM (
                    SELECT id, delivery_id, event_id, event_type, trigger, attempt, http_status, duration_ms, error,
                           response_snippet, created_at, next_attempt_at
                    FROM attempts
                    WHERE webhook_id = (
                        SELECT w.id FROM webhooks w WHERE w.id = $1::uuid AND w.account_id = $2::text UNION ALL
                        SELECT $1::uuid WHERE $2::text IS NULL LIMIT 1)
                      AND created_at <= coalesce($3::timestamptz, 'infinity')
                      AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), coalesce($4::uuid, $1))",
            $more,
            " ORDER BY created_at DESC, id DESC LIMIT (SELECT $8::bigint)
                ) AS a
            ), wanted AS (
                SELECT * FROM looked_at
                WHERE ($5::text IS NULL OR event_type = $5) AND ($6::boolean IS NULL OR (error IS NULL) = $6)
                ORDER BY position LIMIT $7::bigint
            )
            SELECT *, true AS wanted FROM wanted
            UNION ALL SELECT *, false FROM looked_at WHERE position = $8 AND (SELECT count(*) FROM wanted) < $7
            ORDER BY position"
        )
    };
}

const LOG: &str = log!("");
const LOG_OF_FAILURES: &str = log!(" AND error IS NOT NULL");
const LOG_OF_DELIVERY: &str = log!(" AND delivery_id = $9");

fn log_row(row: &Row) -> LogRow {
    let error: Option<String> = column(row, "error");
    LogRow {
        id: column(row, "id"),
        delivery_id: column(row, "delivery_id"),
        event_id: column(row, "event_id"),
        event_type: column(row, "event_type"),
        trigger: column(row, "trigger"),
        attempt: column(row, "attempt"),
        status: if error.is_none() { "success" } else { "failed" },
        http_status: column(row, "http_status"),
        duration_ms: column(row, "duration_ms"),
        error,
        response_snippet: column(row, "response_snippet"),
        created_at: column(row, "created_at"),
        next_attempt_at: column(row, "next_attempt_at"),
    }
}

//! Reads the webhook log.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use utoipa::ToSchema;
use uuid::Uuid;

use super::days::{Window, within_window};
use super::{Position, Scope, Store, StoreError, column};
use crate::ids::{DeliveryId, EventType, WebhookId};
use crate::webhook::{optional_rfc3339, rfc3339};

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
    pub before: Option<Position>,
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
    pub next: Option<Position>,
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
        let limit = i64::from(limit);
        // One row more tells whether there is another page.
        let wanted = limit + 1;
        let filtered =
            filter.event_type.is_some() || filter.delivery.is_some() || filter.status == Some(LogStatus::Success);
        let looked_at = if filtered { LOOKED_AT.max(wanted) } else { wanted };
        let mut walk = Walk { wanted, looked_at, rows: Vec::new(), last: None };
        for window in self.log_days().await?.windows(filter.before.map(|position| position.time)) {
            let rows = self.log_window(scope, webhook, filter, window, &walk).await?;
            walk.add(rows);
            if walk.wanted == 0 || walk.looked_at == 0 {
                break;
            }
        }
        Ok(walk.page(usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// What a window has of what the walk still wants.
    async fn log_window(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        filter: &LogFilter,
        window: Window,
        walk: &Walk,
    ) -> Result<Vec<Row>, StoreError> {
        let (time, id) = filter.before.map(|position| (position.time, position.id)).unzip();
        let event_type = filter.event_type.as_ref().map(EventType::as_str);
        let succeeded = filter.status.map(|status| status == LogStatus::Success);
        let delivery = filter.delivery.map(|delivery| delivery.0);
        let sql = match filter.status {
            _ if delivery.is_some() => LOG_OF_DELIVERY,
            Some(LogStatus::Failed) => LOG_OF_FAILURES,
            _ => LOG,
        };
        self.query_planned_anew(
            sql,
            &[
                (&webhook.0, Type::UUID),
                (&scope.account(), Type::TEXT),
                (&time, Type::TIMESTAMPTZ),
                (&id, Type::UUID),
                (&event_type, Type::TEXT),
                (&succeeded, Type::BOOL),
                (&walk.wanted, Type::INT8),
                (&walk.looked_at, Type::INT8),
                (&window.from, Type::TIMESTAMPTZ),
                (&window.until, Type::TIMESTAMPTZ),
                (&delivery, Type::UUID),
            ],
        )
        .await
    }
}

/// What was found on the way, and how much more is wanted and may be looked at.
struct Walk {
    wanted: i64,
    looked_at: i64,
    rows: Vec<Row>,
    /// The last row looked at, wanted or not.
    last: Option<Position>,
}

impl Walk {
    fn add(&mut self, rows: Vec<Row>) {
        // The last row looked at comes once more.
        let (wanted, last): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| column(row, "wanted"));
        if let Some(last) = last.first() {
            self.last = Some(position(last));
            self.looked_at -= column::<i64>(last, "position");
        }
        self.wanted -= i64::try_from(wanted.len()).unwrap_or(i64::MAX);
        self.rows.extend(wanted);
    }

    fn page(self, limit: usize) -> LogPage {
        let next = match self.rows.len() > limit {
            true => self.rows.get(limit.saturating_sub(1)).map(position),
            false if self.looked_at == 0 => self.last,
            false => None,
        };
        LogPage { rows: self.rows.iter().take(limit).map(log_row).collect(), next }
    }
}

fn position(row: &Row) -> Position {
    Position { time: column(row, "created_at"), id: column(row, "id") }
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
                      AND ",
            within_window!("$9", "$10"),
            "
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
            UNION ALL SELECT *, false FROM looked_at WHERE position = (SELECT max(position) FROM looked_at)
            ORDER BY position"
        )
    };
}

const LOG: &str = log!("");
const LOG_OF_FAILURES: &str = log!(" AND error IS NOT NULL");
const LOG_OF_DELIVERY: &str = log!(" AND delivery_id = $11");

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

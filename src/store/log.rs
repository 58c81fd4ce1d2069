//! Reads the webhook log.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use utoipa::ToSchema;
use uuid::Uuid;

use super::attempt_columns::{AttemptColumns, ByColumns, error_detail};
use super::days::{LogSpan, LogWindow, within_window};
use super::sql::OWN_WEBHOOK;
use super::{Position, Scope, Store, StoreError, column};
use crate::delivery::{ErrorDetail, ErrorName, Trigger};
use crate::ids::{DeliveryId, EventType, WebhookId};
use crate::timestamps::{optional_rfc3339, rfc3339};

/// The most rows that one filtered answer reads: rows that the filter leaves out take time too.
pub(super) const LOOKED_AT: i64 = 5000;

/// One attempt as the API shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogRow {
    pub id: Uuid,
    pub delivery_id: Uuid,
    pub event_id: String,
    pub event_type: String,
    /// Why the attempt was made.
    #[schema(value_type = Trigger, inline)]
    pub trigger: String,
    /// Counted from 1.
    pub attempt: i32,
    /// `success` or `failed`.
    #[schema(value_type = LogStatus, inline)]
    pub status: &'static str,
    pub http_status: Option<i32>,
    pub duration_ms: i32,
    /// What went wrong.
    #[schema(value_type = Option<ErrorName>)]
    pub error: Option<String>,
    /// What went wrong within the phase that `error` names. Null after an answer, and if no more is known.
    pub error_detail: Option<ErrorDetail>,
    /// The cleaned beginning of the answer's body, with its line breaks and tabs.
    pub response_snippet: Option<String>,
    /// Whether the body was longer than the snippet.
    pub response_truncated: bool,
    /// The cleaned headers of the answer that are kept: those that name the request in the receiver's own logs, and of a
    /// failure also `Content-Type`, `Server`, `Date`, `Retry-After`, `Location`, `WWW-Authenticate`, `Allow`, `Via` and
    /// `Cf-Mitigated`.
    pub response_headers: BTreeMap<String, String>,
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
}

/// Which attempts are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFilter {
    pub status: Option<LogStatus>,
    pub event_type: Option<EventType>,
    pub delivery: Option<DeliveryId>,
    pub http_status: Option<u16>,
    /// When they were made.
    pub span: LogSpan,
    /// Only what is older than this.
    pub before: Option<Position>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum LogStatus {
    Success,
    Failed,
}

impl LogStatus {
    /// How an attempt with this error ended.
    pub(crate) fn of(error: Option<&str>) -> Self {
        if error.is_none() { Self::Success } else { Self::Failed }
    }

    /// The name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }
}

/// A part of the log, newest first.
#[derive(Debug)]
pub(crate) struct LogPage {
    pub rows: Vec<LogRow>,
    /// Where to go on: there may be more before it, even if this page is not full.
    pub next: Option<Position>,
}

impl Store {
    /// Returns a webhook's attempts, newest first; `None` if the account does not have the webhook.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn log(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        filter: &LogFilter,
        limit: u32,
    ) -> Result<Option<LogPage>, StoreError> {
        let limit = i64::from(limit);
        // One row more tells whether there is another page.
        let wanted = limit + 1;
        let filtered = filter.event_type.is_some()
            || filter.delivery.is_some()
            || filter.http_status.is_some()
            || filter.status == Some(LogStatus::Success);
        let looked_at = if filtered { LOOKED_AT.max(wanted) } else { wanted };
        let mut walk = Walk { wanted, looked_at, rows: Vec::new(), last: None };
        // Everyone may also read the log of a webhook that has been deleted.
        let mut exists = matches!(scope, Scope::Everyone);
        for window in self.log_days().await?.windows_of(filter.span, filter.before.map(|before| before.time)) {
            let rows = self.log_window(scope, webhook, filter, window, &walk).await?;
            walk.add(rows);
            // Looked up after the first window without rows: an unknown webhook must not cost a walk through all windows.
            exists = exists || walk.last.is_some() || self.find_webhook(scope, webhook).await?.is_some();
            if !exists {
                return Ok(None);
            }
            if walk.wanted == 0 || walk.looked_at == 0 {
                break;
            }
        }
        // No window at all: the log ends before the span begins.
        if !exists && self.find_webhook(scope, webhook).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(walk.page(usize::try_from(limit).unwrap_or(usize::MAX))))
    }

    /// The rows of one window that the walk still wants.
    async fn log_window(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        filter: &LogFilter,
        window: LogWindow,
        walk: &Walk,
    ) -> Result<Vec<Row>, StoreError> {
        let (time, id) = filter.before.map(|position| (position.time, position.id)).unzip();
        let event_type = filter.event_type.as_ref().map(EventType::as_str);
        let succeeded = filter.status.map(|status| status == LogStatus::Success);
        let delivery = filter.delivery.map(|delivery| delivery.0);
        let statements = STATEMENTS.of(self.readable_attempt_columns().await?);
        let http_status = filter.http_status.map(i32::from);
        // An attempt with another status than these is a failure, and failures have an index of their own.
        let failures = filter.status == Some(LogStatus::Failed)
            || filter.http_status.is_some_and(|status| !(200..300).contains(&status));
        let sql = match delivery {
            Some(_) => &statements.of_delivery,
            None if failures => &statements.of_failures,
            None => &statements.all,
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
                (&http_status, Type::INT4),
            ],
        )
        .await
    }
}

/// A walk through the log, window by window, until it has enough rows or has read its limit.
struct Walk {
    /// How many more rows are wanted.
    wanted: i64,
    /// How many more rows may be read.
    looked_at: i64,
    /// The rows found so far.
    rows: Vec<Row>,
    /// The last row that was read, wanted or not.
    last: Option<Position>,
}

impl Walk {
    fn add(&mut self, rows: Vec<Row>) {
        // The statement returns the last row that it read once more, with `wanted` false.
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

/// A page of a webhook's log. `$8` is the most rows to read, `$7` the most to return. As in `stats`, `LIMIT (SELECT $8)`
/// keeps the number from PostgreSQL, which would otherwise read and sort the whole window if it took it for small.
///
/// - `looked_at`: the newest rows of the window, before the filter, numbered from the newest on.
/// - `wanted`: those that the filter leaves.
fn log_statement(columns: AttemptColumns, only: &str) -> String {
    let within_window = within_window!("$9", "$10");
    let detail = columns.read("error_detail", "text");
    let truncated = columns.read("response_truncated", "boolean");
    let headers = columns.read("response_headers", "text");
    format!(
        "WITH looked_at AS MATERIALIZED (
            SELECT newest.*, row_number() OVER (ORDER BY created_at DESC, id DESC) AS position FROM (
                SELECT id, delivery_id, event_id, event_type, trigger, attempt, http_status, duration_ms, error,
                       response_snippet, created_at, next_attempt_at, {detail}, {truncated}, {headers}
                FROM attempts
                WHERE webhook_id = {OWN_WEBHOOK}
                  AND {within_window}
                  AND created_at <= coalesce($3::timestamptz, 'infinity')
                  AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), coalesce($4::uuid, $1))
                  {only}
                ORDER BY created_at DESC, id DESC LIMIT (SELECT $8::bigint)
            ) AS newest
        ), wanted AS (
            SELECT * FROM looked_at
            WHERE ($5::text IS NULL OR event_type = $5) AND ($6::boolean IS NULL OR (error IS NULL) = $6)
                AND ($12::integer IS NULL OR http_status = $12)
            ORDER BY position LIMIT $7::bigint
        )
        SELECT *, true AS wanted FROM wanted
        UNION ALL SELECT *, false FROM looked_at WHERE position = (SELECT max(position) FROM looked_at)
        ORDER BY position"
    )
}

struct LogStatements {
    all: String,
    of_failures: String,
    of_delivery: String,
}

impl LogStatements {
    fn reading(columns: AttemptColumns) -> Self {
        Self {
            all: log_statement(columns, ""),
            of_failures: log_statement(columns, "AND error IS NOT NULL"),
            of_delivery: log_statement(columns, "AND delivery_id = $11"),
        }
    }
}

static STATEMENTS: LazyLock<ByColumns<LogStatements>> = LazyLock::new(|| ByColumns::new(LogStatements::reading));

fn log_row(row: &Row) -> LogRow {
    let error: Option<String> = column(row, "error");
    let headers: Option<&str> = column(row, "response_headers");
    LogRow {
        id: column(row, "id"),
        delivery_id: column(row, "delivery_id"),
        event_id: column(row, "event_id"),
        event_type: column(row, "event_type"),
        trigger: column(row, "trigger"),
        attempt: column(row, "attempt"),
        status: LogStatus::of(error.as_deref()).as_str(),
        http_status: column(row, "http_status"),
        duration_ms: column(row, "duration_ms"),
        error,
        error_detail: error_detail(row),
        response_snippet: column(row, "response_snippet"),
        response_truncated: column::<Option<bool>>(row, "response_truncated").unwrap_or_default(),
        response_headers: headers.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        created_at: column(row, "created_at"),
        next_attempt_at: column(row, "next_attempt_at"),
    }
}

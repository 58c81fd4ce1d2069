//! Reads the webhook log.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Store, StoreError, column};
use crate::webhook::{WebhookId, optional_rfc3339, rfc3339};

/// One attempt as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct LogRow {
    pub id: Uuid,
    pub delivery_id: Uuid,
    pub event_id: String,
    pub event_type: String,
    pub trigger: String,
    pub attempt: i32,
    /// `success` or `failed`.
    pub status: &'static str,
    pub http_status: Option<i32>,
    pub duration_ms: i32,
    pub error: Option<String>,
    pub response_snippet: Option<String>,
    #[serde(serialize_with = "rfc3339")]
    pub created_at: Timestamp,
    #[serde(serialize_with = "optional_rfc3339")]
    pub next_attempt_at: Option<Timestamp>,
}

impl Store {
    /// A webhook's newest attempts, newest first.
    pub async fn log(&self, webhook: WebhookId, limit: u32) -> Result<Vec<LogRow>, StoreError> {
        let rows = self.query(LOG, &[&webhook.0, &i64::from(limit)]).await?;
        Ok(rows.iter().map(log_row).collect())
    }
}

const LOG: &str = "
    SELECT id, delivery_id, event_id, event_type, trigger, attempt, http_status, duration_ms, error, response_snippet,
           created_at, next_attempt_at
    FROM attempts WHERE webhook_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2";

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

//! Reads what the list of webhooks shows of their deliveries.

use std::collections::HashMap;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::within_window;
use super::{Store, StoreError, TypedParams, column, count};
use crate::ids::{AccountId, WebhookId};

/// What the list of webhooks shows of a webhook's deliveries.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    pub last_attempt: Option<LastAttempt>,
    /// The number of pending deliveries, counted up to 1,000.
    pub waiting: u64,
}

/// The newest attempt of a webhook.
#[derive(Debug, Clone)]
pub(crate) struct LastAttempt {
    pub created_at: Timestamp,
    /// `None` if it succeeded.
    pub error: Option<String>,
    pub error_detail: Option<String>,
    pub http_status: Option<i32>,
}

impl Store {
    /// The activity of some of an account's webhooks. Webhooks that the account does not have are missing.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn activity(
        &self,
        account: &AccountId,
        ids: &[WebhookId],
    ) -> Result<HashMap<WebhookId, Activity>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self.query(WAITING, &[&account.as_str(), &ids]).await?;
        let waiting =
            |row| (WebhookId(column(row, "id")), Activity { last_attempt: None, waiting: count(row, "waiting") });
        let mut activity: HashMap<WebhookId, Activity> = rows.iter().map(waiting).collect();
        for window in self.log_days().await?.windows(None) {
            let silent = activity.iter().filter(|(_, activity)| activity.last_attempt.is_none());
            let silent: Vec<Uuid> = silent.map(|(id, _)| id.0).collect();
            if silent.is_empty() {
                break;
            }
            let params: TypedParams<'_> = &[
                (&account.as_str(), Type::TEXT),
                (&silent, Type::UUID_ARRAY),
                (&window.from, Type::TIMESTAMPTZ),
                (&window.until, Type::TIMESTAMPTZ),
            ];
            for row in self.query_planned_anew(NEWEST, params).await? {
                if let Some(activity) = activity.get_mut(&WebhookId(column(&row, "id"))) {
                    activity.last_attempt = Some(last_attempt(&row));
                }
            }
        }
        Ok(activity)
    }
}

fn last_attempt(row: &Row) -> LastAttempt {
    LastAttempt {
        created_at: column(row, "created_at"),
        error: column(row, "error"),
        error_detail: column(row, "detail"),
        http_status: column(row, "http_status"),
    }
}

/// At most 1,000 pending deliveries of each webhook are counted.
const WAITING: &str = "
    SELECT w.id, queue.waiting
    FROM webhooks w
    CROSS JOIN LATERAL (
        SELECT count(*) AS waiting FROM (
            SELECT FROM pending_deliveries p WHERE p.webhook_id = w.id LIMIT 1000) AS beginning
    ) AS queue
    WHERE w.id = ANY ($2) AND w.account_id = $1";

/// The newest attempt of each webhook within a window. It is the first entry of the index.
///
/// The column `error_detail` comes with V12, and this program also works with older schemas. So the name stands there without a
/// table: PostgreSQL takes the attempt's column if there is one, else that of `before_v12`, which is always null.
const NEWEST: &str = concat!(
    "SELECT w.id, newest.created_at, newest.error, newest.http_status, newest.detail
    FROM webhooks w
    CROSS JOIN (SELECT NULL::text AS error_detail) AS before_v12
    CROSS JOIN LATERAL (
        SELECT a.created_at, a.error, a.http_status, (SELECT error_detail FROM (SELECT a.*) AS attempt) AS detail
        FROM attempts a WHERE a.webhook_id = w.id AND ",
    within_window!("$3", "$4"),
    " ORDER BY a.created_at DESC, a.id DESC LIMIT 1
    ) AS newest
    WHERE w.id = ANY ($2) AND w.account_id = $1"
);

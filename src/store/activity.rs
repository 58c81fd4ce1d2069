//! Reads what is shown beside webhooks of their deliveries: the last attempt, and how much waits.

use std::collections::HashMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::attempt_columns::{AttemptColumns, ByColumns, error_detail};
use super::days::within_window;
use super::{Store, StoreError, TypedParams, column, count};
use crate::delivery::ErrorDetail;
use crate::ids::{AccountId, WebhookId};

/// What is shown of a webhook's deliveries.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    pub last_attempt: Option<LastAttempt>,
    /// The number of pending deliveries, counted up to a bound.
    pub waiting: u64,
}

/// The newest attempt of a webhook.
#[derive(Debug, Clone)]
pub(crate) struct LastAttempt {
    pub created_at: Timestamp,
    /// `None` if it succeeded.
    pub error: Option<String>,
    pub error_detail: Option<ErrorDetail>,
    pub http_status: Option<i32>,
}

impl Store {
    /// The activity of some of an account's webhooks, at most 100. Webhooks that the account does not have are missing.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn activities(
        &self,
        account: &AccountId,
        ids: &[WebhookId],
    ) -> Result<HashMap<WebhookId, Activity>, StoreError> {
        self.read_activities(account, ids, COUNTED_FOR_EACH).await
    }

    /// The activity of one webhook; `None` if the account does not have it.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn activity(&self, account: &AccountId, id: WebhookId) -> Result<Option<Activity>, StoreError> {
        Ok(self.read_activities(account, &[id], COUNTED_FOR_ONE).await?.remove(&id))
    }

    /// Counts at most so many pending deliveries of each webhook.
    async fn read_activities(
        &self,
        account: &AccountId,
        ids: &[WebhookId],
        most: u64,
    ) -> Result<HashMap<WebhookId, Activity>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self.query(WAITING, &[&account.as_str(), &ids, &most.cast_signed()]).await?;
        let waiting =
            |row| (WebhookId(column(row, "id")), Activity { last_attempt: None, waiting: count(row, "waiting") });
        let mut activity: HashMap<WebhookId, Activity> = rows.iter().map(waiting).collect();
        let newest = NEWEST.of(self.readable_attempt_columns().await?);
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
            for row in self.query_planned_anew(newest, params).await? {
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
        error_detail: error_detail(row),
        http_status: column(row, "http_status"),
    }
}

/// The pending deliveries that are counted of one webhook among many. A whole list reads no more than [`COUNTED_FOR_ONE`].
const COUNTED_FOR_EACH: u64 = 1_000;

/// The pending deliveries that are counted where one webhook is shown.
pub(crate) const COUNTED_FOR_ONE: u64 = 100_000;

/// Counts at most `$3` pending deliveries of each webhook. Reads them in the order of the index `pending_deliveries_by_webhook`,
/// which has both columns. With `=` instead of `BETWEEN`, PostgreSQL may read the whole of `pending_deliveries_by_time` where its
/// statistics say that nearly all rows are this webhook's.
const WAITING: &str = "
    SELECT w.id, queue.waiting
    FROM webhooks w
    CROSS JOIN LATERAL (
        SELECT count(*) AS waiting FROM (
            SELECT FROM pending_deliveries p WHERE p.webhook_id BETWEEN w.id AND w.id
            ORDER BY p.webhook_id, p.due_at LIMIT $3) AS beginning
    ) AS queue
    WHERE w.id = ANY ($2) AND w.account_id = $1";

/// The newest attempt of each webhook within a window. It is the first entry of the index.
static NEWEST: LazyLock<ByColumns<String>> = LazyLock::new(|| ByColumns::new(newest_statement));

fn newest_statement(columns: AttemptColumns) -> String {
    let within_window = within_window!("$3", "$4");
    let detail = columns.read("error_detail", "text");
    format!(
        "SELECT w.id, newest.created_at, newest.error, newest.http_status, newest.error_detail
        FROM (SELECT id FROM webhooks WHERE id = ANY ($2) AND account_id = $1) AS w
        CROSS JOIN LATERAL (
            SELECT created_at, error, http_status, {detail} FROM attempts WHERE webhook_id = w.id AND {within_window}
            ORDER BY created_at DESC, id DESC LIMIT 1
        ) AS newest"
    )
}

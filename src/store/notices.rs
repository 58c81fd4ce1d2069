//! Keeps notices until they are published. They are written in the transaction of the change that they report (see `health`),
//! so no crash loses one.

use std::time::Duration;

use uuid::Uuid;

use super::{Store, StoreError, column};

/// Something that penr.ai should tell its customer.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pub id: Uuid,
    /// Such as `webhook.disabled`; it is also the routing key.
    pub kind: String,
    /// JSON.
    pub body: String,
}

impl Store {
    /// Claims up to `limit` notices, oldest first. When `lease` is over, another worker may claim them again.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: try again.
    pub(crate) async fn claim_notices(&self, limit: i64, lease: Duration) -> Result<Vec<Notice>, StoreError> {
        let rows = self.query_to_write(CLAIM, &[&limit, &lease.as_secs_f64()]).await?;
        let notice = |row| Notice { id: column(row, "id"), kind: column(row, "kind"), body: column(row, "body") };
        Ok(rows.iter().map(notice).collect())
    }

    /// The number of notices that wait; no more than 100,000 are counted.
    ///
    /// # Errors
    ///
    /// The database is not available or busy.
    pub(crate) async fn count_notices(&self) -> Result<i64, StoreError> {
        let rows =
            self.query("SELECT count(*) AS notices FROM (SELECT FROM notices LIMIT 100000) AS counted", &[]).await?;
        Ok(rows.first().map_or(0, |row| column(row, "notices")))
    }

    /// Deletes notices that were published.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: the notices are published again when their lease ends.
    pub(crate) async fn forget_notices(&self, sent: &[Uuid]) -> Result<(), StoreError> {
        self.execute("DELETE FROM notices WHERE id = ANY ($1)", &[&sent]).await.map(drop)
    }
}

/// Oldest first: the notice that a webhook fails must come before the one that it was disabled.
///
/// - `unsent`: the oldest notices that no other worker has claimed, locked here.
/// - `claimed`: the same notices, claimed until the lease ends.
const CLAIM: &str = "
    WITH unsent AS (
        SELECT id, due_at FROM notices WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE notices n SET due_at = now() + make_interval(secs => $2) FROM unsent
        WHERE n.id = ANY (ARRAY(SELECT id FROM unsent)) AND n.id = unsent.id
        RETURNING n.id, n.kind, n.body, unsent.due_at AS was_due_at
    )
    SELECT id, kind, body FROM claimed ORDER BY was_due_at";

//! What operators ask about webhooks of any account: all of them, and how much waits for one.

use super::{Position, Store, StoreError, count};
use crate::ids::WebhookId;
use crate::webhook::Webhook;

impl Store {
    /// The webhooks of all accounts after a position, oldest first. With `only_failing`, only those whose owner was told that
    /// they fail.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn all_webhooks(
        &self,
        only_failing: bool,
        after: Option<Position>,
        limit: u32,
    ) -> Result<Vec<Webhook>, StoreError> {
        self.webhooks_where("(NOT $1 OR failing_noticed_at IS NOT NULL)", &only_failing, after, limit).await
    }

    /// How many deliveries wait for a webhook: switching it off or deleting it cancels them.
    ///
    /// # Errors
    ///
    /// The database is not available or busy.
    pub(crate) async fn count_waiting(&self, webhook: WebhookId) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) AS waiting FROM pending_deliveries WHERE webhook_id = $1";
        let rows = self.query(sql, &[&webhook.0]).await?;
        Ok(rows.first().map_or(0, |row| count(row, "waiting")))
    }
}

//! Sends one delivery again from the beginning of its schedule, whether it is pending, closed or succeeded.

use std::sync::LazyLock;

use deadpool_postgres::Object;
use jiff::civil::Date;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::within_window;
use super::partitions::attached_partitions;
use super::recover::{RecoverError, lock_active, stored_events};
use super::sql::{NEW_CLAIM, OWN_WEBHOOK, query};
use super::{Scope, Store, StoreError, TypedParams, column};
use crate::ids::{DeliveryId, WebhookId};

impl Store {
    /// Makes a delivery due now, with its whole schedule before it. If an attempt is under way, its result only adds a log row,
    /// unless it is a success, which ends the delivery.
    ///
    /// # Errors
    ///
    /// See [`RecoverError`]. [`RecoverError::Store`]: the database is not available, busy or read-only; perhaps it was done, if only
    /// the answer is missing.
    pub async fn resend(&self, scope: Scope<'_>, webhook: WebhookId, delivery: DeliveryId) -> Result<(), RecoverError> {
        let found = self.find_event(scope, webhook, delivery).await?;
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            if let Err(refused) = lock_active(&transaction, scope, webhook).await? {
                return Ok(Err(refused));
            }
            let Some((day, key)) = found else { return Ok(Err(RecoverError::UnknownDelivery)) };
            // The lock above keeps retention from dropping the event from here on.
            if stored_events(&transaction, &[(day, key)]).await?.is_empty() {
                return Ok(Err(RecoverError::EventDropped));
            }
            query(&transaction, &RESEND, &[&webhook.0, &delivery.0, &day, &key]).await?;
            // After the pending row: the statement above may have waited for a transaction that closed the delivery, and only
            // a later statement sees that.
            query(&transaction, DELETE_CLOSED, &[&delivery.0]).await?;
            transaction.commit().await?;
            Ok(Ok(()))
        };
        self.write(work).await?
    }

    /// Finds the day and the key of a delivery's event. An event that came twice may be stored twice; then one that is kept is
    /// returned. The log is searched last, newest days first.
    async fn find_event(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        delivery: DeliveryId,
    ) -> Result<Option<(Date, Uuid)>, StoreError> {
        let event = |row: &Row| (column(row, "event_day"), column(row, "event_key"));
        let account = scope.account();
        let rows = self.query(&FIND_ROW, &[&webhook.0, &account, &delivery.0]).await?;
        let mut found = rows.first().map(event);
        if rows.first().is_some_and(|row| column(row, "kept")) {
            return Ok(found);
        }
        for window in self.log_days().await?.windows(None) {
            let params: TypedParams<'_> = &[
                (&webhook.0, Type::UUID),
                (&account, Type::TEXT),
                (&delivery.0, Type::UUID),
                (&window.from, Type::TIMESTAMPTZ),
                (&window.until, Type::TIMESTAMPTZ),
            ];
            let rows = self.query_planned_anew(&FIND_ATTEMPTED, params).await?;
            let Some(row) = rows.first() else { continue };
            if column(row, "kept") {
                return Ok(Some(event(row)));
            }
            found = found.or_else(|| Some(event(row)));
        }
        Ok(found)
    }
}

/// A condition: the day of an event, `event_day`, is in a partition that is not marked to be dropped. It uses a list of days,
/// so the statement reads the partitions once. A partition without a beginning counts from ten years ago on.
static EVENT_IS_KEPT: LazyLock<String> = LazyLock::new(|| {
    let partitions = attached_partitions!("'events'::regclass::oid");
    format!(
        "event_day = ANY (ARRAY(
            SELECT greatest(since, current_date - 3660) + day FROM {partitions} AS partitions
            CROSS JOIN LATERAL generate_series(
                0, least(until, current_date + 366) - greatest(since, current_date - 3660) - 1) AS day
            WHERE NOT detach_pending AND NOT marked))"
    )
});

/// The delivery's pending or closed row; if it has both, the one whose event is kept.
static FIND_ROW: LazyLock<String> = LazyLock::new(|| {
    let is_kept = &*EVENT_IS_KEPT;
    format!(
        "SELECT event_day, event_key, {is_kept} AS kept
        FROM (
            SELECT event_day, event_key FROM pending_deliveries WHERE id = $3 AND webhook_id = {OWN_WEBHOOK}
            UNION ALL SELECT event_day, event_key FROM closed_deliveries WHERE id = $3 AND webhook_id = {OWN_WEBHOOK}
        ) AS waiting
        ORDER BY kept DESC, event_day DESC LIMIT 1"
    )
});

/// The delivery's attempt within a window whose event is kept, or any. The events of tests are not stored.
static FIND_ATTEMPTED: LazyLock<String> = LazyLock::new(|| {
    let (is_kept, within_window) = (&*EVENT_IS_KEPT, within_window!("$4", "$5"));
    format!(
        "SELECT event_day, event_key, {is_kept} AS kept
        FROM attempts
        WHERE delivery_id = $3 AND trigger <> 'test' AND webhook_id = {OWN_WEBHOOK} AND {within_window}
        ORDER BY kept DESC, event_day DESC LIMIT 1"
    )
});

/// Makes the delivery pending, or begins anew with its pending row.
static RESEND: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO pending_deliveries AS pending
            (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at, claim)
        SELECT $2::uuid, id, activation, $3::date, $4::uuid, 0, 'resend', statement_timestamp(), {NEW_CLAIM}
        FROM webhooks WHERE id = $1
        ON CONFLICT (id) DO UPDATE
        SET activation = excluded.activation, event_day = excluded.event_day, event_key = excluded.event_key,
            attempts_made = 0, trigger = 'resend', due_at = excluded.due_at,
            claim = greatest(pending.claim + 1, excluded.claim)"
    )
});

const DELETE_CLOSED: &str = "DELETE FROM closed_deliveries WHERE id = $1";

//! Takes one delivery back to the beginning of its schedule, whatever has become of it.

use deadpool_postgres::Object;
use jiff::civil::Date;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::within_window;
use super::partitions::attached_partitions;
use super::recover::{RecoverError, lock_active, new_claim, query, stored_events};
use super::{Scope, Store, StoreError, TypedParams, column};
use crate::ids::{DeliveryId, WebhookId};

impl Store {
    /// Makes a delivery, whether it is pending, closed or succeeded, due now with its whole schedule before it. The
    /// result of an attempt under way no longer decides about it, unless that is a success.
    pub async fn resend(&self, scope: Scope<'_>, webhook: WebhookId, delivery: DeliveryId) -> Result<(), RecoverError> {
        let found = self.find_event(scope, webhook, delivery).await?;
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            if let Err(refused) = lock_active(&transaction, scope, webhook).await? {
                return Ok(Err(refused));
            }
            let Some((day, key)) = found else { return Ok(Err(RecoverError::UnknownDelivery)) };
            // From here on retention is held off.
            if stored_events(&transaction, &[(day, key)]).await?.is_empty() {
                return Ok(Err(RecoverError::EventDropped));
            }
            query(&transaction, RESEND, &[&webhook.0, &delivery.0, &day, &key]).await?;
            // Last, so that it finds also what was closed while the row above was waited for.
            query(&transaction, FORGET_CLOSED, &[&delivery.0]).await?;
            transaction.commit().await?;
            Ok(Ok(()))
        };
        self.write(work).await?
    }

    /// Where a delivery's event is stored. One that came twice may be stored twice: then the one that is kept. The log
    /// is looked through last, newest days first.
    async fn find_event(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        delivery: DeliveryId,
    ) -> Result<Option<(Date, Uuid)>, StoreError> {
        let place = |row: &Row| (column(row, "event_day"), column(row, "event_key"));
        let account = scope.account();
        let waiting = self.query(FIND_WAITING, &[&webhook.0, &delivery.0, &account]).await?;
        let mut found = waiting.first().map(place);
        if waiting.first().is_some_and(|row| column(row, "kept")) {
            return Ok(found);
        }
        for window in self.log_days().await?.windows(None) {
            let params: TypedParams<'_> = &[
                (&webhook.0, Type::UUID),
                (&delivery.0, Type::UUID),
                (&account, Type::TEXT),
                (&window.from, Type::TIMESTAMPTZ),
                (&window.until, Type::TIMESTAMPTZ),
            ];
            let rows = self.query_planned_anew(FIND_ATTEMPTED, params).await?;
            let Some(row) = rows.first() else { continue };
            if column(row, "kept") {
                return Ok(Some(place(row)));
            }
            found = found.or_else(|| Some(place(row)));
        }
        Ok(found)
    }
}

/// Events go with their whole partition, from the moment that retention has marked it. A day ten years ago stands for all
/// before it.
macro_rules! event_is_kept {
    ($day:literal) => {
        concat!(
            $day,
            " = ANY (ARRAY(
            SELECT greatest(since, current_date - 3660) + n FROM ",
            attached_partitions!("'events'::regclass::oid"),
            " AS partitions
            CROSS JOIN LATERAL generate_series(
                0, least(until, current_date + 366) - greatest(since, current_date - 3660) - 1) AS n
            WHERE NOT detach_pending AND NOT marked))"
        )
    };
}

/// The webhook, if the account has it.
macro_rules! own_webhook {
    () => {
        "webhook_id = (SELECT id FROM webhooks WHERE id = $1 AND account_id = coalesce($3::text, account_id))"
    };
}

const FIND_WAITING: &str = concat!(
    "SELECT event_day, event_key, ",
    event_is_kept!("event_day"),
    " AS kept
    FROM (
        SELECT event_day, event_key FROM pending_deliveries WHERE id = $2 AND ",
    own_webhook!(),
    " UNION ALL SELECT event_day, event_key FROM closed_deliveries WHERE id = $2 AND ",
    own_webhook!(),
    ") AS found
    ORDER BY kept DESC, event_day DESC LIMIT 1"
);

/// A test's event is not stored.
const FIND_ATTEMPTED: &str = concat!(
    "SELECT event_day, event_key, ",
    event_is_kept!("event_day"),
    " AS kept
    FROM attempts
    WHERE delivery_id = $2 AND trigger <> 'test' AND ",
    own_webhook!(),
    " AND ",
    within_window!("$4", "$5"),
    " ORDER BY kept DESC, event_day DESC LIMIT 1"
);

const RESEND: &str = concat!(
    "INSERT INTO pending_deliveries AS p
         (id, webhook_id, activation, event_day, event_key, attempts_made, trigger, due_at, claim)
     SELECT $2::uuid, id, activation, $3::date, $4::uuid, 0, 'resend', statement_timestamp(), ",
    new_claim!(),
    " FROM webhooks WHERE id = $1
     ON CONFLICT (id) DO UPDATE
     SET activation = excluded.activation, event_day = excluded.event_day, event_key = excluded.event_key,
         attempts_made = 0, trigger = 'resend', due_at = excluded.due_at,
         claim = greatest(p.claim + 1, excluded.claim)"
);

const FORGET_CLOSED: &str = "DELETE FROM closed_deliveries WHERE id = $1";

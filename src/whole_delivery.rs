//! Shows one delivery whole: how it stands, what was sent, and every attempt.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::delivery_state::DeliveryState;
use crate::ids::{DeliveryId, WebhookId};
use crate::secret::Keyring;
use crate::sender::PastRequest;
use crate::store::{KeptDelivery, LogRow, Scope, Store, StoreError};
use crate::timestamps::{optional_rfc3339, rfc3339};

/// Why a delivery is not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryRefusal {
    #[error("there is no such webhook")]
    UnknownWebhook,
    #[error("nothing is left of such a delivery: the webhook never had it, or its rows are past their retention")]
    NothingLeft,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One delivery, whole.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeDelivery {
    pub id: Uuid,
    /// Null if no attempt is left and the event is no longer kept.
    pub event_id: Option<String>,
    /// Null as `event_id` is.
    pub event_type: Option<String>,
    pub state: DeliveryState,
    /// The attempts that count since the delivery was made, or was last sent again.
    pub attempts_made: i32,
    /// When the event was taken from the queue.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Null unless the delivery is pending.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
    /// The body as it is sent, byte for byte. Null if the event is no longer kept, and for a test.
    pub payload: Option<String>,
    /// The headers of the last attempt, made again; null before the first. Those that cannot be made are left out: both
    /// signatures without the payload, if the secret was replaced since, or for a token that may only read; the webhook's own,
    /// whose values are hidden, if they were set since; `Host`, which depends on the URL at that time; and `Traceparent`, which
    /// is not kept.
    pub request_headers: Option<BTreeMap<String, String>>,
    /// Newest first, 100 at most. The log, filtered by `delivery_id`, has all.
    pub attempts: Vec<LogRow>,
}

impl WholeDelivery {
    /// Reads a delivery. Without the keyring, no signatures are made.
    ///
    /// # Errors
    ///
    /// [`DeliveryRefusal::UnknownWebhook`] without such a webhook within the scope, [`DeliveryRefusal::NothingLeft`] without a
    /// row of the delivery, [`DeliveryRefusal::Store`] if the database did not answer.
    pub(crate) async fn read(
        store: &Store,
        keyring: Option<&Keyring>,
        scope: Scope<'_>,
        webhook: WebhookId,
        delivery: DeliveryId,
    ) -> Result<Self, DeliveryRefusal> {
        let kept = store.kept_delivery(keyring, scope, webhook, delivery).await?;
        Ok(Self::of(kept.ok_or(DeliveryRefusal::UnknownWebhook)?.ok_or(DeliveryRefusal::NothingLeft)?))
    }

    fn of(kept: KeptDelivery) -> Self {
        let request_headers = kept.attempts.first().map(|last| {
            let request = PastRequest {
                event_id: &last.event_id,
                event_type: &last.event_type,
                attempt: last.attempt,
                signed_at: kept.signed_at,
                event: kept.event.as_ref(),
                secrets: kept.signed_by.as_ref(),
                own_headers: &kept.own_headers,
            };
            request.headers()
        });
        let row = kept.row;
        Self {
            id: row.delivery_id,
            event_id: row.event_id,
            event_type: row.event_type,
            state: row.state,
            attempts_made: row.attempts_made,
            created_at: row.created_at,
            next_attempt_at: row.next_attempt_at,
            payload: kept.event.map(|event| String::from_utf8_lossy(&event.body).into_owned()),
            request_headers,
            attempts: kept.attempts,
        }
    }
}

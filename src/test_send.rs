//! Sends a webhook a test event like a real one, and writes the attempt to the webhook log. It changes neither the webhook's
//! health nor any delivery.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::delivery::{Attempt, Delivery, EventRow, Trigger};
use crate::event::{Catalogue, Event, EventData};
use crate::ids::{DeliveryId, EventType, WebhookId};
use crate::secret::Keyring;
use crate::sender::{Sender, SentRequest};
use crate::snapshot::SnapshotState;
use crate::store::{Ahead, LONGEST_AHEAD, LogFilter, LogRow, Pace, PaceAsk, Scope, Store, StoreError};

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum TestRefusal {
    #[error("there is no such webhook")]
    Unknown,
    /// With the reason if it was disabled for its failures.
    #[error("the webhook is not active")]
    Inactive(Option<String>),
    /// Operators hold the webhook, since this time.
    #[error("the webhook is held")]
    Held(Timestamp),
    /// The webhook has a pace, and its next requests are all granted. With the time after which to try again.
    #[error("the webhook's pace leaves no room for a test within {} s", LONGEST_AHEAD.as_secs())]
    OverPace(Duration),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a test shall be.
pub struct TestWish<'a> {
    /// Has the examples.
    pub catalogue: &'a Catalogue,
    /// The webhook's first type unless given.
    pub event_type: Option<EventType>,
    /// The type's example unless given.
    pub data: Option<EventData>,
}

/// A test that can be sent.
pub struct Prepared {
    delivery: Delivery,
    /// Nothing is sent before.
    from: Instant,
}

/// A test that was sent, not logged yet.
pub struct Unlogged {
    delivery: Delivery,
    attempt: Attempt,
    request: Option<SentRequest>,
}

/// A test's log row, and the request that was sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestSent {
    #[serde(flatten)]
    pub row: LogRow,
    /// As it was sent. Null if the secret or the headers cannot be read, and so nothing can be sent.
    pub request: Option<SentRequest>,
}

impl Prepared {
    /// Reads the webhook, and makes the test event.
    ///
    /// # Errors
    ///
    /// [`TestRefusal::Unknown`] without such a webhook within the scope, [`TestRefusal::Inactive`] if the webhook takes no
    /// deliveries, [`TestRefusal::Held`] if operators hold it, [`TestRefusal::Store`] if the database did not answer.
    pub async fn read(
        store: &Store,
        keyring: &Keyring,
        scope: Scope<'_>,
        id: WebhookId,
        wish: TestWish<'_>,
    ) -> Result<Self, TestRefusal> {
        let webhook = store.find_webhook(scope, id).await?.ok_or(TestRefusal::Unknown)?;
        let snapshot = store.snapshot(keyring, scope, id).await?.ok_or(TestRefusal::Unknown)?;
        if !matches!(snapshot.state, SnapshotState::Active { .. }) {
            return Err(TestRefusal::Inactive(webhook.disabled_reason));
        }
        if let Some(since) = webhook.held_since {
            return Err(TestRefusal::Held(since));
        }
        let first = || EventType::parse(webhook.events.first()?);
        let event_type = wish.event_type.or_else(first).expect("a webhook subscribes to something");
        let now = Timestamp::now();
        let data = wish.data.as_ref().or_else(|| wish.catalogue.example(&event_type));
        let event = Event::test(&event_type, &webhook.account_id, data, Uuid::new_v4().as_u128(), now);
        let delivery = Delivery {
            id: DeliveryId::of(id, &event.id),
            // The key of no row: a test's event is not stored.
            row: Arc::new(EventRow::new(event, now.to_zoned(TimeZone::UTC).date(), Uuid::nil())),
            webhook: Arc::new(snapshot),
            trigger: Trigger::Test,
            attempt: 1,
        };
        Ok(Self { delivery, from: Instant::now() })
    }

    /// Takes a place in the webhook's pace, if it has one: before all deliveries that wait, and after tests that came before.
    /// `ceiling` is the pace of webhooks that have none, or a higher one.
    ///
    /// # Errors
    ///
    /// [`TestRefusal::OverPace`] if that would be too late, [`TestRefusal::Store`] if the database did not answer.
    pub async fn take_place(self, store: &Store, ceiling: Option<NonZeroU32>) -> Result<Self, TestRefusal> {
        let webhook = &self.delivery.webhook;
        if webhook.max_per_second.is_none() && ceiling.is_none() {
            return Ok(self);
        }
        let ask = PaceAsk { webhook: webhook.id, wanted: 1, due_since: None };
        let paces = store.take_pace_ahead(ceiling, &[ask], Ahead(LONGEST_AHEAD)).await?;
        let Some(Pace::Paced(granted)) = paces.get(&webhook.id) else { return Ok(self) };
        match granted.granted {
            0 => Err(TestRefusal::OverPace(granted.again_in.saturating_sub(LONGEST_AHEAD))),
            _ => Ok(Self { from: Instant::now() + granted.wait, ..self }),
        }
    }

    /// Waits for its place, makes the attempt, and logs one line.
    pub async fn send(self, sender: &Sender) -> Unlogged {
        tokio::time::sleep_until(self.from.into()).await;
        let delivery = self.delivery;
        let (attempt, request) = sender.attempt_shown(&delivery).await;
        tracing::info!(
            webhook_id = %delivery.webhook.id,
            delivery_id = %delivery.id.0,
            http_status = attempt.outcome.http_status(),
            error = attempt.outcome.error(),
            error_detail = attempt.outcome.error_detail(),
            duration_ms = crate::millis(attempt.duration),
            "test"
        );
        Unlogged { delivery, attempt, request }
    }
}

impl Unlogged {
    /// Writes the attempt to the webhook log.
    ///
    /// # Errors
    ///
    /// When the database did not write the row, or the row was removed at once.
    pub async fn record(self, store: &Store) -> Result<TestSent, StoreError> {
        store.record_test(&self.delivery, &self.attempt).await?;
        let filter = LogFilter { delivery: Some(self.delivery.id), ..LogFilter::default() };
        let log = store.log(Scope::Everyone, self.delivery.webhook.id, &filter, 1).await?;
        let row = log.and_then(|page| page.rows.into_iter().next());
        let row = row.ok_or_else(|| StoreError::Unavailable(anyhow::anyhow!("the test's log row is gone")))?;
        Ok(TestSent { row, request: self.request })
    }
}

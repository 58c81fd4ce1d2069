//! Takes due deliveries for one worker, fenced, with a lease.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::lookup::{snapshot, snapshot_columns};
use super::{Store, StoreError, column};
use crate::delivery::{Delivery, DeliveryId, EventRow, Trigger};
use crate::event::{AccountId, Event, EventId, EventType};
use crate::secret::Keyring;
use crate::webhook::{Snapshot, SnapshotState, WebhookId};

/// A due delivery that this worker may attempt until its lease ends.
#[derive(Debug)]
pub struct Claimed {
    pub delivery: Delivery,
    /// A result is only taken for the newest claim.
    pub claim: i64,
}

/// A webhook with pending deliveries.
#[derive(Debug, Clone, Copy)]
pub struct WaitingWebhook {
    pub id: WebhookId,
    /// How late its first delivery is, if one is due.
    pub late: Option<Duration>,
}

impl Store {
    /// The next `limit` webhooks after one that have pending deliveries, in the order of their ids.
    pub async fn waiting_webhooks(&self, after: WebhookId, limit: usize) -> Result<Vec<WaitingWebhook>, StoreError> {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let rows = self.query(WAITING_WEBHOOKS, &[&after.0, &limit]).await?;
        let waiting = |row| {
            let late: Option<f64> = column(row, "late");
            WaitingWebhook { id: WebhookId(column(row, "webhook_id")), late: late.map(Duration::from_secs_f64) }
        };
        Ok(rows.iter().map(waiting).collect())
    }

    /// Claims due deliveries, of each webhook as many as there is room for, oldest first. Another worker may claim them
    /// again after `lease`.
    pub async fn claim_due(
        &self,
        keyring: &Keyring,
        rooms: &[(WebhookId, usize)],
        lease: Duration,
    ) -> Result<Vec<Claimed>, StoreError> {
        let webhooks: Vec<Uuid> = rooms.iter().map(|(webhook, _)| webhook.0).collect();
        let rooms: Vec<i64> = rooms.iter().map(|(_, room)| i64::try_from(*room).unwrap_or(i64::MAX)).collect();
        let rows = self.query(CLAIM_DUE, &[&webhooks, &rooms, &lease.as_secs_f64()]).await?;
        Ok(rows.iter().map(|row| claimed(row, keyring)).collect())
    }

    /// Deliveries that are pending; above 10,000 the planner's estimate.
    pub async fn count_pending(&self) -> Result<i64, StoreError> {
        let rows = self.query(COUNT_PENDING, &[]).await?;
        Ok(rows.first().map_or(0, |row| column(row, "pending")))
    }

    /// Gives claims back unattempted: they are due at once.
    pub async fn release(&self, claims: &[(DeliveryId, i64)]) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = claims.iter().map(|(delivery, _)| delivery.0).collect();
        let claims: Vec<i64> = claims.iter().map(|(_, claim)| *claim).collect();
        self.execute(RELEASE, &[&ids, &claims]).await
    }
}

/// Goes from one webhook to the next in the index and reads one row of each.
const WAITING_WEBHOOKS: &str = "
    WITH RECURSIVE heads (webhook_id, due_at, number) AS (
        (SELECT webhook_id, due_at, 1 FROM pending_deliveries WHERE webhook_id > $1
         ORDER BY webhook_id, due_at LIMIT 1)
        UNION ALL
        SELECT next.webhook_id, next.due_at, h.number + 1 FROM heads h CROSS JOIN LATERAL (
            SELECT webhook_id, due_at FROM pending_deliveries p WHERE p.webhook_id > h.webhook_id
            ORDER BY p.webhook_id, p.due_at LIMIT 1) AS next
        WHERE h.number < $2
    )
    SELECT webhook_id, CASE WHEN due_at <= now() THEN extract(epoch FROM now() - due_at)::float8 END AS late
    FROM heads";

/// An array and limits, where joins would do, keep the planner from reading whole tables: it cannot know how few are
/// claimed.
const CLAIM_DUE: &str = concat!(
    "WITH due AS (
        SELECT head.id FROM unnest($1::uuid[], $2::bigint[]) AS w (id, room) CROSS JOIN LATERAL (
            SELECT id FROM pending_deliveries p WHERE p.webhook_id = w.id AND p.due_at <= now()
            ORDER BY p.due_at LIMIT w.room FOR UPDATE SKIP LOCKED) AS head
    ), claimed AS (
        UPDATE pending_deliveries p SET due_at = now() + make_interval(secs => $3), claim = p.claim + 1
        WHERE p.id = ANY (ARRAY(SELECT id FROM due))
        RETURNING p.id, p.claim, p.webhook_id AS owed_to, p.activation AS owed_since, p.event_day, p.event_key,
                  p.trigger, p.attempts_made
    )
    SELECT c.*, e.account_id AS event_account_id, e.event_id, e.event_type, e.body, ",
    snapshot_columns!(),
    "
    FROM claimed c
    CROSS JOIN LATERAL (SELECT * FROM events e WHERE e.day = c.event_day AND e.key = c.event_key LIMIT 1) e
    LEFT JOIN LATERAL (SELECT * FROM webhooks w WHERE w.id = c.owed_to LIMIT 1) w ON true"
);

const COUNT_PENDING: &str = "
    SELECT CASE WHEN few.count <= 10000 THEN few.count ELSE greatest(c.reltuples::bigint, few.count) END AS pending
    FROM (SELECT count(*) FROM (SELECT FROM pending_deliveries LIMIT 10001) AS p) AS few,
         pg_class c WHERE c.oid = 'pending_deliveries'::regclass";

const RELEASE: &str = "
    UPDATE pending_deliveries p SET due_at = now(), claim = p.claim + 1
    FROM unnest($1::uuid[], $2::bigint[]) AS r (id, claim)
    WHERE p.id = r.id AND p.claim = r.claim";

fn claimed(row: &Row, keyring: &Keyring) -> Claimed {
    let attempts_made: i32 = column(row, "attempts_made");
    let delivery = Delivery {
        id: DeliveryId(column(row, "id")),
        row: Arc::new(event_row(row)),
        webhook: Arc::new(owed_to(row, keyring)),
        trigger: Trigger::from_name(column(row, "trigger")).expect("only known triggers are stored"),
        attempt: u32::try_from(attempts_made).expect("attempts are counted from 0") + 1,
    };
    Claimed { delivery, claim: column(row, "claim") }
}

fn event_row(row: &Row) -> EventRow {
    const STORED: &str = "only valid events are stored";
    let event = Event {
        id: EventId::parse(column(row, "event_id")).expect(STORED),
        event_type: EventType::parse(column(row, "event_type")).expect(STORED),
        account_id: AccountId::parse(column(row, "event_account_id")).expect(STORED),
        body: column::<Vec<u8>>(row, "body").into(),
    };
    EventRow::stored(event, column(row, "event_day"), column(row, "event_key"))
}

/// The webhook as it is now, for a delivery owed to it since an activation.
fn owed_to(row: &Row, keyring: &Keyring) -> Snapshot {
    let id = WebhookId(column(row, "owed_to"));
    let owed = Snapshot { id, activation: column(row, "owed_since"), state: SnapshotState::Off };
    let exists = column::<Option<Uuid>>(row, "webhook_id").is_some();
    owed.as_of(exists.then(|| snapshot(row, keyring)))
}

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

/// What waits in the database.
#[derive(Debug)]
pub struct Backlog {
    /// Deliveries; above 10,000 the planner's estimate.
    pub pending: i64,
    /// How late the longest-waiting due delivery is.
    pub due_lag: Duration,
}

impl Store {
    /// Claims up to `limit` due deliveries, oldest first. Another worker may claim them again after `lease`.
    pub async fn claim_due(
        &self,
        keyring: &Keyring,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Claimed>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.query(CLAIM_DUE, &[&limit, &lease.as_secs_f64()]).await?;
        Ok(rows.iter().map(|row| claimed(row, keyring)).collect())
    }

    /// What waits, without counting further than is cheap.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let rows = self.query(BACKLOG, &[]).await?;
        let row = rows.first().expect("it asks for one row");
        let due_lag: f64 = column(row, "due_lag");
        Ok(Backlog { pending: column(row, "pending"), due_lag: Duration::from_secs_f64(due_lag.max(0.0)) })
    }

    /// Gives claims back unattempted: they are due at once.
    pub async fn release(&self, claims: &[(DeliveryId, i64)]) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = claims.iter().map(|(delivery, _)| delivery.0).collect();
        let claims: Vec<i64> = claims.iter().map(|(_, claim)| *claim).collect();
        self.execute(RELEASE, &[&ids, &claims]).await
    }
}

const CLAIM_DUE: &str = concat!(
    "WITH due AS (
        SELECT id FROM pending_deliveries WHERE due_at <= now()
        ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE pending_deliveries p SET due_at = now() + make_interval(secs => $2), claim = p.claim + 1
        FROM due WHERE p.id = due.id
        RETURNING p.id, p.claim, p.webhook_id AS owed_to, p.activation AS owed_since, p.event_day, p.event_key,
                  p.trigger, p.attempts_made
    )
    SELECT c.*, e.account_id AS event_account_id, e.event_id, e.event_type, e.body, ",
    snapshot_columns!(),
    "
    FROM claimed c
    JOIN events e ON e.day = c.event_day AND e.key = c.event_key
    LEFT JOIN webhooks w ON w.id = c.owed_to"
);

const BACKLOG: &str = "
    SELECT CASE WHEN few.count <= 10000 THEN few.count ELSE greatest(c.reltuples::bigint, few.count) END AS pending,
           coalesce(extract(epoch FROM now() - (
               SELECT min(due_at) FROM pending_deliveries WHERE due_at <= now())), 0)::float8 AS due_lag
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

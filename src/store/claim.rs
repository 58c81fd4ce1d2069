//! Takes due deliveries for one worker, fenced, with a lease.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::due::close_removed;
use super::lookup::{before_v10, snapshot, snapshot_columns};
use super::{Store, StoreError, TypedParams, column};
use crate::delivery::{Delivery, EventRow, Trigger};
use crate::error_chain;
use crate::event::Event;
use crate::ids::{AccountId, DeliveryId, EventId, EventType, WebhookId};
use crate::secret::Keyring;
use crate::snapshot::{Snapshot, SnapshotState};

/// A due delivery that this worker may attempt until its lease ends.
#[derive(Debug)]
pub struct Claimed {
    pub delivery: Delivery,
    /// A result is only taken for the newest claim.
    pub claim: i64,
}

/// How many of a webhook's due deliveries are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub webhook: WebhookId,
    /// Where to begin: what fell due before was claimed, or is being claimed by another worker.
    pub since: Timestamp,
    pub room: usize,
}

/// What a claim took.
#[derive(Debug, Default)]
pub struct Claims {
    pub deliveries: Vec<Claimed>,
    /// Deliveries closed because their events are gone, erased by hand or lost: nothing is left to send.
    pub without_event: Vec<(WebhookId, DeliveryId)>,
    /// Of each webhook that had any: how many, and when the last of them fell due.
    pub taken: HashMap<WebhookId, Taken>,
    /// Webhooks of which nothing was claimed, for they are paused.
    pub paused: HashMap<WebhookId, Arc<Snapshot>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub count: usize,
    pub until: Timestamp,
}

impl Store {
    /// Claims due deliveries, of each webhook as many as there is room for, oldest first; of a paused one none. Another
    /// worker may claim them again after `lease`.
    pub async fn claim_due(&self, keyring: &Keyring, rooms: &[Room], lease: Duration) -> Result<Claims, StoreError> {
        let webhooks: Vec<Uuid> = rooms.iter().map(|room| room.webhook.0).collect();
        let since: Vec<Timestamp> = rooms.iter().map(|room| room.since).collect();
        let numbers: Vec<i64> = rooms.iter().map(|room| i64::try_from(room.room).unwrap_or(i64::MAX)).collect();
        let rows = self.query_to_write(CLAIM_DUE, &[&webhooks, &numbers, &since, &lease.as_secs_f64()]).await?;
        let (rows, paused): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| column::<Option<Uuid>>(row, "id").is_some());
        let paused = paused.iter().filter_map(|row| webhook_now(row, keyring)).map(|now| (now.id, now)).collect();
        if rows.is_empty() {
            return Ok(Claims { paused, ..Claims::default() });
        }
        match self.events(&rows).await {
            Ok(events) => Ok(Claims { paused, ..self.claims(&rows, &events, keyring).await }),
            Err(error) => {
                // Without it the leases end later.
                self.release(&rows.iter().map(fence).collect::<Vec<_>>()).await.ok();
                Err(error)
            }
        }
    }

    async fn claims(&self, rows: &[Row], events: &Events, keyring: &Keyring) -> Claims {
        let (mut claims, mut without_event) = (Claims::default(), Vec::new());
        // A webhook's secrets are decrypted once for all its deliveries.
        let mut webhooks: HashMap<WebhookId, Option<Arc<Snapshot>>> = HashMap::new();
        for row in rows {
            let webhook = WebhookId(column(row, "owed_to"));
            let until: Timestamp = column(row, "was_due_at");
            let taken = claims.taken.entry(webhook).or_insert(Taken { count: 0, until });
            *taken = Taken { count: taken.count + 1, until: taken.until.max(until) };
            match events.get(&column::<Uuid>(row, "event_key")) {
                Some(event) => {
                    let now = webhooks.entry(webhook).or_insert_with(|| webhook_now(row, keyring));
                    claims.deliveries.push(claimed(row, event.clone(), now.as_ref()));
                }
                None => without_event.push((webhook, fence(row))),
            }
        }
        if !without_event.is_empty() {
            let (ids, tokens): (Vec<Uuid>, Vec<i64>) =
                without_event.iter().map(|(_, (id, claim))| (id.0, *claim)).unzip();
            match self.execute(CLOSE_WITHOUT_EVENT, &[&ids, &tokens]).await {
                Ok(_) => claims.without_event = without_event.into_iter().map(|(of, (id, _))| (of, id)).collect(),
                // They are claimed and closed when their leases end; the others do not wait for that.
                Err(error) => tracing::debug!(error = error_chain(&error), "cannot close deliveries without events"),
            }
        }
        claims
    }

    /// The events of claimed rows, by their keys, as far as they are there. Of the table's partitions only those of the
    /// rows' days are touched.
    async fn events(&self, rows: &[Row]) -> Result<Events, StoreError> {
        // An event that is owed to many webhooks is read once.
        let wanted: BTreeSet<(Date, Uuid)> =
            rows.iter().map(|row| (column(row, "event_day"), column(row, "event_key"))).collect();
        let (days, keys): (Vec<Date>, Vec<Uuid>) = wanted.into_iter().unzip();
        let some = BTreeSet::from_iter(&days).into_iter().copied().collect::<Vec<_>>();
        let params: TypedParams<'_> =
            &[(&days, Type::DATE_ARRAY), (&keys, Type::UUID_ARRAY), (&some, Type::DATE_ARRAY)];
        let events = self.query_planned_anew(EVENTS, params).await?;
        Ok(events.iter().map(|row| (column(row, "key"), Arc::new(event_row(row)))).collect())
    }

    /// Gives claims back unattempted: they are due at once.
    pub async fn release(&self, claims: &[(DeliveryId, i64)]) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = claims.iter().map(|(delivery, _)| delivery.0).collect();
        let claims: Vec<i64> = claims.iter().map(|(_, claim)| *claim).collect();
        self.execute(RELEASE, &[&ids, &claims]).await
    }
}

/// The events of claimed deliveries, by their keys.
type Events = HashMap<Uuid, Arc<EventRow>>;

/// Rows are compared as a whole, so that only the index by webhook answers, and in its order. An array and limits, where
/// joins would do, keep the planner from reading whole tables: it cannot know how few are claimed. A paused webhook is one
/// row without a delivery.
const CLAIM_DUE: &str = concat!(
    "WITH asked AS MATERIALIZED (
        SELECT a.id AS asked_for, a.room, a.since, ",
    snapshot_columns!(),
    " FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS a (id, room, since)
        LEFT JOIN LATERAL (SELECT * FROM webhooks w WHERE w.id = a.id LIMIT 1) w ON true CROSS JOIN ",
    before_v10!(),
    "
    ), due AS MATERIALIZED (
        SELECT head.id, head.due_at
        FROM asked a CROSS JOIN LATERAL (
            SELECT id, due_at FROM pending_deliveries p
            WHERE (p.webhook_id, p.due_at) >= (a.asked_for, a.since)
                AND (p.webhook_id, p.due_at) <= (a.asked_for, now())
            ORDER BY p.webhook_id, p.due_at LIMIT a.room FOR UPDATE SKIP LOCKED) AS head
        WHERE a.paused_for IS NULL
    ), claimed AS (
        UPDATE pending_deliveries p SET due_at = now() + make_interval(secs => $4), claim = p.claim + 1
        WHERE p.id = ANY (ARRAY(SELECT id FROM due))
        RETURNING p.id, p.claim, p.webhook_id AS owed_to, p.activation AS owed_since, p.event_day, p.event_key,
                  p.trigger, p.attempts_made
    )
    SELECT a.*, c.*, due.due_at AS was_due_at
    FROM asked a LEFT JOIN (claimed c JOIN due ON due.id = c.id) ON c.owed_to = a.asked_for
    WHERE c.id IS NOT NULL OR a.paused_for IS NOT NULL"
);

/// The days once more as one array, which tells the planner the partitions.
const EVENTS: &str = "
    SELECT e.day, e.key, e.account_id, e.event_id, e.event_type, e.body
    FROM unnest($1, $2) AS wanted (day, key) CROSS JOIN LATERAL (
        SELECT * FROM events e WHERE e.day = wanted.day AND e.key = wanted.key AND e.day = ANY ($3) LIMIT 1) AS e";

const CLOSE_WITHOUT_EVENT: &str = concat!(
    "WITH ",
    close_removed!(
        "SELECT p.id FROM pending_deliveries p JOIN unnest($1::uuid[], $2::bigint[]) AS g (id, claim)
         ON (g.id, g.claim) = (p.id, p.claim) WHERE p.id = ANY ($1) FOR UPDATE OF p SKIP LOCKED",
        "'cancelled'"
    ),
    " SELECT FROM removed"
);

/// Leaves out what somebody else is changing just now: that is not the claim's any more, or its lease ends later.
const RELEASE: &str = "
    UPDATE pending_deliveries SET due_at = now(), claim = claim + 1 WHERE id = ANY (ARRAY(
        SELECT p.id FROM pending_deliveries p JOIN unnest($1::uuid[], $2::bigint[]) AS r (id, claim)
        ON (r.id, r.claim) = (p.id, p.claim) WHERE p.id = ANY ($1) FOR UPDATE OF p SKIP LOCKED))";

/// What names a claim.
fn fence(row: &Row) -> (DeliveryId, i64) {
    (DeliveryId(column(row, "id")), column(row, "claim"))
}

fn claimed(row: &Row, event: Arc<EventRow>, webhook: Option<&Arc<Snapshot>>) -> Claimed {
    let attempts_made: i32 = column(row, "attempts_made");
    let (id, activation) = (WebhookId(column(row, "owed_to")), column(row, "owed_since"));
    let owed = Snapshot { id, activation, troubled: false, paused_until: None, state: SnapshotState::Off };
    let delivery = Delivery {
        id: DeliveryId(column(row, "id")),
        row: event,
        webhook: owed.as_of(webhook),
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
        account_id: AccountId::parse(column(row, "account_id")).expect(STORED),
        body: column::<Vec<u8>>(row, "body").into(),
    };
    EventRow::stored(event, column(row, "day"), column(row, "key"))
}

/// The webhook as it is now, if it is there.
fn webhook_now(row: &Row, keyring: &Keyring) -> Option<Arc<Snapshot>> {
    column::<Option<Uuid>>(row, "webhook_id").map(|_| Arc::new(snapshot(row, keyring)))
}

//! Claims due deliveries for one worker, for the time of a lease. Every claim raises the delivery's number (a fencing token),
//! so a result of an earlier claim changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::known_columns::Addition;
use super::lookup::{added, snapshot, snapshot_columns};
use super::sql::close_chosen;
use super::{Params, Store, StoreError, TypedParams, column};
use crate::delivery::{Delivery, EventRow, Trigger};
use crate::error_chain;
use crate::event::Event;
use crate::ids::{AccountId, DeliveryId, EventId, EventType, WebhookId};
use crate::secret::Keyring;
use crate::snapshot::Snapshot;
use crate::trace_context::TraceContext;

/// A due delivery that this worker may attempt until its lease ends.
#[derive(Debug)]
pub struct Claimed {
    pub delivery: Delivery,
    /// The number of this claim. A result with an older number does not change the delivery.
    pub claim: i64,
    /// How long ago a worker received its event, if it had no attempt yet.
    pub waited: Option<Duration>,
}

/// How many of a webhook's due deliveries a worker wants to claim.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub webhook: WebhookId,
    /// Deliveries that fell due before this time are left out: they are claimed, or are being claimed by another worker.
    pub since: Timestamp,
    /// The largest number of deliveries to claim.
    pub most: usize,
    /// Whether their requests were granted: without that, nothing is claimed of a webhook with a pace.
    pub granted: bool,
}

/// What [`Store::claim_due`] claimed.
#[derive(Debug, Default)]
pub struct Claims {
    pub deliveries: Vec<Claimed>,
    /// Deliveries that were closed because their events are gone: an operator erased them, or they were lost.
    pub without_event: Vec<(WebhookId, DeliveryId)>,
    /// For each webhook with due deliveries, how many were claimed or closed.
    pub taken: HashMap<WebhookId, Taken>,
    /// Webhooks of which nothing was claimed because they are paused.
    pub paused: HashMap<WebhookId, Arc<Snapshot>>,
    /// Webhooks of which nothing was claimed because they have a pace, and no request was granted.
    pub ungranted: HashMap<WebhookId, NonZeroU32>,
}

/// How many deliveries of one webhook a claim took from the due ones.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub count: usize,
    /// When the last of them fell due.
    pub until: Timestamp,
}

impl Store {
    /// Claims due deliveries, for each webhook as many as it has room for, oldest first, and none of a paused webhook,
    /// nor of one with a pace unless the room is granted. When
    /// `lease` is over, another worker may claim them again.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated: try again. What was claimed by then is given back, or is due
    /// again when its lease ends.
    pub async fn claim_due(&self, keyring: &Keyring, rooms: &[Room], lease: Duration) -> Result<Claims, StoreError> {
        let webhooks: Vec<Uuid> = rooms.iter().map(|room| room.webhook.0).collect();
        let since: Vec<Timestamp> = rooms.iter().map(|room| room.since).collect();
        let numbers: Vec<i64> = rooms.iter().map(|room| i64::try_from(room.most).unwrap_or(i64::MAX)).collect();
        let granted: Vec<bool> = rooms.iter().map(|room| room.granted).collect();
        let params: Params<'_> = &[&webhooks, &numbers, &since, &lease.as_secs_f64(), &granted];
        let rows = self.query_to_write(&CLAIM_DUE, params).await?;
        let (rows, left): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| column::<Option<Uuid>>(row, "id").is_some());
        let (paused, ungranted) = unclaimed(&left, keyring);
        if rows.is_empty() {
            return Ok(Claims { paused, ungranted, ..Claims::default() });
        }
        match self.events(&rows).await {
            Ok(events) => Ok(Claims { paused, ungranted, ..self.claims(&rows, &events, keyring).await }),
            Err(error) => {
                // If this fails too, the deliveries are due again when their leases end.
                self.release(&rows.iter().map(id_and_claim).collect::<Vec<_>>()).await.ok();
                Err(error)
            }
        }
    }

    async fn claims(&self, rows: &[Row], events: &Events, keyring: &Keyring) -> Claims {
        let (mut claims, mut without_event) = (Claims::default(), Vec::new());
        // A webhook's secrets are decrypted once for all its deliveries.
        let mut webhooks: HashMap<WebhookId, Option<Arc<Snapshot>>> = HashMap::new();
        for row in rows {
            let webhook = WebhookId(column(row, "pending_webhook"));
            let until: Timestamp = column(row, "was_due_at");
            let taken = claims.taken.entry(webhook).or_insert(Taken { count: 0, until });
            *taken = Taken { count: taken.count + 1, until: taken.until.max(until) };
            match events.get(&column::<Uuid>(row, "event_key")) {
                Some(event) => {
                    let now = webhooks.entry(webhook).or_insert_with(|| webhook_now(row, keyring));
                    claims.deliveries.push(claimed(row, event.clone(), now.as_ref()));
                }
                None => without_event.push((webhook, id_and_claim(row))),
            }
        }
        if !without_event.is_empty() {
            let (ids, claim_numbers): (Vec<Uuid>, Vec<i64>) =
                without_event.iter().map(|(_, (id, claim))| (id.0, *claim)).unzip();
            match self.execute(&CLOSE_WITHOUT_EVENT, &[&ids, &claim_numbers]).await {
                Ok(_) => claims.without_event = without_event.into_iter().map(|(of, (id, _))| (of, id)).collect(),
                // They are claimed again when their leases end, and closed then.
                Err(error) => tracing::debug!(error = error_chain(&error), "cannot close deliveries without events"),
            }
        }
        claims
    }

    /// The events of claimed rows, by their keys. Events that are gone are missing. Only the partitions of the rows' days are
    /// read and locked.
    async fn events(&self, rows: &[Row]) -> Result<Events, StoreError> {
        // An event of several claimed deliveries is read once.
        let wanted: BTreeSet<(Date, Uuid)> =
            rows.iter().map(|row| (column(row, "event_day"), column(row, "event_key"))).collect();
        let (days, keys): (Vec<Date>, Vec<Uuid>) = wanted.into_iter().unzip();
        let distinct_days = BTreeSet::from_iter(&days).into_iter().copied().collect::<Vec<_>>();
        let params: TypedParams<'_> =
            &[(&days, Type::DATE_ARRAY), (&keys, Type::UUID_ARRAY), (&distinct_days, Type::DATE_ARRAY)];
        let sql = if self.has(Addition::Traceparents).await? { &EVENTS.with_traces } else { &EVENTS.before_v17 };
        let events = self.query_planned_anew(sql, params).await?;
        Ok(events.iter().map(|row| (column(row, "key"), Arc::new(traced_row(row)))).collect())
    }

    /// Gives claims back without an attempt: the deliveries are due at once. Returns how many; claims that are no longer the
    /// newest, and rows that another transaction has locked, are left out.
    ///
    /// # Errors
    ///
    /// The database is not available or busy: the deliveries are due when their leases end.
    pub async fn release(&self, claims: &[(DeliveryId, i64)]) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = claims.iter().map(|(delivery, _)| delivery.0).collect();
        let claims: Vec<i64> = claims.iter().map(|(_, claim)| *claim).collect();
        self.execute(RELEASE, &[&ids, &claims]).await
    }
}

/// The events of claimed deliveries, by their keys.
type Events = HashMap<Uuid, Arc<EventRow>>;

/// - `asked`: one row for each webhook that the worker has room for, with its snapshot.
/// - `due`: the oldest due deliveries of the webhooks that are not paused and need no grant, locked here.
/// - `claimed`: the same deliveries after the claim.
///
/// The result has one row for each claimed delivery, and one without a delivery for each webhook that is paused or needs a
/// grant.
///
/// PostgreSQL does not know how few rows are claimed, and would choose joins that read whole tables. Three things prevent
/// that: comparing `(webhook_id, due_at)` as a row leaves only the index by webhook, and in its order; `LIMIT` in the lateral
/// sub-selects has each run once for a webhook; `ANY (ARRAY(...))` has the update find its rows by their ids.
static CLAIM_DUE: LazyLock<String> = LazyLock::new(|| {
    let (snapshot_columns, added) = (snapshot_columns!(), added!());
    format!(
        "WITH asked AS MATERIALIZED (
            SELECT room.webhook_id AS asked_for, room.deliveries, room.since, {snapshot_columns},
                w.active AND added.max_per_second IS NOT NULL AND NOT room.granted AS ungranted
            FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $5::boolean[]) AS room (webhook_id, deliveries, since, granted)
            LEFT JOIN LATERAL (SELECT * FROM webhooks WHERE id = room.webhook_id LIMIT 1) w ON true
            CROSS JOIN {added}
        ), due AS MATERIALIZED (
            SELECT head.id, head.due_at
            FROM asked CROSS JOIN LATERAL (
                SELECT id, due_at FROM pending_deliveries
                WHERE (webhook_id, due_at) >= (asked.asked_for, asked.since)
                    AND (webhook_id, due_at) <= (asked.asked_for, now())
                ORDER BY pending_deliveries.webhook_id, due_at LIMIT asked.deliveries FOR UPDATE SKIP LOCKED) AS head
            WHERE asked.paused_for IS NULL AND asked.ungranted IS NOT TRUE
        ), claimed AS (
            UPDATE pending_deliveries pending
            SET due_at = now() + make_interval(secs => $4), claim = pending.claim + 1
            WHERE pending.id = ANY (ARRAY(SELECT id FROM due))
            RETURNING pending.id, pending.claim, pending.webhook_id AS pending_webhook, pending.activation AS pending_activation,
                pending.event_day, pending.event_key, pending.trigger, pending.attempts_made,
                extract(epoch FROM now() - pending.created_at)::float8 AS waited
        )
        SELECT asked.*, claimed.*, due.due_at AS was_due_at
        FROM asked LEFT JOIN (claimed JOIN due ON due.id = claimed.id) ON claimed.pending_webhook = asked.asked_for
        WHERE claimed.id IS NOT NULL OR asked.paused_for IS NOT NULL OR asked.ungranted"
    )
});

/// `$3` has the same days as `$1`, once each: only a comparison with an array lets the planner leave out the partitions of
/// other days.
static EVENTS: LazyLock<EventsStatement> = LazyLock::new(|| {
    let of = |traceparent: &str| {
        format!(
            "SELECT e.day, e.key, e.account_id, e.event_id, e.event_type, e.body, {traceparent} AS traceparent
            FROM unnest($1, $2) AS wanted (day, key) CROSS JOIN LATERAL (
                SELECT * FROM events e WHERE e.day = wanted.day AND e.key = wanted.key AND e.day = ANY ($3) LIMIT 1) AS e"
        )
    };
    EventsStatement { with_traces: of("e.traceparent"), before_v17: of("NULL::text") }
});

/// The statement for either schema: a worker goes on with that of the release before until `migrate` has run.
struct EventsStatement {
    with_traces: String,
    before_v17: String,
}

static CLOSE_WITHOUT_EVENT: LazyLock<String> = LazyLock::new(|| {
    let chosen = "
        SELECT pending.id FROM pending_deliveries pending JOIN unnest($1::uuid[], $2::bigint[]) AS given (id, claim)
        USING (id, claim) WHERE pending.id = ANY ($1) FOR UPDATE OF pending SKIP LOCKED";
    format!("WITH {} SELECT FROM removed", close_chosen(chosen, "'cancelled'"))
});

/// Skips rows that another transaction has locked: those have another claim soon, or are due when their lease ends.
const RELEASE: &str = "
    UPDATE pending_deliveries SET due_at = now(), claim = claim + 1 WHERE id = ANY (ARRAY(
        SELECT pending.id FROM pending_deliveries pending JOIN unnest($1::uuid[], $2::bigint[]) AS given (id, claim)
        USING (id, claim) WHERE pending.id = ANY ($1) FOR UPDATE OF pending SKIP LOCKED))";

/// The delivery's id and the number of the claim.
fn id_and_claim(row: &Row) -> (DeliveryId, i64) {
    (DeliveryId(column(row, "id")), column(row, "claim"))
}

fn claimed(row: &Row, event: Arc<EventRow>, webhook: Option<&Arc<Snapshot>>) -> Claimed {
    let attempts_made: i32 = column(row, "attempts_made");
    let (id, activation) = (WebhookId(column(row, "pending_webhook")), column(row, "pending_activation"));
    let seen = Snapshot::off(id, activation);
    let delivery = Delivery {
        id: DeliveryId(column(row, "id")),
        row: event,
        webhook: seen.updated_to(webhook),
        trigger: Trigger::from_name(column(row, "trigger")).expect("only known triggers are stored"),
        attempt: u32::try_from(attempts_made).expect("attempts are counted from 0") + 1,
    };
    // A clock that was set back makes it negative.
    let waited = || Duration::try_from_secs_f64(column(row, "waited")).unwrap_or_default();
    // Every attempt, also one that is repeated, gives the delivery another trigger.
    let waited = (delivery.trigger == Trigger::Event).then(waited);
    Claimed { delivery, claim: column(row, "claim"), waited }
}

/// An event with the trace that its later attempts continue.
fn traced_row(row: &Row) -> EventRow {
    let mut stored = event_row(row);
    stored.event.trace =
        column::<Option<&str>>(row, "traceparent").and_then(|text| TraceContext::parse(text.as_bytes()));
    stored
}

/// An event without its trace.
pub(super) fn event_row(row: &Row) -> EventRow {
    const STORED: &str = "only valid events are stored";
    let event = Event {
        id: EventId::parse(column(row, "event_id")).expect(STORED),
        event_type: EventType::parse(column(row, "event_type")).expect(STORED),
        account_id: AccountId::parse(column(row, "account_id")).expect(STORED),
        body: column::<Vec<u8>>(row, "body").into(),
        trace: None,
    };
    EventRow::stored(event, column(row, "day"), column(row, "key"))
}

/// From the rows without a delivery: the webhooks that are paused, and those that need a grant, with their paces.
fn unclaimed(rows: &[Row], keyring: &Keyring) -> (HashMap<WebhookId, Arc<Snapshot>>, HashMap<WebhookId, NonZeroU32>) {
    let (mut paused, mut ungranted) = (HashMap::new(), HashMap::new());
    for webhook in rows.iter().filter_map(|row| webhook_now(row, keyring)) {
        match webhook.max_per_second.filter(|_| webhook.paused_until.is_none()) {
            Some(pace) => drop(ungranted.insert(webhook.id, pace)),
            None => drop(paused.insert(webhook.id, webhook)),
        }
    }
    (paused, ungranted)
}

/// The webhook as it is now; `None` if it was deleted.
fn webhook_now(row: &Row, keyring: &Keyring) -> Option<Arc<Snapshot>> {
    column::<Option<Uuid>>(row, "webhook_id").map(|_| Arc::new(snapshot(row, keyring)))
}

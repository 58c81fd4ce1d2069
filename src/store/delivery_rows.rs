//! Reads what is left of deliveries, and makes of it what customers see: a state, and the newest attempt.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use utoipa::ToSchema;
use uuid::Uuid;

use super::attempt_columns::error_detail;
use super::{LogStatus, Position, Scope, Store, StoreError, TypedParams, column};
use crate::delivery::{ErrorDetail, ErrorName, Trigger};
use crate::delivery_state::{DeliveryState, Remains, WantedState};
use crate::ids::WebhookId;
use crate::snapshot::Standing;
use crate::timestamps::{optional_rfc3339, rfc3339};

/// The most days whose events one statement looks up: it locks their partitions.
const DAYS_AT_ONCE: usize = 28;

/// One delivery as a list shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeliveryRow {
    pub delivery_id: Uuid,
    /// Null if no attempt was made and the event is no longer kept.
    pub event_id: Option<String>,
    /// Null as `event_id` is.
    pub event_type: Option<String>,
    /// How the delivery came to be: `event`, or `test`, which cannot be sent again. Retries and sending it again leave it as it is.
    #[schema(value_type = Trigger, inline)]
    pub trigger: &'static str,
    pub state: DeliveryState,
    /// The attempts that count since the delivery was made, or was last sent again.
    pub attempts_made: i32,
    /// How the newest attempt ended, `success` or `failed`; null before the first.
    #[schema(value_type = Option<LogStatus>, inline)]
    pub last_status: Option<&'static str>,
    /// The HTTP status of the newest attempt, if there was an answer.
    pub last_http_status: Option<i32>,
    /// What went wrong at the newest attempt: see `error` of an attempt.
    #[schema(value_type = Option<ErrorName>)]
    pub last_error: Option<String>,
    /// More about `last_error`: see `error_detail` of an attempt.
    pub last_error_detail: Option<ErrorDetail>,
    /// When the event was taken from the queue.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Null unless the delivery is pending.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
}

/// A webhook as it is now: its activation and standing. `None`: it was deleted.
pub(super) type WebhookNow = Option<(i32, Standing)>;

/// A delivery that was found, in the log or by its pending or closed row.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub id: Uuid,
    /// The day and the key of its event.
    pub event: (Date, Uuid),
    pub created_at: Timestamp,
    /// `None` if it was never attempted.
    pub last: Option<LoggedAttempt>,
}

/// The newest attempt of a delivery, as the log has it.
#[derive(Debug, Clone)]
pub(super) struct LoggedAttempt {
    pub at: Position,
    attempt: i32,
    is_test: bool,
    event_id: String,
    pub event_type: String,
    pub http_status: Option<i32>,
    pub error: Option<String>,
    error_detail: Option<ErrorDetail>,
    next_attempt_at: Option<Timestamp>,
}

/// A delivery as a list shows it, and what else is known of it.
#[derive(Debug)]
pub(super) struct PlacedRow {
    pub row: DeliveryRow,
    pub place: Position,
    pub event: (Date, Uuid),
}

/// The pending and the closed row of a delivery.
#[derive(Debug, Default)]
pub(super) struct OwnRows {
    pending: Option<Pending>,
    closed: Option<Closed>,
}

#[derive(Debug)]
struct Pending {
    activation: i32,
    attempts_made: i32,
    due_at: Timestamp,
}

#[derive(Debug)]
struct Closed {
    reason: String,
    attempts_made: i32,
}

impl Found {
    /// Reads a row of `attempts`, or a pending or closed row, whose time is `time`.
    pub(super) fn of(row: &Row, id: &str, time: &str, last: Option<LoggedAttempt>) -> Self {
        let event: (Date, Uuid) = (column(row, "event_day"), column(row, "event_key"));
        let time: Timestamp = column(row, time);
        // The time of an attempt may be some milliseconds too early. No delivery is shown as younger than its attempt.
        let created_at = taken_at(event.1).map_or(time, |taken| taken.min(time));
        Self { id: column(row, id), created_at, event, last }
    }

    /// Where it stands in the list: at its newest attempt, or where it was created. The places of two deliveries without an
    /// attempt are in the order of their events' keys, by which they are read.
    pub(super) fn place(&self) -> Position {
        let key = self.event.1;
        let created = || Position { time: taken_at(key).unwrap_or(self.created_at), id: key };
        self.last.as_ref().map_or_else(created, |last| last.at)
    }

    /// Whether its state may be a wanted one, as far as its own rows and its newest attempt tell.
    pub(super) fn may_be(&self, wanted: WantedState, rows: Option<&OwnRows>, now: WebhookNow) -> bool {
        let is = |succeeded| wanted.takes(self.state(rows, succeeded, now));
        is(self.succeeded_last()) || (self.may_have_succeeded_earlier(rows) && is(true))
    }

    /// Without a row it has succeeded or is forgotten. A late result may have added a failure after the success.
    pub(super) fn may_have_succeeded_earlier(&self, rows: Option<&OwnRows>) -> bool {
        rows.is_none() && self.last.as_ref().is_some_and(|last| last.error.is_some())
    }

    fn succeeded_last(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.error.is_none())
    }

    fn state(&self, rows: Option<&OwnRows>, succeeded: bool, now: WebhookNow) -> DeliveryState {
        let (pending, closed) = pending_and_closed(rows);
        let remains = Remains {
            pending: pending.map(|pending| pending.activation),
            closed: closed.map(|closed| closed.reason.as_str()),
            succeeded,
            to_be_continued: self.last.as_ref().is_some_and(|last| last.next_attempt_at.is_some()),
        };
        DeliveryState::of(remains, now)
    }
}

impl LoggedAttempt {
    pub(super) fn of(row: &Row) -> Self {
        Self {
            at: Position { time: column(row, "created_at"), id: column(row, "id") },
            attempt: column(row, "attempt"),
            is_test: column::<&str>(row, "trigger") == Trigger::Test.as_str(),
            event_id: column(row, "event_id"),
            event_type: column(row, "event_type"),
            http_status: column(row, "http_status"),
            error: column(row, "error"),
            error_detail: error_detail(row),
            next_attempt_at: column(row, "next_attempt_at"),
        }
    }
}

/// The time in an event's key, which a worker made when it took the event from the queue. A test's event has another key.
fn taken_at(key: Uuid) -> Option<Timestamp> {
    let (seconds, nanoseconds) = key.get_timestamp().filter(|_| key.get_version_num() == 7)?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanoseconds).ok()?).ok()
}

impl Store {
    /// The activation and standing of a webhook; `None` if the account does not have it.
    pub(super) async fn webhook_now(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
    ) -> Result<Option<WebhookNow>, StoreError> {
        let rows = self.query(WEBHOOK_NOW, &[&webhook.0, &scope.account()]).await?;
        let Some(row) = rows.first() else {
            // Everyone may also read the deliveries of a webhook that has been deleted.
            return Ok(matches!(scope, Scope::Everyone).then_some(None));
        };
        let standing = Standing::of(column(row, "active"), column(row, "disabled_reason"));
        Ok(Some(Some((column(row, "activation"), standing))))
    }

    /// Makes rows of a list from deliveries and their own rows, in the given order.
    pub(super) async fn resolve(
        &self,
        now: WebhookNow,
        found: Vec<Found>,
        own_rows: &HashMap<Uuid, OwnRows>,
    ) -> Result<Vec<PlacedRow>, StoreError> {
        let failed: Vec<&Found> =
            found.iter().filter(|found| found.may_have_succeeded_earlier(own_rows.get(&found.id))).collect();
        let succeeded = self.attempted_since_creation(&failed, true).await?;
        let unattempted: Vec<_> = found.iter().filter(|found| found.last.is_none()).map(|found| found.event).collect();
        let names = self.event_names(&unattempted).await?;
        let listed = |found: Found| {
            let rows = own_rows.get(&found.id);
            let succeeded = succeeded.contains(&found.id) || found.succeeded_last();
            let name = names.get(&found.event.1);
            PlacedRow { row: row(&found, rows, succeeded, now, name), place: found.place(), event: found.event }
        };
        Ok(found.into_iter().map(listed).collect())
    }

    /// The rows of those that have any, by their ids.
    pub(super) async fn own_rows(
        &self,
        webhook: WebhookId,
        found: &[Found],
    ) -> Result<HashMap<Uuid, OwnRows>, StoreError> {
        let mut own_rows: HashMap<Uuid, OwnRows> = HashMap::new();
        if found.is_empty() {
            return Ok(own_rows);
        }
        let ids: Vec<Uuid> = found.iter().map(|found| found.id).collect();
        for row in self.query(OWN_ROWS, &[&ids, &webhook.0]).await? {
            let entry = own_rows.entry(column(&row, "id")).or_default();
            let attempts_made = column(&row, "attempts_made");
            match column::<Option<String>>(&row, "reason") {
                Some(reason) => entry.closed = Some(Closed { reason, attempts_made }),
                None => {
                    let (activation, due_at) = (column(&row, "activation"), column(&row, "due_at"));
                    entry.pending = Some(Pending { activation, attempts_made, due_at });
                }
            }
        }
        Ok(own_rows)
    }

    /// The ids and types of events that are kept, by their keys.
    async fn event_names(&self, events: &[(Date, Uuid)]) -> Result<HashMap<Uuid, (String, String)>, StoreError> {
        let mut by_day: BTreeMap<Date, Vec<Uuid>> = BTreeMap::new();
        for (day, key) in events {
            by_day.entry(*day).or_default().push(*key);
        }
        let mut names = HashMap::new();
        for some in by_day.into_iter().collect::<Vec<_>>().chunks(DAYS_AT_ONCE) {
            let days: Vec<Date> = some.iter().map(|(day, _)| *day).collect();
            let keys: Vec<Uuid> = some.iter().flat_map(|(_, keys)| keys).copied().collect();
            let params: TypedParams<'_> = &[(&days, Type::DATE_ARRAY), (&keys, Type::UUID_ARRAY)];
            let rows = self.query_planned_anew(EVENT_NAMES, params).await?;
            names.extend(
                rows.iter().map(|row| (column(row, "key"), (column(row, "event_id"), column(row, "event_type")))),
            );
        }
        Ok(names)
    }
}

fn pending_and_closed(rows: Option<&OwnRows>) -> (Option<&Pending>, Option<&Closed>) {
    rows.map_or((None, None), |rows| (rows.pending.as_ref(), rows.closed.as_ref()))
}

fn row(
    found: &Found,
    rows: Option<&OwnRows>,
    succeeded: bool,
    now: WebhookNow,
    name: Option<&(String, String)>,
) -> DeliveryRow {
    let (pending, closed) = pending_and_closed(rows);
    let (last, state) = (found.last.as_ref(), found.state(rows, succeeded, now));
    // A test is attempted once, so its only attempt tells it.
    let trigger = if last.is_some_and(|last| last.is_test) { Trigger::Test } else { Trigger::Event };
    let made = pending.map(|pending| pending.attempts_made).or(closed.map(|closed| closed.attempts_made));
    DeliveryRow {
        delivery_id: found.id,
        event_id: last.map(|last| &last.event_id).or(name.map(|name| &name.0)).cloned(),
        event_type: last.map(|last| &last.event_type).or(name.map(|name| &name.1)).cloned(),
        trigger: trigger.as_str(),
        state,
        attempts_made: made.or(last.map(|last| last.attempt)).unwrap_or_default(),
        last_status: last.map(|last| LogStatus::of(last.error.as_deref()).as_str()),
        last_http_status: last.and_then(|last| last.http_status),
        last_error: last.and_then(|last| last.error.clone()),
        last_error_detail: last.and_then(|last| last.error_detail),
        created_at: found.created_at,
        next_attempt_at: pending.filter(|_| state == DeliveryState::Pending).map(|pending| pending.due_at),
    }
}

const WEBHOOK_NOW: &str = "
    SELECT activation, active, disabled_reason FROM webhooks
    WHERE id = $1 AND account_id = coalesce($2::text, account_id)";

/// One statement, so that a delivery that moves from one table to the other is seen in one of them.
const OWN_ROWS: &str = "
    SELECT id, activation, NULL::text AS reason, attempts_made, due_at
    FROM pending_deliveries WHERE id = ANY ($1) AND webhook_id = $2
    UNION ALL
    SELECT id, NULL, reason, attempts_made, NULL FROM closed_deliveries WHERE id = ANY ($1) AND webhook_id = $2";

/// Comparing the day with an array lets the planner leave out the partitions of other days.
const EVENT_NAMES: &str = "SELECT key, event_id, event_type FROM events WHERE day = ANY ($1) AND key = ANY ($2)";

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_worker_s_key_tells_when_the_event_was_taken_and_other_keys_do_not() {
        let before = Timestamp::now() - SignedDuration::from_millis(1);
        let time = taken_at(Uuid::now_v7()).unwrap();
        assert!(before <= time && time <= Timestamp::now());
        assert_eq!([Uuid::nil(), Uuid::new_v4(), Uuid::max()].map(taken_at), [None; 3]);
    }
}

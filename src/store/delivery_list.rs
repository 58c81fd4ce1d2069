//! Lists the deliveries of a webhook: each once, at the place of its newest attempt or, if it was never attempted, where it was
//! created; newest first.
//!
//! No index has this order. So the log is walked, and of each delivery only the newest attempt counts. Deliveries that were
//! never attempted are read beside it, by the key of their event, which begins with the time of their creation. One answer
//! reads a bounded number of rows of either kind, and tells where it stopped, so that the next one leaves nothing out.

use std::collections::HashSet;
use std::sync::LazyLock;

use jiff::Timestamp;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::attempt_columns::{AttemptColumns, ByColumns};
use super::days::{LogWindow, within_window};
use super::delivery_rows::{DeliveryRow, Found, LoggedAttempt, PlacedRow, WebhookNow};
use super::log::{LOOKED_AT, LogFilter, LogStatus};
use super::sql::OWN_WEBHOOK;
use super::{Position, Scope, Store, StoreError, TypedParams};
use crate::delivery_state::DeliveryState;
use crate::ids::WebhookId;

/// The attempts that one statement reads.
const CHUNK: i64 = 500;
/// The deliveries without an attempt that counts that one answer reads. They are looked for in the log: one that was sent again
/// may have attempts from before.
const MOST_PROBED: usize = 1000;

/// A part of the list, newest first.
#[derive(Debug)]
pub(crate) struct DeliveryPage {
    pub rows: Vec<DeliveryRow>,
    /// Where to go on: there may be more before it, even if this page is not full.
    pub next: Option<Position>,
}

/// Which deliveries are wanted. The filter's status and HTTP status are those of the newest attempt.
struct Wanted<'a> {
    scope: Scope<'a>,
    webhook: WebhookId,
    now: WebhookNow,
    filter: &'a LogFilter,
    state: Option<DeliveryState>,
    /// The list begins before this place.
    before: Option<Position>,
}

/// A part of the list that is not merged with the other kind of deliveries yet.
struct Part {
    listed: Vec<PlacedRow>,
    /// If not all could be read: the place down to which the part is complete.
    complete_to: Option<Position>,
}

impl Store {
    /// Returns a webhook's deliveries; `None` if the account does not have the webhook.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn deliveries(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        filter: &LogFilter,
        state: Option<DeliveryState>,
        limit: u32,
    ) -> Result<Option<DeliveryPage>, StoreError> {
        let Some(now) = self.webhook_now(scope, webhook).await? else { return Ok(None) };
        let end = filter.span.to.map(|time| Position { time, id: Uuid::nil() });
        let before = [filter.before, end].into_iter().flatten().min_by_key(order);
        let wanted = Wanted { scope, webhook, now, filter, state, before };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (mut listed, complete_to) = self.parts(&wanted, limit).await?;
        listed.sort_by_key(|listed| std::cmp::Reverse(order(&listed.place)));
        let last = listed.get(limit.saturating_sub(1)).filter(|_| listed.len() > limit);
        let next = last.map(|last| last.place).or(complete_to);
        listed.truncate(limit);
        Ok(Some(DeliveryPage { rows: listed.into_iter().map(|listed| listed.row).collect(), next }))
    }

    /// One delivery of a webhook, if anything is left of it.
    pub(super) async fn delivery(
        &self,
        scope: Scope<'_>,
        webhook: WebhookId,
        now: WebhookNow,
        filter: &LogFilter,
    ) -> Result<Option<PlacedRow>, StoreError> {
        let wanted = Wanted { scope, webhook, now, filter, state: None, before: None };
        Ok(self.parts(&wanted, 1).await?.0.into_iter().next())
    }

    /// Both parts together, and the place down to which they are complete, if that is not their end.
    async fn parts(&self, wanted: &Wanted<'_>, limit: usize) -> Result<(Vec<PlacedRow>, Option<Position>), StoreError> {
        let attempted = self.attempted_part(wanted, limit).await?;
        let is_found = wanted.filter.delivery.is_some() && !attempted.listed.is_empty();
        let unattempted = match is_found {
            true => Part { listed: Vec::new(), complete_to: None },
            false => self.unattempted_part(wanted).await?,
        };
        let complete_to = [attempted.complete_to, unattempted.complete_to].into_iter().flatten().max_by_key(order);
        let is_complete = |listed: &PlacedRow| complete_to.is_none_or(|to| order(&listed.place) >= order(&to));
        let both = attempted.listed.into_iter().chain(unattempted.listed);
        Ok((both.filter(is_complete).collect(), complete_to))
    }

    /// Walks through the log, window by window, until more than `limit` deliveries are found.
    async fn attempted_part(&self, wanted: &Wanted<'_>, limit: usize) -> Result<Part, StoreError> {
        let (mut listed, mut seen) = (Vec::new(), HashSet::new());
        let (mut left, mut before) = (LOOKED_AT, wanted.filter.before);
        for window in self.log_days().await?.windows_of(wanted.filter.span, before.map(|before| before.time)) {
            loop {
                let most = CHUNK.min(left);
                let chunk = self.attempts(wanted, window, before, most).await?;
                let read = i64::try_from(chunk.len()).unwrap_or(i64::MAX);
                left -= read;
                before = chunk.last().map(Found::place).or(before);
                let unseen: Vec<Found> = chunk.into_iter().filter(|found| seen.insert(found.id)).collect();
                listed.extend(self.matching(wanted, unseen).await?);
                if listed.len() > limit || (wanted.filter.delivery.is_some() && !seen.is_empty()) {
                    return Ok(Part { listed, complete_to: None });
                }
                if left == 0 {
                    return Ok(Part { listed, complete_to: before });
                }
                if read < most {
                    break;
                }
            }
        }
        Ok(Part { listed, complete_to: None })
    }

    /// Leaves out deliveries that have a newer attempt, outside this list, and those that the filter does not want.
    async fn matching(&self, wanted: &Wanted<'_>, mut found: Vec<Found>) -> Result<Vec<PlacedRow>, StoreError> {
        found.retain(|found| wanted.takes_attempt(found));
        if let Some(since) = wanted.before.filter(|_| !found.is_empty()) {
            let ids: Vec<Uuid> = found.iter().map(|found| found.id).collect();
            let newer = self.attempted_since(&ids, since, false).await?;
            found.retain(|found| !newer.contains(&found.id));
        }
        self.listed(wanted, found).await
    }

    async fn listed(&self, wanted: &Wanted<'_>, found: Vec<Found>) -> Result<Vec<PlacedRow>, StoreError> {
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let mut listed = self.resolve(wanted.webhook, wanted.now, found).await?;
        listed.retain(|listed| wanted.takes(&listed.row));
        Ok(listed)
    }

    /// The newest attempts of a window before a position.
    async fn attempts(
        &self,
        wanted: &Wanted<'_>,
        window: LogWindow,
        before: Option<Position>,
        most: i64,
    ) -> Result<Vec<Found>, StoreError> {
        let (time, id) = before.map(|before| (before.time, before.id)).unzip();
        let delivery = wanted.filter.delivery.map(|delivery| delivery.0);
        let params: TypedParams<'_> = &[
            (&wanted.webhook.0, Type::UUID),
            (&wanted.scope.account(), Type::TEXT),
            (&time, Type::TIMESTAMPTZ),
            (&id, Type::UUID),
            (&most, Type::INT8),
            (&window.from, Type::TIMESTAMPTZ),
            (&window.until, Type::TIMESTAMPTZ),
            (&delivery, Type::UUID),
        ];
        let sql = if delivery.is_some() { &ATTEMPTS_OF_DELIVERY } else { &ATTEMPTS };
        let rows = self.query_planned_anew(sql.of(self.readable_attempt_columns().await?), params).await?;
        Ok(rows.iter().map(|row| Found::of(row, "delivery_id", "created_at", Some(LoggedAttempt::of(row)))).collect())
    }

    /// Deliveries that were never attempted: parked ones, and those that were closed while parked.
    async fn unattempted_part(&self, wanted: &Wanted<'_>) -> Result<Part, StoreError> {
        let mut part = Part { listed: Vec::new(), complete_to: None };
        if !wanted.may_be_unattempted() {
            return Ok(part);
        }
        let account = wanted.scope.account();
        let rows = match wanted.filter.delivery {
            Some(delivery) => self.query(&UNATTEMPTED_DELIVERY, &[&wanted.webhook.0, &account, &delivery.0]).await?,
            None => {
                let from = wanted.filter.span.from.map_or(Uuid::nil(), |from| first_key(from.as_millisecond()));
                let before = wanted.before.map_or(Uuid::max(), first_key_not_before);
                let most = i64::try_from(MOST_PROBED + 1).unwrap_or(i64::MAX);
                self.query(&UNATTEMPTED, &[&wanted.webhook.0, &account, &from, &before, &most]).await?
            }
        };
        let mut found: Vec<Found> = rows.iter().map(|row| Found::of(row, "id", "time", None)).collect();
        if found.len() > MOST_PROBED {
            found.truncate(MOST_PROBED);
            part.complete_to = found.last().map(Found::place);
        }
        found.retain(|found| wanted.takes_place(found.place()));
        // A delivery may be pending and closed.
        let mut seen = HashSet::new();
        found.retain(|found| seen.insert(found.id));
        let attempted = self.attempted_since_creation(&found.iter().collect::<Vec<_>>(), false).await?;
        found.retain(|found| !attempted.contains(&found.id));
        part.listed = self.listed(wanted, found).await?;
        Ok(part)
    }
}

impl Wanted<'_> {
    fn takes_attempt(&self, found: &Found) -> bool {
        let Some(last) = &found.last else { return false };
        self.filter.status.is_none_or(|wanted| wanted == LogStatus::of(last.error.as_deref()))
            && self.filter.http_status.is_none_or(|wanted| last.http_status == Some(wanted.into()))
            && self.filter.event_type.as_ref().is_none_or(|wanted| wanted.as_str() == last.event_type)
    }

    fn takes(&self, row: &DeliveryRow) -> bool {
        let event_type = self.filter.event_type.as_ref().map(crate::ids::EventType::as_str);
        self.state.is_none_or(|wanted| wanted == row.state)
            && (event_type.is_none() || event_type == row.event_type.as_deref())
    }

    fn takes_place(&self, place: Position) -> bool {
        self.before.is_none_or(|before| order(&place) < order(&before))
            && self.filter.span.from.is_none_or(|from| place.time >= from)
    }

    fn may_be_unattempted(&self) -> bool {
        self.filter.status.is_none()
            && self.filter.http_status.is_none()
            && self.state != Some(DeliveryState::Delivered)
    }
}

/// As the log is ordered.
fn order(position: &Position) -> (Timestamp, Uuid) {
    (position.time, position.id)
}

/// The least key of an event that was taken from the queue in this millisecond of 1970 or later.
fn first_key(millisecond: i64) -> Uuid {
    Uuid::from_u128(u128::from(u64::try_from(millisecond).unwrap_or_default()) << 80)
}

/// The least key whose event's place in the list is not before this position.
fn first_key_not_before(before: Position) -> Uuid {
    let millisecond = before.time.as_millisecond();
    let (first, next) = (first_key(millisecond), first_key(millisecond + 1));
    // The place has the time of the key's millisecond.
    if before.time.subsec_nanosecond() % 1_000_000 == 0 { before.id.clamp(first, next) } else { next }
}

fn attempts_statement(columns: AttemptColumns, only: &str) -> String {
    let within_window = within_window!("$6", "$7");
    let detail = columns.read("error_detail", "text");
    format!(
        "SELECT id, delivery_id, event_day, event_key, event_id, event_type, attempt, http_status, error, {detail}, created_at,
            next_attempt_at
        FROM attempts
        WHERE webhook_id = {OWN_WEBHOOK} AND {within_window}
            AND created_at <= coalesce($3::timestamptz, 'infinity')
            AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), coalesce($4::uuid, $1)) {only}
        ORDER BY created_at DESC, id DESC LIMIT (SELECT $5::bigint)"
    )
}

static ATTEMPTS: LazyLock<ByColumns<String>> =
    LazyLock::new(|| ByColumns::new(|columns| attempts_statement(columns, "")));
static ATTEMPTS_OF_DELIVERY: LazyLock<ByColumns<String>> =
    LazyLock::new(|| ByColumns::new(|columns| attempts_statement(columns, "AND delivery_id = $8")));

/// Pending and closed deliveries without an attempt that counts, newest first, whose events have keys from `$3` on and before
/// `$4`: each kind has an index in this order. A delivery that is both stands where its pending row says. `LIMIT (SELECT …)` as in
/// the log.
static UNATTEMPTED: LazyLock<String> = LazyLock::new(|| {
    let newest = |table: &str, time: &str, only: &str| {
        format!(
            "(SELECT id, event_day, event_key, {time} AS time FROM {table} AS waiting
            WHERE webhook_id = {OWN_WEBHOOK} AND attempts_made = 0 AND event_key >= $3 AND event_key < $4 {only}
            ORDER BY event_key DESC LIMIT (SELECT $5::bigint))"
        )
    };
    let pending = newest("pending_deliveries", "created_at", "");
    let only_closed = "AND NOT EXISTS (
        SELECT FROM pending_deliveries pending WHERE pending.id = waiting.id AND pending.attempts_made = 0)";
    let closed = newest("closed_deliveries", "closed_at", only_closed);
    format!("{pending} UNION ALL {closed} ORDER BY event_key DESC LIMIT (SELECT $5::bigint)")
});

static UNATTEMPTED_DELIVERY: LazyLock<String> = LazyLock::new(|| {
    let one = |table: &str, time: &str| {
        format!(
            "SELECT id, event_day, event_key, {time} AS time FROM {table} WHERE id = $3 AND webhook_id = {OWN_WEBHOOK}"
        )
    };
    format!("{} UNION ALL {}", one("pending_deliveries", "created_at"), one("closed_deliveries", "closed_at"))
});

//! Lists the deliveries of a webhook: each once, at the place of its newest attempt or, if it was never attempted, where it was
//! created; newest first.
//!
//! No index has this order. So the log is walked, and of each delivery only the newest attempt counts. Deliveries that were
//! never attempted are read beside it, by the key of their event, which begins with the time of their creation. One answer
//! reads a bounded number of rows of either kind, looks a bounded number of deliveries up in the rest of the log, and tells where
//! it stopped, so that the next one leaves nothing out.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Instant;

use jiff::Timestamp;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::attempt_columns::{AttemptColumns, ByColumns};
use super::days::{LogDays, LogWindow, within_window};
use super::delivery_probes::{Probes, first_place};
use super::delivery_rows::{DeliveryRow, Found, LoggedAttempt, OwnRows, PlacedRow, WebhookNow};
use super::log::{LOOKED_AT, LogFilter, LogStatus};
use super::sql::OWN_WEBHOOK;
use super::{Position, Scope, Store, StoreError, TypedParams};
use crate::delivery_state::WantedState;
use crate::ids::WebhookId;

/// The attempts that one statement reads.
const CHUNK: i64 = 500;
/// The deliveries without an attempt that counts that one answer reads.
const MOST_UNATTEMPTED: usize = 1000;
/// How many times as many deliveries each step looks up as the step before it: if few of them are wanted, many are looked up
/// together.
const STEP_GROWTH: usize = 4;

/// A part of the list, newest first.
#[derive(Debug)]
pub(crate) struct DeliveryPage {
    pub rows: Vec<DeliveryRow>,
    /// Where to go on: there may be more before it, even if this page is not full.
    pub next: Option<Position>,
}

/// What bounds a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageBounds {
    pub rows: u32,
    /// When it goes with what was found so far.
    pub until: Option<Instant>,
}

/// Which deliveries are wanted. The filter's status and HTTP status are those of the newest attempt.
struct Wanted<'a> {
    scope: Scope<'a>,
    webhook: WebhookId,
    now: WebhookNow,
    filter: &'a LogFilter,
    state: Option<WantedState>,
    /// The list begins before this place.
    before: Option<Position>,
    /// More than these are not needed.
    limit: usize,
}

/// A part of the list that is not merged with the other kind of deliveries yet.
#[derive(Default)]
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
        state: Option<WantedState>,
        bounds: PageBounds,
    ) -> Result<Option<DeliveryPage>, StoreError> {
        let Some(now) = self.webhook_now(scope, webhook).await? else { return Ok(None) };
        let end = filter.span.to.map(|time| Position { time, id: Uuid::nil() });
        let before = [filter.before, end].into_iter().flatten().min_by_key(order);
        let limit = usize::try_from(bounds.rows).unwrap_or(usize::MAX);
        let wanted = Wanted { scope, webhook, now, filter, state, before, limit };
        let (mut listed, complete_to) = self.parts(&wanted, Probes::new(bounds.until)).await?;
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
        let wanted = Wanted { scope, webhook, now, filter, state: None, before: None, limit: 1 };
        Ok(self.parts(&wanted, Probes::new(None)).await?.0.into_iter().next())
    }

    /// Both parts together, and the place down to which they are complete, if that is not their end.
    async fn parts(
        &self,
        wanted: &Wanted<'_>,
        mut probes: Probes,
    ) -> Result<(Vec<PlacedRow>, Option<Position>), StoreError> {
        let attempted = self.attempted_part(wanted, &mut probes).await?;
        let is_found = wanted.filter.delivery.is_some() && !attempted.listed.is_empty();
        let unattempted = match is_found {
            true => Part::default(),
            false => self.unattempted_part(wanted, &mut probes).await?,
        };
        let complete_to = [attempted.complete_to, unattempted.complete_to].into_iter().flatten().max_by_key(order);
        let is_complete = |listed: &PlacedRow| complete_to.is_none_or(|to| order(&listed.place) >= order(&to));
        let both = attempted.listed.into_iter().chain(unattempted.listed);
        Ok((both.filter(is_complete).collect(), complete_to))
    }

    /// Walks through the log, window by window, until more deliveries are found than are wanted.
    async fn attempted_part(&self, wanted: &Wanted<'_>, probes: &mut Probes) -> Result<Part, StoreError> {
        let (mut part, mut seen) = (Part::default(), HashSet::new());
        let (mut left, mut before) = (LOOKED_AT, wanted.filter.before);
        for window in self.log_days().await?.windows_of(wanted.filter.span, before.map(|before| before.time)) {
            loop {
                let most = CHUNK.min(left);
                let chunk = self.attempts(wanted, window, before, most).await?;
                let read = i64::try_from(chunk.len()).unwrap_or(i64::MAX);
                left -= read;
                before = chunk.last().map(Found::place).or(before);
                let newest = chunk.into_iter().filter(|found| seen.insert(found.id));
                let found = newest.filter(|found| wanted.takes_attempt(found)).collect();
                let stopped_at = self.list(wanted, found, probes, &mut part.listed).await?;
                if part.listed.len() > wanted.limit || (wanted.filter.delivery.is_some() && !seen.is_empty()) {
                    return Ok(part);
                }
                let has_done_enough = left == 0 || (read > 0 && probes.are_used_up());
                part.complete_to = stopped_at.or(before.filter(|_| has_done_enough));
                if part.complete_to.is_some() {
                    return Ok(part);
                }
                if read < most {
                    break;
                }
            }
        }
        Ok(part)
    }

    /// Lists those of the deliveries, which are in the order of the list, that are wanted and have no newer place, until there
    /// are more than are wanted. If it has to stop earlier: the place down to which it has listed all.
    async fn list(
        &self,
        wanted: &Wanted<'_>,
        mut found: Vec<Found>,
        probes: &mut Probes,
        listed: &mut Vec<PlacedRow>,
    ) -> Result<Option<Position>, StoreError> {
        let days = self.log_days().await?;
        let own_rows = self.own_rows(wanted.webhook, &found).await?;
        // To find an attempt of a delivery takes a look-up for each day of the log; its rows take one.
        found.retain(|found| wanted.state.is_none_or(|state| found.may_be(state, own_rows.get(&found.id), wanted.now)));
        let mut most = (wanted.limit + 1).saturating_sub(listed.len());
        while !found.is_empty() && listed.len() <= wanted.limit {
            let days_of = |found: &Found| wanted.days_to_look_into(found, own_rows.get(&found.id), days);
            let later = found.split_off(probes.step(found.iter().take(most).map(days_of)));
            let step = std::mem::replace(&mut found, later);
            let stopped_at = step.last().map(Found::place);
            let newest = self.without_newer_place(wanted, step).await?;
            let rows = self.resolve(wanted.now, newest, &own_rows).await?;
            listed.extend(rows.into_iter().filter(|listed| wanted.takes(&listed.row)));
            if !found.is_empty() && listed.len() <= wanted.limit && probes.are_used_up() {
                return Ok(stopped_at);
            }
            most = most.saturating_mul(STEP_GROWTH);
        }
        Ok(None)
    }

    /// Leaves out deliveries that have a newer attempt, outside this list, and of those without an attempt those that have one.
    async fn without_newer_place(&self, wanted: &Wanted<'_>, mut found: Vec<Found>) -> Result<Vec<Found>, StoreError> {
        let unattempted: Vec<&Found> = found.iter().filter(|found| found.last.is_none()).collect();
        let mut elsewhere = self.attempted_since_creation(&unattempted, false).await?;
        if let Some(since) = wanted.before {
            let attempted: Vec<Uuid> =
                found.iter().filter(|found| found.last.is_some()).map(|found| found.id).collect();
            elsewhere.extend(self.attempted_since(&attempted, since, false).await?);
        }
        found.retain(|found| !elsewhere.contains(&found.id));
        Ok(found)
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
    async fn unattempted_part(&self, wanted: &Wanted<'_>, probes: &mut Probes) -> Result<Part, StoreError> {
        let mut part = Part::default();
        if !wanted.may_be_unattempted() {
            return Ok(part);
        }
        let account = wanted.scope.account();
        let rows = match wanted.filter.delivery {
            Some(delivery) => self.query(&UNATTEMPTED_DELIVERY, &[&wanted.webhook.0, &account, &delivery.0]).await?,
            None => {
                let from = wanted.filter.span.from.map_or(Uuid::nil(), |from| first_key(from.as_millisecond()));
                let before = wanted.before.map_or(Uuid::max(), first_key_not_before);
                let most = i64::try_from(MOST_UNATTEMPTED + 1).unwrap_or(i64::MAX);
                self.query(&UNATTEMPTED, &[&wanted.webhook.0, &account, &from, &before, &most]).await?
            }
        };
        let mut found: Vec<Found> = rows.iter().map(|row| Found::of(row, "id", "time", None)).collect();
        if found.len() > MOST_UNATTEMPTED {
            found.truncate(MOST_UNATTEMPTED);
            part.complete_to = found.last().map(Found::place);
        }
        found.retain(|found| wanted.takes_place(found.place()));
        // A delivery may be pending and closed.
        let mut seen = HashSet::new();
        found.retain(|found| seen.insert(found.id));
        let stopped_at = self.list(wanted, found, probes, &mut part.listed).await?;
        part.complete_to = stopped_at.or(part.complete_to);
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
        self.state.is_none_or(|wanted| wanted.takes(row.state))
            && (event_type.is_none() || event_type == row.event_type.as_deref())
    }

    fn takes_place(&self, place: Position) -> bool {
        self.before.is_none_or(|before| order(&place) < order(&before))
            && self.filter.span.from.is_none_or(|from| place.time >= from)
    }

    /// In how many days of the log an attempt of this delivery has to be looked for.
    fn days_to_look_into(&self, found: &Found, rows: Option<&OwnRows>, days: LogDays) -> usize {
        let since = |place: Option<Position>| place.map_or(0, |place| days.count_since(place.time));
        let newer = if found.last.is_some() { since(self.before) } else { 0 };
        let of_its_whole_life = found.last.is_none() || found.may_have_succeeded_earlier(rows);
        newer + if of_its_whole_life { since(first_place(found.event.0)) } else { 0 }
    }

    fn may_be_unattempted(&self) -> bool {
        self.filter.status.is_none()
            && self.filter.http_status.is_none()
            && self.state.is_none_or(WantedState::may_be_unattempted)
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
        "SELECT id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt, http_status, error, {detail},
            created_at, next_attempt_at
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

//! Finds the webhooks whose pending deliveries are due, and closes what nobody is owed any more.
//!
//! Both read a bounded part of `pending_deliveries`, whatever waits there and however many dead rows an old snapshot keeps.
//! Reading by time goes on where it ended, so it meets each row once. What it misses, for a transaction may commit its
//! row after the time was read, the sweep finds: it goes through the table page by page, round and round.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Params, Store, StoreError, column, count};
use crate::delivery::ClosedReason;
use crate::ids::WebhookId;
use crate::snapshot::Standing;

/// Rows read by time at once.
const READ_BY_TIME: i64 = 1000;
/// How far due deliveries were read. A fresh one begins a moment ago: the sweep finds what is older.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadUntil(Option<(Timestamp, Uuid)>);

/// A webhook with a due delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueWebhook {
    pub id: WebhookId,
    /// When that delivery fell due, by Postgres's clock.
    pub since: Timestamp,
}

/// What reading by time found.
#[derive(Debug)]
pub struct FoundDue {
    pub webhooks: Vec<DueWebhook>,
    /// Where to go on.
    pub until: ReadUntil,
    /// Whether there may be more at once.
    pub more: bool,
    /// Postgres's time.
    pub now: Timestamp,
}

/// Some pages of the table, of 8 KiB and up to about 80 rows each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pages {
    pub first: u32,
    pub count: u32,
}

/// What one step of the sweep found on its pages.
#[derive(Debug)]
pub struct Swept {
    pub due: Vec<DueWebhook>,
    /// What nobody is owed any more.
    pub ended: Vec<Ended>,
    /// Pending deliveries on these pages.
    pub deliveries: u64,
    /// Pages of the whole table.
    pub pages: u32,
}

/// Pending deliveries that a webhook will never get: it is off, gone, or was off since they became owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub webhook: WebhookId,
    pub activation: i32,
    pub reason: ClosedReason,
}

/// Deliveries of one webhook that were closed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedAtOnce {
    pub webhook: WebhookId,
    pub reason: ClosedReason,
    pub deliveries: u64,
}

impl Store {
    /// The webhooks of the deliveries that fell due since the last time. The next reading goes back by `overlap`, for what
    /// commits later than it falls due.
    pub async fn find_due(&self, from: ReadUntil, overlap: Duration) -> Result<FoundDue, StoreError> {
        let (time, webhook) = from.0.unzip();
        let params: Params<'_> = &[&time, &webhook.unwrap_or_default(), &READ_BY_TIME, &overlap.as_secs_f64()];
        let rows = self.query(FIND_DUE, params).await?;
        let now: Timestamp = column(rows.first().expect("the time is always a row"), "now");
        let overlap: Timestamp = column(&rows[0], "overlap");
        let webhooks: Vec<DueWebhook> = rows.iter().filter_map(due_webhook).collect();
        let more = webhooks.len() >= usize::try_from(READ_BY_TIME).expect("it is small");
        let until = match webhooks.last() {
            Some(last) if more => (last.since, last.id.0),
            _ => (overlap, Uuid::nil()),
        };
        Ok(FoundDue { webhooks, until: ReadUntil(Some(until)), more, now })
    }

    /// Looks at these pages.
    pub async fn sweep(&self, pages: Pages) -> Result<Swept, StoreError> {
        let (from, to) = pages.bounds();
        let rows = self.query(SWEEP, &[&from, &to]).await?;
        let mut swept = Swept { due: Vec::new(), ended: Vec::new(), deliveries: 0, pages: 0 };
        for row in &rows {
            swept.pages = u32::try_from(column::<i64>(row, "pages")).unwrap_or(u32::MAX);
            let Some(owed_since) = column::<Option<i32>>(row, "owed_since") else { continue };
            swept.deliveries += count(row, "deliveries");
            match ClosedReason::of(standing(row, owed_since)) {
                Some(reason) => swept.ended.push(Ended { webhook: id(row), activation: owed_since, reason }),
                None => swept.due.extend(due_webhook(row)),
            }
        }
        Ok(swept)
    }

    /// Closes what the sweep found ended on these pages.
    pub async fn close_ended(&self, pages: Pages, ended: &[Ended]) -> Result<Vec<ClosedAtOnce>, StoreError> {
        let (from, to) = pages.bounds();
        let webhooks: Vec<Uuid> = ended.iter().map(|ended| ended.webhook.0).collect();
        let activations: Vec<i32> = ended.iter().map(|ended| ended.activation).collect();
        let reasons: Vec<&str> = ended.iter().map(|ended| ended.reason.as_str()).collect();
        let rows = self.query_to_write(CLOSE_ENDED, &[&from, &to, &webhooks, &activations, &reasons]).await?;
        let reasons: HashMap<(WebhookId, i32), ClosedReason> =
            ended.iter().map(|ended| ((ended.webhook, ended.activation), ended.reason)).collect();
        let closed = |row| {
            let (webhook, deliveries) = (id(row), count(row, "deliveries"));
            let reason = *reasons.get(&(webhook, column(row, "activation")))?;
            Some(ClosedAtOnce { webhook, reason, deliveries })
        };
        Ok(rows.iter().filter_map(closed).collect())
    }
}

fn id(row: &Row) -> WebhookId {
    WebhookId(column(row, "webhook_id"))
}

fn due_webhook(row: &Row) -> Option<DueWebhook> {
    Some(DueWebhook { since: column::<Option<Timestamp>>(row, "due_at")?, id: id(row) })
}

fn standing(row: &Row, owed_since: i32) -> Standing {
    let activation: Option<i32> = column(row, "activation");
    let now = match (column(row, "active"), column::<Option<&str>>(row, "disabled_reason")) {
        (Some(true), _) => Standing::Active,
        (_, Some(_)) => Standing::Disabled,
        (_, None) => Standing::Off,
    };
    Standing::for_owed(owed_since, activation.map(|activation| (activation, now)))
}

impl Pages {
    /// The row addresses from the first one to before the second.
    fn bounds(self) -> (String, String) {
        (format!("({},0)", self.first), format!("({},0)", self.first.saturating_add(self.count)))
    }
}

/// Where the last reading ended, unless Postgres's clock was set back since then.
const FIND_DUE: &str = "
    SELECT moment.now, moment.overlap, due.webhook_id, due.due_at
    FROM (SELECT now() AS now, now() - make_interval(secs => $4) AS overlap) AS moment
    LEFT JOIN LATERAL (
        SELECT p.webhook_id, p.due_at FROM pending_deliveries p
        WHERE (p.due_at, p.webhook_id)
                > (CASE WHEN $1::timestamptz <= moment.now THEN $1 ELSE moment.overlap END, $2::uuid)
            AND p.due_at <= moment.now
        ORDER BY p.due_at, p.webhook_id LIMIT $3
    ) AS due ON true
    ORDER BY due.due_at, due.webhook_id";

/// Only row addresses bound what is read whatever is dead and whatever the planner believes.
const SWEEP: &str = "
    SELECT size.pages, p.webhook_id, p.owed_since, p.due_at, p.deliveries, w.activation, w.active, w.disabled_reason
    FROM (
        SELECT pg_relation_size('pending_deliveries') / current_setting('block_size')::bigint AS pages
    ) AS size
    LEFT JOIN (
        SELECT webhook_id, activation AS owed_since, min(due_at) FILTER (WHERE due_at <= now()) AS due_at,
            count(*) AS deliveries
        FROM pending_deliveries WHERE ctid >= $1::text::tid AND ctid < $2::text::tid GROUP BY webhook_id, activation
    ) AS p ON true
    LEFT JOIN webhooks w ON w.id = p.webhook_id";

/// The end of an INSERT into `closed_deliveries`, for a delivery that was closed before.
macro_rules! latest_closing_stands {
    () => {
        "ON CONFLICT (id) DO UPDATE SET event_day = excluded.event_day, event_key = excluded.event_key,
            reason = excluded.reason, attempts_made = excluded.attempts_made, closed_at = excluded.closed_at"
    };
}
pub(super) use latest_closing_stands;

/// Moves the chosen pending deliveries to the closed ones: the common table expressions `removed` and `closed`.
macro_rules! close_removed {
    ($chosen:literal, $reason:literal) => {
        concat!(
            "removed AS (
                DELETE FROM pending_deliveries WHERE id = ANY (ARRAY(",
            $chosen,
            "))
                RETURNING id, webhook_id, activation, event_day, event_key, attempts_made
            ), closed AS (
                INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
                SELECT r.id, r.webhook_id, r.event_day, r.event_key, ",
            $reason,
            ", r.attempts_made FROM removed r ORDER BY r.id ",
            $crate::store::due::latest_closing_stands!(),
            ")"
        )
    };
}
pub(super) use close_removed;

/// Also what is being attempted just now: its result only adds its log row, unless it is a success.
const CLOSE_ENDED: &str = concat!(
    "WITH ended AS (
        SELECT * FROM unnest($3::uuid[], $4::integer[], $5::text[]) AS e (webhook_id, activation, reason)
    ), ",
    close_removed!(
        "SELECT p.id FROM pending_deliveries p JOIN ended e ON (e.webhook_id, e.activation) = (p.webhook_id, p.activation)
         WHERE p.ctid >= $1::text::tid AND p.ctid < $2::text::tid ORDER BY p.id FOR UPDATE OF p SKIP LOCKED",
        "(SELECT e.reason FROM ended e WHERE (e.webhook_id, e.activation) = (r.webhook_id, r.activation))"
    ),
    " SELECT webhook_id, activation, count(*) AS deliveries FROM removed GROUP BY webhook_id, activation"
);

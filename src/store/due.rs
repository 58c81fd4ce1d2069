//! Finds the webhooks whose pending deliveries are due, and closes deliveries that their webhooks will never get.
//!
//! There are two ways to find them, and each statement reads a bounded part of `pending_deliveries`, however many deliveries
//! wait there and however many dead rows an old snapshot keeps. Reading by time continues where the last reading ended, so
//! it reads each row once. It misses rows that are committed after their time was read. The sweep finds these: it reads the
//! whole table, page by page, again and again.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::sql::close_chosen;
use super::{Params, Store, StoreError, column, count};
use crate::delivery::ClosedReason;
use crate::ids::WebhookId;
use crate::snapshot::Standing;

/// The most rows that one reading by time returns.
const READ_BY_TIME: i64 = 1000;

/// How far due deliveries were read by time. The default begins a moment ago: the sweep finds older ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadUntil(Option<(Timestamp, Uuid)>);

/// A webhook with a due delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueWebhook {
    pub id: WebhookId,
    /// When that delivery fell due, by Postgres's clock.
    pub since: Timestamp,
}

/// What one reading by time found.
#[derive(Debug)]
pub struct FoundDue {
    pub webhooks: Vec<DueWebhook>,
    /// Where the next reading begins.
    pub until: ReadUntil,
    /// Whether more deliveries may be due already.
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
#[derive(Debug, Default)]
pub struct Swept {
    pub due: Vec<DueWebhook>,
    /// Deliveries to close with [`Store::close_ended`].
    pub ended: Vec<Ended>,
    /// Webhooks of these that are off or deleted now.
    pub off: Vec<WebhookId>,
    /// Pending deliveries on these pages by webhook. A webhook may be named twice.
    pub of_webhooks: Vec<(WebhookId, Owed)>,
    /// Pages of the whole table.
    pub pages: u32,
}

/// Numbers of pending deliveries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    pub all: u64,
    /// Those of webhooks that are held.
    pub held: u64,
    /// Those that are due, without held ones and those that their webhooks will never get.
    pub due: u64,
    /// Those that had no attempt yet, without the same.
    pub unattempted: u64,
}

impl Owed {
    /// The same, held: none is due, and none counts as parked.
    pub fn held(self) -> Self {
        Self { all: self.all, held: self.all, ..Self::default() }
    }
}

impl std::ops::AddAssign for Owed {
    fn add_assign(&mut self, more: Self) {
        self.all += more.all;
        self.held += more.held;
        self.due += more.due;
        self.unattempted += more.unattempted;
    }
}

/// Pending deliveries that a webhook will never get, because it is off or deleted, or was off since their events came.
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
    /// Finds the webhooks of the deliveries that fell due since the last reading. The next reading begins `overlap` before
    /// the end of this one, because some rows are committed after they are due.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated: read again from `from`.
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

    /// Reads the pending deliveries on these pages, and changes nothing.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated: sweep the same pages again.
    pub async fn sweep(&self, pages: Pages) -> Result<Swept, StoreError> {
        let (from, to) = pages.bounds();
        let rows = self.query(SWEEP, &[&from, &to]).await?;
        let mut swept = Swept::default();
        for row in &rows {
            swept.pages = u32::try_from(column::<i64>(row, "pages")).unwrap_or(u32::MAX);
            let Some(pending_activation) = column::<Option<i32>>(row, "pending_activation") else { continue };
            let mut owed = Owed { all: count(row, "deliveries"), ..Owed::default() };
            if !column::<Option<bool>>(row, "active").unwrap_or(false) {
                swept.off.push(id(row));
            }
            match ClosedReason::of(standing(row, pending_activation)) {
                Some(reason) => swept.ended.push(Ended { webhook: id(row), activation: pending_activation, reason }),
                None => {
                    (owed.due, owed.unattempted) = (count(row, "due"), count(row, "unattempted"));
                    swept.due.extend(due_webhook(row));
                }
            }
            swept.of_webhooks.push((id(row), owed));
        }
        Ok(swept)
    }

    /// Closes the deliveries on these pages that [`Store::sweep`] found ended. Rows that another transaction has locked are
    /// left to the next sweep.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: nothing was closed, the next sweep finds the deliveries again.
    pub async fn close_ended(&self, pages: Pages, ended: &[Ended]) -> Result<Vec<ClosedAtOnce>, StoreError> {
        let (from, to) = pages.bounds();
        let webhooks: Vec<Uuid> = ended.iter().map(|ended| ended.webhook.0).collect();
        let activations: Vec<i32> = ended.iter().map(|ended| ended.activation).collect();
        let reasons: Vec<&str> = ended.iter().map(|ended| ended.reason.as_str()).collect();
        let rows = self.query_to_write(&CLOSE_ENDED, &[&from, &to, &webhooks, &activations, &reasons]).await?;
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

fn standing(row: &Row, pending_activation: i32) -> Standing {
    let activation: Option<i32> = column(row, "activation");
    let now = |activation| (activation, Standing::of(column(row, "active"), column(row, "disabled_reason")));
    Standing::for_delivery(pending_activation, activation.map(now))
}

impl Pages {
    /// The row addresses from the first one to before the second.
    fn bounds(self) -> (String, String) {
        (format!("({},0)", self.first), format!("({},0)", self.first.saturating_add(self.count)))
    }
}

/// Begins after `($1, $2)`, where the last reading ended, or `$4` seconds ago if there was none, or if Postgres's clock was
/// set back since.
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

/// Bounded by row addresses: only these limit what is read whatever rows are dead and whatever plan PostgreSQL chooses.
const SWEEP: &str = "
    SELECT size.pages, p.webhook_id, p.pending_activation, p.due_at, p.deliveries, p.due, p.unattempted, w.activation, w.active,
        w.disabled_reason
    FROM (
        SELECT pg_relation_size('pending_deliveries') / current_setting('block_size')::bigint AS pages
    ) AS size
    LEFT JOIN (
        SELECT webhook_id, activation AS pending_activation, min(due_at) FILTER (WHERE due_at <= now()) AS due_at,
            count(*) AS deliveries, count(*) FILTER (WHERE due_at <= now()) AS due,
            count(*) FILTER (WHERE trigger = 'event') AS unattempted
        FROM pending_deliveries WHERE ctid >= $1::text::tid AND ctid < $2::text::tid GROUP BY webhook_id, activation
    ) AS p ON true
    LEFT JOIN webhooks w ON w.id = p.webhook_id";

/// Also closes deliveries whose attempt is under way: the attempt's result then only adds a log row, unless it is a success.
///
/// - `ended`: the webhooks and activations whose deliveries are closed, each with the reason.
/// - `removed` and `closed`: see `close_chosen`.
static CLOSE_ENDED: LazyLock<String> = LazyLock::new(|| {
    let chosen = "
        SELECT pending.id FROM pending_deliveries pending JOIN ended USING (webhook_id, activation)
        WHERE pending.ctid >= $1::text::tid AND pending.ctid < $2::text::tid
        ORDER BY pending.id FOR UPDATE OF pending SKIP LOCKED";
    let reason = "(
        SELECT ended.reason FROM ended
        WHERE (ended.webhook_id, ended.activation) = (removed.webhook_id, removed.activation))";
    format!(
        "WITH ended AS (
            SELECT * FROM unnest($3::uuid[], $4::integer[], $5::text[]) AS ended (webhook_id, activation, reason)
        ), {}
        SELECT webhook_id, activation, count(*) AS deliveries FROM removed GROUP BY webhook_id, activation",
        close_chosen(chosen, reason)
    )
});

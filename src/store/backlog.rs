//! What operators ask about all webhooks together: how much waits, for whom, and who fails.
//!
//! Of a large table of pending deliveries a sample is read, so that a question costs about the same with a thousand rows and
//! with ten million.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::known_columns::Addition;
use super::{Store, StoreError, column, count};

/// Pages of 8 KiB that are read at most: up to about 80,000 rows. Reading them takes some 20 ms, and looking up as many webhooks half a
/// second.
const MOST_PAGES: f64 = 1000.0;

/// What waits in the table of pending deliveries.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Backlog {
    /// The numbers were calculated from a part of the table.
    pub estimated: bool,
    #[serde(flatten)]
    pub all: Waiting,
    /// Those for which most is due, then those for which most waits.
    pub webhooks: Vec<WaitingWebhook>,
    /// The same, by account.
    pub accounts: Vec<WaitingAccount>,
}

/// Numbers of deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Waiting {
    pub pending: u64,
    /// Of these, those whose time has come. Held ones, and those of webhooks that are switched off, are not due.
    pub due: u64,
    /// Of these, those that had no attempt yet. What was recovered or resent had some before.
    pub parked: u64,
    /// Of these, those that an operator holds.
    pub held: u64,
    /// How late the one is that has been due for longest; null if none is due.
    pub oldest_due_seconds: Option<f64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct WaitingWebhook {
    pub webhook_id: Uuid,
    /// Null if the webhook was deleted.
    pub account_id: Option<String>,
    pub name: Option<String>,
    #[serde(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct WaitingAccount {
    pub account_id: String,
    #[serde(flatten)]
    pub waiting: Waiting,
}

/// The active webhooks that fail.
#[derive(Debug)]
pub(crate) struct Failing {
    /// How many there are in all.
    pub count: u64,
    /// Those that have failed for longest.
    pub longest: Vec<FailingWebhook>,
}

/// A webhook without a success since some time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FailingWebhook {
    pub webhook_id: Uuid,
    pub account_id: String,
    pub name: String,
    pub failing_since: Timestamp,
    /// Failed attempts in a row.
    pub failures: i32,
    pub last_error: Option<String>,
}

impl Store {
    /// What waits, with at most so many webhooks and accounts.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn backlog(&self, most: u32) -> Result<Backlog, StoreError> {
        let pages: i64 = match self.query(PAGES, &[]).await?.first() {
            Some(row) => column(row, "pages"),
            None => 0,
        };
        let percent = sampled_percent(pages);
        let holds = if self.has(Addition::Holds).await? { "holds" } else { NO_HOLDS };
        let sql = BACKLOG.replace("{holds}", holds);
        let rows = self.query(&sql, &[&percent, &i64::from(most)]).await?;
        let factor = 100.0 / percent;
        let (mut webhooks, mut accounts, mut all) = (Vec::new(), Vec::new(), Waiting::default());
        for row in &rows {
            let waiting = waiting(row, factor);
            match (column::<Option<Uuid>>(row, "webhook_id"), column::<Option<String>>(row, "account_id")) {
                (Some(webhook_id), account_id) => {
                    webhooks.push(WaitingWebhook { webhook_id, account_id, name: column(row, "name"), waiting });
                }
                (None, Some(account_id)) => accounts.push(WaitingAccount { account_id, waiting }),
                (None, None) => all = waiting,
            }
        }
        Ok(Backlog { estimated: percent < 100.0, all, webhooks, accounts })
    }

    /// The number of active webhooks that fail, and those that have failed for longest, `most` at most.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn failing_webhooks(&self, most: u32) -> Result<Failing, StoreError> {
        let rows = self.query(FAILING, &[&i64::from(most)]).await?;
        let failing = |row| FailingWebhook {
            webhook_id: column(row, "id"),
            account_id: column(row, "account_id"),
            name: column(row, "name"),
            failing_since: column(row, "failing_since"),
            failures: column(row, "consecutive_failures"),
            last_error: column(row, "last_error"),
        };
        let in_all = rows.first().map_or(0, |row| count(row, "in_all"));
        Ok(Failing { count: in_all, longest: rows.iter().map(failing).collect() })
    }
}

/// How much of a table with so many pages is read.
#[expect(clippy::cast_precision_loss, reason = "no table has so many pages that it matters")]
fn sampled_percent(pages: i64) -> f64 {
    if pages as f64 <= MOST_PAGES { 100.0 } else { 100.0 * MOST_PAGES / pages as f64 }
}

fn waiting(row: &Row, factor: f64) -> Waiting {
    let number = |name: &str| scaled(count(row, name), factor);
    Waiting {
        pending: number("pending"),
        due: number("due"),
        parked: number("parked"),
        held: number("held"),
        oldest_due_seconds: column(row, "oldest"),
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
fn scaled(count: u64, factor: f64) -> u64 {
    if factor <= 1.0 { count } else { (count as f64 * factor).round() as u64 }
}

const PAGES: &str = "SELECT pg_relation_size('pending_deliveries') / current_setting('block_size')::bigint AS pages";

/// Stands for the table of holds where the schema has none yet.
const NO_HOLDS: &str = "(SELECT NULL::uuid AS id, NULL::uuid AS webhook_id, NULL::text AS account_id, NULL::uuid AS released_through LIMIT 0)";

/// The first row is about all deliveries. Then come those about one webhook each, and those about one account each.
///
/// What is due, and what is held, depends on every webhook of the sample. They are looked up by their ids if they are few. If they are
/// many, PostgreSQL reads the table of webhooks once, which is quicker. The same goes for holds: one condition with `OR` in place of the
/// three joins would read all holds for each webhook. A release frees one webhook after the other, in the order of their ids.
const BACKLOG: &str = "
    WITH sampled AS (
        SELECT webhook_id, count(*) AS pending, count(*) FILTER (WHERE trigger = 'event') AS parked,
            count(*) FILTER (WHERE due_at <= now()) AS fell_due, min(due_at) AS first_due
        FROM pending_deliveries TABLESAMPLE SYSTEM ($1::float8::float4) GROUP BY webhook_id
    ), looked_up AS MATERIALIZED (
        SELECT sampled.*, w.account_id, w.name, w.active, num_nonnulls(own.id, of_account.id, of_all.id) > 0 AS is_held
        FROM sampled LEFT JOIN webhooks w ON w.id = sampled.webhook_id
        LEFT JOIN {holds} own ON own.webhook_id = w.id
            AND (own.released_through IS NULL OR own.released_through < w.id)
        LEFT JOIN {holds} of_account ON of_account.account_id = w.account_id
            AND (of_account.released_through IS NULL OR of_account.released_through < w.id)
        LEFT JOIN (SELECT id, released_through FROM {holds} any_hold WHERE webhook_id IS NULL AND account_id IS NULL LIMIT 1) of_all
            ON of_all.released_through IS NULL OR of_all.released_through < w.id
    ), named AS (
        SELECT webhook_id, account_id, name, pending, parked,
            CASE WHEN active AND NOT is_held THEN fell_due ELSE 0 END AS due,
            CASE WHEN is_held THEN pending ELSE 0 END AS held,
            CASE WHEN active AND NOT is_held AND fell_due > 0 THEN extract(epoch FROM now() - first_due)::float8 END AS oldest
        FROM looked_up
    )
    SELECT NULL::uuid AS webhook_id, NULL::text AS account_id, NULL::text AS name, coalesce(sum(pending), 0)::bigint AS pending,
        coalesce(sum(due), 0)::bigint AS due, coalesce(sum(parked), 0)::bigint AS parked,
        coalesce(sum(held), 0)::bigint AS held, max(oldest) AS oldest
    FROM named
    UNION ALL (
        SELECT webhook_id, account_id, name, pending, due, parked, held, oldest
        FROM named ORDER BY due DESC, pending DESC, webhook_id LIMIT $2)
    UNION ALL (
        SELECT NULL, account_id, NULL, sum(pending)::bigint, sum(due)::bigint, sum(parked)::bigint, sum(held)::bigint,
            max(oldest)
        FROM named WHERE account_id IS NOT NULL GROUP BY account_id
        ORDER BY sum(due) DESC, sum(pending) DESC, account_id LIMIT $2)";

/// Both parts read the index `webhooks_failing`, which has no other webhooks.
const FAILING: &str = "
    SELECT id, account_id, name, failing_since, consecutive_failures, last_error,
        (SELECT count(*) FROM webhooks WHERE active AND failing_since IS NOT NULL) AS in_all
    FROM webhooks WHERE active AND failing_since IS NOT NULL ORDER BY failing_since, id LIMIT $1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_so_many_pages_are_read_and_numbers_are_calculated_from_them() {
        assert_eq!(sampled_percent(0), 100.0);
        assert_eq!(sampled_percent(1000), 100.0);
        assert_eq!(sampled_percent(100_000), 1.0);
        assert_eq!(scaled(7, 1.0), 7);
        assert_eq!(scaled(7, 100.0), 700);
    }
}

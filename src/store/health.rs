//! Writes a webhook's health: since when it fails, whether its owner was notified, whether we disabled it, and until when its
//! receiver asked us to pause.
//!
//! Health is written in the transaction of the results that change it, and waits for no lock: a webhook whose row another
//! transaction has locked is skipped. Its observations stay with the worker, which tries again with its next results or a
//! moment later.
//!
//! A success of a webhook that was well when it was looked up changes nothing, so nothing is written for it. If another worker
//! has recorded a failure since that look-up, the webhook counts as failing although it has succeeded. The next look-up finds
//! that, and the next success ends it: at the latest that of the delivery that failed, which is attempted again.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::Error;
use uuid::Uuid;

use super::inactive_since::InactiveSince;
use super::known_columns::Addition;
use super::observations::{Observations, ObservedPause};
use super::sql::query;
use super::{Store, StoreError, column};
use crate::config::HealthThresholds;

impl Store {
    /// Writes observations that could not be written with their results. If the commit is not answered, the caller tries
    /// again, and failures may count twice; notices are not sent twice.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: try again.
    pub(crate) async fn record_health(
        &self,
        observations: &mut Observations,
        health: &HealthThresholds,
    ) -> Result<(), StoreError> {
        let write = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let statement = self.health_statement(&transaction, observations).await?;
            update(&transaction, observations, health, statement).await?;
            transaction.commit().await
        };
        self.write(write).await
    }

    /// The statement for [`update`]. Before V10 the schema has no column for pauses: then only the worker that was asked to
    /// pause does so. Before V15 nobody knows since when a webhook is off.
    pub(super) async fn health_statement(
        &self,
        transaction: &Transaction<'_>,
        observations: &Observations,
    ) -> Result<&'static str, Error> {
        // Without observations nothing is written, so it does not matter.
        let keeps_pauses = observations.is_empty() || self.has_within(transaction, Addition::Pauses).await?;
        if !keeps_pauses {
            return Ok(&UPDATE_BEFORE_V10);
        }
        if observations.is_empty() {
            return Ok(&UPDATE);
        }
        Ok(match self.inactive_since_within(transaction).await? {
            InactiveSince::Kept => &UPDATE,
            InactiveSince::BeforeV15 => &UPDATE_BEFORE_V15,
        })
    }

    /// Whether the schema has a column for pauses.
    pub(super) async fn keeps_pauses(&self) -> Result<bool, StoreError> {
        self.has(Addition::Pauses).await
    }
}

/// Writes the health of all observed webhooks, and notes as skipped those whose rows another transaction has locked.
pub(super) async fn update(
    transaction: &Transaction<'_>,
    observations: &mut Observations,
    health: &HealthThresholds,
    statement: &str,
) -> Result<(), Error> {
    let Observations { seen: observed, skipped, .. } = observations;
    skipped.clear();
    if observed.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = observed.keys().copied().collect();
    let seconds = |duration: Duration| duration.as_secs_f64();
    let pauses = || observed.values().map(|seen| seen.pause.as_ref());
    let lasting = |pause: &ObservedPause| seconds(pause.until.saturating_duration_since(Instant::now()));
    let rows = query(
        transaction,
        statement,
        &[
            &ids,
            &observed.values().map(|seen| seen.succeeded).collect::<Vec<_>>(),
            &observed.values().map(|seen| seen.failures).collect::<Vec<_>>(),
            &observed.values().map(|seen| seen.last_error).collect::<Vec<_>>(),
            &observed.values().map(|seen| seen.gone).collect::<Vec<_>>(),
            &health.notice_attempts,
            &seconds(health.notice_after),
            &health.disable_attempts,
            &seconds(health.disable_after),
            &pauses().map(|pause| pause.map(lasting)).collect::<Vec<_>>(),
            &pauses().map(|pause| pause.map(|pause| pause.webhook.activation)).collect::<Vec<_>>(),
            &pauses().map(|pause| pause.and_then(|pause| pause.webhook.url())).collect::<Vec<_>>(),
        ],
    )
    .await?;
    skipped.extend(rows.iter().map(|row| column::<Uuid>(row, "id")));
    Ok(())
}

/// A pause that is over is removed with the next change of the row, at the latest with the success that ends the failures.
const PAUSE: &str = ", paused_until = greatest(
    decided.pause, CASE WHEN decided.paused_until > now() THEN decided.paused_until END)";

static UPDATE: LazyLock<String> = LazyLock::new(|| {
    update_statement(&(PAUSE.to_owned() + &InactiveSince::Kept.note("webhook", "decided.disable IS NULL")))
});
static UPDATE_BEFORE_V15: LazyLock<String> = LazyLock::new(|| update_statement(PAUSE));
static UPDATE_BEFORE_V10: LazyLock<String> = LazyLock::new(|| update_statement(""));

/// A condition: the observation `seen` changes the row `webhook`. Webhooks that are off have no health.
const CHANGES: &str = "webhook.active
    AND (seen.failures > 0 OR seen.gone IS NOT NULL OR seen.pause IS NOT NULL OR webhook.consecutive_failures > 0)";

/// The time format of notices.
const RFC3339: &str = "'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'";

/// Stages of the statement that writes health.
///
/// - `seen`: the observations, one row for each webhook.
/// - `locked`: the webhooks that they change, as they are now, locked here. Webhooks that another transaction has locked are
///   missing. A pause is dropped if the webhook has another URL or activation than when the receiver asked for it.
/// - `counted`: the same with the new number of failures, since when the webhook fails, the last error, and when its owner was
///   notified.
/// - `decided`: the same, with whether to disable the webhook, to notify its owner, or to report that it has recovered. `$6`
///   and `$7` are the failures and seconds after which the owner is notified, `$8` and `$9` those for disabling.
static DECIDE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "seen AS (
            SELECT * FROM unnest($1::uuid[], $2::boolean[], $3::integer[], $4::text[], $5::integer[],
                                 $10::float8[], $11::integer[], $12::text[])
                AS seen (id, succeeded, failures, last_error, gone, pause, told_activation, told_url)
        ), locked AS (
            SELECT webhook.*, seen.succeeded, seen.failures AS new_failures, seen.last_error AS new_error, seen.gone,
                CASE WHEN (seen.told_activation, seen.told_url) = (webhook.activation, webhook.url)
                     THEN now() + make_interval(secs => seen.pause) END AS pause
            FROM webhooks webhook JOIN seen ON seen.id = webhook.id
            WHERE {CHANGES}
            FOR UPDATE OF webhook SKIP LOCKED
        ), counted AS (
            SELECT *,
                CASE WHEN succeeded THEN 0 ELSE consecutive_failures END + new_failures AS failures,
                CASE WHEN NOT succeeded THEN coalesce(failing_since, now()) WHEN new_failures > 0 THEN now() END
                    AS since,
                CASE WHEN NOT succeeded THEN failing_noticed_at END AS noticed_at,
                coalesce(new_error, CASE WHEN NOT succeeded THEN last_error END,
                         CASE WHEN gone IS NOT NULL THEN 'http_status' END) AS error
            FROM locked
        ), decided AS (
            SELECT *,
                CASE WHEN gone = activation THEN 'gone'
                     WHEN failures >= $8 AND since <= now() - make_interval(secs => $9) THEN 'failing' END AS disable,
                noticed_at IS NULL AND failures >= $6 AND since <= now() - make_interval(secs => $7) AS notice,
                succeeded AND failing_noticed_at IS NOT NULL AS recovered
            FROM counted
        )"
    )
});

/// Stages of the same statement.
///
/// - `news`: one row for each notice that follows from `decided`.
/// - `noted`: writes the notices.
static NOTIFY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "news (kind, reason, since, error, webhook) AS (
            SELECT 'webhook.recovered', 'recovered', failing_since, last_error, decided FROM decided WHERE recovered
            UNION ALL
            SELECT 'webhook.failing', 'failing', since, error, decided FROM decided WHERE notice AND disable IS NULL
            UNION ALL
            SELECT 'webhook.disabled', disable, since, error, decided FROM decided WHERE disable IS NOT NULL
        ), noted AS (
            INSERT INTO notices (id, kind, body)
            SELECT id, kind, json_build_object(
                'id', id, 'type', kind, 'account_id', (webhook).account_id, 'webhook_id', (webhook).id,
                'name', (webhook).name, 'reason', reason, 'since', to_char(since, {RFC3339}), 'last_error', error,
                'occurred_at', to_char(now(), {RFC3339}))::text
            FROM (SELECT gen_random_uuid() AS id, * FROM news) AS notice
        )"
    )
});

/// The statement that writes health and notices: the stages of `DECIDE`, then `updated`, which writes what was decided to
/// `webhooks`, then those of `NOTIFY`. It returns the ids of the webhooks that it skipped. A webhook that is changed or deleted
/// at this very moment may be among them; the next try finds that out. `of_newer_schemas` ends the list of what is set.
fn update_statement(of_newer_schemas: &str) -> String {
    let (decide, notify) = (&*DECIDE, &*NOTIFY);
    format!(
        "WITH {decide}, updated AS (
            UPDATE webhooks webhook SET
                consecutive_failures = decided.failures,
                failing_since = decided.since,
                last_error = decided.error,
                failing_noticed_at = CASE WHEN decided.notice THEN now() ELSE decided.noticed_at END,
                active = decided.disable IS NULL,
                disabled_reason = decided.disable,
                activation = webhook.activation + (decided.disable IS NOT NULL)::integer
                {of_newer_schemas}
            FROM decided WHERE webhook.id = decided.id
        ), {notify}
        SELECT seen.id FROM seen JOIN webhooks webhook ON webhook.id = seen.id
        WHERE {CHANGES} AND NOT EXISTS (SELECT FROM locked WHERE locked.id = seen.id)"
    )
}

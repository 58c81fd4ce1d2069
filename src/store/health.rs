//! Keeps a webhook's health: when it began to fail, when that deserves a notice, when it is disabled, until when its
//! receiver asked for time.
//!
//! Changes are made with the results they follow from, in one transaction. Health waits for nobody: a webhook whose row
//! somebody holds is skipped, and what was seen of it stays with the worker, which tries again with its next results or
//! a moment later.
//!
//! A success of a webhook that was well when it was looked up says nothing new, so it costs nothing. If another worker
//! has recorded a failure since that look-up, the webhook counts as troubled although it has succeeded; the next look-up
//! sees that, and the next success, at the latest the retry of what failed, makes it well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use uuid::Uuid;

use super::turn_result::{Ending, TurnResult};
use super::{Store, StoreError, column};
use crate::config::HealthThresholds;
use crate::ids::WebhookId;
use crate::retry::Step;
use crate::snapshot::Snapshot;

/// Webhooks of which a worker keeps what it could not write, so that not even a lock on all of them fills its memory.
/// Health of more is left to their next attempts.
const MOST_KEPT: usize = 10_000;

/// What results say about webhooks, until it is written.
#[derive(Debug, Default, Clone)]
pub struct Observations {
    seen: BTreeMap<Uuid, Observed>,
    /// The last of those that were taken.
    taken: Uuid,
    /// Those that the last transaction did not write, for somebody held their rows.
    skipped: Vec<Uuid>,
}

/// What results say about one webhook.
#[derive(Debug, Default, Clone)]
struct Observed {
    /// The newest batch that says something about it.
    batch: u64,
    succeeded: bool,
    /// Failed attempts after the last success.
    failures: i32,
    last_error: Option<&'static str>,
    /// The activation under which the receiver said that it is gone.
    gone: Option<i32>,
    pause: Option<Pause>,
}

/// What a receiver asked for.
#[derive(Debug, Clone)]
struct Pause {
    until: Instant,
    /// Whose receiver that was: another URL has another one.
    webhook: Arc<Snapshot>,
}

impl Observed {
    /// Both, that of the newer batch after the other. Of what several batches say, the newest one's place is that of all:
    /// so a count may be a little wrong, but not whether it ends with a success.
    fn and(self, other: Self) -> Self {
        if self.batch < other.batch { other.after(self) } else { self.after(other) }
    }

    /// What was seen before, and then this.
    fn after(self, before: Self) -> Self {
        let gone = self.gone.max(before.gone);
        // Also from before a success, which may be of a request that was out already.
        let pause = self.pause.into_iter().chain(before.pause).max_by_key(|pause| pause.until);
        if self.succeeded {
            return Self { gone, pause, ..self };
        }
        let last_error = self.last_error.or(before.last_error);
        let failures = before.failures.saturating_add(self.failures);
        Self { batch: self.batch, succeeded: before.succeeded, failures, last_error, gone, pause }
    }
}

impl Observations {
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Adds what a batch says, in its order, which is that in which attempts ended. Our own failures say nothing about a
    /// webhook, nor does a success unless there is trouble that it ends: `troubled` knows what is not written yet.
    pub fn observe(&mut self, number: u64, batch: &[TurnResult], troubled: impl Fn(WebhookId) -> bool) {
        for finished in batch {
            let Ending::Attempted(attempt, step) = &finished.ending else { continue };
            let webhook = &finished.delivery.webhook;
            let well = || !webhook.troubled && !self.seen.contains_key(&webhook.id.0) && !troubled(webhook.id);
            let seen = match step {
                Step::RepeatIn(_) => continue,
                Step::Succeeded if well() => continue,
                Step::Succeeded => Observed { succeeded: true, ..Observed::default() },
                Step::RetryIn(_) | Step::Exhausted | Step::Disable => Observed {
                    failures: 1,
                    last_error: attempt.outcome.error(),
                    gone: (*step == Step::Disable).then_some(webhook.activation),
                    pause: attempt.paused_until.map(|until| Pause { until, webhook: webhook.clone() }),
                    ..Observed::default()
                },
            };
            self.add(webhook.id.0, Observed { batch: number, ..seen });
        }
    }

    /// The webhooks that something was seen of.
    pub fn webhooks(&self) -> impl Iterator<Item = WebhookId> {
        self.seen.keys().copied().map(WebhookId)
    }

    /// Whether something was seen of it.
    pub fn contains(&self, webhook: WebhookId) -> bool {
        self.seen.contains_key(&webhook.0)
    }

    /// Takes what was seen of so many webhooks, of others each time.
    pub fn take(&mut self, most: usize) -> Self {
        let next = self.seen.range(self.taken..).skip_while(|(id, _)| **id == self.taken);
        let around = next.chain(self.seen.range(..=self.taken));
        let some: Vec<Uuid> = around.map(|(id, _)| *id).take(most).collect();
        self.taken = some.last().copied().unwrap_or_default();
        let seen = some.into_iter().filter_map(|id| self.seen.remove_entry(&id)).collect();
        Self { seen, ..Self::default() }
    }

    /// After the transaction was committed: what is still to be written.
    pub fn left(self) -> Self {
        let left = self.skipped.iter().filter_map(|id| Some((*id, self.seen.get(id)?.clone())));
        Self { seen: left.collect(), ..Self::default() }
    }

    /// After the transaction was committed: the webhooks whose successes were written, and the batches that these are of.
    pub fn written_successes(&self) -> impl Iterator<Item = (WebhookId, u64)> {
        let written = self.seen.iter().filter(|(id, seen)| seen.succeeded && !self.skipped.contains(id));
        written.map(|(id, seen)| (WebhookId(*id), seen.batch))
    }

    /// Leaves out what a success ends that was written, and is of a newer batch.
    pub fn succeeded(&mut self, webhook: WebhookId, batch: u64) {
        let Some(seen) = self.seen.get_mut(&webhook.0).filter(|seen| seen.batch < batch) else { return };
        match (seen.gone, &seen.pause) {
            (None, None) => drop(self.seen.remove(&webhook.0)),
            _ => *seen = Observed { succeeded: true, batch, ..Observed::default() }.after(seen.clone()),
        }
    }

    /// Adds what others saw, before or after.
    pub fn merge(&mut self, others: Self) {
        for (id, seen) in others.seen {
            if self.seen.len() < MOST_KEPT || self.seen.contains_key(&id) {
                self.add(id, seen);
            }
        }
    }

    fn add(&mut self, webhook: Uuid, seen: Observed) {
        let seen = match self.seen.remove(&webhook) {
            Some(before) => seen.and(before),
            None => seen,
        };
        self.seen.insert(webhook, seen);
    }
}

#[cfg(test)]
impl Observations {
    /// As if somebody held all rows.
    pub(crate) fn skip_all(&mut self) {
        self.skipped = self.seen.keys().copied().collect();
    }

    /// Which webhooks succeeded, and how often they failed since.
    pub(crate) fn facts(&self) -> Vec<(u128, bool, i32)> {
        self.seen.iter().map(|(id, seen)| (id.as_u128(), seen.succeeded, seen.failures)).collect()
    }
}

impl Store {
    /// Writes what could not be written with the results it follows from. It counts twice if the commit is not answered,
    /// which makes no second notice.
    pub async fn record_health(
        &self,
        observations: &mut Observations,
        health: &HealthThresholds,
    ) -> Result<(), StoreError> {
        let write = async |client: &mut deadpool_postgres::Object| {
            let transaction = client.transaction().await?;
            let statement = self.health_statement(&transaction, observations).await?;
            update(&transaction, observations, health, statement).await?;
            transaction.commit().await
        };
        self.write(write).await
    }

    /// How these observations are written. Before V10 a pause is known to the worker that was told, and to no other.
    pub(super) async fn health_statement(
        &self,
        transaction: &Transaction<'_>,
        observations: &Observations,
    ) -> Result<&'static str, tokio_postgres::Error> {
        // Without any nothing is written.
        let keeps_pauses = observations.is_empty()
            || self.keeps_pauses.load(Ordering::Relaxed)
            || self.note_keeps_pauses(&transaction.query_one(KEEPS_PAUSES, &[]).await?);
        Ok(if keeps_pauses { UPDATE } else { UPDATE_BEFORE_V10 })
    }

    /// Whether the schema has a place for pauses.
    pub(super) async fn keeps_pauses(&self) -> Result<bool, StoreError> {
        Ok(self.keeps_pauses.load(Ordering::Relaxed)
            || self.query(KEEPS_PAUSES, &[]).await?.first().is_some_and(|row| self.note_keeps_pauses(row)))
    }

    fn note_keeps_pauses(&self, row: &Row) -> bool {
        let keeps = column(row, "keeps");
        self.keeps_pauses.store(keeps, Ordering::Relaxed);
        keeps
    }
}

const KEEPS_PAUSES: &str = "SELECT EXISTS (SELECT FROM pg_attribute
    WHERE attrelid = 'webhooks'::regclass AND attname = 'paused_until' AND NOT attisdropped) AS keeps";

/// Writes the health of all webhooks seen but those whose rows somebody holds.
pub(super) async fn update(
    transaction: &Transaction<'_>,
    observations: &mut Observations,
    health: &HealthThresholds,
    statement: &str,
) -> Result<(), tokio_postgres::Error> {
    let Observations { seen: observed, skipped, .. } = observations;
    skipped.clear();
    if observed.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = observed.keys().copied().collect();
    let seconds = |duration: Duration| duration.as_secs_f64();
    let pauses = || observed.values().map(|seen| seen.pause.as_ref());
    let lasting = |pause: &Pause| seconds(pause.until.saturating_duration_since(Instant::now()));
    let statement = transaction.prepare_cached(statement).await?;
    let rows = transaction
        .query(
            &statement,
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

/// Returns the webhooks that it skipped. One that was changed or deleted in this very moment may be among them; the next
/// try finds out.
macro_rules! update {
    ($paused_until:literal) => {
        concat!("
    WITH seen AS (
        SELECT * FROM unnest($1::uuid[], $2::boolean[], $3::integer[], $4::text[], $5::integer[],
                             $10::float8[], $11::integer[], $12::text[])
            AS s (id, succeeded, failures, last_error, gone, pause, told_activation, told_url)
    ), before AS (
        SELECT w.*, s.succeeded, s.failures AS new_failures, s.last_error AS new_error, s.gone,
            CASE WHEN (s.told_activation, s.told_url) = (w.activation, w.url)
                 THEN now() + make_interval(secs => s.pause) END AS pause
        FROM webhooks w JOIN seen s ON s.id = w.id
        WHERE w.active AND (s.failures > 0 OR s.gone IS NOT NULL OR s.pause IS NOT NULL OR w.consecutive_failures > 0)
        FOR UPDATE OF w SKIP LOCKED
    ), counted AS (
        SELECT *,
            CASE WHEN succeeded THEN 0 ELSE consecutive_failures END + new_failures AS failures,
            CASE WHEN NOT succeeded THEN coalesce(failing_since, now()) WHEN new_failures > 0 THEN now() END AS since,
            CASE WHEN NOT succeeded THEN failing_noticed_at END AS noticed_at,
            coalesce(new_error, CASE WHEN NOT succeeded THEN last_error END, CASE WHEN gone IS NOT NULL THEN 'http_status' END)
                AS error
        FROM before
    ), decided AS (
        SELECT *,
            CASE WHEN gone = activation THEN 'gone'
                 WHEN failures >= $8 AND since <= now() - make_interval(secs => $9) THEN 'failing' END AS disable,
            noticed_at IS NULL AND failures >= $6 AND since <= now() - make_interval(secs => $7) AS notice,
            succeeded AND failing_noticed_at IS NOT NULL AS recovered
        FROM counted
    ), changed AS (
        UPDATE webhooks w SET
            consecutive_failures = d.failures,
            failing_since = d.since,
            last_error = d.error,
            failing_noticed_at = CASE WHEN d.notice THEN now() ELSE d.noticed_at END,
            active = d.disable IS NULL,
            disabled_reason = d.disable,
            activation = w.activation + (d.disable IS NOT NULL)::integer",
        $paused_until,
        "
        FROM decided d WHERE w.id = d.id
    ), said (kind, reason, since, error, webhook) AS (
        SELECT 'webhook.recovered', 'recovered', failing_since, last_error, decided FROM decided WHERE recovered
        UNION ALL
        SELECT 'webhook.failing', 'failing', since, error, decided FROM decided WHERE notice AND disable IS NULL
        UNION ALL
        SELECT 'webhook.disabled', disable, since, error, decided FROM decided WHERE disable IS NOT NULL
    ), noted AS (INSERT INTO notices (id, kind, body)
    SELECT id, kind, json_build_object(
        'id', id, 'type', kind, 'account_id', (webhook).account_id, 'webhook_id', (webhook).id, 'name', (webhook).name,
        'reason', reason, 'since', to_char(since, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), 'last_error', error,
        'occurred_at', to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'))::text
    FROM (SELECT gen_random_uuid() AS id, * FROM said) AS notice)
    SELECT s.id FROM seen s JOIN webhooks w ON w.id = s.id
    WHERE w.active AND (s.failures > 0 OR s.gone IS NOT NULL OR s.pause IS NOT NULL OR w.consecutive_failures > 0)
      AND NOT EXISTS (SELECT FROM before b WHERE b.id = s.id)")
    };
}

/// A pause that is over is forgotten with the next change, at the latest with the success that ends the trouble.
const UPDATE: &str =
    update!(", paused_until = greatest(d.pause, CASE WHEN d.paused_until > now() THEN d.paused_until END)");
const UPDATE_BEFORE_V10: &str = update!("");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Answer, Attempt, Outcome};

    fn answered(webhook: u128, activation: i32, status: u16, step: Step) -> TurnResult {
        let outcome = Outcome::Answered(Answer { status, snippet: None, retry_after: None });
        let (id, started) = (Uuid::nil(), std::time::Instant::now());
        let attempt = Attempt { id, outcome, duration: Duration::ZERO, started, paused_until: None };
        TurnResult::example(webhook, activation, b"{}", Ending::Attempted(attempt, step))
    }

    fn of_a_troubled_webhook(mut finished: TurnResult) -> TurnResult {
        let webhook = &finished.delivery.webhook;
        let state = crate::snapshot::SnapshotState::Off;
        let troubled =
            Snapshot { id: webhook.id, activation: webhook.activation, troubled: true, paused_until: None, state };
        finished.delivery.webhook = troubled.into();
        finished
    }

    fn observed(batch: &[TurnResult]) -> Observations {
        let mut observations = Observations::default();
        observations.observe(1, batch, |_| false);
        observations
    }

    const RETRY: Step = Step::RetryIn(Duration::ZERO);

    #[test]
    fn failures_count_from_the_last_success_on() {
        let batch = [
            answered(1, 1, 500, RETRY),
            answered(1, 1, 200, Step::Succeeded),
            answered(1, 1, 503, RETRY),
            answered(2, 1, 500, Step::Exhausted),
            answered(3, 1, 500, Step::RepeatIn(Duration::ZERO)),
        ];
        assert_eq!(observed(&batch).facts(), [(1, true, 1), (2, false, 1)]);
    }

    #[test]
    fn a_success_counts_only_where_it_changes_something() {
        let success = |webhook| answered(webhook, 1, 200, Step::Succeeded);
        assert!(observed(&[success(1), success(1)]).is_empty());
        assert_eq!(observed(&[of_a_troubled_webhook(success(1))]).facts(), [(1, true, 0)]);
        let mut kept = observed(&[answered(1, 1, 500, RETRY)]);
        kept.observe(2, &[success(1), success(2), success(3)], |webhook| webhook.0.as_u128() == 3);
        assert_eq!(kept.facts(), [(1, true, 0), (3, true, 0)]);
    }

    #[test]
    fn what_was_skipped_is_kept_and_goes_before_what_is_seen_later() {
        let failure = |webhook| answered(webhook, 1, 500, RETRY);
        let mut first = observed(&[failure(1), failure(2), failure(2)]);
        first.skipped = vec![Uuid::from_u128(2), Uuid::from_u128(9)];
        let mut kept = first.left();
        assert_eq!(kept.facts(), [(2, false, 2)]);
        kept.merge(observed(&[failure(2), failure(3)]));
        assert_eq!(kept.facts(), [(2, false, 3), (3, false, 1)]);
        kept.merge(observed(&[of_a_troubled_webhook(answered(2, 1, 200, Step::Succeeded)), failure(2)]));
        assert_eq!(kept.facts(), [(2, true, 1), (3, false, 1)]);
    }

    #[test]
    fn what_is_kept_of_webhooks_is_bounded() {
        let many: Vec<TurnResult> =
            (0..MOST_KEPT as u128 + 10).map(|webhook| answered(webhook, 1, 500, RETRY)).collect();
        let mut kept = Observations::default();
        kept.merge(observed(&many));
        assert_eq!(kept.seen.len(), MOST_KEPT);
        kept.merge(observed(&many));
        assert!(kept.seen.values().all(|seen| seen.failures == 2));
    }

    #[test]
    fn the_longest_pause_that_a_receiver_asked_for_outlasts_successes_of_requests_that_were_out() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let told = |pause: Option<Instant>| {
            let mut finished = answered(1, 1, 429, RETRY);
            if let Ending::Attempted(attempt, _) = &mut finished.ending {
                attempt.paused_until = pause;
            }
            finished
        };
        let batch =
            [told(Some(now + 2 * second)), told(Some(now + second)), told(None), answered(1, 1, 200, Step::Succeeded)];
        let mut seen = observed(&batch);
        let pause = |seen: &Observations| seen.seen.values().next().and_then(|seen| Some(seen.pause.as_ref()?.until));
        assert_eq!((seen.facts(), pause(&seen)), (vec![(1, true, 0)], Some(now + 2 * second)));
        seen.succeeded(WebhookId(Uuid::from_u128(1)), 2);
        assert_eq!((seen.facts(), pause(&seen)), (vec![(1, true, 0)], Some(now + 2 * second)));
    }

    #[test]
    fn a_receiver_that_is_gone_stays_gone_whatever_else_the_batch_holds() {
        let gone = |activation| answered(1, activation, 410, Step::Disable);
        let batch = [gone(4), gone(5), answered(1, 5, 200, Step::Succeeded)];
        assert_eq!(observed(&batch).seen[&Uuid::from_u128(1)].gone, Some(5));
    }
}

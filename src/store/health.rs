//! Keeps a webhook's health: when it began to fail, when that deserves a notice, when it is disabled.
//!
//! Changes are made with the results they follow from, in one transaction and in id order, so that two workers cannot
//! wait for each other. A webhook that is well is not written to.

use std::collections::BTreeMap;
use std::time::Duration;

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::record::{Ending, Finished, execute};
use crate::config::Health;
use crate::retry::Step;

/// What a batch says about one webhook.
#[derive(Default)]
struct Observed<'a> {
    succeeded: bool,
    /// Failed attempts after the last success.
    failures: i32,
    last_error: Option<&'a str>,
    /// The activation under which the receiver said that it is gone.
    gone: Option<i32>,
}

pub(super) async fn update(
    transaction: &Transaction<'_>,
    batch: &[Finished],
    health: &Health,
) -> Result<(), tokio_postgres::Error> {
    let observed = observe(batch);
    if observed.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = observed.keys().copied().collect();
    let seconds = |duration: Duration| duration.as_secs_f64();
    execute(
        transaction,
        UPDATE,
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
        ],
    )
    .await
}

/// In the order of the batch, which is the order in which attempts ended. Our own failures say nothing about a webhook.
fn observe(batch: &[Finished]) -> BTreeMap<Uuid, Observed<'_>> {
    let mut observed: BTreeMap<Uuid, Observed<'_>> = BTreeMap::new();
    for finished in batch {
        let Ending::Attempted(attempt, step) = &finished.ending else { continue };
        let webhook = &finished.delivery.webhook;
        match step {
            Step::RepeatIn(_) => continue,
            Step::Succeeded => {
                let seen = observed.entry(webhook.id.0).or_default();
                *seen = Observed { succeeded: true, gone: seen.gone, ..Observed::default() };
            }
            Step::RetryIn(_) | Step::Exhausted | Step::Disable => {
                let seen = observed.entry(webhook.id.0).or_default();
                seen.failures += 1;
                seen.last_error = attempt.outcome.error();
                seen.gone = seen.gone.max((*step == Step::Disable).then_some(webhook.activation));
            }
        }
    }
    observed
}

pub(super) const UPDATE: &str = "
    WITH seen AS (
        SELECT * FROM unnest($1::uuid[], $2::boolean[], $3::integer[], $4::text[], $5::integer[])
            AS s (id, succeeded, failures, last_error, gone)
    ), before AS (
        SELECT w.*, s.succeeded, s.failures AS new_failures, s.last_error AS new_error, s.gone
        FROM webhooks w JOIN seen s ON s.id = w.id
        WHERE w.active AND (s.failures > 0 OR s.gone IS NOT NULL OR w.consecutive_failures > 0)
        ORDER BY w.id FOR UPDATE OF w
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
            activation = w.activation + (d.disable IS NOT NULL)::integer
        FROM decided d WHERE w.id = d.id
    ), said (kind, reason, since, error, webhook) AS (
        SELECT 'webhook.recovered', 'recovered', failing_since, last_error, decided FROM decided WHERE recovered
        UNION ALL
        SELECT 'webhook.failing', 'failing', since, error, decided FROM decided WHERE notice AND disable IS NULL
        UNION ALL
        SELECT 'webhook.disabled', disable, since, error, decided FROM decided WHERE disable IS NOT NULL
    )
    INSERT INTO notices (id, kind, body)
    SELECT id, kind, json_build_object(
        'id', id, 'type', kind, 'account_id', (webhook).account_id, 'webhook_id', (webhook).id, 'name', (webhook).name,
        'reason', reason, 'since', to_char(since, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), 'last_error', error,
        'occurred_at', to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'))::text
    FROM (SELECT gen_random_uuid() AS id, * FROM said) AS notice";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Answer, Attempt, Outcome};

    fn answered(webhook: u128, activation: i32, status: u16, step: Step) -> Finished {
        let outcome = Outcome::Answered(Answer { status, snippet: None, retry_after: None });
        let (id, started) = (Uuid::nil(), std::time::Instant::now());
        let attempt = Attempt { id, outcome, duration: Duration::ZERO, started };
        Finished::example(webhook, activation, b"{}", Ending::Attempted(attempt, step))
    }

    #[test]
    fn failures_count_from_the_last_success_on() {
        let retry = Step::RetryIn(Duration::ZERO);
        let batch = [
            answered(1, 1, 500, retry),
            answered(1, 1, 200, Step::Succeeded),
            answered(1, 1, 503, retry),
            answered(2, 1, 500, Step::Exhausted),
            answered(3, 1, 500, Step::RepeatIn(Duration::ZERO)),
        ];
        let seen: Vec<_> = observe(&batch).into_iter().map(|(id, s)| (id.as_u128(), s.succeeded, s.failures)).collect();
        assert_eq!(seen, [(1, true, 1), (2, false, 1)]);
    }

    #[test]
    fn a_receiver_that_is_gone_stays_gone_whatever_else_the_batch_holds() {
        let gone = |activation| answered(1, activation, 410, Step::Disable);
        let batch = [gone(4), gone(5), answered(1, 5, 200, Step::Succeeded)];
        assert_eq!(observe(&batch)[&Uuid::from_u128(1)].gone, Some(5));
    }
}

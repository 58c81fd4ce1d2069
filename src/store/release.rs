//! Releases holds: spreads what waits over time, at so many deliveries in a second to each webhook, then ends the hold.
//!
//! A hold of several webhooks is released webhook by webhook, in the order of their ids, and its row tells how far that has come.
//! A batch of deliveries is one transaction. It skips what another transaction has locked. So any number of workers may release
//! one hold together, and if one of them dies, another goes on.

use deadpool_postgres::{Object, Transaction};
use jiff::Timestamp;
use tokio_postgres::{Error, Row};

use super::sql::{execute, query};
use super::{Params, Store, StoreError, column, count};
use crate::hold::{Held, Hold, Release};
use crate::ids::WebhookId;

/// Deliveries that one transaction moves: so few that results of these deliveries wait only briefly.
const BATCH: i64 = 500;

/// How one step of a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseStep {
    /// Some deliveries of a webhook are spread, and more may follow.
    Spread,
    /// A webhook is sent to again.
    Freed,
    /// The hold has ended.
    Ended,
    /// Another transaction works on the webhook or the hold, or the hold has changed: look again.
    Skipped,
}

/// Where a release has come to, as the last step found it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reached {
    release: Release,
    /// The next webhook to free.
    webhook: WebhookId,
    /// Its deliveries that fell due before this time are spread.
    since: Timestamp,
}

/// What a step does if another transaction has locked the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    /// It ends as [`ReleaseStep::Skipped`].
    Skip,
    /// It waits a moment. Then it fails and names the webhook.
    WaitFor,
}

impl Store {
    /// Makes one step of a release. `reached` is kept from step to step and only saves work: dead entries of the index, which an
    /// old snapshot may keep for long, are not read again. Deliveries fall due `rate` a second, the first ones at once. A later
    /// recovery begins after them.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: make the step again.
    pub(crate) async fn step_release(
        &self,
        hold: &Hold,
        reached: &mut Option<Reached>,
        rate: u32,
        locked: Locked,
    ) -> Result<ReleaseStep, StoreError> {
        let Some(release) = hold.release else { return Ok(ReleaseStep::Skipped) };
        if reached.is_none_or(|reached| reached.release != release) {
            let next = self.next_to_free(hold, release).await?;
            *reached = next.map(|webhook| Reached { release, webhook, since: Timestamp::UNIX_EPOCH });
        }
        let Some(Reached { webhook, since, .. }) = *reached else {
            let ended = self.execute(END, &[&hold.id, &release.at, &release.through.map(|id| id.0)]).await?;
            return Ok(if ended > 0 { ReleaseStep::Ended } else { ReleaseStep::Skipped });
        };
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let Some(active) = lock_webhook(&transaction, webhook, locked).await? else {
                return Ok((ReleaseStep::Skipped, None));
            };
            let since = active.then_some(since);
            let step = step(&transaction, hold, release, (webhook, since), rate).await?;
            transaction.commit().await.map(|()| step)
        };
        let (step, until) = self.write(work).await.map_err(|error| match error {
            StoreError::Busy(cause) => StoreError::Busy(cause.context(format!("the release of webhook {webhook}"))),
            error => error,
        })?;
        *reached = Some(Reached { release, webhook, since: until.unwrap_or(since) });
        Ok(step)
    }

    /// The next webhook of a hold that may have deliveries to spread.
    async fn next_to_free(&self, hold: &Hold, release: Release) -> Result<Option<WebhookId>, StoreError> {
        let after = release.through.unwrap_or_default().0;
        let rows = match &hold.held {
            // When its only webhook is free, the row of the hold is gone.
            Held::Webhook(webhook) => return Ok(Some(*webhook)),
            Held::Account(account) => self.query(NEXT_OF_ACCOUNT, &[&account.as_str(), &after]).await?,
            Held::All => self.query(NEXT_OF_ALL, &[&after]).await?,
        };
        Ok(rows.first().map(|row| WebhookId(column(row, "id"))))
    }
}

/// Locks a webhook. Returns whether it is there and active. `None`: another transaction has locked it.
async fn lock_webhook(
    transaction: &Transaction<'_>,
    webhook: WebhookId,
    locked: Locked,
) -> Result<Option<bool>, Error> {
    let lock = match locked {
        Locked::Skip => LOCK_WEBHOOK_OR_SKIP,
        Locked::WaitFor => LOCK_WEBHOOK,
    };
    if let Some(row) = query(transaction, lock, &[&webhook.0]).await?.first() {
        return Ok(Some(column(row, "active")));
    }
    let is_gone = query(transaction, IS_THERE, &[&webhook.0]).await?.is_empty();
    Ok(is_gone.then_some(false))
}

/// The rest of the transaction of [`Store::step_release`]. Spreads deliveries that are due `since`, or none: the sweep closes those
/// of a webhook that is off or gone. Returns also when the last of those that it spread was due.
async fn step(
    transaction: &Transaction<'_>,
    hold: &Hold,
    release: Release,
    (webhook, since): (WebhookId, Option<Timestamp>),
    rate: u32,
) -> Result<(ReleaseStep, Option<Timestamp>), Error> {
    let through = release.through.map(|id| id.0);
    let locked = query(transaction, LOCK_HOLD, &[&hold.id, &release.at, &through]).await?;
    let Some(hold_row) = locked.first() else { return Ok((ReleaseStep::Skipped, None)) };
    let begun: Timestamp = column(hold_row, "spreading_since");
    let spread_before: Option<Timestamp> = column(hold_row, "spread_until");
    if let Some(since) = since {
        let rate = f64::from(rate);
        let params: Params<'_> = &[&webhook.0, &since, &begun, &BATCH, &rate, &spread_before];
        let spread = query(transaction, SPREAD, params).await?;
        let row: &Row = &spread[0];
        let deliveries = count(row, "deliveries");
        if deliveries > 0 {
            let (until, spread_until): (Timestamp, Timestamp) = (column(row, "until"), column(row, "spread_until"));
            execute(transaction, RECOVER_AFTER, &[&webhook.0, &spread_until]).await?;
            if i64::try_from(deliveries) == Ok(BATCH) {
                execute(transaction, CONTINUE, &[&hold.id, &begun, &spread_until]).await?;
                return Ok((ReleaseStep::Spread, Some(until)));
            }
        }
    }
    match hold.held {
        Held::Webhook(_) => {
            execute(transaction, "DELETE FROM holds WHERE id = $1", &[&hold.id]).await?;
            Ok((ReleaseStep::Ended, None))
        }
        Held::Account(_) | Held::All => {
            let freed: Params<'_> = &[&hold.id, &webhook.0];
            execute(transaction, FREE, freed).await?;
            Ok((ReleaseStep::Freed, None))
        }
    }
}

const NEXT_OF_ACCOUNT: &str = "
    SELECT w.id FROM webhooks w CROSS JOIN LATERAL (
        SELECT FROM pending_deliveries p
        WHERE (p.webhook_id, p.due_at) >= (w.id, '-infinity') AND (p.webhook_id, p.due_at) <= (w.id, now())
        ORDER BY p.webhook_id, p.due_at LIMIT 1) AS waiting
    WHERE w.account_id = $1 AND w.id > $2 ORDER BY w.id LIMIT 1";

/// Reads one entry of the index by webhook, and dead ones before it.
const NEXT_OF_ALL: &str = "
    SELECT webhook_id AS id FROM pending_deliveries WHERE webhook_id > $1 ORDER BY webhook_id LIMIT 1";

const LOCK_WEBHOOK_OR_SKIP: &str = "SELECT active FROM webhooks WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED";

const LOCK_WEBHOOK: &str = "SELECT active FROM webhooks WHERE id = $1 FOR NO KEY UPDATE";

const IS_THERE: &str = "SELECT FROM webhooks WHERE id = $1";

/// Only if nobody has held it again, or has come further. `spreading_since`: of a webhook that no step has begun with, now.
const LOCK_HOLD: &str = "
    SELECT coalesce(spreading_since, greatest(released_at, statement_timestamp())) AS spreading_since, spread_until FROM holds
    WHERE id = $1 AND released_at = $2::timestamptz AND released_through IS NOT DISTINCT FROM $3::uuid
    FOR UPDATE SKIP LOCKED";

const CONTINUE: &str = "UPDATE holds SET spreading_since = $2, spread_until = $3 WHERE id = $1";

const FREE: &str = "
    UPDATE holds SET released_through = $2::uuid, spreading_since = NULL, spread_until = NULL WHERE id = $1";

const END: &str = "
    DELETE FROM holds
    WHERE id = $1 AND released_at = $2::timestamptz AND released_through IS NOT DISTINCT FROM $3::uuid";

/// Moves the oldest deliveries that were due when the first step began with the webhook, in their order.
///
/// - `head`: these deliveries, locked here. Bounded as in `CLAIM_DUE`.
/// - `start`: the new time of the first. It comes after that step in any case, so that none is moved twice. It does not wait for
///   what was recovered or released before: that may last for hours, and what came during a short hold would be as late.
const SPREAD: &str = "
    WITH head AS MATERIALIZED (
        SELECT id, due_at FROM pending_deliveries
        WHERE (webhook_id, due_at) >= ($1::uuid, $2::timestamptz) AND (webhook_id, due_at) <= ($1::uuid, $3::timestamptz)
        ORDER BY webhook_id, due_at LIMIT $4 FOR UPDATE SKIP LOCKED
    ), placed AS MATERIALIZED (
        SELECT id, row_number() OVER (ORDER BY due_at, id) - 1 AS place FROM head
    ), start AS MATERIALIZED (
        SELECT greatest($6::timestamptz, statement_timestamp(), $3::timestamptz + interval '1 ms') AS start
    ), moved AS (
        UPDATE pending_deliveries pending SET due_at = start.start + make_interval(secs => placed.place / $5::float8)
        FROM placed, start WHERE pending.id = ANY (ARRAY(SELECT id FROM head)) AND pending.id = placed.id
    )
    SELECT head.deliveries, head.until, start.start + make_interval(secs => head.deliveries / $5::float8) AS spread_until
    FROM start, (SELECT count(*) AS deliveries, max(due_at) AS until FROM head) AS head";

/// The next recovery of the webhook begins after these.
const RECOVER_AFTER: &str = "
    UPDATE webhooks SET recovering_until = greatest(recovering_until, $2::timestamptz) WHERE id = $1";

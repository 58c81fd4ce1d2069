//! Grants requests to webhooks that have a pace (V16), by PostgreSQL's clock, so that all processes together keep it.
//!
//! For each webhook `paces` has the time until which its requests are granted: each request that is granted moves it on by
//! the time that one request takes at the webhook's pace. Requests that were not asked for are lost but for a quarter of a
//! second's worth. This is the algorithm GCRA (ITU-T I.371, annex A, virtual scheduling).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::known_columns::Addition;
use super::{Store, StoreError, column, count};
use crate::ids::WebhookId;

/// How many requests of a webhook somebody wants to begin.
#[derive(Debug, Clone, Copy)]
pub struct PaceAsk {
    pub webhook: WebhookId,
    pub wanted: usize,
    /// Only as many requests are granted as deliveries of the webhook are due that fell due since then. `None`: as many as are
    /// wanted.
    pub due_since: Option<Timestamp>,
}

/// What [`Store::take_pace`] answers for one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The schema is older than V16 and knows no pace: there is none, and no ceiling.
    Unknown,
    /// It has no pace, or it is off or deleted.
    Unpaced,
    Paced(Granted),
}

/// The requests that may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The webhook's requests in a second.
    pub rate: NonZeroU32,
    /// What was wanted, or what is due if that is less.
    pub wanted: usize,
    pub granted: usize,
    /// When to ask again if less was granted than wanted.
    pub again_in: Duration,
    /// How long the last request that was granted has to wait. Zero unless it was granted ahead of its time.
    pub wait: Duration,
}

/// How far ahead of its time a request may be granted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead(pub Duration);

/// The longest time that somebody may be granted requests ahead. A time in `paces` further in the future shows that the clock
/// was set back.
pub(crate) const LONGEST_AHEAD: Duration = Duration::from_secs(5);

impl Store {
    /// Grants requests to webhooks, to each as many as its pace has left, and at most as many as it wants. No webhook may be
    /// named twice. `ceiling` is the pace of webhooks that have none, or a higher one. Only webhooks that are active have a
    /// pace, and none before V16.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only. What was granted in spite of it is lost.
    pub async fn take_pace(
        &self,
        ceiling: Option<NonZeroU32>,
        asks: &[PaceAsk],
    ) -> Result<HashMap<WebhookId, Pace>, StoreError> {
        self.take_pace_ahead(ceiling, asks, Ahead(Duration::ZERO)).await
    }

    /// The same, but requests are also granted whose time comes within `ahead`: the caller has to wait for it.
    pub(crate) async fn take_pace_ahead(
        &self,
        ceiling: Option<NonZeroU32>,
        asks: &[PaceAsk],
        ahead: Ahead,
    ) -> Result<HashMap<WebhookId, Pace>, StoreError> {
        let all = |pace: Pace| asks.iter().map(move |ask| (ask.webhook, pace)).collect::<HashMap<_, _>>();
        if asks.is_empty() || !self.has(Addition::HeadersAndPace).await? {
            return Ok(all(Pace::Unknown));
        }
        let mut paces = all(Pace::Unpaced);
        let mut new = Vec::new();
        for row in self.grants(ceiling, asks, ahead).await? {
            match pace(&row) {
                Some((webhook, pace)) => drop(paces.insert(webhook, pace)),
                None => new.push(WebhookId(column(&row, "webhook_id"))),
            }
        }
        if new.is_empty() {
            return Ok(paces);
        }
        let ids: Vec<Uuid> = new.iter().map(|webhook| webhook.0).collect();
        self.execute(BEGIN_PACES, &[&ids]).await?;
        let again: Vec<PaceAsk> = asks.iter().filter(|ask| new.contains(&ask.webhook)).copied().collect();
        for row in self.grants(ceiling, &again, ahead).await? {
            // A webhook without a row even now was deleted.
            paces.extend(pace(&row));
        }
        Ok(paces)
    }

    async fn grants(
        &self,
        ceiling: Option<NonZeroU32>,
        asks: &[PaceAsk],
        ahead: Ahead,
    ) -> Result<Vec<Row>, StoreError> {
        let webhooks: Vec<Uuid> = asks.iter().map(|ask| ask.webhook.0).collect();
        let wanted: Vec<i64> = asks.iter().map(|ask| i64::try_from(ask.wanted).unwrap_or(i64::MAX)).collect();
        let since: Vec<Option<Timestamp>> = asks.iter().map(|ask| ask.due_since).collect();
        let ceiling = ceiling.map(|ceiling| i32::try_from(ceiling.get()).unwrap_or(i32::MAX));
        let (ahead, longest) = (micros(ahead.0), micros(LONGEST_AHEAD));
        self.query_to_write(TAKE_PACE, &[&webhooks, &wanted, &since, &ceiling, &ahead, &longest]).await
    }
}

/// - `asked`: the webhooks that have a pace, with the time that a request takes (`cost`, µs, rounded up so that the pace is
///   never exceeded), the requests that are kept while nobody asks (`burst`), and how many are wanted.
/// - `locked`: the rows of those of which something is wanted, locked in the order of their ids.
/// - `seen`: the time, read after the lock: what others were granted before is known then.
/// - `free`: `base` is until when requests are granted, or were lost.
/// - `taken`: how many are granted.
///
/// The result has one row for each webhook with a pace. `granted` is null in it if something is wanted and the webhook has
/// no row in `paces`.
const TAKE_PACE: &str = "
    WITH asked AS MATERIALIZED (
        SELECT ask.webhook_id, w.rate, (1000000 + w.rate - 1) / w.rate AS cost, greatest(1, w.rate / 4) AS burst,
            CASE WHEN ask.since IS NULL THEN ask.wanted ELSE due.deliveries END AS wanted
        FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS ask (webhook_id, wanted, since)
        CROSS JOIN LATERAL (
            SELECT least(max_per_second, $4::integer)::bigint AS rate FROM webhooks
            WHERE id = ask.webhook_id AND active LIMIT 1) AS w
        CROSS JOIN LATERAL (
            SELECT count(*) AS deliveries FROM (
                SELECT FROM pending_deliveries
                WHERE (webhook_id, due_at) >= (ask.webhook_id, ask.since) AND (webhook_id, due_at) <= (ask.webhook_id, now())
                ORDER BY webhook_id, due_at LIMIT least(ask.wanted, greatest(1, w.rate / 4))) AS head) AS due
        WHERE w.rate IS NOT NULL
    ), locked AS MATERIALIZED (
        SELECT paces.webhook_id, paces.granted_until FROM paces
        WHERE webhook_id = ANY (ARRAY(SELECT webhook_id FROM asked WHERE wanted > 0)) ORDER BY webhook_id FOR UPDATE
    ), seen AS MATERIALIZED (
        SELECT locked.webhook_id, locked.granted_until, clock_timestamp() AS now FROM locked
    ), free AS MATERIALIZED (
        SELECT asked.*, seen.now, least(
            greatest(seen.granted_until, seen.now - asked.burst * asked.cost * interval '1 microsecond'),
            seen.now + $6::bigint * interval '1 microsecond') AS base
        FROM asked JOIN seen USING (webhook_id)
    ), taken AS MATERIALIZED (
        SELECT free.*, least(wanted, greatest(0,
            ((extract(epoch FROM now - base) * 1000000)::bigint + $5::bigint) / cost)) AS granted
        FROM free
    ), noted AS (
        UPDATE paces SET granted_until = base + granted * cost * interval '1 microsecond'
        FROM taken WHERE paces.webhook_id = taken.webhook_id AND (granted > 0 OR paces.granted_until > base)
    )
    SELECT asked.webhook_id, asked.rate, asked.wanted, asked.cost,
        CASE WHEN asked.wanted > 0 THEN taken.granted ELSE 0 END AS granted,
        CASE WHEN asked.wanted > 0 THEN (extract(epoch FROM base - now) * 1000000)::bigint + taken.granted * asked.cost ELSE 0
        END AS until_granted
    FROM asked LEFT JOIN taken USING (webhook_id)";

/// The first requests of a webhook: all that are kept for it. The webhooks are locked, so that none is deleted meanwhile: its row
/// would stay.
const BEGIN_PACES: &str = "
    INSERT INTO paces (webhook_id, granted_until)
    SELECT id, '-infinity' FROM webhooks WHERE id = ANY ($1) AND active ORDER BY id FOR KEY SHARE
    ON CONFLICT DO NOTHING";

/// The least time between two grants that were not enough: a fast webhook is then granted several requests at once.
const PORTION: Duration = Duration::from_millis(75);

fn pace(row: &Row) -> Option<(WebhookId, Pace)> {
    let granted = column::<Option<i64>>(row, "granted")?;
    let rate = u32::try_from(column::<i64>(row, "rate")).ok().and_then(NonZeroU32::new).expect("a pace is at least 1");
    let (until, cost): (i64, i64) = (column(row, "until_granted"), column(row, "cost"));
    let granted = Granted {
        rate,
        wanted: usize::try_from(count(row, "wanted")).unwrap_or(usize::MAX),
        granted: usize::try_from(granted).expect("it is at least 0"),
        again_in: after(until + cost).max(PORTION),
        wait: after(until),
    };
    Some((WebhookId(column(row, "webhook_id")), Pace::Paced(granted)))
}

/// A time in µs from now; zero if it is past.
fn after(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

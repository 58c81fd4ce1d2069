//! Counts a webhook's attempts over time, for a chart. Reads a bounded part of the log.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::Type;
use utoipa::ToSchema;

use super::days::{days_before, midnight, within_window};
use super::{Store, StoreError, column};
use crate::ids::{AccountId, WebhookId};
use crate::webhook::rfc3339;

/// Attempts of one bucket that are read, the newest.
const READ_PER_BUCKET: i64 = 2000;

/// How far back, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Hour,
    Day,
    Week,
}

impl Window {
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
        }
    }

    pub fn bucket(self) -> Duration {
        Duration::from_secs(match self {
            Self::Hour => 300,
            Self::Day => 3600,
            Self::Week => 21600,
        })
    }

    /// Before today that its buckets may begin on.
    fn days(self) -> i64 {
        match self {
            Self::Hour | Self::Day => 1,
            Self::Week => 7,
        }
    }

    fn buckets(self) -> i32 {
        match self {
            Self::Hour => 12,
            Self::Day => 24,
            Self::Week => 28,
        }
    }
}

/// What happened between `start` and the next bucket's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Bucket {
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    pub succeeded: i64,
    pub failed: i64,
    pub p50_ms: Option<i32>,
    pub p99_ms: Option<i32>,
    /// Whether there may have been more attempts than were read: then the counts are lower bounds, and the percentiles
    /// those of the newest.
    pub estimated: bool,
}

impl Store {
    /// A webhook's attempts, tests left out, in buckets on the clock's whole multiples, oldest first, the last one unfinished.
    /// Of an account that does not have the webhook they are empty.
    pub async fn stats(
        &self,
        account: &AccountId,
        webhook: WebhookId,
        window: Window,
    ) -> Result<Vec<Bucket>, StoreError> {
        let seconds = window.bucket().as_secs_f64();
        // The days that the buckets may be in, and no others, are planned for.
        let days = self.log_days().await?;
        let (first, last) = (days_before(days.today, window.days()), days.today_and_two_days());
        let params: super::TypedParams<'_> = &[
            (&webhook.0, Type::UUID),
            (&account.as_str(), Type::TEXT),
            (&seconds, Type::FLOAT8),
            (&window.buckets(), Type::INT4),
            (&READ_PER_BUCKET, Type::INT8),
            (&midnight(first), Type::TIMESTAMPTZ),
            (&midnight(last), Type::TIMESTAMPTZ),
        ];
        let rows = self.query_planned_anew(STATS, params).await?;
        let bucket = |row| Bucket {
            start: column(row, "start"),
            succeeded: column(row, "succeeded"),
            failed: column(row, "failed"),
            p50_ms: column(row, "p50_ms"),
            p99_ms: column(row, "p99_ms"),
            estimated: column(row, "estimated"),
        };
        Ok(rows.iter().map(bucket).collect())
    }
}

/// The planner must not know the limit: it would read and sort all of a bucket that it takes for small.
const STATS: &str = concat!(
    "
    SELECT b.start, read.estimated, read.succeeded, read.failed, read.p50_ms, read.p99_ms
    FROM (
        SELECT date_bin(make_interval(secs => $3::float8), now(), 'epoch') - make_interval(secs => $3::float8 * ($4::integer - 1 - n)) AS start
        FROM generate_series(0, $4 - 1) AS n
    ) AS b
    CROSS JOIN LATERAL (
        SELECT count(*) >= $5::bigint AS estimated,
            count(*) FILTER (WHERE a.error IS NULL) AS succeeded, count(*) FILTER (WHERE a.error IS NOT NULL) AS failed,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY a.duration_ms) AS p50_ms,
            percentile_disc(0.99) WITHIN GROUP (ORDER BY a.duration_ms) AS p99_ms
        FROM (
            SELECT error, duration_ms FROM attempts
            WHERE webhook_id = (SELECT w.id FROM webhooks w WHERE w.id = $1 AND w.account_id = $2)
              AND trigger <> 'test' AND ",
    within_window!("$6", "$7"),
    " AND created_at >= b.start AND created_at < b.start + make_interval(secs => $3::float8)
            ORDER BY created_at DESC, id DESC LIMIT (SELECT $5::bigint)
        ) AS a
    ) AS read
    ORDER BY b.start"
);

//! Counts a webhook's attempts over time, for a chart. Reads a bounded part of the log.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::Type;
use utoipa::ToSchema;

use super::days::{days_before, midnight, within_window};
use super::{Store, StoreError, column};
use crate::ids::{AccountId, WebhookId};
use crate::timestamps::rfc3339;

/// The most attempts that are read for one bucket: the newest.
const READ_PER_BUCKET: i64 = 2000;

/// The time that a chart shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
pub(crate) enum Window {
    #[schema(rename = "1h")]
    Hour,
    #[schema(rename = "24h")]
    Day,
    #[schema(rename = "7d")]
    Week,
}

impl Window {
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
        }
    }

    pub(crate) fn bucket(self) -> Duration {
        Duration::from_secs(match self {
            Self::Hour => 300,
            Self::Day => 3600,
            Self::Week => 21600,
        })
    }

    /// How many days before today its first bucket may begin.
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

/// The attempts between `start` and the next bucket's start.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Bucket {
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    pub succeeded: i64,
    pub failed: i64,
    pub p50_ms: Option<i32>,
    pub p99_ms: Option<i32>,
    /// Whether there may be more attempts than were read. Then the counts are lower bounds, and the percentiles are those of
    /// the newest attempts.
    pub estimated: bool,
}

impl Store {
    /// Counts a webhook's attempts, without tests, oldest bucket first. Buckets begin at whole multiples of their length; the
    /// last one is not over yet. `None` if the account has no such webhook.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn stats(
        &self,
        account: &AccountId,
        webhook: WebhookId,
        window: Window,
    ) -> Result<Option<Vec<Bucket>>, StoreError> {
        let seconds = window.bucket().as_secs_f64();
        // Only the partitions of these days are planned for, read and locked.
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
        // An account's own webhook has all buckets, empty ones included.
        Ok((!rows.is_empty()).then(|| rows.iter().map(bucket).collect()))
    }
}

/// With `LIMIT $5` PostgreSQL knew the limit: for a bucket that it took for small it read all of it and sorted it. `LIMIT
/// (SELECT $5)` hides the number, so it reads the index in its order and stops at the limit.
const STATS: &str = concat!(
    "
    SELECT b.start, read.estimated, read.succeeded, read.failed, read.p50_ms, read.p99_ms
    FROM (
        SELECT date_bin(make_interval(secs => $3::float8), now(), 'epoch') - make_interval(secs => $3::float8 * ($4::integer - 1 - n)) AS start
        FROM generate_series(0, $4 - 1) AS n
        WHERE EXISTS (SELECT FROM webhooks w WHERE w.id = $1 AND w.account_id = $2)
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

//! Divides the log into windows of days, newest first, so that no statement reads or locks more than four weeks of its
//! partitions.

use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use tokio_postgres::types::Type;

use super::partitions::attached_partitions;
use super::{Store, StoreError, column};

/// The days of the first, the second, and all further windows; the first has today in addition. A statement takes four locks
/// of the server for each day. Most questions are answered by the first window.
const WINDOW_DAYS: [i64; 3] = [1, 7, WIDEST_DAYS];
const WIDEST_DAYS: i64 = 28;
/// How long the days are cached.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The days of the log's partitions, by Postgres's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogDays {
    pub today: Date,
    oldest: Date,
    /// Whether the log may have attempts of days ahead of today: some were found, which a clock that was set back leaves, or
    /// there is a DEFAULT partition.
    ahead: bool,
}

/// A part of the log: attempts made at `from` or later, and before `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogWindow {
    /// `None`: from the beginning.
    pub from: Option<Timestamp>,
    /// `None`: without an end.
    pub until: Option<Timestamp>,
}

/// The part of the log that a caller asks for: attempts made at `from` or later, and before `to`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogSpan {
    /// `None`: from the beginning.
    pub from: Option<Timestamp>,
    /// `None`: without an end.
    pub to: Option<Timestamp>,
}

/// The condition that restricts a statement on `attempts` to a window. If the statement is planned for these very values
/// (see `query_planned_anew`), its plan has only the window's partitions.
macro_rules! within_window {
    ($from:literal, $until:literal) => {
        concat!(
            "created_at >= coalesce(",
            $from,
            "::timestamptz, '-infinity') AND created_at < coalesce(",
            $until,
            "::timestamptz, 'infinity')"
        )
    };
}

pub(super) use within_window;

impl LogDays {
    /// Windows that together cover the whole log, or the part of it that is not newer than `before`; newest first.
    pub(super) fn windows(self, before: Option<Timestamp>) -> impl Iterator<Item = LogWindow> {
        self.windows_with(before, WINDOW_DAYS)
    }

    /// The same, with the days of the first, the second, and all further windows.
    fn windows_with(self, before: Option<Timestamp>, days: [i64; 3]) -> impl Iterator<Item = LogWindow> {
        let [first, second, further] = days;
        let newest = before.map_or(self.today, date).min(self.today);
        // Planning takes half the time without the partitions of the days ahead.
        let until = if self.ahead { None } else { midnight(self.today_and_two_days()) };
        let first = LogWindow { from: self.begin(days_before(newest, first)), until };
        let widths = std::iter::once(second).chain(std::iter::repeat(further));
        let next = move |window: &mut LogWindow, days: i64| {
            let until = window.from?;
            *window = LogWindow { from: self.begin(days_before(date(until), days)), until: Some(until) };
            Some(*window)
        };
        std::iter::once(first).chain(widths.scan(first, next))
    }

    /// Windows that together cover the part of a span that is not newer than `before`; newest first. None, if the span begins
    /// after the log's end.
    pub(super) fn windows_of(self, span: LogSpan, before: Option<Timestamp>) -> impl Iterator<Item = LogWindow> {
        let newest = [before, span.to].into_iter().flatten().min();
        clipped(self.windows(newest), span)
    }

    /// As few windows as possible that together cover a span; newest first. For a question that reads all of them.
    pub(super) fn wide_windows_of(self, span: LogSpan) -> impl Iterator<Item = LogWindow> {
        clipped(self.windows_with(span.to, [WIDEST_DAYS; 3]), span)
    }

    /// Windows that together cover the attempts no older than `age`; newest first.
    pub(super) fn windows_within(self, age: Duration) -> impl Iterator<Item = LogWindow> {
        // One day more because today has only begun, and one because `today` may be a minute old and mean yesterday.
        let days = i64::try_from(age.as_secs() / (24 * 60 * 60) + 2).unwrap_or(i64::MAX);
        let begin = midnight(days_before(self.today, days));
        let needed = move |window: &LogWindow| window.until.is_none() || window.until > begin;
        self.windows(None).take_while(needed).map(move |window| LogWindow { from: window.from.max(begin), ..window })
    }

    /// The end of the newest window. The cached `today` may be yesterday for a minute, so the day after it must be included.
    pub(super) fn today_and_two_days(self) -> Date {
        days_before(self.today, -2)
    }

    /// How many days of the log end after a time; at least one.
    pub(super) fn count_since(self, time: Timestamp) -> usize {
        let days = self.today_and_two_days() - date(time).max(self.oldest);
        usize::try_from(days.get_days()).unwrap_or_default().max(1)
    }

    /// `None` for the oldest window: it has no beginning, because rows may lie before the oldest day.
    fn begin(self, day: Date) -> Option<Timestamp> {
        if day <= self.oldest { None } else { midnight(day) }
    }
}

/// Leaves out windows and parts of windows that are not in a span.
fn clipped(windows: impl Iterator<Item = LogWindow>, span: LogSpan) -> impl Iterator<Item = LogWindow> {
    let needed = move |window: &LogWindow| window.until.is_none() || span.from.is_none() || window.until > span.from;
    let clip = move |window: LogWindow| LogWindow {
        from: window.from.max(span.from),
        until: [window.until, span.to].into_iter().flatten().min(),
    };
    windows.take_while(needed).map(clip)
}

pub(super) fn midnight(day: Date) -> Option<Timestamp> {
    day.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

pub(super) fn days_before(day: Date, days: i64) -> Date {
    day.saturating_sub(Span::new().days(days))
}

fn date(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

impl Store {
    /// The days of the log's partitions, no older than a minute.
    pub(super) async fn log_days(&self) -> Result<LogDays, StoreError> {
        let remembered = *self.log_days.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match remembered {
            Some((when, days)) if when.elapsed() < REMEMBERED => return Ok(days),
            _ => {}
        }
        let rows = self.query(LOG_DAYS, &[]).await?;
        let row = rows.first().expect("an aggregate is one row");
        let mut days = LogDays { today: column(row, "today"), oldest: column(row, "oldest"), ahead: false };
        // To look through a DEFAULT partition, which may have any day and is large, would take too long.
        days.ahead = column(row, "has_default") || self.has_days_ahead(days).await?;
        *self.log_days.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((Instant::now(), days));
        Ok(days)
    }

    async fn has_days_ahead(&self, days: LogDays) -> Result<bool, StoreError> {
        let ahead = midnight(days.today_and_two_days());
        let rows = self.query_planned_anew(AHEAD, &[(&ahead, Type::TIMESTAMPTZ)]).await?;
        Ok(!rows.is_empty())
    }
}

const LOG_DAYS: &str = concat!(
    "SELECT today, coalesce(min(since), today) AS oldest,
        (SELECT partdefid <> 0::oid FROM pg_partitioned_table WHERE partrelid = 'attempts'::regclass::oid) AS has_default
    FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS clock
    LEFT JOIN ",
    attached_partitions!("'attempts'::regclass::oid"),
    " AS partitions ON since > '-infinity'
    GROUP BY today"
);

const AHEAD: &str = "SELECT FROM attempts WHERE created_at >= $1 LIMIT 1";

#[cfg(test)]
mod tests {
    use super::*;

    fn log(days: i64) -> LogDays {
        let today = jiff::civil::date(2026, 11, 23);
        LogDays { today, oldest: days_before(today, days), ahead: false }
    }

    fn at(days_ago: i64) -> Option<Timestamp> {
        midnight(days_before(log(0).today, days_ago))
    }

    #[test]
    fn windows_follow_on_each_other_back_to_the_beginning_of_all_time() {
        for days in [0, 1, 2, 3, 30, 365, 3650] {
            let windows: Vec<LogWindow> = log(days).windows(None).collect();
            assert_eq!((windows[0].until, windows[windows.len() - 1].from), (at(-2), None), "{days}");
            assert!(windows.windows(2).all(|pair| pair[0].from.is_some() && pair[0].from == pair[1].until), "{days}");
        }
    }

    #[test]
    fn the_first_is_today_and_yesterday_and_a_year_is_15_windows() {
        let starts: Vec<_> = log(90).windows(None).map(|window| window.from).collect();
        assert_eq!(starts, [at(1), at(8), at(36), at(64), None]);
        assert_eq!(log(365).windows(None).count(), 15);
    }

    #[test]
    fn what_is_older_than_a_time_begins_at_its_day() {
        let before = at(10).map(|time| time + jiff::SignedDuration::from_hours(5));
        let windows: Vec<LogWindow> = log(30).windows(before).collect();
        assert_eq!((windows[0].from, windows[1].until), (at(11), at(11)));
        // A cursor of the future, or from before the oldest day.
        assert_eq!(log(30).windows(Some(Timestamp::MAX)).next().unwrap().from, at(1));
        assert_eq!(log(30).windows(Some(Timestamp::UNIX_EPOCH)).map(|window| window.from).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn what_is_no_older_than_the_retention_is_a_part_of_the_log() {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        let windows = |log: LogDays, age| log.windows_within(days(age)).map(|window| window.from).collect::<Vec<_>>();
        assert_eq!(windows(log(365), 30), [at(1), at(8), at(32)]);
        assert_eq!(windows(log(365), 6), [at(1), at(8)]);
        assert_eq!(windows(log(20), 365), [at(1), at(8), at(367)]);
        assert_eq!(windows(LogDays { ahead: true, ..log(3) }, 1), [at(1), at(3)]);
    }

    #[test]
    fn a_span_is_covered_and_nothing_beside_it() {
        let hour = |time: Option<Timestamp>, hours| time.map(|time| time + jiff::SignedDuration::from_hours(hours));
        let (from, to) = (hour(at(10), 5), hour(at(3), 7));
        let windows: Vec<LogWindow> = log(30).windows_of(LogSpan { from, to }, None).collect();
        assert_eq!((windows[0].until, windows[windows.len() - 1].from), (to, from));
        assert!(windows.windows(2).all(|pair| pair[0].from == pair[1].until));
        let before = hour(at(8), 1);
        assert_eq!(log(30).windows_of(LogSpan { from, to }, before).next().unwrap().from, at(9));
        assert_eq!(log(30).windows_of(LogSpan { from: at(-9), to: None }, None).count(), 0);
        let whole = |log: LogDays| log.windows_of(LogSpan::default(), None).collect::<Vec<_>>();
        assert_eq!(whole(log(90)), log(90).windows(None).collect::<Vec<_>>());
    }

    #[test]
    fn what_reads_all_of_a_span_takes_few_windows() {
        let windows = |from| log(90).wide_windows_of(LogSpan { from, to: None }).collect::<Vec<_>>();
        assert_eq!(windows(at(25)), [LogWindow { from: at(25), until: at(-2) }]);
        assert_eq!(windows(at(40)).iter().map(|window| window.from).collect::<Vec<_>>(), [at(28), at(40)]);
        let counts = [at(-9), at(-1), at(0), at(25), at(365)].map(|time| log(90).count_since(time.unwrap()));
        assert_eq!(counts, [1, 1, 2, 27, 92]);
    }

    #[test]
    fn attempts_of_the_days_ahead_belong_to_the_first_window() {
        let log = LogDays { ahead: true, ..log(30) };
        assert_eq!(log.windows(None).next(), Some(LogWindow { from: at(1), until: None }));
    }
}

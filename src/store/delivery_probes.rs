//! Looks in the log for attempts of given deliveries, and bounds how much of that one answer does.
//!
//! Each delivery is looked up in the index of each day's partition, so the work is that of deliveries × days.

use std::collections::HashSet;
use std::time::Instant;

use jiff::SignedDuration;
use jiff::civil::Date;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::days::{LogSpan, midnight, within_window};
use super::delivery_rows::Found;
use super::{Position, Store, StoreError, TypedParams, column};

/// The look-ups of one answer. If the indexes are not in memory, the time limit comes first.
const PER_ANSWER: usize = 10_000;
/// The look-ups between two looks at the clock.
const PER_STEP: usize = 2_000;

/// What one answer may still look up.
pub(super) struct Probes {
    left: usize,
    until: Option<Instant>,
}

impl Probes {
    /// `until`: the time at which the answer should go without looking further, if there is one.
    pub(super) fn new(until: Option<Instant>) -> Self {
        Self { left: PER_ANSWER, until }
    }

    pub(super) fn are_used_up(&self) -> bool {
        self.left == 0 || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// How many deliveries the next step looks up, and counts them as looked up. `days` has for each delivery the number of days to
    /// look into. At least one, so that every answer gets on.
    pub(super) fn step(&mut self, days: impl Iterator<Item = usize>) -> usize {
        let bound = PER_STEP.min(self.left);
        let (mut count, mut most_days) = (0, 0);
        for days in days {
            // A statement looks for all of its deliveries in the same days.
            let widest = days.max(most_days);
            if count > 0 && (count + 1) * widest > bound {
                break;
            }
            (count, most_days) = (count + 1, widest);
        }
        self.left = self.left.saturating_sub(count * most_days);
        count
    }
}

/// The first position at which a delivery may have an attempt whose event was stored on this day: a day earlier, because an event
/// that came twice may have been attempted before it was stored on this day.
pub(super) fn first_place(event_day: Date) -> Option<Position> {
    let time = midnight(event_day)? - SignedDuration::from_hours(24);
    Some(Position { time, id: Uuid::nil() })
}

impl Store {
    /// Those of the deliveries that were attempted, or only those with a success.
    pub(super) async fn attempted_since_creation(
        &self,
        found: &[&Found],
        only_successes: bool,
    ) -> Result<HashSet<Uuid>, StoreError> {
        let ids: Vec<Uuid> = found.iter().map(|found| found.id).collect();
        match found.iter().map(|found| found.event.0).min().and_then(first_place) {
            Some(since) => self.attempted_since(&ids, since, only_successes).await,
            None => Ok(HashSet::new()),
        }
    }

    /// Those of the deliveries that have an attempt at this position of the log or a newer one.
    pub(super) async fn attempted_since(
        &self,
        ids: &[Uuid],
        since: Position,
        only_successes: bool,
    ) -> Result<HashSet<Uuid>, StoreError> {
        let mut attempted = HashSet::new();
        let span = LogSpan { from: Some(since.time), to: None };
        for window in self.log_days().await?.wide_windows_of(span) {
            let rest: Vec<Uuid> = ids.iter().filter(|id| !attempted.contains(*id)).copied().collect();
            if rest.is_empty() {
                break;
            }
            let params: TypedParams<'_> = &[
                (&rest, Type::UUID_ARRAY),
                (&since.time, Type::TIMESTAMPTZ),
                (&since.id, Type::UUID),
                (&only_successes, Type::BOOL),
                (&window.from, Type::TIMESTAMPTZ),
                (&window.until, Type::TIMESTAMPTZ),
            ];
            let rows = self.query_planned_anew(ATTEMPTED_SINCE, params).await?;
            attempted.extend(rows.iter().map(|row| column::<Uuid>(row, "delivery_id")));
        }
        Ok(attempted)
    }
}

const ATTEMPTED_SINCE: &str = concat!(
    "SELECT DISTINCT delivery_id FROM attempts
    WHERE delivery_id = ANY ($1) AND (created_at, id) >= ($2::timestamptz, $3::uuid)
        AND (error IS NULL OR NOT $4::boolean) AND ",
    within_window!("$5", "$6")
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_bounded_by_deliveries_times_days_and_takes_one_at_least() {
        let step = |days: &[usize]| Probes::new(None).step(days.iter().copied());
        assert_eq!(step(&[0; 3_000]), 3_000);
        assert_eq!(step(&[20; 500]), 100);
        assert_eq!(step(&[9_000; 5]), 1);
        // All deliveries of a statement are looked for in the days of the oldest.
        assert_eq!(step(&[&[1; 100][..], &[400; 9]].concat()), 100);
    }

    #[test]
    fn an_answer_has_a_bounded_number_of_look_ups_and_ends_in_time() {
        let mut probes = Probes::new(None);
        let steps: Vec<usize> =
            std::iter::from_fn(|| (!probes.are_used_up()).then(|| probes.step([20; 500].into_iter()))).collect();
        assert_eq!(steps, [100; 5]);
        assert_eq!(probes.step([20; 500].into_iter()), 1, "the other part of the list gets on, too");
        assert!(Probes::new(Some(Instant::now())).are_used_up());
    }
}

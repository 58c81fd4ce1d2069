//! The sweep: which pages of the table of pending deliveries the next step looks through, and when. Pure.

use std::time::{Duration, Instant};

use crate::store::{Owed, Pages, StoreError, Swept};
use crate::worker::portion::Portion;

/// Pages per step.
const PAGES: usize = 64;
/// A round through a table that takes more than a few steps lasts about this long.
const ROUND: Duration = Duration::from_secs(60);
/// Bounds of the wait between two steps.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// A sweep goes through the table again and again. There is no pause between the steps of the first round, which finds what
/// fell due before this worker started, and none after a step that closed something.
#[derive(Debug)]
pub(super) struct Sweep {
    /// When the next step is made.
    pub(super) next: Instant,
    /// The first page of the next step.
    first: u32,
    portion: Portion,
    /// Pending deliveries seen in this round.
    seen: Owed,
    /// The first round is over.
    has_seen_all: bool,
}

impl Sweep {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, first: 0, portion: Portion::of(PAGES), seen: Owed::default(), has_seen_all: false }
    }

    /// The pages of the next step.
    pub(super) fn pages(&self) -> Pages {
        Pages { first: self.first, count: u32::try_from(self.portion.size()).unwrap_or(u32::MAX) }
    }

    /// To be called after a step, with what it has counted. Returns, at the end of a round, what the round has counted.
    pub(super) fn looked_at(&mut self, pages: Pages, swept: &Swept, owed: Owed, now: Instant) -> Option<Owed> {
        self.portion.ended();
        self.seen += owed;
        self.first = pages.first.saturating_add(pages.count);
        let counted = (self.first >= swept.pages).then(|| {
            self.first = 0;
            self.has_seen_all = true;
            std::mem::take(&mut self.seen)
        });
        let at_once = !self.has_seen_all || (!swept.ended.is_empty() && counted.is_none());
        let steps = (swept.pages / pages.count.max(1)).max(1);
        self.next = if at_once { now } else { now + (ROUND / steps).clamp(SHORTEST, LONGEST) };
        counted
    }

    /// To be called after a step that failed.
    pub(super) fn failed(&mut self, pages: Pages, error: &StoreError, now: Instant) {
        if error.ran_out_of_time() {
            self.portion.ran_out_of_time(usize::try_from(pages.count).unwrap_or(usize::MAX));
        }
        self.next = now + LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(sweep: &mut Sweep, table: u32, now: Instant) -> (u32, Option<Owed>, Duration) {
        let pages = sweep.pages();
        let swept = Swept { pages: table, ..Swept::default() };
        let owed = Owed { all: 10, held: 2, ..Owed::default() };
        let counted = sweep.looked_at(pages, &swept, owed, now);
        (pages.first, counted, sweep.next - now)
    }

    #[test]
    fn the_first_round_is_made_without_a_pause_and_counts_what_is_pending() {
        let now = Instant::now();
        let mut sweep = Sweep::new(now);
        assert_eq!(step(&mut sweep, 150, now), (0, None, Duration::ZERO));
        assert_eq!(step(&mut sweep, 150, now), (64, None, Duration::ZERO));
        assert_eq!(step(&mut sweep, 150, now), (128, Some(Owed { all: 30, held: 6, ..Owed::default() }), LONGEST));
        assert_eq!(step(&mut sweep, 150, now).0, 0);
    }

    #[test]
    fn a_round_through_a_large_table_takes_about_a_minute() {
        let now = Instant::now();
        let mut sweep = Sweep { has_seen_all: true, ..Sweep::new(now) };
        assert_eq!(step(&mut sweep, 64 * 240, now).2, Duration::from_millis(250));
        assert_eq!(step(&mut sweep, 64 * 10_000, now).2, SHORTEST);
        assert_eq!(step(&mut sweep, 0, now).2, LONGEST);
    }

    #[test]
    fn a_step_that_failed_is_made_again_after_a_while() {
        let now = Instant::now();
        let mut sweep = Sweep::new(now);
        sweep.failed(sweep.pages(), &StoreError::Busy(anyhow::anyhow!("somebody holds a lock")), now);
        assert_eq!((sweep.pages(), sweep.next - now), (Pages { first: 0, count: 64 }, LONGEST));
    }
}

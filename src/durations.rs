//! Counts durations by how long they are, without a lock: on the way of every delivery, many tasks count at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Durations, counted in buckets. All clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Durations(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    bounds: &'static [f64],
    /// One for each bound, and one for what is longer than all.
    counts: Box<[AtomicU64]>,
    micros: AtomicU64,
}

impl Durations {
    /// With the upper bounds of the buckets, in seconds, ascending.
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Self(Arc::new(Counted { bounds, counts, micros: AtomicU64::default() }))
    }

    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.0.bounds.partition_point(|bound| *bound < seconds);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn bounds(&self) -> &'static [f64] {
        self.0.bounds
    }

    /// The durations in each bucket alone; the last are longer than all bounds.
    pub(crate) fn counts(&self) -> Vec<u64> {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// The sum of all, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        Duration::from_micros(self.0.micros.load(Ordering::Relaxed)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_in_the_first_bucket_that_it_fits() {
        let durations = Durations::new(&[0.5, 2.0]);
        for millis in [0, 500, 501, 2000, 9000] {
            durations.clone().observe(Duration::from_millis(millis));
        }
        assert_eq!(durations.counts(), [2, 2, 1]);
        assert!((durations.seconds() - 12.001).abs() < 1e-9);
    }
}

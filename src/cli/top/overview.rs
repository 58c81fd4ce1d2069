//! What `top` shows, as one document.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::cli::webhooks::ShownHold;
use crate::figures::{Distribution, Figures};
use crate::hold::Hold;
use crate::presence::GONE_AFTER;
use crate::store::{Backlog, Failing, FailingWebhook, SeenProcess, Store, StoreError};

/// Rows of each table.
pub(super) const MOST: u32 = 20;

/// The whole installation at one moment.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Overview {
    /// This machine's time.
    pub(super) time: Timestamp,
    /// Worker, API or both, seen within the last half minute.
    pub(super) processes: Vec<Process>,
    /// Of all workers together, over their last seconds.
    pub(super) rates: Rates,
    /// From a worker's receipt of an event to the first verdict of its delivery, in the last minute.
    pub(super) first_verdict: FirstVerdict,
    pub(super) in_flight: InFlight,
    pub(super) waiting: Backlog,
    /// Those that have failed for longest.
    pub(super) failing: Vec<FailingWebhook>,
    /// How many fail in all.
    pub(super) failing_count: u64,
    /// What operators hold.
    #[serde(serialize_with = "shown")]
    pub(super) holds: Vec<Hold>,
}

fn shown<S: Serializer>(holds: &[Hold], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(holds.iter().map(ShownHold::from))
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Process {
    pub(super) id: Uuid,
    pub(super) role: String,
    pub(super) version: String,
    pub(super) host: String,
    pub(super) started_at: Timestamp,
    pub(super) seen_seconds_ago: f64,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Rates {
    pub(super) events_per_second: f64,
    pub(super) attempts_per_second: f64,
    pub(super) failed_per_second: f64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct FirstVerdict {
    /// Null if there was none.
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
    pub(super) count: u64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct InFlight {
    pub(super) now: u64,
    pub(super) limit: u64,
}

impl Overview {
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(super) async fn ask(store: &Store) -> Result<Self, StoreError> {
        let (processes, waiting, failing, holds) = tokio::try_join!(
            store.processes(GONE_AFTER),
            store.backlog(MOST),
            store.failing_webhooks(MOST),
            store.holds()
        )?;
        Ok(Self { holds, ..Self::of(processes.unwrap_or_default(), waiting, failing) })
    }

    fn of(seen: Vec<SeenProcess>, waiting: Backlog, failing: Failing) -> Self {
        let figures = || seen.iter().map(|process| &process.figures);
        // Not `sum`, which is -0.0 of nothing.
        let sum = |of: fn(&Figures) -> Option<f64>| figures().filter_map(of).fold(0.0, |sum, one| sum + one);
        let count = |of: fn(&Figures) -> Option<u64>| figures().filter_map(of).sum();
        let rates = Rates {
            events_per_second: sum(|figures| figures.events_per_second),
            attempts_per_second: sum(|figures| figures.attempts_per_second),
            failed_per_second: sum(|figures| figures.failed_per_second),
        };
        let in_flight = InFlight { now: count(|of| of.in_flight), limit: count(|of| of.in_flight_limit) };
        let verdicts = together(figures().filter_map(|figures| figures.first_verdict.as_ref()));
        let first_verdict = FirstVerdict {
            p50_seconds: quantile(&verdicts, 0.5),
            p99_seconds: quantile(&verdicts, 0.99),
            count: verdicts.counts.iter().sum(),
        };
        let processes = seen.into_iter().map(Process::from).collect();
        Self {
            time: Timestamp::now(),
            processes,
            rates,
            first_verdict,
            in_flight,
            waiting,
            failing: failing.longest,
            failing_count: failing.count,
            holds: Vec::new(),
        }
    }

    /// How many processes there are of each role, in words.
    pub(super) fn who(&self) -> String {
        let number = |role: &str| self.processes.iter().filter(|process| process.role == role).count();
        let parts =
            [("worker", "workers", number("worker")), ("API", "APIs", number("api")), ("both", "both", number("both"))];
        let told = parts.into_iter().filter(|(.., number)| *number > 0);
        let told: Vec<String> =
            told.map(|(one, many, number)| format!("{number} {}", if number == 1 { one } else { many })).collect();
        if told.is_empty() { "no process was seen".to_owned() } else { told.join(", ") }
    }
}

impl From<SeenProcess> for Process {
    fn from(seen: SeenProcess) -> Self {
        let SeenProcess { id, role, version, host, started_at, age, figures } = seen;
        // Shown for all processes together.
        let figures = Figures { first_verdict: None, ..figures };
        Self { id: id.0, role, version, host, started_at, seen_seconds_ago: age.as_secs_f64(), figures }
    }
}

/// The sum of what processes measured. Those with other bounds than the first are left out: they are of another release.
fn together<'a>(all: impl Iterator<Item = &'a Distribution>) -> Distribution {
    let mut sum = Distribution::default();
    for one in all.filter(|one| one.counts.len() == one.bounds.len() + 1) {
        if sum.counts.is_empty() {
            sum = one.clone();
        } else if sum.bounds == one.bounds {
            sum.counts.iter_mut().zip(&one.counts).for_each(|(sum, count)| *sum += count);
        }
    }
    sum
}

/// The value below which this part of all values is, by the method of Prometheus: values are taken to be spread evenly in
/// their bucket, and those above all bounds to be the last bound. <https://prometheus.io/docs/practices/histograms/>
#[expect(clippy::cast_precision_loss, reason = "counts of a minute")]
fn quantile(values: &Distribution, part: f64) -> Option<f64> {
    let total: u64 = values.counts.iter().sum();
    if total == 0 {
        return None;
    }
    let (mut before, mut lower, wanted) = (0, 0.0, part * total as f64);
    for (count, bound) in values.counts.iter().zip(&values.bounds) {
        if (before + count) as f64 >= wanted {
            return Some(lower + (bound - lower) * (wanted - before as f64) / (*count).max(1) as f64);
        }
        (before, lower) = (before + count, *bound);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::ProcessId;
    use crate::store::Waiting;

    fn values(counts: [u64; 4]) -> Distribution {
        Distribution { bounds: vec![0.1, 1.0, 10.0], counts: counts.to_vec() }
    }

    #[test]
    fn a_quantile_is_found_within_its_bucket() {
        assert_eq!(quantile(&values([0, 0, 0, 0]), 0.5), None);
        assert_eq!(quantile(&values([10, 0, 0, 0]), 0.5), Some(0.05));
        assert_eq!(quantile(&values([5, 10, 0, 0]), 1.0), Some(1.0));
        assert_eq!(quantile(&values([0, 0, 0, 7]), 0.99), Some(10.0));
    }

    #[test]
    fn the_figures_of_all_processes_are_added_and_those_of_another_release_are_left_out() {
        let other = Distribution { bounds: vec![1.0], counts: vec![100, 0] };
        let seen = [values([1, 1, 0, 0]), values([0, 1, 1, 0]), other].map(|first_verdict| SeenProcess {
            id: ProcessId(Uuid::nil()),
            role: "worker".to_owned(),
            version: "1".to_owned(),
            host: "h".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            age: Duration::from_secs(1),
            figures: Figures { in_flight: Some(3), first_verdict: Some(first_verdict), ..Figures::default() },
        });
        let waiting = Backlog { estimated: false, all: Waiting::default(), webhooks: Vec::new(), accounts: Vec::new() };
        let overview = Overview::of(seen.into(), waiting, Failing { count: 0, longest: Vec::new() });
        assert_eq!(overview.in_flight.now, 9);
        assert_eq!(overview.first_verdict.count, 4);
        assert_eq!(overview.who(), "3 workers");
    }
}

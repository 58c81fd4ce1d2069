//! The labels of the metrics, and counters whose labels are a closed set: each stands at 0 from the start, so that the first
//! increase is seen, and is counted without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::delivery::ErrorName;
use crate::event::Catalogue;
use crate::ids::EventType;
use crate::lanes::HeldBackBy;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// `outcome` is `success` or an error of the webhook log, `event_type` one of the catalogue's or `other`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AttemptLabel {
    outcome: &'static str,
    event_type: String,
}

/// `by` is a reason of the table in [`lanes`](crate::lanes).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HeldBackLabel {
    by: &'static str,
}

impl From<HeldBackBy> for HeldBackLabel {
    fn from(by: HeldBackBy) -> Self {
        Self { by: by.as_str() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoleLabel {
    pub role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabel {
    pub queue: String,
}

/// Events by the queue that they came from.
#[derive(Debug, Clone, Default)]
pub struct EventCounts {
    all: Counter,
    pub(super) family: Family<QueueLabel, Counter>,
}

/// Counts the events of one queue.
#[derive(Debug, Clone)]
pub struct EventCounter {
    all: Counter,
    of_queue: Counter,
}

impl EventCounts {
    /// The counter of a queue, which is shown from now on.
    pub fn of(&self, queue: &str) -> EventCounter {
        let of_queue = self.family.get_or_create(&QueueLabel { queue: queue.to_owned() }).clone();
        EventCounter { all: self.all.clone(), of_queue }
    }

    /// The events of all queues.
    pub fn all(&self) -> u64 {
        self.all.get()
    }
}

impl EventCounter {
    pub fn inc(&self) {
        self.all.inc();
        self.of_queue.inc();
    }
}

/// `busy` or `idle`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabel {
    pub(super) state: &'static str,
}

/// `route` is its template, `status` such as `2xx`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRequest {
    pub method: &'static str,
    pub route: String,
    pub status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiRoute {
    pub route: String,
}

/// Why a run of the partitions' upkeep failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpkeepFailure {
    Make,
    Drop,
    /// Another session holds the lock.
    Locked,
    /// The clocks differ.
    Clocks,
}

impl UpkeepFailure {
    pub(super) const ALL: [Self; 4] = [Self::Make, Self::Drop, Self::Locked, Self::Clocks];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Drop => "drop",
            Self::Locked => "locked",
            Self::Clocks => "clocks",
        }
    }
}

impl From<UpkeepFailure> for &'static str {
    fn from(failure: UpkeepFailure) -> Self {
        failure.as_str()
    }
}

/// Counters by reason.
#[derive(Debug, Clone)]
pub struct ByReason {
    counters: Arc<HashMap<&'static str, Counter>>,
    pub(super) family: Family<Reason, Counter>,
}

impl ByReason {
    pub(super) fn new(reasons: impl IntoIterator<Item = &'static str>) -> Self {
        let family = Family::<Reason, Counter>::default();
        let counters = reasons.into_iter().map(|reason| (reason, family.get_or_create(&Reason { reason }).clone()));
        Self { counters: Arc::new(counters.collect()), family }
    }

    pub fn count(&self, reason: impl Into<&'static str>) {
        self.add(reason, 1);
    }

    pub fn add(&self, reason: impl Into<&'static str>, number: u64) {
        let reason = reason.into();
        match self.counters.get(reason) {
            Some(counter) => counter.inc_by(number),
            None => self.family.get_or_create(&Reason { reason }).inc_by(number),
        };
    }
}

/// The outcome of an attempt that succeeded.
const SUCCESS: &str = "success";
/// Stands for all event types that are not in the catalogue any more.
const OTHER: &str = "other";

/// Attempts by outcome and event type.
#[derive(Debug, Clone)]
pub struct AttemptCounts {
    known: Arc<Known>,
    pub(super) family: Family<AttemptLabel, Counter>,
}

#[derive(Debug)]
struct Known {
    /// The place of each type in `counters`. The last place is for all others.
    types: HashMap<EventType, usize>,
    /// For each outcome, a counter for each type.
    counters: HashMap<&'static str, Vec<Counter>>,
}

impl AttemptCounts {
    pub(super) fn new(catalogue: &Catalogue) -> Self {
        let family = Family::<AttemptLabel, Counter>::default();
        let names: Vec<&str> = catalogue.types().map(EventType::as_str).chain([OTHER]).collect();
        let outcomes = [SUCCESS].into_iter().chain(ErrorName::ALL.map(ErrorName::as_str));
        let counters = outcomes.map(|outcome| {
            let label = |name: &&str| AttemptLabel { outcome, event_type: (*name).to_owned() };
            (outcome, names.iter().map(|name| family.get_or_create(&label(name)).clone()).collect())
        });
        let counters = counters.collect();
        let types = catalogue.types().cloned().zip(0..).collect();
        Self { known: Arc::new(Known { types, counters }), family }
    }

    /// Counts an attempt; `error` is `None` after a success.
    pub fn count(&self, error: Option<&'static str>, event_type: &EventType) {
        let (outcome, Known { types, counters }) = (error.unwrap_or(SUCCESS), &*self.known);
        let Some(counters) = counters.get(outcome) else {
            let label = AttemptLabel { outcome, event_type: OTHER.to_owned() };
            self.family.get_or_create(&label).inc();
            return;
        };
        counters[types.get(event_type).copied().unwrap_or(types.len())].inc();
    }

    /// All attempts, and those that failed.
    pub fn made_and_failed(&self) -> (u64, u64) {
        let (mut succeeded, mut failed) = (0, 0);
        // Each counter is read once: others go on counting meanwhile.
        for (outcome, counters) in &self.known.counters {
            let count: u64 = counters.iter().map(Counter::get).sum();
            *if *outcome == SUCCESS { &mut succeeded } else { &mut failed } += count;
        }
        (succeeded + failed, failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_the_upkeep_is_counted_from_the_start() {
        // A new variant does not compile here before it has its place.
        let next = |failure: &UpkeepFailure| match failure {
            UpkeepFailure::Make => Some(UpkeepFailure::Drop),
            UpkeepFailure::Drop => Some(UpkeepFailure::Locked),
            UpkeepFailure::Locked => Some(UpkeepFailure::Clocks),
            UpkeepFailure::Clocks => None,
        };
        let all: Vec<_> = std::iter::successors(Some(UpkeepFailure::Make), next).collect();
        assert_eq!(all, UpkeepFailure::ALL);
    }

    #[test]
    fn no_success_that_is_counted_meanwhile_is_taken_for_a_failure() {
        let counts = AttemptCounts::new(&Catalogue::new(Vec::new()));
        let event_type = EventType::parse("content.created").unwrap();
        std::thread::scope(|scope| {
            let counting = scope.spawn(|| (0..50_000).for_each(|_| counts.count(None, &event_type)));
            while !counting.is_finished() {
                assert_eq!(counts.made_and_failed().1, 0);
            }
        });
        assert_eq!(counts.made_and_failed(), (50_000, 0));
    }

    #[test]
    fn attempts_of_a_type_that_is_gone_are_counted_together() {
        let counts = AttemptCounts::new(&Catalogue::new(Vec::new()));
        let gone = EventType::parse("content.gone").unwrap();
        counts.count(None, &gone);
        counts.count(Some("timeout"), &gone);
        assert_eq!(counts.made_and_failed(), (2, 1));
        let other = AttemptLabel { outcome: "timeout", event_type: OTHER.to_owned() };
        assert_eq!(counts.family.get_or_create(&other).get(), 1);
    }
}

//! What a process tells others of its work every few seconds: operators see it, and other processes, in the table `processes`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The figures of a process. `None` is unknown: the process has no such part, or its release writes no such figure. Releases
/// may differ in their figures, so a reader takes none of them for granted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Requests in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// The most requests in flight that there can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_limit: Option<u64>,
    /// The most broker messages that the worker may have in hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<u64>,
    /// Broker messages that the worker has in hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacknowledged: Option<u64>,
    /// Events taken from the broker per second, since the figures before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<f64>,
    /// Attempts per second, since the figures before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_per_second: Option<f64>,
    /// Attempts that failed, per second, since the figures before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_per_second: Option<f64>,
    /// How long events of the last minute waited for their first verdicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_verdict: Option<Distribution>,
    /// The most connections to PostgreSQL that the process takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Whether the worker consumes from its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached: Option<bool>,
    /// The queues from which the worker consumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<String>>,
    /// How often a webhook's lane had no room since the figures before, by the limit that was the reason. Reasons that did not
    /// occur are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<BTreeMap<String, u64>>,
}

/// How many values there were up to each of some bounds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The upper bounds of the buckets, in seconds, ascending.
    pub bounds: Vec<f64>,
    /// The number of values in each bucket alone, and in one more: those above all bounds.
    pub counts: Vec<u64>,
}

impl Figures {
    /// Reads what a process wrote, perhaps of another release. What cannot be read is unknown.
    pub(crate) fn read(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }

    /// As it is stored.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("all keys are text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_another_release_are_read_as_far_as_they_are_known() {
        let known = Figures { in_flight: Some(3), attached: Some(true), ..Figures::default() };
        assert_eq!(Figures::read(&known.to_json()), known);
        assert_eq!(Figures::read(r#"{"in_flight":3,"attached":true,"new":[1]}"#), known);
        assert_eq!(Figures::read("{}"), Figures::default());
        assert_eq!(Figures::read(r#"{"in_flight":"three"}"#), Figures::default());
    }
}

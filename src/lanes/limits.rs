//! The settings that limit lanes.

use std::time::Duration;

/// How much there is to share between webhooks.
#[derive(Debug, Clone)]
pub struct LaneLimits {
    /// Requests in flight, of all webhooks together.
    pub in_flight: usize,
    /// Requests in flight of one webhook.
    pub per_webhook: usize,
    /// Fresh turns in hand (waiting or in flight), of all webhooks together.
    pub in_hand: usize,
    /// A receiver whose attempts take this long (milliseconds to seconds) is slow, and a fresh turn that has waited this
    /// long for it is parked.
    pub park_after: Duration,
    /// Failures in a row after which a receiver is probed.
    pub probe_after: u32,
    /// From a failed attempt to the first probe (seconds). The interval doubles with each probe that fails.
    pub probe_interval: Duration,
    /// The longest interval between two probes (seconds to minutes).
    pub probe_interval_max: Duration,
}

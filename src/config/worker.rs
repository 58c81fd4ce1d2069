//! The settings of the workers, and when a webhook that fails is reported, disabled and recovered.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::layers::Layers;
use super::{ConfigError, Queue, Sender, Shard};
use crate::bounds::{self, DAY, SECOND};
use crate::lanes::LaneLimits;

/// `[worker]`
#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    /// Broker messages in hand.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, { u16::MAX as i64 }>")]
    pub prefetch: u16,
    /// The numbers of the queues to take events from. Empty: all.
    #[serde(deserialize_with = "numbers")]
    pub shards: Vec<u16>,
    /// Requests in flight.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 100_000>")]
    pub max_in_flight: usize,
    /// Requests in flight to one webhook. 0: no limit but the fair share.
    #[serde(deserialize_with = "bounds::number::<_, _, 0, 100_000>")]
    pub max_in_flight_per_webhook: usize,
    /// A delivery that waits longer for its own receiver waits in the database instead.
    #[serde(deserialize_with = "bounds::duration::<_, 1, { 60 * SECOND }>")]
    pub park_after: Duration,
    /// After so many failures in a row a receiver gets one request at a time.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 1_000_000>")]
    pub probe_after: u32,
    /// The first wait between two such requests; it doubles with each failure.
    #[serde(deserialize_with = "bounds::duration::<_, 1, { 3600 * SECOND }>")]
    pub probe_interval: Duration,
    /// The longest wait between two such requests.
    #[serde(deserialize_with = "bounds::any_duration")]
    pub probe_interval_max: Duration,
    /// Events matched by one query, and results written by one transaction.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 10_000>")]
    pub batch: usize,
    /// How long a webhook that was looked up may be used.
    #[serde(deserialize_with = "bounds::duration::<_, 0, SECOND>")]
    pub lookup_lifetime: Duration,
    /// When a delivery that a worker has claimed is due again.
    #[serde(deserialize_with = "bounds::any_duration")]
    pub lease: Duration,
    /// When messages whose results wait for the database are given back to the broker.
    #[serde(deserialize_with = "bounds::duration::<_, SECOND, DAY>")]
    pub give_back_after: Duration,
    /// The wait between two queries for due deliveries after one that found some; none if there are more.
    #[serde(deserialize_with = "bounds::duration::<_, 1, { 60 * SECOND }>")]
    pub poll_interval: Duration,
    /// Each query that found none doubles the wait, up to this.
    #[serde(deserialize_with = "bounds::any_duration")]
    pub poll_interval_max: Duration,
}

impl Worker {
    /// Reads the section, and checks the bounds that depend on other settings.
    ///
    /// # Errors
    ///
    /// A value is none that its setting allows.
    pub(super) fn read(layers: &Layers, sender: &Sender, queue: &Queue) -> Result<Self, ConfigError> {
        let worker: Self = layers.section("worker")?;
        if !worker.shards.iter().all(|number| (1..=queue.queues()).contains(number)) {
            let problem = format!("must name numbers from 1 to {}, as many queues as [queue] has", queue.queues());
            return layers.refuse("worker.shards", &problem);
        }
        // A lease that ends during its attempt would have the attempt made twice.
        let shortest_lease = 2 * (sender.timeout + sender.body_timeout);
        for (setting, duration, from, to) in [
            ("worker.lease", worker.lease, shortest_lease, DAY),
            ("worker.probe_interval_max", worker.probe_interval_max, worker.probe_interval, DAY),
            ("worker.poll_interval_max", worker.poll_interval_max, worker.poll_interval, 600 * SECOND),
        ] {
            let range = from..=Duration::from_millis(to);
            bounds::check(duration, range).or_else(|problem| layers.refuse(setting, problem))?;
        }
        Ok(worker)
    }

    /// The queues to take events from, each once. At least one.
    pub(crate) fn shards_taken(&self, queue: &Queue) -> Vec<Shard> {
        queue.all_shards().filter(|shard| self.shards.is_empty() || self.shards.contains(&shard.number)).collect()
    }

    /// The share of the prefetch for each of so many queues.
    pub(crate) fn prefetch_of_each(&self, queues: usize) -> u16 {
        let queues = u16::try_from(queues).unwrap_or(u16::MAX).max(1);
        (self.prefetch / queues).max(1)
    }

    /// What the lanes divide between webhooks.
    pub(crate) fn limits(&self) -> LaneLimits {
        let or_unlimited = |limit| if limit == 0 { usize::MAX } else { limit };
        // The rest of the prefetched messages is being recorded.
        let in_hand = (usize::from(self.prefetch) * 3).div_ceil(4);
        LaneLimits {
            in_flight: self.max_in_flight.min(in_hand),
            per_webhook: or_unlimited(self.max_in_flight_per_webhook),
            in_hand,
            park_after: self.park_after,
            probe_after: self.probe_after,
            probe_interval: self.probe_interval,
            probe_interval_max: self.probe_interval_max,
        }
    }
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    // The error of serde would repeat the value.
    Vec::deserialize(deserializer)
        .map_err(|_| D::Error::custom("must be a TOML array of whole numbers, such as [1, 2]"))
}

/// `[health]`: when a webhook's owner is told of its failures, and when the webhook is disabled. Each needs both: so many
/// failed attempts in a row, and so long without a success.
#[derive(Debug, Clone, Deserialize)]
pub struct HealthThresholds {
    /// Failed attempts in a row before the notice.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 10_000>")]
    pub notice_attempts: i32,
    /// Time without a success before the notice.
    #[serde(deserialize_with = "bounds::duration::<_, 0, { 30 * DAY }>")]
    pub notice_after: Duration,
    /// Failed attempts in a row before the webhook is disabled.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 1_000_000>")]
    pub disable_attempts: i32,
    /// Time without a success before the webhook is disabled.
    #[serde(deserialize_with = "bounds::duration::<_, 0, { 365 * DAY }>")]
    pub disable_after: Duration,
}

/// `[recover]`
#[derive(Debug, Clone, Deserialize)]
pub struct Recover {
    /// Recovered deliveries to one webhook, per second.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 100_000>")]
    pub rate: u32,
}

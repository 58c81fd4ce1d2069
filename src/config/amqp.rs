//! The settings of the connections to RabbitMQ, and the names of what this service declares there.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::layers::Layers;
use super::management::{self, Management};
use super::{ConfigError, UrlSource, password};
use crate::bounds::{self, MIB, SECOND};
use crate::secret::SecretText;

/// More queues than this are of no use: each is a connection of every worker that takes from it.
const MAX_SHARDS: u16 = 64;
/// How many queues beyond those of the settings are looked for: each costs a request, and if it does not exist, an error in the
/// broker's log.
const FURTHER_QUEUES: u16 = 16;
/// AMQP sends a name as a short string, whose length is one byte.
const MAX_NAME_BYTES: usize = 255;

/// `[amqp]`
#[derive(Debug, Clone, Deserialize)]
pub struct Amqp {
    /// One address or several, each with the password. Empty if it was not set; see
    /// [`Settings::amqp_url`](super::Settings::amqp_url).
    pub url: SecretText,
    /// Where the URL was given, and its files, which may change while the process runs.
    #[serde(skip)]
    pub url_from: UrlSource,
    /// The path of a PEM file with the authorities that may have signed the broker's certificate. Empty: those that the
    /// system trusts.
    pub ca_file: String,
    /// Where the management plugin answers, if it was set.
    #[serde(rename = "management_url", deserialize_with = "management::deserialize")]
    pub management: Option<Management>,
    /// For connecting and logging in; all addresses share it.
    #[serde(deserialize_with = "bounds::duration::<_, 100, { 300 * SECOND }>")]
    pub connect_timeout: Duration,
    /// Between two heartbeats: a broker that is silent for two of them is taken for dead.
    #[serde(deserialize_with = "bounds::duration::<_, SECOND, { 600 * SECOND }>")]
    pub heartbeat: Duration,
}

impl Amqp {
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let mut amqp: Self = layers.section("amqp")?;
        (amqp.url, amqp.url_from) = password::complete(layers, "amqp", amqp.url, password::into_amqp_url)?;
        Ok(amqp)
    }
}

/// `[queue]`
#[derive(Debug, Clone, Deserialize)]
pub struct Queue {
    /// The exchange that penr.ai's services publish events to.
    #[serde(deserialize_with = "broker_name")]
    pub events_exchange: String,
    /// The queue that workers consume.
    #[serde(deserialize_with = "broker_name")]
    pub worker_queue: String,
    /// The exchange that the worker queue sends dead letters to.
    #[serde(deserialize_with = "broker_name")]
    pub dead_exchange: String,
    /// The queue of the dead letters.
    #[serde(deserialize_with = "broker_name")]
    pub dead_queue: String,
    /// The exchange for notices to penr.ai's own services.
    #[serde(deserialize_with = "broker_name")]
    pub notices_exchange: String,
    /// The exchange that an operator's policy may make the alternate exchange of `events_exchange`.
    #[serde(deserialize_with = "broker_name")]
    pub unrouted_exchange: String,
    /// The queue that keeps what comes to `unrouted_exchange`.
    #[serde(deserialize_with = "broker_name")]
    pub unrouted_queue: String,
    /// The most bytes of message bodies in that queue: a further message drops the oldest.
    #[serde(deserialize_with = "bounds::number::<_, _, 1024, { 1024 * 1024 * MIB }>")]
    pub unrouted_max_bytes: i64,
    /// How many worker queues get events. See [`Queue::shard`].
    #[serde(deserialize_with = "bounds::number::<_, _, 1, { MAX_SHARDS as i64 }>")]
    pub shards: u16,
    /// How many worker queues exist; 0: as many as get events.
    #[serde(deserialize_with = "bounds::number::<_, _, 0, { MAX_SHARDS as i64 }>")]
    pub shard_queues: u16,
    /// The exchange that spreads events over several worker queues.
    #[serde(deserialize_with = "broker_name")]
    pub shards_exchange: String,
    /// How often the worker queue delivers a message before it becomes a dead letter.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 1_000_000>")]
    pub delivery_limit: i64,
    /// How often the dead queue delivers a message before the broker drops it.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, { i32::MAX as i64 }>")]
    pub dead_delivery_limit: i64,
    /// For the broker's confirm of a message that this service publishes.
    #[serde(deserialize_with = "bounds::duration::<_, 100, { 300 * SECOND }>")]
    pub confirm_timeout: Duration,
}

impl Queue {
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let queue: Self = layers.section("queue")?;
        if queue.worker_queue == queue.dead_queue {
            return layers.refuse("queue.dead_queue", "must differ from queue.worker_queue");
        }
        queue.check_names_of_unrouted(layers)?;
        if queue.shard_queues != 0 && queue.shard_queues < queue.shards {
            return layers.refuse("queue.shard_queues", "must be 0, or not less than queue.shards");
        }
        if queue.is_sharded() {
            queue.check_names_of_shards(layers)?;
        }
        Ok(queue)
    }

    fn check_names_of_unrouted(&self, layers: &Layers) -> Result<(), ConfigError> {
        let is_worker_queue = self.all_shards().any(|shard| shard.queue == self.unrouted_queue);
        if is_worker_queue || self.unrouted_queue == self.dead_queue {
            return layers.refuse("queue.unrouted_queue", "must differ from the names of the other queues");
        }
        let others = [&self.events_exchange, &self.dead_exchange, &self.notices_exchange, &self.shards_exchange];
        if others.contains(&&self.unrouted_exchange) {
            return layers.refuse("queue.unrouted_exchange", "must differ from the names of the other exchanges");
        }
        Ok(())
    }

    fn check_names_of_shards(&self, layers: &Layers) -> Result<(), ConfigError> {
        let shards: Vec<_> = self.all_shards().collect();
        if shards.iter().any(|shard| shard.queue == self.dead_queue) {
            return layers.refuse("queue.dead_queue", "must differ from the names of all queues of the workers");
        }
        if shards.iter().any(|shard| shard.queue.len() > MAX_NAME_BYTES) {
            return layers
                .refuse("queue.worker_queue", "is too long: with the number of a shard it has more than 255 bytes");
        }
        if [&self.events_exchange, &self.dead_exchange, &self.notices_exchange].contains(&&self.shards_exchange) {
            return layers.refuse("queue.shards_exchange", "must differ from the names of the other exchanges");
        }
        Ok(())
    }

    /// Whether there are several worker queues, and an exchange that spreads events over them.
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        self.queues() > 1
    }

    /// How many worker queues exist.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.shards.max(self.shard_queues)
    }

    /// A worker queue by its number. Number 1 is `queue.worker_queue`, so that the step from one queue to several leaves no
    /// queue behind.
    #[must_use]
    pub fn shard(&self, number: u16) -> Shard {
        let queue = if number == 1 { self.worker_queue.clone() } else { format!("{}.{number}", self.worker_queue) };
        Shard { number, queue, gets_events: number <= self.shards }
    }

    /// All worker queues that exist, by their numbers.
    pub fn all_shards(&self) -> impl Iterator<Item = Shard> {
        (1..=self.queues()).map(|number| self.shard(number))
    }

    /// The names of queues that workers with other settings may have left behind: those of the next numbers. AMQP has no
    /// request for the names of all queues.
    pub fn further_queues(&self) -> impl Iterator<Item = String> {
        let numbers = self.queues() + 1..=MAX_SHARDS.min(self.queues() + FURTHER_QUEUES);
        numbers.map(|number| self.shard(number).queue).filter(|queue| queue.len() <= MAX_NAME_BYTES)
    }

    /// Names and limits for the unit tests of other modules.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            events_exchange: "events".into(),
            worker_queue: "events.queue".into(),
            dead_exchange: "dead".into(),
            dead_queue: "dead.queue".into(),
            notices_exchange: "notices".into(),
            unrouted_exchange: "unrouted".into(),
            unrouted_queue: "unrouted.queue".into(),
            unrouted_max_bytes: 1_000_000,
            shards: 1,
            shard_queues: 0,
            shards_exchange: "shards".into(),
            delivery_limit: 100,
            dead_delivery_limit: 1_000_000,
            confirm_timeout: Duration::from_secs(10),
        }
    }
}

/// One of the queues that workers consume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    pub number: u16,
    /// The queue's name.
    pub queue: String,
    /// False: it gets no new events, and workers empty it.
    pub gets_events: bool,
}

/// A name that RabbitMQ lets users declare.
fn broker_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let allowed =
        (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with("amq.") && !name.chars().any(char::is_control);
    if allowed { Ok(name) } else { Err(de::Error::custom("must have 1 to 255 bytes and not start with amq.")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_queues_is_the_worker_queue_and_those_beyond_the_shards_get_no_events() {
        let shown = |shards, shard_queues| -> Vec<(String, bool)> {
            let queue = Queue { shards, shard_queues, ..Queue::example() };
            queue.all_shards().map(|shard| (shard.queue, shard.gets_events)).collect()
        };
        let (first, second) = ("events.queue".to_owned(), "events.queue.2".to_owned());
        assert_eq!(shown(1, 0), [(first.clone(), true)]);
        assert_eq!(shown(2, 0), [(first.clone(), true), (second.clone(), true)]);
        assert_eq!(shown(1, 2), [(first, true), (second, false)]);
    }

    #[test]
    fn further_queues_have_the_next_numbers_that_settings_may_have_and_names_that_a_broker_takes() {
        let further = |queue: Queue| queue.further_queues().collect::<Vec<_>>();
        let expected: Vec<_> = (3..=18).map(|number| format!("events.queue.{number}")).collect();
        assert_eq!(further(Queue { shards: 2, ..Queue::example() }), expected);
        let expected = ["events.queue.63", "events.queue.64"];
        assert_eq!(further(Queue { shard_queues: 62, ..Queue::example() }), expected);
        assert!(further(Queue { shards: 64, ..Queue::example() }).is_empty());
        assert_eq!(further(Queue { worker_queue: "q".repeat(253), ..Queue::example() }).len(), 8);
    }
}

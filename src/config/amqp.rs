//! The settings of the connections to RabbitMQ, and the names of what this service declares there.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::layers::Layers;
use super::management::{self, Management};
use super::{ConfigError, UrlSource, password};
use crate::bounds::{self, SECOND};
use crate::secret::SecretText;

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
        Ok(queue)
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
            delivery_limit: 100,
            dead_delivery_limit: 1_000_000,
            confirm_timeout: Duration::from_secs(10),
        }
    }
}

/// A name that RabbitMQ lets users declare.
fn broker_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let allowed = (1..=255).contains(&name.len()) && !name.starts_with("amq.") && !name.chars().any(char::is_control);
    if allowed { Ok(name) } else { Err(de::Error::custom("must have 1 to 255 bytes and not start with amq.")) }
}

//! What an operator can set. Pure: the caller brings the file's text and the environment.
//!
//! `config/default.toml` names every setting with its default; the operator's file replaces defaults, and the environment
//! replaces both. All settings are checked before anything connects: a field says within which bounds its value must lie,
//! and `read` of its section checks what depends on several. An error names a setting as the operator wrote it and never
//! repeats a value, which could be a secret.

use std::net::SocketAddr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::bounds::{self, SECOND};
use crate::event::EventParser;
use crate::retry::RetryPolicy;
use crate::secret::{Keyring, SecretText};
use crate::token::Tokens;
use security::Security;

mod amqp;
mod api;
mod database;
mod events;
mod layers;
mod listen;
mod log;
mod management;
mod otel;
mod password;
mod security;
mod sender;
mod source;
mod worker;

pub use amqp::{Amqp, Queue, Shard};
pub use api::{Api, ApiLimits};
pub use database::{Database, Retention};
pub use layers::ConfigFile;
pub use log::{Log, LogFormat};
pub use management::{Credentials, Management};
pub use otel::Otel;
pub use security::PublishedKeys;
pub use sender::{EgressProxy, Sender};
pub use source::UrlSource;
pub use worker::{HealthThresholds, Recover, Worker};

/// The settings of one process, checked as a whole.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The connections to Postgres.
    pub database: Database,
    /// The connections to RabbitMQ.
    pub amqp: Amqp,
    /// What this service declares at RabbitMQ.
    pub queue: Queue,
    /// `[event]` and `[event_types]`: what an event must be.
    pub events: EventParser,
    /// When a delivery is tried again.
    pub retry: RetryPolicy,
    /// The requests to receivers.
    pub sender: Sender,
    /// How a worker divides its work.
    pub worker: Worker,
    /// When a webhook that fails is reported and disabled.
    pub health: HealthThresholds,
    /// How fast recovered deliveries fall due.
    pub recover: Recover,
    /// How long rows are kept.
    pub retention: Retention,
    /// How long a process may take from SIGTERM to its exit.
    pub shutdown_grace: Duration,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub ops_listen: SocketAddr,
    /// The HTTP API.
    pub api: Api,
    /// `None` if `security.encryption_keys` was not set; only some commands need it.
    pub keyring: Option<Keyring>,
    /// The settings that hold a key which everybody has.
    pub published_keys: PublishedKeys,
    /// How the log is written.
    pub log: Log,
    /// Where spans are sent.
    pub otel: Otel,
}

/// `[shutdown]`
#[derive(Deserialize)]
struct Shutdown {
    #[serde(deserialize_with = "bounds::duration::<_, 0, { 3600 * SECOND }>")]
    grace: Duration,
}

/// `[ops]`
#[derive(Deserialize)]
struct Ops {
    #[serde(deserialize_with = "listen::deserialize")]
    listen: SocketAddr,
}

/// A setting that cannot be used, under the name that the operator wrote: a variable, or a setting and the file it is in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {problem}")]
pub struct ConfigError {
    name: String,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { name: name.into(), problem: problem.into() }
    }
}

impl Settings {
    /// Merges the defaults, the file and the environment, and checks the result.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used, and why.
    pub fn load(
        file: Option<ConfigFile>,
        environment: impl IntoIterator<Item = (String, String)>,
        read_secret_file: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let layers = layers::merge(file, environment, read_secret_file)?;
        let security: Security = layers.section("security")?;
        let Shutdown { grace: shutdown_grace } = layers.section("shutdown")?;
        let Ops { listen: ops_listen } = layers.section("ops")?;
        let api = Api::read(&layers, shutdown_grace)?;
        let (sender, queue) = (Sender::read(&layers)?, Queue::read(&layers)?);
        Ok(Self {
            database: Database::read(&layers)?,
            amqp: Amqp::read(&layers)?,
            worker: Worker::read(&layers, &sender, &queue)?,
            queue,
            events: events::read(&layers)?,
            retry: layers.section("retry")?,
            sender,
            health: layers.section("health")?,
            recover: layers.section("recover")?,
            retention: layers.section("retention")?,
            shutdown_grace,
            ops_listen,
            published_keys: PublishedKeys::of(&security, api.tokens.as_ref(), &layers),
            api,
            keyring: security.keyring,
            log: layers.section("log")?,
            otel: layers.section("otel")?,
        })
    }

    /// The database's URL, for a command that needs it.
    ///
    /// # Errors
    ///
    /// It was not set.
    pub fn database_url(&self) -> Result<&SecretText, ConfigError> {
        required(&self.database.url, "DATABASE_URL", "postgresql://user:password@host/name")
    }

    /// The broker's URL, for a command that needs it.
    ///
    /// # Errors
    ///
    /// It was not set.
    pub fn amqp_url(&self) -> Result<&SecretText, ConfigError> {
        required(&self.amqp.url, "AMQP_URL", "amqp://user:password@host/%2f")
    }

    /// The settings that hold passwords, which must not get into the log: URLs and logins.
    pub(crate) fn logins(&self) -> impl Iterator<Item = SecretText> {
        let proxy = self.sender.proxy.as_ref().and_then(|proxy| proxy.credentials.clone());
        let management = self.amqp.management.as_ref().and_then(|management| management.credentials.as_ref());
        let management = management.map(|Credentials { user, password }| {
            // Encoded as in a URL: either part may contain a colon.
            let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
            SecretText::new(format!("://{}:{}@", encoded(user), encoded(password.expose())))
        });
        [self.database.url.clone(), self.amqp.url.clone()].into_iter().chain(proxy).chain(management)
    }

    /// The keys that secrets are encrypted with, for a command that needs them.
    ///
    /// # Errors
    ///
    /// They were not set, or one of them is published and may not be used.
    pub fn keyring(&self) -> Result<&Keyring, ConfigError> {
        self.published_keys.check_encryption_key()?;
        self.keyring.as_ref().ok_or_else(|| {
            let example = "is not set; give id:base64-of-32-bytes, for example \"k1:$(openssl rand -base64 32)\"";
            ConfigError::new("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", example)
        })
    }

    /// The secrets that the API's tokens are signed with, for a command that needs them.
    ///
    /// # Errors
    ///
    /// They were not set, or one of them is published and may not be used.
    pub fn tokens(&self) -> Result<&Tokens, ConfigError> {
        self.published_keys.check_jwt_secret()?;
        self.api.tokens.as_ref().ok_or_else(|| {
            let example = "is not set; give at least 32 bytes, for example \"$(openssl rand -base64 32)\"";
            ConfigError::new("PENR_WEBHOOKS__API__JWT_SECRET", example)
        })
    }
}

fn required<'a>(url: &'a SecretText, name: &str, form: &str) -> Result<&'a SecretText, ConfigError> {
    if url.is_empty() {
        return Err(ConfigError::new(name, format!("is not set; give {form}")));
    }
    Ok(url)
}

#[cfg(test)]
mod tests;

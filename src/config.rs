//! What an operator can set. Pure: the caller brings the file's text and the environment.
//!
//! `config/default.toml` names every setting and its default; a file and then the environment lie over it. All of it is
//! checked before anything connects, and no error repeats a value that could be a secret.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use url::Url;

use crate::address::AddressPolicy;
use crate::event::{Catalogue, EventParser};
use crate::lanes::LaneLimits;
use crate::retry::RetryPolicy;
use crate::secret::{Keyring, SecretText};
use crate::token::Tokens;
use crate::webhook::{AllowedHosts, UrlPolicy};

mod check;
mod layers;
mod listen;
mod management;
mod password;
mod published;
mod source;

pub use layers::ConfigFile;
pub use management::{Credentials, Management};
pub use published::PublishedKeys;
pub use source::UrlSource;

/// The settings of one process, checked as a whole.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Database,
    pub amqp: Amqp,
    pub queue: Queue,
    pub events: EventParser,
    pub retry: RetryPolicy,
    pub sender: Sender,
    pub worker: Worker,
    pub health: HealthThresholds,
    pub recover: Recover,
    pub retention: Retention,
    /// From the signal to the exit.
    pub shutdown_grace: Duration,
    pub ops_listen: SocketAddr,
    pub api: Api,
    /// `None` unless it was set; only some commands need it.
    pub keyring: Option<Keyring>,
    pub published_keys: PublishedKeys,
    pub log: Log,
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
pub struct Database {
    pub url: SecretText,
    #[serde(skip)]
    pub url_from: UrlSource,
    pub pool_size: usize,
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    #[serde(with = "duration")]
    pub statement_timeout: Duration,
}

/// `[amqp]`
#[derive(Debug, Clone, Deserialize)]
pub struct Amqp {
    pub url: SecretText,
    #[serde(skip)]
    pub url_from: UrlSource,
    /// Of the authorities that the broker's certificate may be of. Empty means the system's.
    pub ca_file: String,
    #[serde(rename = "management_url", deserialize_with = "management::deserialize")]
    pub management: Option<Management>,
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    #[serde(with = "duration")]
    pub heartbeat: Duration,
}

/// `[queue]`
#[derive(Debug, Clone, Deserialize)]
pub struct Queue {
    pub events_exchange: String,
    pub worker_queue: String,
    pub dead_exchange: String,
    pub dead_queue: String,
    pub notices_exchange: String,
    pub delivery_limit: i64,
    pub dead_delivery_limit: i64,
    #[serde(with = "duration")]
    pub confirm_timeout: Duration,
}

/// `[sender]`
#[derive(Debug, Clone)]
pub struct Sender {
    pub timeout: Duration,
    pub body_timeout: Duration,
    pub max_body_bytes: usize,
    pub idle_connections_per_host: usize,
    /// 0 means what the process may open decides.
    pub max_idle_connections: usize,
    pub idle_timeout: Duration,
    pub max_connection_age: Duration,
    pub dns_timeout: Duration,
    pub max_dns_lookups: usize,
    /// Empty means the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// Through which all requests go, if any.
    pub proxy: Option<EgressProxy>,
    pub urls: UrlPolicy,
}

/// A forward proxy of the operator's.
#[derive(Debug, Clone)]
pub struct EgressProxy {
    /// `http` or `https`, a host and a port; nothing secret.
    pub url: Url,
    /// `user:password`
    pub credentials: Option<SecretText>,
}

/// `[worker]`
#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    pub prefetch: u16,
    pub max_in_flight: usize,
    /// 0 means no limit.
    pub max_in_flight_per_webhook: usize,
    #[serde(with = "duration")]
    pub park_after: Duration,
    pub probe_after: u32,
    #[serde(with = "duration")]
    pub probe_interval: Duration,
    #[serde(with = "duration")]
    pub probe_interval_max: Duration,
    pub batch: usize,
    #[serde(with = "duration")]
    pub lookup_lifetime: Duration,
    #[serde(with = "duration")]
    pub lease: Duration,
    #[serde(with = "duration")]
    pub give_back_after: Duration,
    #[serde(with = "duration")]
    pub poll_interval: Duration,
    #[serde(with = "duration")]
    pub poll_interval_max: Duration,
}

impl Worker {
    /// What the lanes share.
    pub fn limits(&self) -> LaneLimits {
        let most = |limit| if limit == 0 { usize::MAX } else { limit };
        // The rest is with the recorder.
        let in_hand = (usize::from(self.prefetch) * 3).div_ceil(4);
        LaneLimits {
            in_flight: self.max_in_flight.min(in_hand),
            per_webhook: most(self.max_in_flight_per_webhook),
            in_hand,
            park_after: self.park_after,
            probe_after: self.probe_after,
            probe_interval: self.probe_interval,
            probe_interval_max: self.probe_interval_max,
        }
    }
}

/// `[health]`
#[derive(Debug, Clone, Deserialize)]
pub struct HealthThresholds {
    /// Failed attempts in a row, and the time without a success, after which the owner is told.
    pub notice_attempts: i32,
    #[serde(with = "duration")]
    pub notice_after: Duration,
    /// The same for disabling a webhook.
    pub disable_attempts: i32,
    #[serde(with = "duration")]
    pub disable_after: Duration,
}

/// `[recover]`
#[derive(Debug, Clone, Deserialize)]
pub struct Recover {
    /// Deliveries a second to one webhook.
    pub rate: u32,
}

/// `[retention]`
#[derive(Debug, Clone, Deserialize)]
pub struct Retention {
    #[serde(with = "duration")]
    pub attempts: Duration,
    #[serde(with = "duration")]
    pub events: Duration,
}

/// `[api]`
#[derive(Debug, Clone)]
pub struct Api {
    pub listen: SocketAddr,
    /// Of `shutdown.grace`: callers are still accepted for so long.
    pub drain_delay: Duration,
    /// `None` unless its secret was set; only some commands need it.
    pub tokens: Option<Tokens>,
    pub limits: ApiLimits,
    /// What one request may ask of the database, in time.
    pub database_timeout: Duration,
    pub cors_origins: Vec<String>,
    pub frame_ancestors: Vec<String>,
}

/// What a caller of the API may use.
#[derive(Debug, Clone, Deserialize)]
pub struct ApiLimits {
    /// Of one account.
    pub max_webhooks: u32,
    pub requests_per_second: NonZeroU32,
    pub requests_burst: NonZeroU32,
    pub tests_per_minute: NonZeroU32,
    pub max_body_bytes: usize,
    pub max_connections: usize,
    /// Between two requests.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// From a head's first byte.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    #[serde(with = "duration")]
    pub request_timeout: Duration,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    Text,
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json"),
        }
    }
}

/// A setting that cannot be used, named as the operator wrote it.
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
    /// Lays the file and the environment over the defaults and checks the result.
    pub fn load(
        file: Option<ConfigFile>,
        environment: impl IntoIterator<Item = (String, String)>,
        read_secret_file: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let layers = layers::merge(file, environment, read_secret_file)?;
        let raw: Raw = layers.read()?;
        check::settings(raw, &layers)
    }

    /// The database's address, for a command that needs it.
    pub fn database_url(&self) -> Result<&SecretText, ConfigError> {
        required(&self.database.url, "DATABASE_URL", "postgresql://user:password@host/name")
    }

    /// The broker's address, for a command that needs it.
    pub fn amqp_url(&self) -> Result<&SecretText, ConfigError> {
        required(&self.amqp.url, "AMQP_URL", "amqp://user:password@host/%2f")
    }

    /// What nothing that this process says may repeat: URLs with passwords, and logins.
    pub fn logins(&self) -> impl Iterator<Item = SecretText> {
        let proxy = self.sender.proxy.as_ref().and_then(|proxy| proxy.credentials.clone());
        let management = self.amqp.management.as_ref().and_then(|management| management.credentials.as_ref());
        let management = management.map(|Credentials { user, password }| {
            // As it would stand in a URL: either part may have a colon of its own.
            let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
            SecretText::new(format!("://{}:{}@", encoded(user), encoded(password.expose())))
        });
        [self.database.url.clone(), self.amqp.url.clone()].into_iter().chain(proxy).chain(management)
    }

    /// The keys that secrets are encrypted with, for a command that needs them.
    pub fn keyring(&self) -> Result<&Keyring, ConfigError> {
        self.published_keys.refuse(self.published_keys.encryption_key.as_ref())?;
        self.keyring.as_ref().ok_or_else(|| {
            let example = "is not set; give id:base64-of-32-bytes, for example \"k1:$(openssl rand -base64 32)\"";
            ConfigError::new("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", example)
        })
    }
}

impl Settings {
    /// What the API's tokens are made and checked with, for a command that needs it.
    pub fn tokens(&self) -> Result<&Tokens, ConfigError> {
        self.published_keys.refuse(self.published_keys.jwt_secret.as_ref())?;
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

/// The settings as they are written.
#[derive(Debug, Deserialize)]
struct Raw {
    database: Database,
    amqp: Amqp,
    queue: Queue,
    event: RawEvent,
    retry: RawRetry,
    sender: RawSender,
    worker: Worker,
    health: HealthThresholds,
    recover: Recover,
    retention: Retention,
    shutdown: RawShutdown,
    ops: RawListen,
    api: RawApi,
    security: RawSecurity,
    log: Log,
    event_types: toml::Table,
}

#[derive(Debug, Deserialize)]
struct RawEvent {
    max_event_bytes: usize,
}

#[derive(Debug, Deserialize)]
struct RawRetry {
    #[serde(deserialize_with = "duration::list")]
    schedule: Vec<Duration>,
    jitter: f64,
    #[serde(with = "duration")]
    max_retry_after: Duration,
    #[serde(with = "duration")]
    internal_delay: Duration,
}

#[derive(Debug, Deserialize)]
struct RawSender {
    #[serde(with = "duration")]
    timeout: Duration,
    #[serde(with = "duration")]
    body_timeout: Duration,
    max_body_bytes: usize,
    idle_connections_per_host: usize,
    max_idle_connections: usize,
    #[serde(with = "duration")]
    idle_timeout: Duration,
    #[serde(with = "duration")]
    max_connection_age: Duration,
    #[serde(with = "duration")]
    dns_timeout: Duration,
    max_dns_lookups: usize,
    dns_servers: Vec<SocketAddr>,
    proxy: SecretText,
    proxy_credentials: SecretText,
    allow_networks: Vec<IpNet>,
    deny_networks: Vec<IpNet>,
    allow_hosts: Vec<String>,
    require_https: bool,
}

#[derive(Debug, Deserialize)]
struct RawShutdown {
    #[serde(with = "duration")]
    grace: Duration,
}

#[derive(Debug, Deserialize)]
struct RawListen {
    listen: String,
}

#[derive(Debug, Deserialize)]
struct RawApi {
    listen: String,
    #[serde(with = "duration")]
    drain_delay: Duration,
    jwt_secret: SecretText,
    jwt_issuer: String,
    jwt_audience: String,
    #[serde(flatten)]
    limits: ApiLimits,
    #[serde(with = "duration")]
    database_timeout: Duration,
    cors_origins: Vec<String>,
    frame_ancestors: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct RawSecurity {
    encryption_keys: SecretText,
    allow_published_keys: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEventType {
    name: String,
    description: String,
}

/// Durations as people write them: `250ms`, `5s`, `2h`, `30d`.
mod duration {
    use super::{Deserialize, Duration};
    use serde::Deserializer;
    use serde::de::Error;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }

    pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Vec::<String>::deserialize(deserializer)?.iter().map(|text| parse(text)).collect()
    }

    fn parse<E: Error>(text: &str) -> Result<Duration, E> {
        humantime::parse_duration(text).map_err(|_| E::custom("must be a duration such as 250ms, 5s or 2h"))
    }
}

impl Raw {
    fn url_policy(&self, allowed_hosts: AllowedHosts) -> UrlPolicy {
        let sender = &self.sender;
        let addresses = AddressPolicy::new(sender.allow_networks.clone(), sender.deny_networks.clone());
        UrlPolicy { addresses, allowed_hosts, require_https: sender.require_https }
    }

    fn event_parser(&self, catalogue: Catalogue) -> EventParser {
        EventParser { catalogue, max_event_bytes: self.event.max_event_bytes }
    }
}

#[cfg(test)]
mod tests;

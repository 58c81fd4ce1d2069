//! The settings of the HTTP API and of its page.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use url::Url;

use super::layers::Layers;
use super::{ConfigError, listen};
use crate::bounds::{self, MIB, SECOND};
use crate::secret::SecretText;
use crate::token::Tokens;

/// `[api]`
#[derive(Debug, Clone)]
pub struct Api {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// How long callers are still accepted after SIGTERM; a part of `shutdown.grace`.
    pub drain_delay: Duration,
    /// `None` if `api.jwt_secret` was not set; only some commands need it.
    pub tokens: Option<Tokens>,
    /// What a caller may use.
    pub limits: ApiLimits,
    /// For everything that one request asks of the database, and for its wait for a query slot.
    pub database_timeout: Duration,
    /// Origins whose pages may call the API.
    pub cors_origins: Vec<String>,
    /// Origins whose pages may show the page in a frame.
    pub frame_ancestors: Vec<String>,
    /// The addresses that webhooks are called from, for customers' firewalls. Empty if they are not known.
    pub sending_addresses: Vec<IpNet>,
}

/// What a caller of the API may use.
#[derive(Debug, Clone, Deserialize)]
pub struct ApiLimits {
    /// Webhooks of one account.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 100_000>")]
    pub max_webhooks: u32,
    /// Requests per second of one account that are allowed for long.
    #[serde(deserialize_with = "bounds::positive::<_, 1_000_000>")]
    pub requests_per_second: NonZeroU32,
    /// Requests of one account in one burst.
    #[serde(deserialize_with = "bounds::positive::<_, 1_000_000>")]
    pub requests_burst: NonZeroU32,
    /// Test sends of one account per minute.
    #[serde(deserialize_with = "bounds::positive::<_, 1_000_000>")]
    pub tests_per_minute: NonZeroU32,
    /// The most bytes of one request's body.
    #[serde(deserialize_with = "bounds::number::<_, _, 4096, MIB>")]
    pub max_body_bytes: usize,
    /// Open connections per process.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 100_000>")]
    pub max_connections: usize,
    /// For the next request on a connection.
    #[serde(deserialize_with = "bounds::duration::<_, 100, { 3600 * SECOND }>")]
    pub idle_timeout: Duration,
    /// For the whole head of a request, from its first byte on.
    #[serde(deserialize_with = "bounds::duration::<_, 100, { 300 * SECOND }>")]
    pub header_timeout: Duration,
    /// For receiving a request's body and answering it.
    #[serde(deserialize_with = "bounds::duration::<_, 100, { 300 * SECOND }>")]
    pub request_timeout: Duration,
}

/// The rest of the section. It is read apart from [`ApiLimits`], since serde loses the name of a field in a flattened struct.
#[derive(Deserialize)]
struct ApiSection {
    #[serde(deserialize_with = "listen::deserialize")]
    listen: SocketAddr,
    #[serde(deserialize_with = "bounds::any_duration")]
    drain_delay: Duration,
    #[serde(deserialize_with = "bounds::duration::<_, 10, { 60 * SECOND }>")]
    database_timeout: Duration,
    #[serde(deserialize_with = "origins")]
    cors_origins: Vec<String>,
    #[serde(deserialize_with = "origins")]
    frame_ancestors: Vec<String>,
    #[serde(deserialize_with = "networks")]
    sending_addresses: Vec<IpNet>,
    #[serde(deserialize_with = "jwt_secrets")]
    jwt_secret: Vec<SecretText>,
    jwt_issuer: String,
    jwt_audience: String,
}

impl Api {
    /// Reads the section.
    ///
    /// # Errors
    ///
    /// A value is none that its setting allows, or the drain delay is longer than the grace.
    pub(super) fn read(layers: &Layers, shutdown_grace: Duration) -> Result<Self, ConfigError> {
        let section: ApiSection = layers.section("api")?;
        if section.drain_delay > shutdown_grace {
            let grace = humantime::format_duration(shutdown_grace);
            let problem = format!("must not be longer than shutdown.grace ({grace}), of which it is a part");
            return layers.refuse("api.drain_delay", problem);
        }
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let (issuer, audience) = (given(section.jwt_issuer), given(section.jwt_audience));
        Ok(Self {
            listen: section.listen,
            drain_delay: section.drain_delay,
            tokens: (!section.jwt_secret.is_empty()).then_some(Tokens {
                secrets: section.jwt_secret,
                issuer,
                audience,
            }),
            limits: layers.section("api")?,
            database_timeout: section.database_timeout,
            cors_origins: section.cors_origins,
            frame_ancestors: section.frame_ancestors,
            sending_addresses: section.sending_addresses,
        })
    }
}

/// Comma-separated secrets; none if the text is empty.
fn jwt_secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretText>, D::Error> {
    let text = SecretText::deserialize(deserializer)?;
    let parts = text.expose().split(',').map(str::trim).filter(|part| !part.is_empty());
    let secrets: Vec<SecretText> = parts.map(SecretText::from).collect();
    let problem = if secrets.is_empty() && !text.is_empty() {
        "holds no secret, only blanks"
    } else if secrets.iter().any(|secret| secret.expose().len() < 32) {
        "must have at least 32 bytes in each of its comma-separated secrets"
    } else if secrets.iter().any(|secret| secret.expose().contains(['\n', '\r'])) {
        "must have a comma between two secrets: one of them has several lines"
    } else {
        return Ok(secrets);
    };
    Err(de::Error::custom(problem))
}

/// Addresses and networks. A network is written without the bits behind its prefix, as firewalls want it.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: &String| {
        let network = text.parse::<IpNet>().or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
        network.ok().map(|network| network.trunc())
    };
    let problem = "must list addresses or networks, such as 203.0.113.7 or 203.0.113.0/28";
    texts.iter().map(network).collect::<Option<_>>().ok_or_else(|| de::Error::custom(problem))
}

/// Origins as a browser writes them: comparing texts is then enough.
fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let origins = Vec::<String>::deserialize(deserializer)?;
    let is_origin = |text: &String| {
        let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        url.is_some_and(|url| url.origin().ascii_serialization() == *text)
    };
    match origins.iter().all(is_origin) {
        true => Ok(origins),
        false => Err(de::Error::custom("must list origins such as https://app.example.com, without a path")),
    }
}

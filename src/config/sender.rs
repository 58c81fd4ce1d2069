//! The settings of the requests to receivers: their timeouts and connections, and where they may go.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use super::ConfigError;
use super::layers::Layers;
use crate::address::{AddressPolicy, NAT64};
use crate::bounds::{self, DAY, MIB, SECOND};
use crate::secret::SecretText;
use crate::webhook::{AllowedHosts, UrlPolicy};

/// `[sender]`
#[derive(Debug, Clone, Deserialize)]
pub struct Sender {
    /// For the whole attempt up to the status line: DNS, connect, TLS, headers.
    #[serde(deserialize_with = "bounds::duration::<_, 10, { 60 * SECOND }>")]
    pub timeout: Duration,
    /// For reading the beginning of the answer's body.
    #[serde(deserialize_with = "bounds::duration::<_, 0, { 60 * SECOND }>")]
    pub body_timeout: Duration,
    /// How much of an answer's body is read.
    #[serde(deserialize_with = "bounds::number::<_, _, 0, MIB>")]
    pub max_body_bytes: usize,
    /// Whether the log keeps the beginning of an answer's body.
    pub keep_snippets: bool,
    /// Connections of one host that are kept open.
    #[serde(deserialize_with = "bounds::number::<_, _, 0, 10_000>")]
    pub idle_connections_per_host: usize,
    /// Connections that are kept open in total. 0: a quarter of the files that the process may open, at most 4096.
    #[serde(deserialize_with = "bounds::number::<_, _, 0, 1_000_000>")]
    pub max_idle_connections: usize,
    /// How long a connection is kept open without a request.
    #[serde(deserialize_with = "bounds::duration::<_, 0, DAY>")]
    pub idle_timeout: Duration,
    /// When all connections are opened anew.
    #[serde(deserialize_with = "bounds::duration::<_, SECOND, DAY>")]
    pub max_connection_age: Duration,
    /// For looking up one name.
    #[serde(deserialize_with = "bounds::duration::<_, 10, { 60 * SECOND }>")]
    pub dns_timeout: Duration,
    /// Names that are looked up at a time.
    #[serde(deserialize_with = "bounds::number::<_, _, 1, 10_000>")]
    pub max_dns_lookups: usize,
    /// The name servers to ask. Empty: those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// The proxy that all requests go through, if there is one.
    #[serde(skip)]
    pub proxy: Option<EgressProxy>,
    /// The most requests that each webhook gets in a second, of all processes together. `None`: there is no such bound.
    #[serde(deserialize_with = "bounds::positive_unless_0::<_, 10_000>")]
    pub max_per_second: Option<NonZeroU32>,
    /// Whether the requests of events with a trace continue it by a header `Traceparent`.
    pub traceparent: bool,
    /// Which URLs and addresses may be called.
    #[serde(skip)]
    pub urls: UrlPolicy,
}

/// The operator's forward proxy.
#[derive(Debug, Clone)]
pub struct EgressProxy {
    /// `http` or `https`, a host and a port; no credentials.
    pub url: Url,
    /// `user:password`
    pub credentials: Option<SecretText>,
}

impl Sender {
    /// Reads the section.
    ///
    /// # Errors
    ///
    /// A value is none that its setting allows.
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let mut sender: Self = layers.section("sender")?;
        sender.proxy = proxy(layers)?;
        sender.urls = UrlPolicy {
            addresses: AddressPolicy::new(allowed_networks(layers)?, layers.setting("sender.deny_networks")?),
            allowed_hosts: allowed_hosts(layers)?,
            require_https: layers.setting("sender.require_https")?,
        };
        Ok(sender)
    }
}

fn allowed_networks(layers: &Layers) -> Result<Vec<IpNet>, ConfigError> {
    const SETTING: &str = "sender.allow_networks";
    let networks: Vec<IpNet> = layers.setting(SETTING)?;
    if networks.iter().any(|network| network.prefix_len() == 0) {
        return layers.refuse(SETTING, "must not allow every address; list the networks you mean");
    }
    let nat64 = IpNet::V6(NAT64);
    if networks.iter().any(|network| nat64.contains(network) || network.contains(&nat64)) {
        let problem = "must name nothing inside or around 64:ff9b::/96: what a DNS64 answers there is called if the \
                       IPv4 address inside is public, and never otherwise";
        return layers.refuse(SETTING, problem);
    }
    Ok(networks)
}

fn allowed_hosts(layers: &Layers) -> Result<AllowedHosts, ConfigError> {
    const SETTING: &str = "sender.allow_hosts";
    let hosts: Vec<String> = layers.setting(SETTING)?;
    AllowedHosts::parse(&hosts).or_else(|(at, error)| layers.refuse(SETTING, format!("entry {at} {error}")))
}

/// No error repeats a part of the URL: a password that was put there by mistake would get into the log.
fn proxy(layers: &Layers) -> Result<Option<EgressProxy>, ConfigError> {
    const URL: &str = "sender.proxy";
    const CREDENTIALS: &str = "sender.proxy_credentials";
    let given: SecretText = layers.setting(URL)?;
    let credentials = Some(layers.setting(CREDENTIALS)?).filter(|text: &SecretText| !text.is_empty());
    if given.is_empty() {
        return match credentials {
            None => Ok(None),
            Some(_) => layers.refuse(CREDENTIALS, "are for sender.proxy, which is not set"),
        };
    }
    let url = proxy_url(given.expose()).or_else(|problem| layers.refuse(URL, problem))?;
    let is_login = |text: &SecretText| text.expose().contains(':') && !text.expose().contains(char::is_control);
    if !credentials.as_ref().is_none_or(is_login) {
        return layers.refuse(CREDENTIALS, "must be user:password in one line");
    }
    Ok(Some(EgressProxy { url, credentials }))
}

fn proxy_url(given: &str) -> Result<Url, String> {
    let url = Url::parse(given).map_err(|error| format!("is not a URL: {error}"))?;
    let problem = if !["http", "https"].contains(&url.scheme()) {
        "must begin with http:// or https://"
    } else if !url.username().is_empty() || url.password().is_some() {
        "must name no user or password; give them as sender.proxy_credentials"
    } else if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        "must be no more than scheme, host and port: http://proxy:3128"
    } else {
        return Ok(url);
    };
    Err(problem.to_owned())
}

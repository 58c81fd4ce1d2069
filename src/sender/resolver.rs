//! Resolves a receiver's name and vets every answer.
//!
//! The HTTP client connects to the addresses returned here and asks nobody else, so a name that answers differently
//! the next time (DNS rebinding) gains nothing. It asks no resolver at all about a URL whose host is an address: the
//! URL's own policy vets that.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use reqwest::dns::{Addrs, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::address::AddressPolicy;

/// How many addresses of one name are tried; the rest are vetted and left.
const MAX_ADDRESSES: usize = 16;

/// The tries for each address family take three fifths of [`ResolverSettings::timeout`], so that a name server which
/// never answers for one family leaves the other usable. Longer tries would hold more sockets: within a try hickory
/// repeats the query from a new one every 333 ms.
const TRIES: u32 = 3;
const TRIES_PER_TIMEOUT: u32 = 5;

/// A receiver that moves is found at its new address within this time, whatever its TTL says.
const MAX_TTL: Duration = Duration::from_secs(300);

/// A customer who has just created the missing record does not wait for the zone's negative TTL.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// What one lookup may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolverSettings {
    /// For one lookup as a whole, waiting for its turn included.
    pub timeout: Duration,
    /// Lookups under way at the same time; more wait for their turn. Each holds two UDP sockets, or up to four for
    /// every name server asked while none answers.
    ///
    /// A name whose servers never answer keeps its place for three fifths of the timeout, so this must exceed the
    /// number of such names that are tried within that time, or they hold up all others.
    pub max_lookups: usize,
    /// Answers kept in memory until their TTL has passed, five minutes at most.
    pub cached_answers: u64,
}

impl Default for ResolverSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3), max_lookups: 256, cached_answers: 8192 }
    }
}

/// Resolves names through the DNS alone: as absolute names, without search domains and without the hosts file, which
/// know names that are no business of a customer.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    dns: TokioResolver,
    turns: Semaphore,
    settings: ResolverSettings,
    policy: AddressPolicy,
}

/// Why a name gave no address to call. No text of it names an address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The policy refuses at least one address of the name.
    #[error("the host resolves to an address that cannot be called")]
    Blocked,
    /// The name does not exist, has no address, or its servers failed.
    #[error("the host cannot be resolved")]
    Failed(#[source] NetError),
    /// Nothing was known within [`ResolverSettings::timeout`].
    #[error("resolving the host took too long")]
    Timeout,
}

/// The name servers of the system cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the DNS resolver")]
pub struct SetupError(#[source] NetError);

impl Resolver {
    /// Asks the name servers of the system (`/etc/resolv.conf`); the one on this machine where none is configured, as
    /// resolv.conf(5) has it.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the DNS client cannot be built.
    pub fn system(settings: ResolverSettings, policy: AddressPolicy) -> Result<Self, SetupError> {
        let (config, options) = read_system_conf().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name server is configured; asking the one on this machine");
            (
                ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp([127, 0, 0, 1].into())]),
                ResolverOpts::default(),
            )
        });
        let (_domain, _search, servers) = config.into_parts();
        Self::build(servers, options, settings, policy)
    }

    /// Asks these name servers, over UDP and TCP.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the DNS client cannot be built.
    pub fn with_name_servers(
        servers: &[SocketAddr],
        settings: ResolverSettings,
        policy: AddressPolicy,
    ) -> Result<Self, SetupError> {
        let servers = servers.iter().copied().map(name_server).collect();
        Self::build(servers, ResolverOpts::default(), settings, policy)
    }

    fn build(
        servers: Vec<NameServerConfig>,
        options: ResolverOpts,
        settings: ResolverSettings,
        policy: AddressPolicy,
    ) -> Result<Self, SetupError> {
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = bounded(options, settings);
        let dns = builder.build().map_err(SetupError)?;
        let turns = Semaphore::new(settings.max_lookups);
        Ok(Self(Arc::new(Shared { dns, turns, settings, policy })))
    }

    /// The addresses of `host`, one to sixteen, every one permitted by the policy.
    ///
    /// # Errors
    ///
    /// [`ResolveError::Blocked`] if the policy refuses any address of the name, even if it permits others.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut found =
            timeout(self.0.settings.timeout, self.lookup(host)).await.map_err(|_| ResolveError::Timeout)??;
        if found.is_empty() {
            return Err(ResolveError::Failed(NetError::Message("the name has no address")));
        }
        if !found.iter().all(|ip| self.0.policy.permits(*ip)) {
            return Err(ResolveError::Blocked);
        }
        found.truncate(MAX_ADDRESSES);
        Ok(found)
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let _turn = self.0.turns.acquire().await.expect("the semaphore is never closed");
        let mut name = Name::from_ascii(host)?;
        name.set_fqdn(true);
        Ok(self.0.dns.lookup_ip(name).await?.iter().collect())
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            // Port 0 stands for the port of the URL.
            Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

impl ResolveError {
    /// The resolver's error within `error` or its sources, where a failed request of the HTTP client hides it.
    #[must_use]
    pub fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl From<NetError> for ResolveError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout => Self::Timeout,
            error => Self::Failed(error),
        }
    }
}

fn bounded(mut options: ResolverOpts, settings: ResolverSettings) -> ResolverOpts {
    options.timeout = settings.timeout / TRIES_PER_TIMEOUT;
    options.attempts = TRIES as usize - 1;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = settings.cached_answers;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

#[cfg(test)]
mod tests;

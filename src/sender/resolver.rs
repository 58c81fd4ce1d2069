//! Resolves a receiver's name and vets every answer.
//!
//! The HTTP client connects to the addresses returned here and asks nobody else, so a name that answers differently
//! the next time (DNS rebinding) gains nothing. It asks no resolver at all about a URL whose host is an address: the
//! URL's own policy vets that.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RecordType};
use reqwest::dns::{Addrs, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::webhook::UrlPolicy;
use hosts_file::HostsFile;
use name_servers::{NameServers, ResolvConf};

mod hosts_file;
mod name_servers;
mod resolv_conf;

pub(super) use name_servers::{RESOLV_CONF, system_names_one};

/// How many addresses of one name are tried; the rest are vetted and left.
const MAX_ADDRESSES: usize = 16;

/// The tries for each address family take three fifths of [`ResolverSettings::timeout`], so that a name server which
/// never answers for one family leaves the other usable, and the last fifth is there to find out whether the name servers
/// answer at all. Longer tries would hold more sockets: within a try hickory repeats the query from a new one every 333 ms.
const TRIES: u32 = 3;
const TRIES_PER_TIMEOUT: u32 = 5;

/// A receiver that moves is found at its new address within this time, whatever its TTL says.
const MAX_TTL: Duration = Duration::from_secs(300);

/// A customer who has just created the missing record does not wait for the zone's negative TTL.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// What one lookup may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolverSettings {
    /// For one lookup as a whole, waiting for its turn included, and for finding out whose fault a failure is.
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

impl ResolverSettings {
    /// For one question to the name servers.
    fn try_timeout(&self) -> Duration {
        self.timeout / TRIES_PER_TIMEOUT
    }
}

/// Resolves names through the DNS: as absolute names, without search domains. The hosts file, which knows names that are no
/// business of a customer, is read only for names that the operator allows, and goes before the DNS for those.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.settings).finish()
    }
}

struct Shared {
    servers: NameServers,
    turns: Semaphore,
    settings: ResolverSettings,
    policy: UrlPolicy,
    hosts: HostsFile,
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
    /// Nothing was known within [`ResolverSettings::timeout`], though the name servers answer other questions.
    #[error("resolving the host took too long")]
    Timeout,
    /// The name has addresses, none of which can be reached from this machine: it has no route to them, or no address of
    /// its own in their family.
    #[error("no address of the host can be reached from this machine")]
    Unreachable,
    /// No name server could be asked, or none answers anything: our own failure.
    #[error("no name server answers")]
    NoNameServer,
    /// It was not looked up, since too many others were: our own failure.
    #[error("more names than sender.max_dns_lookups wait to be looked up")]
    NoTurn,
}

/// The name servers of the system cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the DNS resolver")]
pub struct SetupError(#[source] NetError);

impl Resolver {
    /// Asks the name servers of the system (`/etc/resolv.conf`), as they are now: the file is read again when it changes.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the DNS client cannot be built.
    pub fn system(settings: ResolverSettings, policy: UrlPolicy) -> Result<Self, SetupError> {
        Self::of_file(ResolvConf::of_system(), settings, policy)
    }

    fn of_file(file: ResolvConf, settings: ResolverSettings, policy: UrlPolicy) -> Result<Self, SetupError> {
        Ok(Self::new(NameServers::of_file(file, settings)?, settings, policy))
    }

    /// Asks these name servers, over UDP and TCP.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the DNS client cannot be built.
    pub fn with_name_servers(
        servers: &[SocketAddr],
        settings: ResolverSettings,
        policy: UrlPolicy,
    ) -> Result<Self, SetupError> {
        Ok(Self::new(NameServers::given(servers, settings)?, settings, policy))
    }

    fn new(servers: NameServers, settings: ResolverSettings, policy: UrlPolicy) -> Self {
        Self::knowing(servers, settings, policy, HostsFile::of_system())
    }

    fn knowing(servers: NameServers, settings: ResolverSettings, policy: UrlPolicy, hosts: HostsFile) -> Self {
        let turns = Semaphore::new(settings.max_lookups);
        Self(Arc::new(Shared { servers, turns, settings, policy, hosts }))
    }

    /// The addresses of `host`, one to sixteen, every one permitted by the policy.
    ///
    /// # Errors
    ///
    /// [`ResolveError::Blocked`] if the policy refuses any address of the name, even if it permits others.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut found = match self.listed(host) {
            found if found.is_empty() => self.lookup(host).await?,
            found => found,
        };
        if !found.iter().all(|ip| self.0.policy.addresses.permits_answer(*ip)) {
            return Err(ResolveError::Blocked);
        }
        found.truncate(MAX_ADDRESSES);
        Ok(found)
    }

    /// The addresses that this machine's own file gives to a name, if the operator allows the name.
    fn listed(&self, host: &str) -> Vec<IpAddr> {
        if self.0.policy.allowed_hosts.contains(host) { self.0.hosts.addresses(host) } else { Vec::new() }
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let began = Instant::now();
        let client = self.0.servers.now();
        let error = match self.ask(&client.dns, host, began).await? {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        match Blame::of(&error) {
            Blame::Ours => Err(ResolveError::NoNameServer),
            Blame::Open if !client.answers(began).await => Err(ResolveError::NoNameServer),
            Blame::Open if client.were_silent_since(before(began, self.0.settings.timeout)) => {
                Err(ResolveError::NoNameServer)
            }
            Blame::Open | Blame::Zone => Err(error.into()),
        }
    }

    /// The outer error is that nobody was asked, or not for long enough.
    async fn ask(
        &self,
        dns: &TokioResolver,
        host: &str,
        began: Instant,
    ) -> Result<Result<Vec<IpAddr>, NetError>, ResolveError> {
        let mut name = match Name::from_ascii(host) {
            Ok(name) => name,
            Err(error) => return Ok(Err(error.into())),
        };
        name.set_fqdn(true);
        let patience = self.0.settings.timeout - self.0.settings.try_timeout();
        let turn = timeout(patience, self.0.turns.acquire()).await.map_err(|_| ResolveError::NoTurn)?;
        let _turn = turn.expect("the semaphore is never closed");
        let waited = began.elapsed();
        let asking = async {
            let (v4, v6) = tokio::join!(of_family(dns, &name, RecordType::A), of_family(dns, &name, RecordType::AAAA));
            of_both_families(v4, v6)
        };
        match timeout(patience.saturating_sub(waited), asking).await {
            Ok(answered) => Ok(answered),
            // There was no time left for one whole try.
            Err(_) if patience.saturating_sub(waited) < self.0.settings.try_timeout() => Err(ResolveError::NoTurn),
            Err(_) => Ok(Err(NetError::Timeout)),
        }
    }
}

fn before(time: Instant, duration: Duration) -> Instant {
    time.checked_sub(duration).unwrap_or(time)
}

async fn of_family(dns: &TokioResolver, name: &Name, family: RecordType) -> Result<Vec<IpAddr>, NetError> {
    let answer = dns.lookup(name.clone(), family).await?;
    let found: Vec<IpAddr> = answer.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
    if found.is_empty() { Err(NetError::Message("the name has no address")) } else { Ok(found) }
}

/// One family is enough. Where neither has an address, the failure counts that is least the zone's fault.
fn of_both_families(
    v4: Result<Vec<IpAddr>, NetError>,
    v6: Result<Vec<IpAddr>, NetError>,
) -> Result<Vec<IpAddr>, NetError> {
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => Ok([v4, v6].concat()),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        (Err(v4), Err(v6)) => Err(if Blame::of(&v6) > Blame::of(&v4) { v6 } else { v4 }),
    }
}

/// Whose fault it is that a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blame {
    /// The zone's, and so its customer's: somebody answered.
    Zone,
    /// The zone's if the name servers answer other questions, ours if not.
    Open,
    /// Ours: no name server was asked. hickory hides the I/O error, such as a lack of file descriptors, in these; what a
    /// zone answers never becomes one of them.
    Ours,
}

impl Blame {
    fn of(error: &NetError) -> Self {
        match error {
            NetError::Io(_) | NetError::NoConnections | NetError::Busy => Self::Ours,
            NetError::Timeout => Self::Open,
            error if name_servers::is_server_failure(error) => Self::Open,
            _ => Self::Zone,
        }
    }
}

/// Those of the addresses that this machine can reach: connecting to others would only hide why it fails with these. (The
/// system's own `getaddrinfo` leaves out a family in which the machine has no address, too.)
fn within_reach(mut found: Vec<IpAddr>) -> Result<Vec<IpAddr>, ResolveError> {
    found.retain(|ip| is_within_reach(*ip));
    if found.is_empty() { Err(ResolveError::Unreachable) } else { Ok(found) }
}

/// Whether this machine has a route to `ip`, and an address of its own to come from. Sends nothing: connecting a UDP socket
/// only looks both up.
pub(super) fn is_within_reach(ip: IpAddr) -> bool {
    /// EINVAL (a link-local address without its interface), EAFNOSUPPORT, EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH.
    const OUT_OF_REACH: [i32; 5] = [22, 97, 99, 101, 113];
    const DISCARD_PORT: u16 = 9;
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let connected = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((ip, DISCARD_PORT)));
    let code = connected.err().and_then(|error| error.raw_os_error());
    !code.is_some_and(|code| OUT_OF_REACH.contains(&code))
}

impl Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = within_reach(resolver.addresses(name.as_str()).await?)?;
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
    options.timeout = settings.try_timeout();
    options.attempts = TRIES as usize - 1;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = settings.cached_answers;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options
}

#[cfg(test)]
mod tests;

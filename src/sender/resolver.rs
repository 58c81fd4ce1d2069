//! Resolves a receiver's name and checks every address against the policy.
//!
//! The HTTP client connects only to the addresses returned here, so a name that resolves to another address the next time
//! (DNS rebinding) gains nothing. A URL whose host is an address is not resolved: the address is checked with the URL.

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

/// How many addresses of one name are tried. The others are checked but not used.
const MAX_ADDRESSES: usize = 16;

/// Each address family is tried three times, for a fifth of [`ResolverSettings::timeout`] each. A family for which a name
/// server never answers then fails before the limit of four fifths for both, and the addresses of the other are used. The last
/// fifth is left to find out whether the name servers answer at all. Longer tries would hold more sockets: within a try hickory
/// repeats the query from a new socket every 333 ms.
const TRIES: u32 = 3;
const TRIES_PER_TIMEOUT: u32 = 5;

/// The longest time an answer is cached, even if its TTL is longer: a receiver that moves is found again after it.
const MAX_TTL: Duration = Duration::from_secs(300);

/// The longest time that "no such name" is cached: a customer who creates the missing record does not wait longer.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// What one lookup may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolverSettings {
    /// For one lookup as a whole: waiting for its turn, the queries, and finding out who caused a failure.
    pub timeout: Duration,
    /// Lookups at a time; others wait for their turn. Each holds two UDP sockets, or up to four per name server while none
    /// answers.
    ///
    /// A name whose servers never answer keeps its turn for three fifths of the timeout. If more such names than this are
    /// looked up within that time, all other lookups have to wait for them.
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
    /// For one try of a query.
    fn try_timeout(&self) -> Duration {
        self.timeout / TRIES_PER_TIMEOUT
    }
}

/// Resolves names in the DNS, as absolute names without search domains. For names that the operator allows the hosts file is
/// read first; for others it is not read, since it names machines of the operator.
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

/// Why a name gave no address to call. No error names an address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The policy refuses at least one address of the name.
    #[error("the host resolves to an address that cannot be called")]
    Blocked,
    /// The name does not exist, has no address, or its servers failed.
    #[error("the host cannot be resolved")]
    Failed(#[source] NetError),
    /// No answer came within [`ResolverSettings::timeout`], although the name servers answer other queries.
    #[error("resolving the host took too long")]
    Timeout,
    /// The name has addresses, but this machine can reach none of them: it has no route to them, or no address of its own in
    /// their family.
    #[error("no address of the host can be reached from this machine")]
    Unreachable,
    /// No name server could be asked, or none answers anything: our own failure.
    #[error("no name server answers")]
    NoNameServer,
    /// Other lookups took all turns until the timeout: our own failure.
    #[error("more names than sender.max_dns_lookups wait to be looked up")]
    NoTurn,
}

/// The name servers of the system cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the DNS resolver")]
pub struct ResolverSetupError(#[source] NetError);

impl Resolver {
    /// Asks the name servers of the system. `/etc/resolv.conf` is read again when it changes.
    ///
    /// # Errors
    ///
    /// [`ResolverSetupError`] if the DNS client cannot be built.
    pub fn system(settings: ResolverSettings, policy: UrlPolicy) -> Result<Self, ResolverSetupError> {
        Self::of_file(ResolvConf::of_system(), settings, policy)
    }

    fn of_file(file: ResolvConf, settings: ResolverSettings, policy: UrlPolicy) -> Result<Self, ResolverSetupError> {
        Ok(Self::new(NameServers::of_file(file, settings)?, settings, policy))
    }

    /// Asks these name servers, over UDP and TCP.
    ///
    /// # Errors
    ///
    /// [`ResolverSetupError`] if the DNS client cannot be built.
    pub fn with_name_servers(
        servers: &[SocketAddr],
        settings: ResolverSettings,
        policy: UrlPolicy,
    ) -> Result<Self, ResolverSetupError> {
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
    /// [`ResolveError::Blocked`] if the policy refuses any address of the name, even if it permits others; the other variants
    /// if there is no address.
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

    /// The addresses in this machine's hosts file, if the operator allows the name.
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

    /// Queries both address families. The inner error is what the name servers answered; the outer one says that no query was
    /// made, or not for long enough.
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
            // The time left was shorter than one try.
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

/// The addresses of either family. If neither has one, the error that is least the zone's fault.
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

/// Who caused a query without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blame {
    /// The zone, and so the customer: a server answered.
    Zone,
    /// The zone if our name servers answer other queries; this service if they do not.
    Open,
    /// This service: no name server was asked. hickory reports I/O errors, such as a lack of file descriptors, so; it never
    /// reports a zone's answer so.
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

/// The addresses that this machine can reach. An attempt to connect to the others would hide the error of these. (The system's
/// own `getaddrinfo` also leaves out a family in which the machine has no address.)
fn within_reach(mut found: Vec<IpAddr>) -> Result<Vec<IpAddr>, ResolveError> {
    found.retain(|ip| is_within_reach(*ip));
    if found.is_empty() { Err(ResolveError::Unreachable) } else { Ok(found) }
}

/// Whether this machine has a route to `ip` and an address of its own in the same family. Sends nothing: connecting a UDP
/// socket only looks up both.
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
            // The HTTP client replaces port 0 by the port of the URL.
            Ok(Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

impl ResolveError {
    /// Whether the name does not exist, or has no address.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is_no_records_found() || matches!(error, NetError::Message(_)))
    }

    /// The resolver's error in the chain of a failed request's error.
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

/// The options of the client that resolves names.
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

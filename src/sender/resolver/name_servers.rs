//! The name servers to ask: those of the settings, or those that the system's resolv.conf names now.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::super::probe::Probe;
use super::{ResolverSettings, ResolverSetupError, resolv_conf};

/// The file that names the system's name servers.
pub(in crate::sender) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A lookup reads the file again if this time has passed since the last read. A read costs less than a query.
const READ_EVERY: Duration = Duration::from_secs(1);

/// More than any real file has.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The name servers of one process.
pub(super) enum NameServers {
    Given(Arc<Client>),
    OfFile { file: ResolvConf, settings: ResolverSettings, state: Mutex<State> },
}

/// A resolv.conf(5), and the port of the name servers that it names.
pub(super) struct ResolvConf {
    pub(super) path: PathBuf,
    pub(super) port: u16,
}

/// The name servers that the file named last.
pub(super) struct State {
    read: Instant,
    servers: Vec<SocketAddr>,
    client: Arc<Client>,
}

/// A client for certain name servers.
pub(super) struct Client {
    pub(super) dns: TokioResolver,
    /// Asks the same servers, each once, and caches nothing.
    root: TokioResolver,
    probe: Probe,
    patience: Duration,
}

impl NameServers {
    pub(super) fn given(servers: &[SocketAddr], settings: ResolverSettings) -> Result<Self, ResolverSetupError> {
        Ok(Self::Given(Client::new(servers, settings)?.into()))
    }

    /// Those of a resolv.conf. If it names none at the start, the name server on this machine, as resolv.conf(5) says.
    ///
    /// # Errors
    ///
    /// The DNS client cannot be built.
    pub(super) fn of_file(file: ResolvConf, settings: ResolverSettings) -> Result<Self, ResolverSetupError> {
        let servers = file.read().unwrap_or_else(|| {
            tracing::warn!(path = %file.path.display(), "the file names no name server; asking the one on this machine");
            vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), file.port)]
        });
        let client = Client::new(&servers, settings)?.into();
        let state = State { read: Instant::now(), servers, client };
        Ok(Self::OfFile { file, settings, state: state.into() })
    }

    /// The client for the name servers to ask now.
    pub(super) fn now(&self) -> Arc<Client> {
        match self {
            Self::Given(client) => client.clone(),
            Self::OfFile { file, settings, state } => {
                state.lock().unwrap_or_else(PoisonError::into_inner).look_again(file, *settings)
            }
        }
    }
}

impl State {
    fn look_again(&mut self, file: &ResolvConf, settings: ResolverSettings) -> Arc<Client> {
        if self.read.elapsed() >= READ_EVERY {
            self.read = Instant::now();
            // A file that is just being written may be empty: the servers that it named before stay in use.
            let changed = file.read().filter(|servers| *servers != self.servers);
            if let Some(servers) = changed
                && let Ok(client) = Client::new(&servers, settings)
            {
                tracing::info!(path = %file.path.display(), ?servers, "the name servers have changed");
                (self.servers, self.client) = (servers, client.into());
            }
        }
        self.client.clone()
    }
}

impl ResolvConf {
    pub(super) fn of_system() -> Self {
        Self { path: RESOLV_CONF.into(), port: 53 }
    }

    /// The name servers in the file; `None` if it names none or cannot be read.
    fn read(&self) -> Option<Vec<SocketAddr>> {
        let mut bytes = Vec::new();
        File::open(&self.path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
        let servers = resolv_conf::name_servers(&String::from_utf8_lossy(&bytes));
        let servers: Vec<_> = servers.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect();
        (!servers.is_empty()).then_some(servers)
    }
}

/// Whether the system's resolv.conf names a name server.
pub(in crate::sender) fn system_names_one() -> bool {
    ResolvConf::of_system().read().is_some()
}

impl Client {
    fn new(servers: &[SocketAddr], settings: ResolverSettings) -> Result<Self, ResolverSetupError> {
        let mut once = ResolverOpts::default();
        once.timeout = settings.try_timeout();
        once.attempts = 0;
        once.num_concurrent_reqs = servers.len();
        once.cache_size = 0;
        once.positive_max_ttl = Some(Duration::ZERO);
        once.negative_max_ttl = Some(Duration::ZERO);
        let root = resolver(servers, once)?;
        let dns = resolver(servers, super::bounded(ResolverOpts::default(), settings))?;
        Ok(Self { dns, root, probe: Probe::default(), patience: settings.try_timeout() })
    }

    /// Whether these servers answer at all, asked after `since`. They are asked for the root, which every name server knows: no
    /// customer's zone has a part in the answer. A server that answers SERVFAIL cannot reach other servers itself.
    pub(super) async fn answers(&self, since: Instant) -> bool {
        let ask = async {
            let answer = self.root.lookup(Name::root(), RecordType::NS).await;
            answer.err().is_none_or(|error| super::Blame::of(&error) == super::Blame::Zone)
        };
        self.probe.answers(since, self.patience, ask).await
    }

    /// Whether these servers left a query unanswered that was asked after `since`. A lookup that fails while they recover is
    /// not the zone's fault.
    pub(super) fn were_silent_since(&self, since: Instant) -> bool {
        self.probe.had_no_answer_since(since)
    }
}

/// Whether the server answered SERVFAIL.
pub(super) fn is_server_failure(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => *code == ResponseCode::ServFail,
        _ => false,
    }
}

fn resolver(servers: &[SocketAddr], options: ResolverOpts) -> Result<TokioResolver, ResolverSetupError> {
    let servers = servers.iter().copied().map(name_server).collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(ResolverSetupError)
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

//! Finds a node that serves us among the addresses of `AMQP_URL`, within a time that all of them share.
//!
//! A node that is down is normal: others are there for that, and nobody is told. One that is there and does not let us in
//! is a mistake that somebody has to mend: the log says so, also if another node serves.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{AsyncRead, AsyncWrite};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::{Error, ErrorKind};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout, timeout_at};

use super::address::{Address, Node};
use super::link::{Link, Purpose};
use super::words;
use crate::config::Amqp;
use crate::scrub::scrub;
use crate::tls::{self, ServerNames, Trust};

/// Names a file of authorities.
const AUTHORITIES: &str = "amqp.ca_file";

/// A node that did not answer, or lost a connection, is tried after the others for so long: each try may cost its share of
/// the time.
const LAST_FOR: Duration = Duration::from_secs(30);

/// After so many nodes have refused a login it is not tried at any other: they share their users, and whoever checks
/// logins for them may lock a user out. One refusal alone may be that of a node that does not belong to the cluster.
const REFUSALS: usize = 2;

/// One of a node's IP addresses, and how to speak to it.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) node: Node,
    pub(super) ip: SocketAddr,
    tls: Option<RustlsConnector>,
}

impl Peer {
    pub(super) fn try_last(&self) {
        try_last(self.name());
    }

    fn name(&self) -> String {
        shown(&self.node, Some(self.ip.ip()))
    }

    /// With TLS if the node's URL asks for it.
    pub(super) async fn secured<S>(&self, stream: AsyncTcpStream<S>) -> io::Result<AsyncTcpStream<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match &self.tls {
            None => Ok(stream),
            Some(connector) => stream.into_rustls(connector, self.node.host()).await,
        }
    }
}

/// What encrypts connections to the nodes whose URLs ask for it. Reads files.
pub(super) fn encryption(address: &Address, ca_file: &str) -> anyhow::Result<Option<RustlsConnector>> {
    match (address.is_encrypted(), ca_file) {
        (true, _) => Ok(Some(tls::client(&trust(ca_file))?.into())),
        (false, "") => Ok(None),
        (false, _) => anyhow::bail!("{AUTHORITIES} is set, but no address begins with amqps://"),
    }
}

/// Whose certificates the broker's nodes may have, and its management plugin.
pub(super) fn trust(ca_file: &str) -> Trust<'_> {
    match ca_file {
        "" => Trust::System,
        file => Trust::File { setting: AUTHORITIES, file, name: ServerNames::Checked },
    }
}

/// Whoever looks for a connection.
pub(super) struct Search<'a> {
    pub(super) settings: &'a Amqp,
    pub(super) tls: Option<RustlsConnector>,
    pub(super) purpose: Purpose,
    pub(super) deadline: Instant,
}

impl Search<'_> {
    /// Every node, and every IP address of its name, gets an equal share of what is left of the time. Names are looked up
    /// each time, since what they stand for may change.
    pub(super) async fn among(&self, nodes: &[Node]) -> Result<Link, Unserved> {
        let mut failure = Unserved::default();
        let turn = in_turn(nodes);
        for (tried, at) in turn.iter().copied().enumerate() {
            let deadline = Instant::now() + share(self.deadline, turn.len() - tried);
            let node = &nodes[at];
            let ips = match look_up(node, deadline).await {
                Ok(ips) => ips,
                Err(reason) => {
                    try_last(node.to_string());
                    failure.note(at, node, None, Refusal { reason, fault: Fault::Away });
                    continue;
                }
            };
            if let Some(link) = self.among_ips((at, node), &ips, deadline, &mut failure).await {
                failure.tell_of_others(&link.peer);
                return Ok(link);
            }
        }
        Err(failure)
    }

    /// `at` is the node's number.
    async fn among_ips(
        &self,
        (at, node): (usize, &Node),
        ips: &[SocketAddr],
        deadline: Instant,
        failure: &mut Unserved,
    ) -> Option<Link> {
        for (tried, ip) in ips.iter().copied().enumerate() {
            if failure.is_refused(node) {
                break;
            }
            let tls = self.tls.clone().filter(|_| node.is_encrypted());
            let peer = Peer { node: node.clone(), ip, tls };
            match self.log_in(peer, share(deadline, ips.len() - tried)).await {
                Ok(link) => return Some(link),
                Err(refusal) => failure.note(at, node, Some(ip.ip()), refusal),
            }
        }
        None
    }

    async fn log_in(&self, peer: Peer, patience: Duration) -> Result<Link, Refusal> {
        let refusal = match timeout(patience, Link::log_in(peer.clone(), self.settings, self.purpose)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => refusal(&error),
            Err(_) => Refusal { reason: "no answer".to_owned(), fault: Fault::Away },
        };
        // Its host may be down, which the network tells only after seconds.
        if refusal.fault == Fault::Away {
            peer.try_last();
        }
        Err(refusal)
    }
}

fn share(deadline: Instant, among: usize) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left / u32::try_from(among.max(1)).unwrap_or(u32::MAX)
}

async fn look_up(node: &Node, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
    let found = match timeout_at(deadline, lookup_host((node.host(), node.port()))).await {
        Err(_) => return Err("no answer when its name was looked up".to_owned()),
        Ok(Err(error)) => return Err(io_words(&error)),
        Ok(Ok(found)) => found,
    };
    let mut ips: Vec<SocketAddr> = Vec::new();
    for ip in found {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    if ips.is_empty() {
        return Err("its name has no address".to_owned());
    }
    let start = start(ips.len());
    ips.rotate_left(start);
    let known = known();
    ips.sort_by_cached_key(|ip| known.failed_lately(&shown(node, Some(ip.ip()))));
    Ok(ips)
}

/// The order in which nodes are tried, by their numbers.
fn in_turn(nodes: &[Node]) -> Vec<usize> {
    let mut turn: Vec<usize> = (0..nodes.len()).collect();
    turn.rotate_left(start(nodes.len()));
    let known = known();
    turn.sort_by_cached_key(|at| known.node_failed_lately(&nodes[*at]));
    turn
}

/// Where this process begins, which stays the same: processes spread over the nodes.
fn start(count: usize) -> usize {
    static START: LazyLock<usize> = LazyLock::new(|| usize::from(rand::random::<u16>()));
    *START % count.max(1)
}

/// `host:port`, with the IP address behind a name.
fn shown(node: &Node, ip: Option<IpAddr>) -> String {
    match ip {
        Some(ip) if node.host().parse() != Ok(ip) => format!("{node} ({ip})"),
        _ => node.to_string(),
    }
}

/// What this process knows of the nodes.
static KNOWN: Mutex<Known> = Mutex::new(Known { failed: BTreeMap::new(), told: BTreeMap::new() });

struct Known {
    /// When an address failed last.
    failed: BTreeMap<String, Instant>,
    /// What the log has on an address that is there and does not serve us.
    told: BTreeMap<String, String>,
}

fn try_last(name: String) {
    let mut known = known();
    known.failed.retain(|_, when| when.elapsed() < LAST_FOR);
    known.failed.insert(name, Instant::now());
}

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// When, if it is not too long ago. `None` comes first in order, and then who has rested longest.
    fn failed_lately(&self, name: &str) -> Option<Instant> {
        self.failed.get(name).copied().filter(|when| when.elapsed() < LAST_FOR)
    }

    /// By whichever of its IP addresses.
    fn node_failed_lately(&self, node: &Node) -> Option<Instant> {
        let (name, with_ip) = (node.to_string(), format!("{node} ("));
        let of_node = self.failed.keys().filter(|key| **key == name || key.starts_with(&with_ip));
        of_node.filter_map(|key| self.failed_lately(key)).max()
    }
}

/// Why one address has not served.
#[derive(Debug)]
struct Refusal {
    reason: String,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The node is down, or the way to it.
    Away,
    /// Its user or password.
    Login,
    /// Its certificate, virtual host, port, or whatever else is there and should be mended.
    Other,
}

pub(super) fn is_away(error: &Error) -> bool {
    refusal(error).fault == Fault::Away
}

fn refusal(error: &Error) -> Refusal {
    use AMQPHardError::CONNECTIONFORCED;
    let reason = || words(error);
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => {
            let fault = match amqp.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Fault::Login,
                // As it shuts down.
                AMQPErrorKind::Hard(CONNECTIONFORCED) => Fault::Away,
                _ => Fault::Other,
            };
            Refusal { reason: reason(), fault }
        }
        ErrorKind::IOError(error) => {
            let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
            match (tls::refused_certificate(&**error, AUTHORITIES), of_tls) {
                (Some(why), _) => Refusal { reason: format!("its certificate is refused: {why}"), fault: Fault::Other },
                (None, Some(rustls::Error::InvalidMessage(_))) => {
                    Refusal { reason: "it does not speak TLS: is its port right?".to_owned(), fault: Fault::Other }
                }
                (None, Some(_)) => Refusal { reason: reason(), fault: Fault::Other },
                (None, None) => Refusal { reason: reason(), fault: Fault::Away },
            }
        }
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::ParsingError(_) => {
            Refusal { reason: reason(), fault: Fault::Other }
        }
        _ => Refusal { reason: reason(), fault: Fault::Away },
    }
}

/// Without the system's number for it.
pub(super) fn io_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(text).to_owned()
}

/// Why no node has served: each that was tried, with its reason.
#[derive(Debug, Default, thiserror::Error)]
pub(super) struct Unserved {
    tried: Vec<Tried>,
}

#[derive(Debug)]
struct Tried {
    /// The node's number.
    at: usize,
    node: Node,
    ip: Option<IpAddr>,
    refusal: Refusal,
}

impl Unserved {
    /// Every node is down, or the way to it.
    pub(super) fn is_away(&self) -> bool {
        self.tried.iter().all(|tried| tried.refusal.fault == Fault::Away)
    }

    pub(super) fn is_of_login(&self) -> bool {
        self.tried.iter().any(|tried| tried.refusal.fault == Fault::Login)
    }

    /// Whether a node's login needs not be tried.
    fn is_refused(&self, node: &Node) -> bool {
        let login = &node.uri.authority.userinfo;
        let same = |tried: &&Tried| tried.refusal.fault == Fault::Login && tried.node.uri.authority.userinfo == *login;
        self.tried.iter().filter(same).count() >= REFUSALS
    }

    /// In the order in which they were written, so that the same outage has the same text.
    fn note(&mut self, at: usize, node: &Node, ip: Option<IpAddr>, refusal: Refusal) {
        let before = self.tried.partition_point(|tried| (tried.at, tried.ip) <= (at, ip));
        self.tried.insert(before, Tried { at, node: node.clone(), ip, refusal });
    }

    /// Another address serves.
    fn tell_of_others(&self, serves: &Peer) {
        known().told.remove(&serves.name());
        for Tried { node, ip, refusal: Refusal { reason, fault }, .. } in &self.tried {
            let address = shown(node, *ip);
            let is_news = *fault != Fault::Away
                && known().told.insert(address.clone(), reason.clone()).is_none_or(|before| before != *reason);
            let reason = scrub(reason);
            const OTHERS: &str = "an address of AMQP_URL does not serve, another one does";
            match is_news {
                true => tracing::warn!(address, %reason, "{OTHERS}"),
                false => tracing::debug!(address, %reason, "{OTHERS}"),
            }
        }
    }
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, of_node) in self.tried.chunk_by(|one, next| one.at == next.at).enumerate() {
            let begin = if number == 0 { "" } else { "; " };
            match of_node {
                [first, others @ ..]
                    if !others.is_empty() && others.iter().all(|next| next.refusal.reason == first.refusal.reason) =>
                {
                    write!(f, "{begin}{}: {}", first.node, first.refusal.reason)?;
                }
                all => {
                    for (at, Tried { node, ip, refusal, .. }) in all.iter().enumerate() {
                        let begin = if at == 0 { begin } else { "; " };
                        write!(f, "{begin}{}: {}", shown(node, *ip), refusal.reason)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

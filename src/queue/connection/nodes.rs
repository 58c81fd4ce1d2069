//! The order in which the broker's nodes and their IP addresses are tried. Each process begins with a node chosen at random,
//! and keeps that order for its life, so that many processes spread over all nodes. An address that failed within the last
//! 30 seconds comes last.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{AsyncRead, AsyncWrite};
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};

use super::address::Node;
use super::refusal::io_error_text;

/// How long an address that failed is tried after the others: each try may cost its whole share of the time.
const TRIED_LAST_FOR: Duration = Duration::from_secs(30);

/// One IP address of a node, and how to encrypt a connection to it.
#[derive(Clone)]
pub(in crate::queue) struct Peer {
    pub(in crate::queue) node: Node,
    pub(super) ip: SocketAddr,
    /// `None` for `amqp://`.
    pub(super) tls: Option<RustlsConnector>,
}

impl Peer {
    /// For the next 30 seconds other addresses are tried first.
    pub(in crate::queue) fn try_last(&self) {
        try_last(self.label());
    }

    pub(super) fn label(&self) -> String {
        self.node.label(Some(self.ip.ip()))
    }

    /// The stream, with TLS if the node's URL begins with `amqps://`.
    pub(super) async fn encrypted<S>(&self, stream: AsyncTcpStream<S>) -> io::Result<AsyncTcpStream<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match &self.tls {
            None => Ok(stream),
            Some(connector) => stream.into_rustls(connector, self.node.host()).await,
        }
    }
}

/// The order in which to try the nodes, by their indexes.
pub(super) fn node_order(nodes: &[Node]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.rotate_left(first_index(nodes.len()));
    let failures = failures();
    order.sort_by_cached_key(|at| failures.node_failed_lately(&nodes[*at]));
    order
}

/// The IP addresses of a node's name, in the order in which to try them. Names are resolved for each connection, since DNS
/// may change.
///
/// # Errors
///
/// The reason, in words, why the name has no address now.
pub(super) async fn resolve(node: &Node, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
    let found = match timeout_at(deadline, lookup_host((node.host(), node.port()))).await {
        Err(_) => return Err("no answer when its name was looked up".to_owned()),
        Ok(Err(error)) => return Err(io_error_text(&error)),
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
    let first = first_index(ips.len());
    ips.rotate_left(first);
    let failures = failures();
    ips.sort_by_cached_key(|ip| failures.failed_lately(&node.label(Some(ip.ip()))));
    Ok(ips)
}

/// The index of the address, of `count`, with which this process begins. Chosen at random once per process.
fn first_index(count: usize) -> usize {
    static CHOICE: LazyLock<usize> = LazyLock::new(|| usize::from(rand::random::<u16>()));
    *CHOICE % count.max(1)
}

/// When each address failed last, for all connections of this process. The key is a node's label: `host:port` with or
/// without the IP address.
struct NodeFailures(BTreeMap<String, Instant>);

static FAILURES: Mutex<NodeFailures> = Mutex::new(NodeFailures(BTreeMap::new()));

fn failures() -> MutexGuard<'static, NodeFailures> {
    FAILURES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn try_last(label: String) {
    let mut failures = failures();
    failures.0.retain(|_, when| when.elapsed() < TRIED_LAST_FOR);
    failures.0.insert(label, Instant::now());
}

impl NodeFailures {
    /// When it failed, unless that is too long ago. Sorting by it puts `None` first, then the oldest failure.
    fn failed_lately(&self, label: &str) -> Option<Instant> {
        self.0.get(label).copied().filter(|when| when.elapsed() < TRIED_LAST_FOR)
    }

    /// When any of the node's IP addresses failed last.
    fn node_failed_lately(&self, node: &Node) -> Option<Instant> {
        let (label, with_ip) = (node.to_string(), format!("{node} ("));
        let of_node = self.0.keys().filter(|key| **key == label || key.starts_with(&with_ip));
        of_node.filter_map(|key| self.failed_lately(key)).max()
    }
}

/// An equal share of the time until `deadline` for each of `among` tries.
pub(super) fn share(deadline: Instant, among: usize) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left / u32::try_from(among.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::queue::connection::address::Address;

    #[test]
    fn nodes_are_tried_in_turn_and_those_that_failed_last() {
        let nodes = Address::read("amqp://turn1,amqp://turn2:5673,amqp://turn3").unwrap().nodes().to_vec();
        let usual = node_order(&nodes);
        assert!([[0, 1, 2], [1, 2, 0], [2, 0, 1]].contains(&usual[..].try_into().unwrap()));
        assert_eq!(node_order(&nodes), usual, "the same every time");
        let first = nodes[usual[0]].label(Some(IpAddr::from([10, 0, 0, 1])));
        failures().0.insert(first.clone(), Instant::now());
        assert_eq!(node_order(&nodes), [usual[1], usual[2], usual[0]]);
        failures().0.insert(first, Instant::now() - TRIED_LAST_FOR);
        assert_eq!(node_order(&nodes), usual);
    }
}

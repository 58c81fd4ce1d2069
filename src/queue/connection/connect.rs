//! Opens a connection to whichever of the broker's nodes serves, within a time that all addresses share.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::tcp::RustlsConnector;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::address::{Address, Node};
use super::encryption::encryption;
use super::link::{Link, Purpose, bounded};
use super::nodes::{Peer, node_order, resolve, share, try_last};
use super::refusal::{Refusal, refusal};
use super::unserved::Unserved;
use crate::config::Amqp;
use crate::queue::error::QueueError;
use crate::rotation;
use crate::secret::SecretText;

/// The part of `amqp.connect_timeout` in which a node must be found. The rest is for reporting which nodes were tried,
/// rather than only that the time is over.
const SEARCH_SHARE: f64 = 0.95;

/// Opens a connection to the first node that serves. After a refused login the URL is read again from its file, if it has
/// one. All tries together take at most `amqp.connect_timeout`.
///
/// # Errors
///
/// [`QueueError::Address`] if `AMQP_URL` cannot be used, [`QueueError::Unavailable`] if no node serves.
pub(in crate::queue) async fn connect(settings: &Amqp, purpose: Purpose) -> Result<Link, QueueError> {
    let deadline = search_deadline(settings);
    bounded(settings.connect_timeout, "connecting", async {
        let used = settings.url_from.newest_or(&settings.url);
        let address = read_address(settings, &used)?;
        let search = Search::new(settings, &address, purpose, deadline).await?;
        let refused = match search.among(address.nodes()).await {
            Err(unserved) if unserved.is_login_refused() => unserved,
            opened_or_not => return opened_or_not.map_err(QueueError::from),
        };
        match rotation::read_again(&settings.url_from, &used, Address::read).await {
            Some((_, address)) => {
                let search = Search::new(settings, &address, purpose, deadline).await?;
                search.among(address.nodes()).await.map_err(QueueError::from)
            }
            None => Err(refused.into()),
        }
    })
    .await
}

/// Opens a connection to every node, for a caller that inspects all of them: each node with its connection, or with the
/// reason why it has none.
///
/// # Errors
///
/// [`QueueError::Address`] if `AMQP_URL` cannot be used, [`QueueError::Unavailable`] if TLS cannot be set up.
pub(in crate::queue) async fn connect_to_each(
    settings: &Amqp,
    purpose: Purpose,
) -> Result<Vec<Result<Link, Unserved>>, QueueError> {
    let deadline = search_deadline(settings);
    let address = read_address(settings, &settings.url_from.newest_or(&settings.url))?;
    let search = &Search::new(settings, &address, purpose, deadline).await?;
    let open = |node: &Node| {
        let node = node.clone();
        async move { search.among(std::slice::from_ref(&node)).await }
    };
    Ok(join_all(address.nodes().iter().map(open)).await)
}

/// Reads a URL that the settings or their file hold.
///
/// # Errors
///
/// [`QueueError::Address`], which names the variable and what is wrong with its text.
pub(in crate::queue) fn read_address(settings: &Amqp, url: &SecretText) -> Result<Address, QueueError> {
    Address::read(url.expose()).map_err(|cause| unusable_address(settings, cause))
}

pub(in crate::queue) fn unusable_address(settings: &Amqp, cause: anyhow::Error) -> QueueError {
    QueueError::Address(settings.url_from.name("AMQP_URL"), cause)
}

fn search_deadline(settings: &Amqp) -> Instant {
    Instant::now() + settings.connect_timeout.mul_f64(SEARCH_SHARE)
}

/// One search for a node that serves.
struct Search<'a> {
    settings: &'a Amqp,
    tls: Option<RustlsConnector>,
    purpose: Purpose,
    deadline: Instant,
}

impl<'a> Search<'a> {
    /// Sets up TLS anew for each search, since the file of authorities may have changed. The file is read on a thread of its
    /// own: a slow disk delays no other task.
    async fn new(
        settings: &'a Amqp,
        address: &Address,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Self, QueueError> {
        let (address, ca_file) = (address.clone(), settings.ca_file.clone());
        let tls = match address.is_encrypted() {
            true => spawn_blocking(move || encryption(&address, &ca_file)).await,
            false => Ok(Ok(None)),
        };
        let tls = tls.map_err(anyhow::Error::from).flatten().map_err(QueueError::Unavailable)?;
        Ok(Self { settings, tls, purpose, deadline })
    }

    /// Every node, and every IP address of its name, gets an equal share of the time that is left.
    async fn among(&self, nodes: &[Node]) -> Result<Link, Unserved> {
        let mut unserved = Unserved::default();
        let order = node_order(nodes);
        for (tried, at) in order.iter().copied().enumerate() {
            let deadline = Instant::now() + share(self.deadline, order.len() - tried);
            let node = &nodes[at];
            let ips = match resolve(node, deadline).await {
                Ok(ips) => ips,
                Err(reason) => {
                    try_last(node.to_string());
                    unserved.add(at, node, None, Refusal::away(reason));
                    continue;
                }
            };
            if let Some(link) = self.among_ips((at, node), &ips, deadline, &mut unserved).await {
                unserved.log_beside(&link.peer);
                return Ok(link);
            }
        }
        Err(unserved)
    }

    /// `at` is the node's index in `AMQP_URL`. What fails is added to `unserved`.
    async fn among_ips(
        &self,
        (at, node): (usize, &Node),
        ips: &[SocketAddr],
        deadline: Instant,
        unserved: &mut Unserved,
    ) -> Option<Link> {
        for (tried, ip) in ips.iter().copied().enumerate() {
            if unserved.is_login_given_up(node) {
                break;
            }
            let tls = self.tls.clone().filter(|_| node.is_encrypted());
            let peer = Peer { node: node.clone(), ip, tls };
            match self.log_in(&peer, share(deadline, ips.len() - tried)).await {
                Ok(link) => return Some(link),
                Err(refusal) => {
                    // A host that is down may be reported only after seconds, so the next search begins elsewhere.
                    if refusal.is_away() {
                        peer.try_last();
                    }
                    unserved.add(at, node, Some(ip.ip()), refusal);
                }
            }
        }
        None
    }

    async fn log_in(&self, peer: &Peer, limit: Duration) -> Result<Link, Refusal> {
        match timeout(limit, Link::log_in(peer.clone(), self.settings, self.purpose)).await {
            Ok(opened) => opened.map_err(|error| refusal(&error)),
            Err(_) => Err(Refusal::away("no answer")),
        }
    }
}

#[cfg(test)]
mod tests;

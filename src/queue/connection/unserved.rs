//! Why none of the broker's addresses served: every address that was tried, with its reason.
//!
//! A node that is down is normal in a cluster, and the log does not mention it while another one serves. A node that answers
//! and does not let us in is a mistake that somebody has to correct: the log warns once per reason.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::address::Node;
use super::nodes::Peer;
use super::refusal::{Fault, Refusal};
use crate::scrub::scrub;

/// How many addresses may refuse a login before it is given up and not tried at any other. Nodes of a cluster share their
/// users, and a server that checks logins for them may lock a user out after repeated refusals. One refusal alone may come
/// from a node that does not belong to the cluster.
const LOGIN_REFUSALS: usize = 2;

/// Every address that was tried, with its reason, in the order of `AMQP_URL`: the same outage always has the same text.
#[derive(Debug, Default, thiserror::Error)]
pub(in crate::queue) struct Unserved {
    tried: Vec<Tried>,
}

#[derive(Debug)]
struct Tried {
    /// The node's index in `AMQP_URL`.
    at: usize,
    node: Node,
    /// `None` if the node's name was not resolved.
    ip: Option<IpAddr>,
    refusal: Refusal,
}

impl Unserved {
    /// Whether every node, or the network to it, is down.
    pub(in crate::queue) fn is_away(&self) -> bool {
        self.tried.iter().all(|tried| tried.refusal.fault == Fault::Away)
    }

    pub(in crate::queue) fn is_login_refused(&self) -> bool {
        self.tried.iter().any(|tried| tried.refusal.fault == Fault::Login)
    }

    /// Whether the login of this node was refused so often that it must not be tried again.
    pub(super) fn is_login_given_up(&self, node: &Node) -> bool {
        let login = &node.uri.authority.userinfo;
        let same = |tried: &&Tried| tried.refusal.fault == Fault::Login && tried.node.uri.authority.userinfo == *login;
        self.tried.iter().filter(same).count() >= LOGIN_REFUSALS
    }

    pub(super) fn add(&mut self, at: usize, node: &Node, ip: Option<IpAddr>, refusal: Refusal) {
        let before = self.tried.partition_point(|tried| (tried.at, tried.ip) <= (at, ip));
        self.tried.insert(before, Tried { at, node: node.clone(), ip, refusal });
    }

    /// Logs the addresses that did not serve although `serving` does.
    pub(super) fn log_beside(&self, serving: &Peer) {
        // One that also serves under another virtual host or user is still reported.
        let serves = serving.label();
        if self.tried.iter().all(|tried| tried.node.label(tried.ip) != serves) {
            logged().remove(&serves);
        }
        for Tried { node, ip, refusal: Refusal { reason, fault }, .. } in &self.tried {
            let address = node.label(*ip);
            let is_news = *fault != Fault::Away
                && logged().insert(address.clone(), reason.clone()).is_none_or(|before| before != *reason);
            let reason = scrub(reason);
            const OTHERS: &str = "an address of AMQP_URL does not serve, another one does";
            match is_news {
                true => tracing::warn!(address, %reason, "{OTHERS}"),
                false => tracing::debug!(address, %reason, "{OTHERS}"),
            }
        }
    }
}

/// The reason last logged for each address that answers and does not serve. Kept for the life of the process.
fn logged() -> MutexGuard<'static, BTreeMap<String, String>> {
    static LOGGED: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, of_node) in self.tried.chunk_by(|one, next| one.at == next.at).enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            match of_node {
                // One reason for all its IP addresses: the node is named once.
                [first, others @ ..]
                    if !others.is_empty() && others.iter().all(|next| next.refusal.reason == first.refusal.reason) =>
                {
                    write!(f, "{separator}{}: {}", first.node, first.refusal.reason)?;
                }
                all => {
                    for (number, Tried { node, ip, refusal, .. }) in all.iter().enumerate() {
                        let separator = if number == 0 { separator } else { "; " };
                        write!(f, "{separator}{}: {}", node.label(*ip), refusal.reason)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::connection::address::Address;

    fn nodes(text: &str) -> Vec<Node> {
        Address::read(text).unwrap().nodes().to_vec()
    }

    fn away() -> Refusal {
        Refusal::away("Connection refused")
    }

    fn refused() -> Refusal {
        Refusal { reason: "ACCESS_REFUSED - Login was refused".to_owned(), fault: Fault::Login }
    }

    #[test]
    fn every_address_is_named_once_in_the_order_in_which_it_was_written() {
        let nodes = nodes("amqp://a,amqp://[::1]:5673,amqps://c");
        let ip = |last| Some(IpAddr::from([10, 0, 0, last]));
        let mut unserved = Unserved::default();
        unserved.add(2, &nodes[2], ip(2), away());
        unserved.add(2, &nodes[2], ip(1), refused());
        unserved.add(0, &nodes[0], ip(2), away());
        unserved.add(0, &nodes[0], ip(1), away());
        unserved.add(1, &nodes[1], Some("::1".parse().unwrap()), away());
        assert_eq!(
            unserved.to_string(),
            "a:5672: Connection refused; [::1]:5673: Connection refused; \
             c:5671 (10.0.0.1): ACCESS_REFUSED - Login was refused; c:5671 (10.0.0.2): Connection refused"
        );
        assert!(unserved.is_login_refused());
    }

    #[test]
    fn a_login_that_two_nodes_refuse_is_tried_at_no_other() {
        let nodes = nodes("amqp://u:p@a,amqp://u:p@b,amqp://u:p@c,amqp://u:q@d");
        let mut unserved = Unserved::default();
        unserved.add(0, &nodes[0], None, refused());
        unserved.add(1, &nodes[1], None, away());
        assert!(!unserved.is_login_given_up(&nodes[2]));
        unserved.add(1, &nodes[1], None, refused());
        assert!(unserved.is_login_given_up(&nodes[2]) && !unserved.is_login_given_up(&nodes[3]));
    }
}

//! Decides who caused an attempt without an answer: the receiver, this service or the proxy.

use std::error::Error;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::connect::{HttpConnector, proxy::Tunnel};

use super::cause::{self, causes};
use super::resolver::{ResolveError, is_within_reach};
use crate::delivery::{AttemptError, ErrorDetail};

/// The error of the HTTP client when a proxy opens no tunnel.
type TunnelError = <Tunnel<HttpConnector> as tower::Service<hyper::Uri>>::Error;

/// Who caused an attempt without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The receiver.
    Theirs(AttemptError),
    /// This service or its surroundings. The delivery keeps its attempt.
    Ours(Lack),
    /// The proxy ended the connection instead of opening a tunnel: either it has a problem, or this is its way to refuse the
    /// receiver.
    TunnelCut,
}

/// What this machine or the operator's network lacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error("no file descriptor or no memory is left (`doctor` says how many files a busy worker needs)")]
    Files,
    #[error("no local port is left for another connection to a receiver's address (net.ipv4.ip_local_port_range)")]
    Ports,
    #[error(
        "no name server answers or can be asked: see /etc/resolv.conf, sender.dns_servers and the limit of open files"
    )]
    NameServer,
    #[error("more names wait to be looked up than sender.max_dns_lookups allows")]
    Lookups,
    #[error("sender.proxy does not answer")]
    Proxy,
    #[error("sender.proxy refuses us (407): correct sender.proxy_credentials")]
    ProxyCredentials,
}

/// The way of a request to its receiver: the same error means different things on different ways.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// The receiver's address, if its URL has an address instead of a name.
    pub(super) literal: Option<IpAddr>,
    pub(super) hop: Hop,
}

/// The peer of the connection that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// The receiver itself.
    Receiver,
    /// A proxy that was asked for a tunnel to the receiver.
    Tunnel,
    /// A proxy that makes the request to the receiver itself.
    Proxy,
}

impl Failure {
    /// Decides by the types in the error's chain, never by their texts: those may contain what the receiver sent.
    pub(super) fn of(error: &reqwest::Error, way: Way) -> Self {
        if let Some(failure) = causes(error).find_map(|cause| by_shortage(cause, way)) {
            return failure;
        }
        if way.hop != Hop::Receiver
            && let Some(failure) = causes(error).find_map(by_tunnel)
        {
            return failure;
        }
        if let Some(resolving) = ResolveError::within(error) {
            return resolving.into();
        }
        if way.hop == Hop::Proxy && error.is_connect() {
            return Self::Ours(Lack::Proxy);
        }
        Self::Theirs(cause::of(error))
    }

    /// An attempt whose time is over, while it was connecting or while it waited for the answer.
    pub(super) fn of_timeout(is_connecting: bool, hop: Hop) -> Self {
        match (is_connecting, hop) {
            (true, Hop::Proxy) => Self::Ours(Lack::Proxy),
            (true, _) => Self::Theirs(ErrorDetail::ConnectTimeout.into()),
            (false, _) => Self::Theirs(ErrorDetail::ResponseTimeout.into()),
        }
    }

    /// The error that is recorded. A failure of our own is logged as well, once a minute: the operator has to mend it.
    pub(super) fn into_error(self) -> AttemptError {
        match self {
            Self::Theirs(error) => error,
            Self::TunnelCut => AttemptError::Connect,
            Self::Ours(lack) => {
                if is_news(lack) {
                    tracing::warn!(%lack, "an attempt failed by our own fault, and counts for nothing");
                }
                match lack {
                    Lack::NameServer | Lack::Proxy => AttemptError::CutOff,
                    Lack::Files | Lack::Ports | Lack::Lookups | Lack::ProxyCredentials => AttemptError::Internal,
                }
            }
        }
    }
}

impl From<&ResolveError> for Failure {
    fn from(error: &ResolveError) -> Self {
        match error {
            ResolveError::Blocked => Self::Theirs(AttemptError::BlockedAddress),
            ResolveError::Failed(_) | ResolveError::Timeout | ResolveError::Unreachable => {
                Self::Theirs(cause::of_resolving(error).into())
            }
            ResolveError::NoNameServer => Self::Ours(Lack::NameServer),
            ResolveError::NoTurn => Self::Ours(Lack::Lookups),
        }
    }
}

fn by_shortage(cause: &(dyn Error + 'static), way: Way) -> Option<Failure> {
    /// ENOMEM, ENFILE, EMFILE, ENOBUFS.
    const FILES: [i32; 4] = [12, 23, 24, 105];
    const EADDRNOTAVAIL: i32 = 99;
    let code = cause.downcast_ref::<std::io::Error>()?.raw_os_error()?;
    if FILES.contains(&code) {
        return Some(Failure::Ours(Lack::Files));
    }
    // A machine without any address of a family, such as IPv6, gets the same error for every address of that family. The
    // resolver has left out such addresses of names; an address in a URL is checked here.
    let has_address = way.hop != Hop::Receiver || way.literal.is_none_or(is_within_reach);
    (code == EADDRNOTAVAIL && has_address).then_some(Failure::Ours(Lack::Ports))
}

/// What it means that the proxy opened no tunnel. A proxy that cannot or must not connect to the receiver answers so; every
/// other error lies between this machine and the proxy.
fn by_tunnel(cause: &(dyn Error + 'static)) -> Option<Failure> {
    Some(match cause.downcast_ref::<TunnelError>()? {
        TunnelError::TunnelUnsuccessful => Failure::Theirs(AttemptError::Connect),
        TunnelError::ProxyAuthRequired => Failure::Ours(Lack::ProxyCredentials),
        TunnelError::Io(_) | TunnelError::TunnelUnexpectedEof => Failure::TunnelCut,
        _ => Failure::Ours(Lack::Proxy),
    })
}

/// Whether this lack was not logged within the last minute.
fn is_news(lack: Lack) -> bool {
    const EVERY: Duration = Duration::from_secs(60);
    static LOGGED: Mutex<Vec<(Lack, Instant)>> = Mutex::new(Vec::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    logged.retain(|(_, at)| at.elapsed() < EVERY);
    let news = logged.iter().all(|(other, _)| *other != lack);
    if news {
        logged.push((lack, Instant::now()));
    }
    news
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const DIRECT: Way = Way { literal: Some(LOOPBACK), hop: Hop::Receiver };

    /// The error of a connection from an address that this machine does not have.
    async fn unavailable() -> reqwest::Error {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // RFC 5737: nobody's.
        let from: IpAddr = [192, 0, 2, 1].into();
        let client = reqwest::Client::builder().no_proxy().local_address(from).build().unwrap();
        client.post("http://127.0.0.1:9/").send().await.unwrap_err()
    }

    #[tokio::test]
    async fn a_lack_of_local_ports_is_ours_where_the_machine_has_an_address() {
        let error = unavailable().await;
        assert_eq!(Failure::of(&error, DIRECT), Failure::Ours(Lack::Ports));
        assert_eq!(Failure::of(&error, Way { literal: None, ..DIRECT }), Failure::Ours(Lack::Ports));
    }

    #[tokio::test]
    async fn an_address_that_this_machine_cannot_reach_at_all_is_the_receivers() {
        // A link-local address without its interface, for a machine without IPv6.
        let way = Way { literal: Some("fe80::1".parse().unwrap()), ..DIRECT };
        assert!(matches!(Failure::of(&unavailable().await, way), Failure::Theirs(AttemptError::Connect)));
    }

    #[test]
    fn a_time_out_names_what_was_missing() {
        let timeout = |is_connecting, hop| Failure::of_timeout(is_connecting, hop).into_error();
        for hop in [Hop::Receiver, Hop::Tunnel] {
            assert_eq!(timeout(true, hop), ErrorDetail::ConnectTimeout.into());
            assert_eq!(timeout(false, hop), ErrorDetail::ResponseTimeout.into());
        }
        // The receiver's connection is the proxy's business; ours to the proxy is what was missing.
        assert_eq!(timeout(true, Hop::Proxy), AttemptError::CutOff);
        assert_eq!(timeout(false, Hop::Proxy), ErrorDetail::ResponseTimeout.into());
    }

    #[test]
    fn what_reached_nobody_is_told_from_what_was_not_tried() {
        for (lack, error) in [
            (Lack::NameServer, AttemptError::CutOff),
            (Lack::Proxy, AttemptError::CutOff),
            (Lack::Files, AttemptError::Internal),
        ] {
            assert_eq!(Failure::Ours(lack).into_error(), error);
            assert_eq!(error.as_str(), "internal");
        }
    }
}

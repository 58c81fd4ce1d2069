//! Requests go out through the operator's forward proxy, where `sender.proxy` names one: a tunnel to an https receiver, the
//! whole request for an http one. Proxies that the environment names are not used.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::client::legacy::connect::{HttpConnector, proxy::Tunnel};
use reqwest::dns::{Addrs, Resolve, Resolving};
use reqwest::header::HeaderValue;
use reqwest::{ClientBuilder, Proxy};
use tokio::net::{TcpStream, lookup_host};
use url::{Host, Url};

use super::failure::{Failure, Hop, Lack};
use super::probe::Probe;
use super::resolver::{ResolveError, Resolver};
use crate::config::{self, EgressProxy};
use crate::delivery::AttemptError;

/// Why the proxy gave no tunnel, which the HTTP client keeps in its error.
type TunnelError = <Tunnel<HttpConnector> as tower::Service<hyper::Uri>>::Error;

/// The part of an attempt's time within which a proxy takes a connection, if it can.
const PATIENCE_SHARE: u32 = 5;

/// It needs so much, also where no body is ever waited for.
const MIN_PATIENCE: Duration = Duration::from_millis(100);

/// The way out, with what is needed to judge failures on it.
#[derive(Debug, Clone)]
pub(super) struct Route {
    resolver: Resolver,
    proxy: Option<Arc<Reach>>,
}

/// Whether the proxy can be reached.
#[derive(Debug)]
struct Reach {
    host: String,
    port: u16,
    patience: Duration,
    probe: Probe,
    credentials: Probe,
}

impl Route {
    pub(super) fn new(settings: &config::Sender, resolver: Resolver) -> Self {
        // An attempt without an answer does not use `sender.body_timeout`: the proxy is asked within that time.
        let patience = settings.body_timeout.max(MIN_PATIENCE).min(settings.timeout / PATIENCE_SHARE);
        let proxy = settings.proxy.as_ref().map(|proxy| Reach::new(proxy, patience).into());
        Self { resolver, proxy }
    }

    /// Where the connection for a request to `url` ends.
    pub(super) fn hop(&self, url: &Url) -> Hop {
        match &self.proxy {
            None => Hop::Receiver,
            Some(_) if url.scheme() == "https" => Hop::Tunnel,
            Some(_) => Hop::Proxy,
        }
    }

    /// Vets the addresses of a name that the proxy is going to look up. What needs no proxy is vetted by the HTTP client's
    /// resolver, and an address in a URL with that URL.
    pub(super) async fn vet(&self, url: &Url) -> Result<(), ResolveError> {
        match (&self.proxy, url.host()) {
            (Some(_), Some(Host::Domain(name))) => self.resolver.addresses(name).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Whether a 407 is the proxy's own: a receiver that is asked through it may answer so, too. `ask` has the proxy open a
    /// tunnel to nobody's host, and says whether it wants other credentials for that.
    pub(super) async fn refuses_us(&self, began: Instant, ask: impl Future<Output = bool>) -> bool {
        match &self.proxy {
            Some(reach) => reach.credentials.answers(began, reach.patience, ask).await,
            None => false,
        }
    }

    /// Whose fault an attempt's error is that may come from either side of the proxy: the receiver's, if the proxy takes
    /// connections.
    pub(super) async fn blame(&self, error: AttemptError, began: Instant) -> Failure {
        match &self.proxy {
            Some(reach) if !reach.is_there(began).await => Failure::Ours(Lack::Proxy),
            _ => Failure::Theirs(error),
        }
    }
}

impl Reach {
    fn new(proxy: &EgressProxy, patience: Duration) -> Self {
        let host = proxy.url.host_str().unwrap_or_default();
        Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: proxy.url.port_or_known_default().unwrap_or_default(),
            patience,
            probe: Probe::default(),
            credentials: Probe::default(),
        }
    }

    async fn is_there(&self, since: Instant) -> bool {
        let ask = async { TcpStream::connect((self.host.as_str(), self.port)).await.is_ok() };
        self.probe.answers(since, self.patience, ask).await
    }
}

/// Has the client use the proxy of the settings, or none.
pub(super) fn with_proxy(
    builder: ClientBuilder,
    settings: &config::Sender,
    resolver: Resolver,
) -> reqwest::Result<ClientBuilder> {
    let builder = builder.no_proxy();
    let Some(EgressProxy { url, credentials }) = &settings.proxy else {
        return Ok(builder.dns_resolver(resolver));
    };
    let mut proxy = Proxy::all(url.clone())?;
    if let Some(credentials) = credentials {
        let basic = format!("Basic {}", STANDARD.encode(credentials.expose()));
        let mut header = HeaderValue::from_str(&basic).expect("base64 is printable ASCII");
        header.set_sensitive(true);
        proxy = proxy.custom_http_auth(header);
    }
    let name = url.host_str().unwrap_or_default().to_owned();
    Ok(builder.dns_resolver(ProxyName(name.into())).proxy(proxy))
}

/// Resolves the proxy's name as the system does, with its hosts file and search domains, and no other name: a request that
/// passed the proxy by would find no address.
#[derive(Debug)]
struct ProxyName(Arc<str>);

impl Resolve for ProxyName {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let proxy = self.0.clone();
        Box::pin(async move {
            if name.as_str() != &*proxy {
                return Err(ResolveError::Blocked.into());
            }
            let addresses: Vec<SocketAddr> = lookup_host((&*proxy, 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A proxy that could not connect to the receiver, or must not, says so; everything else that keeps a tunnel from opening
/// lies between us and the proxy.
pub(super) fn by_tunnel(cause: &(dyn Error + 'static)) -> Option<Failure> {
    Some(match cause.downcast_ref::<TunnelError>()? {
        TunnelError::TunnelUnsuccessful => Failure::Theirs(AttemptError::Connect),
        TunnelError::ProxyAuthRequired => Failure::Ours(Lack::ProxyCredentials),
        TunnelError::Io(_) | TunnelError::TunnelUnexpectedEof => Failure::TunnelCut,
        _ => Failure::Ours(Lack::Proxy),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::sender::resolver::ResolverSettings;
    use crate::webhook::UrlPolicy;

    #[tokio::test]
    async fn an_attempt_that_takes_too_long_is_our_failure_only_if_the_proxy_takes_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let resolver = Resolver::with_name_servers(&[address], ResolverSettings::default(), UrlPolicy::default());
        let url = format!("http://{address}").parse().unwrap();
        let reach = Reach::new(&EgressProxy { url, credentials: None }, Duration::from_secs(5));
        let route = Route { resolver: resolver.unwrap(), proxy: Some(reach.into()) };
        assert_eq!(route.blame(AttemptError::Timeout, Instant::now()).await, Failure::Theirs(AttemptError::Timeout));
        drop(listener);
        assert_eq!(route.blame(AttemptError::Timeout, Instant::now()).await, Failure::Ours(Lack::Proxy));
        let direct = Route { proxy: None, ..route };
        assert_eq!(direct.blame(AttemptError::Timeout, Instant::now()).await, Failure::Theirs(AttemptError::Timeout));
    }
}

//! Sends requests through the operator's forward proxy, if `sender.proxy` names one: it opens a tunnel to an https receiver, and
//! gets the whole request for an http receiver. Proxies that the environment names are not used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

/// A proxy must accept a connection within this part of an attempt's time: a fifth.
const PATIENCE_SHARE: u32 = 5;

/// The shortest time for that, even if `sender.body_timeout` is shorter.
const MIN_PATIENCE: Duration = Duration::from_millis(100);

/// The way of requests to receivers: direct, or through the proxy.
#[derive(Debug, Clone)]
pub(super) struct Route {
    resolver: Resolver,
    proxy: Option<Arc<Reach>>,
}

/// How to find out whether the proxy accepts connections and our credentials.
#[derive(Debug)]
struct Reach {
    host: String,
    port: u16,
    patience: Duration,
    connects: Probe,
    refuses_credentials: Probe,
}

impl Route {
    pub(super) fn new(settings: &config::Sender, resolver: Resolver) -> Self {
        // An attempt without an answer has no body to read: the time for the body is used to ask the proxy.
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

    /// Checks the addresses of a name that the proxy is going to look up. Without a proxy the HTTP client's resolver checks
    /// them; an address in a URL was checked with the URL.
    ///
    /// # Errors
    ///
    /// The name has no address, or one that must not be called.
    pub(super) async fn vet(&self, url: &Url) -> Result<(), ResolveError> {
        match (&self.proxy, url.host()) {
            (Some(_), Some(Host::Domain(name))) => self.resolver.addresses(name).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Whether a 407 (Proxy Authentication Required) is the proxy's own answer: a receiver may answer 407, too. `ask` has the
    /// proxy open a tunnel to a host that does not exist, and returns whether the proxy wants other credentials.
    pub(super) async fn refuses_us(&self, began: Instant, ask: impl Future<Output = bool>) -> bool {
        match &self.proxy {
            Some(reach) => reach.refuses_credentials.answers(began, reach.patience, ask).await,
            None => false,
        }
    }

    /// Who caused an error that can come from either side of the proxy: the receiver, if the proxy accepts connections.
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
            connects: Probe::default(),
            refuses_credentials: Probe::default(),
        }
    }

    async fn is_there(&self, since: Instant) -> bool {
        let ask = async { TcpStream::connect((self.host.as_str(), self.port)).await.is_ok() };
        self.connects.answers(since, self.patience, ask).await
    }
}

/// Makes the client use the proxy of the settings, or none.
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

/// Resolves the proxy's name as the system does, with its hosts file and search domains. Every other name is refused, so that
/// no request can bypass the proxy.
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::delivery::ErrorDetail;
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
        let timeout = AttemptError::from(ErrorDetail::ResponseTimeout);
        assert_eq!(route.blame(timeout, Instant::now()).await, Failure::Theirs(timeout));
        drop(listener);
        assert_eq!(route.blame(timeout, Instant::now()).await, Failure::Ours(Lack::Proxy));
        let direct = Route { proxy: None, ..route };
        assert_eq!(direct.blame(timeout, Instant::now()).await, Failure::Theirs(timeout));
    }
}

//! Makes one attempt: a signed POST whose answer is data. No other module calls receivers.
//!
//! The URL that a lookup found is checked before its first attempt, the addresses of its host at each one. The clients follow no
//! redirect, use no proxy but that of the settings, and keep no cookies. A request whose kept connection ended is made once more
//! within the attempt, unless the webhook has a pace.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Method, Request, Response, StatusCode};
use url::Host;
use uuid::Uuid;

use crate::config;
use crate::delivery::{Answer, Attempt, AttemptError, Delivery, ErrorDetail, Outcome};
use crate::event::Event;
use crate::signature;
use crate::snapshot::{Secrets, SnapshotState};
use crate::trace_context::{SpanId, TraceContext};
use crate::webhook::{UrlPolicy, UrlRefusal};

mod answer;
mod cause;
mod clients;
mod failure;
mod hidden;
mod kept_headers;
mod opening;
mod probe;
mod proxy;
mod reservation_guard;
mod reservations;
mod resolver;
mod sent;

use clients::{Chosen, Clients};
use failure::{Failure, Hop, Lack, Way};
use hidden::Hidden;
use proxy::Route;
use resolver::{ResolveError, Resolver, ResolverSettings};

pub use clients::max_idle_connections;
pub(crate) use sent::PastRequest;
pub use sent::SentRequest;

const OUR_NAME: &str = concat!("penr-webhooks/", env!("CARGO_PKG_VERSION"));
const SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
const EVENT: HeaderName = HeaderName::from_static("x-webhook-event");
const ATTEMPT: HeaderName = HeaderName::from_static("x-webhook-attempt");
const STANDARD_ID: HeaderName = HeaderName::from_static("webhook-id");
const STANDARD_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const STANDARD_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Why a process cannot send at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No authority is trusted, so no receiver's certificate can be checked.
    #[error("there are no CA certificates: install them (ca-certificates), or have SSL_CERT_FILE name a file of them")]
    Certificates(#[source] rustls::Error),
    /// The HTTP or DNS client cannot be built.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] anyhow::Error),
}

/// When an attempt began, by both clocks, and its span if its event belongs to a trace.
#[derive(Debug, Clone, Copy)]
struct Began {
    started: Instant,
    signed_at: i64,
    trace: Option<TraceContext>,
}

impl Began {
    fn now(event: &Event) -> Self {
        let trace = event.trace.map(|parent| parent.child(SpanId::of(rand::random())));
        Self { started: Instant::now(), signed_at: jiff::Timestamp::now().as_second(), trace }
    }
}

/// Sends attempts, sharing connections between them.
#[derive(Clone)]
pub struct Sender {
    clients: Arc<Clients>,
    route: Route,
    urls: UrlPolicy,
    timeout: Duration,
    /// Whether every webhook has a pace.
    has_ceiling: bool,
    /// Whether receivers are told the span of the attempt.
    sends_traceparent: bool,
    limits: answer::AnswerLimits,
}

impl Sender {
    /// # Errors
    ///
    /// The clients cannot be built.
    pub fn new(settings: &config::Sender) -> Result<Self, SetupError> {
        let resolver = resolver(settings)?;
        let clients = Arc::new(Clients::new(settings, resolver.clone())?);
        let route = Route::new(settings, resolver);
        let limits = answer::AnswerLimits {
            timeout: settings.body_timeout,
            max_bytes: settings.max_body_bytes,
            keeps_snippets: settings.keep_snippets,
        };
        let has_ceiling = settings.max_per_second.is_some();
        let (urls, sends_traceparent) = (settings.urls.clone(), settings.traceparent);
        Ok(Self { clients, route, urls, timeout: settings.timeout, has_ceiling, sends_traceparent, limits })
    }

    /// Makes one attempt. Every failure is in its outcome. It takes at most the timeouts of the attempt and of the answer's
    /// body together.
    pub async fn attempt(&self, delivery: &Delivery) -> Attempt {
        let began = Began::now(delivery.event());
        self.send(delivery, self.request(delivery, began), began).await
    }

    /// Makes one attempt, and returns the request as the receiver gets it, too. The request is returned even if the URL is
    /// refused; it is `None` if it cannot be signed.
    pub async fn attempt_shown(&self, delivery: &Delivery) -> (Attempt, Option<SentRequest>) {
        let began = Began::now(delivery.event());
        let request = self.request(delivery, began);
        let sent = match &request {
            Ok(request) => Some(SentRequest::of(request.headers(), Some(request.url()), delivery.event())),
            // The URL was refused, so there is no host to show.
            Err(_) => {
                self.headers(delivery, began).ok().map(|headers| SentRequest::of(&headers, None, delivery.event()))
            }
        };
        (self.send(delivery, request, began).await, sent)
    }

    async fn send(&self, delivery: &Delivery, request: Result<Request, AttemptError>, began: Began) -> Attempt {
        let Began { started, signed_at, trace } = began;
        let (outcome, duration) = match request {
            Ok(request) => self.execute(delivery, request, started).await,
            Err(error) => (Outcome::Failed(error), started.elapsed()),
        };
        Attempt { id: Uuid::now_v7(), outcome, duration, started, paused_until: None, signed_at, trace }
    }

    /// The host and the port that an attempt of the delivery calls; `None` if its URL may not be called.
    pub fn host_and_port<'a>(&self, delivery: &'a Delivery) -> Option<(&'a str, u16)> {
        let SnapshotState::Active { url, .. } = &delivery.webhook.state else { return None };
        let url = url.check(&self.urls).ok()?.url();
        Some((url.host_str()?, url.port_or_known_default()?))
    }

    fn headers(&self, delivery: &Delivery, began: Began) -> Result<HeaderMap, AttemptError> {
        let SnapshotState::Active { secrets, .. } = &delivery.webhook.state else {
            return Err(AttemptError::Internal);
        };
        let secrets = secrets.as_ref().map_err(|error| {
            // Nothing is sent unsigned: the delivery waits until the operator has restored the key.
            tracing::error!(webhook_id = %delivery.webhook.id, error = crate::error_chain(error), "a secret or a header cannot be decrypted");
            AttemptError::Internal
        })?;
        let trace = began.trace.filter(|_| self.sends_traceparent);
        Ok(headers(delivery.event(), secrets, delivery.attempt, began.signed_at, trace))
    }

    fn request(&self, delivery: &Delivery, began: Began) -> Result<Request, AttemptError> {
        let SnapshotState::Active { url, .. } = &delivery.webhook.state else {
            return Err(AttemptError::Internal);
        };
        let headers = self.headers(delivery, began)?;
        let url = url.check(&self.urls).map_err(|refusal| match refusal {
            UrlRefusal::Blocked => AttemptError::BlockedAddress,
            _ => AttemptError::InvalidUrl,
        })?;
        let mut request = Request::new(Method::POST, url.url().clone());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(delivery.event().body.clone().into());
        Ok(request)
    }

    /// The outcome, and the time until it was known. The time for reading the body does not count.
    async fn execute(&self, delivery: &Delivery, request: Request, started: Instant) -> (Outcome, Duration) {
        // Kept until the answer is read, since its connection is in use until then.
        let mut chosen = self.clients.for_attempt(request.url());
        if self.has_ceiling || delivery.webhook.max_per_second.is_some() {
            chosen = chosen.without_second_try();
        }
        let hop = self.route.hop(request.url());
        let made = tokio::time::timeout(self.timeout, self.exchange(&chosen, request, hop, started)).await;
        let made = match made.unwrap_or_else(|_| Err(Failure::of_timeout(chosen.is_connecting(), hop))) {
            Err(Failure::Theirs(AttemptError::Detailed(detail))) if detail.is_timeout() => {
                Err(self.route.blame(detail.into(), started).await)
            }
            made => made,
        };
        let duration = started.elapsed();
        let outcome = match made {
            Ok(response) => Outcome::Answered(self.read(response, &hidden(delivery)).await),
            Err(failure) => Outcome::Failed(failure.into_error()),
        };
        (outcome, duration)
    }

    async fn exchange(&self, chosen: &Chosen, request: Request, hop: Hop, began: Instant) -> Result<Response, Failure> {
        self.route.vet(request.url()).await.map_err(|error| Failure::from(&error))?;
        let way = Way { literal: literal(request.url()), hop };
        let response = match chosen.execute(request).await.map_err(|error| Failure::of(&error, way)) {
            Ok(response) => response,
            Err(Failure::TunnelCut) => return Err(self.route.blame(AttemptError::Connect, began).await),
            Err(failure) => return Err(failure),
        };
        let refused = hop == Hop::Proxy && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        if refused && self.route.refuses_us(began, wants_credentials(chosen)).await {
            return Err(Failure::Ours(Lack::ProxyCredentials));
        }
        Ok(response)
    }

    /// The status line decides about success; an error while reading the body changes nothing.
    async fn read(&self, response: Response, hidden: &Hidden) -> Answer {
        let status = response.status().as_u16();
        let retry_after = answer::retry_after(response.headers(), SystemTime::now());
        let headers = kept_headers::of(response.status(), response.headers(), hidden);
        let (snippet, truncated) = answer::snippet(response, self.limits, hidden).await;
        Answer { status, snippet, truncated, headers, retry_after }
    }
}

impl From<reqwest::Error> for SetupError {
    fn from(error: reqwest::Error) -> Self {
        Self::Client(error.into())
    }
}

/// Looks a name up as an attempt does, and returns how long the answer took. An answer that the policy refuses counts as well.
///
/// # Errors
///
/// The name has no address, or the name servers do not answer.
pub async fn look_up(settings: &config::Sender, host: &str) -> anyhow::Result<Duration> {
    let resolver = resolver(settings)?;
    let asked = Instant::now();
    match resolver.addresses(host).await {
        Ok(_) | Err(ResolveError::Blocked) => Ok(asked.elapsed()),
        Err(ResolveError::Failed(error)) if error.is_no_records_found() => {
            Err(anyhow::anyhow!("the name servers know no address of it"))
        }
        // Without its sources, which repeat its text.
        Err(ResolveError::Failed(error)) => Err(anyhow::anyhow!("{error}")),
        Err(ResolveError::NoNameServer) if settings.dns_servers.is_empty() && !resolver::system_names_one() => {
            Err(anyhow::anyhow!("no name server answers, and {} names none", resolver::RESOLV_CONF))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the proxy wants other credentials for a tunnel. Asks for one to a name that never exists (RFC 6761).
async fn wants_credentials(chosen: &Chosen) -> bool {
    let nobody = "https://nobody.invalid/".parse().expect("a URL");
    let asked = chosen.execute(Request::new(Method::HEAD, nobody)).await;
    let way = Way { literal: None, hop: Hop::Tunnel };
    asked.is_err_and(|error| Failure::of(&error, way) == Failure::Ours(Lack::ProxyCredentials))
}

/// Asks the proxy of the settings for a tunnel to `host`, and returns how long its answer took. A refusal counts as well.
///
/// # Errors
///
/// The proxy does not answer, or wants other credentials.
pub async fn ask_proxy(settings: &config::Sender, host: &str) -> anyhow::Result<Duration> {
    let sender = Sender::new(settings)?;
    let request = Request::new(Method::HEAD, format!("https://{host}/").parse()?);
    let asked = Instant::now();
    let way = Way { literal: None, hop: sender.route.hop(request.url()) };
    let chosen = sender.clients.for_attempt(request.url());
    let failure = match tokio::time::timeout(sender.timeout, chosen.execute(request)).await {
        Ok(Ok(_)) => return Ok(asked.elapsed()),
        Ok(Err(error)) => Failure::of(&error, way),
        Err(_) => sender.route.blame(ErrorDetail::ResponseTimeout.into(), asked).await,
    };
    match failure {
        Failure::Ours(lack) => Err(lack.into()),
        Failure::Theirs(_) | Failure::TunnelCut => Ok(asked.elapsed()),
    }
}

fn resolver(settings: &config::Sender) -> Result<Resolver, SetupError> {
    let lookups = ResolverSettings {
        // Shorter than the attempt: it must be known who caused a failed lookup before the attempt ends.
        timeout: settings.dns_timeout.min(settings.timeout * 4 / 5),
        max_lookups: settings.max_dns_lookups,
        ..ResolverSettings::default()
    };
    let resolver = match &settings.dns_servers[..] {
        [] => Resolver::system(lookups, settings.urls.clone()),
        servers => Resolver::with_name_servers(servers, lookups, settings.urls.clone()),
    };
    resolver.map_err(|error| SetupError::Client(error.into()))
}

/// What the receiver may repeat of the request and nobody may read in its answer.
fn hidden(delivery: &Delivery) -> Hidden {
    match &delivery.webhook.state {
        SnapshotState::Active { secrets: Ok(secrets), .. } => Hidden::of(&secrets.headers),
        _ => Hidden::default(),
    }
}

fn headers(event: &Event, secrets: &Secrets, attempt: u32, timestamp: i64, trace: Option<TraceContext>) -> HeaderMap {
    let current = &secrets.current;
    let signed_by: Vec<_> = std::iter::once(current).chain(&secrets.previous).collect();
    let standard = signature::standard_signature(&signed_by, event.id.as_str(), timestamp, &event.body);
    let signed = [
        (SIGNATURE, plain(&signature::body_signature(current, &event.body))),
        (STANDARD_TIMESTAMP, timestamp.into()),
        (STANDARD_SIGNATURE, plain(&standard)),
    ];
    let unsigned = unsigned_headers(event.id.as_str(), event.event_type.as_str(), attempt);
    let trace = trace.map(|trace| (TRACEPARENT, plain(&trace.to_string())));
    let own = secrets.headers.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).expect("a token");
        let mut value = plain(value.expose());
        value.set_sensitive(true);
        (name, value)
    });
    unsigned.into_iter().chain(signed).chain(trace).chain(own).collect()
}

/// The headers that depend on neither the time nor a secret.
fn unsigned_headers(event_id: &str, event_type: &str, attempt: u32) -> [(HeaderName, HeaderValue); 6] {
    [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ACCEPT, HeaderValue::from_static("*/*")),
        (USER_AGENT, HeaderValue::from_static(OUR_NAME)),
        (EVENT, plain(event_type)),
        (ATTEMPT, attempt.into()),
        (STANDARD_ID, plain(event_id)),
    ]
}

fn plain(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("ids, types, hex and base64 are printable ASCII")
}

/// The URL's host, if it is an address.
fn literal(url: &url::Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(ip) => Some(ip.into()),
        Host::Ipv6(ip) => Some(ip.into()),
        Host::Domain(_) => None,
    }
}

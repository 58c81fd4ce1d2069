//! The HTTP clients: how they are built, which one an attempt uses, and when they are replaced.
//!
//! The pooled client keeps connections open for the next requests. The unpooled client opens a connection for every request.
//! An attempt uses the unpooled one if the pool has no place for it, or if the receiver closed the kept connection just as
//! the attempt used it.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::{Client, ClientBuilder, Request, Response, redirect, retry};
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::{Position, Url};

use super::SetupError;
use super::cause::ended_early;
use super::opening::{NoteOpening, Opening, noted};
use super::proxy::with_proxy;
use super::reservation_guard::Reservation;
use super::reservations::{ReservationLimits, Reservations};
use super::resolver::Resolver;
use crate::config;

/// Connections that are kept open at most if `sender.max_idle_connections` is not set: each takes memory.
const MOST_UNLESS_SET: usize = 4096;
/// The client's pool looks for connections that were idle for too long no more often than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(90);

/// Connections that are kept open in total by a process that may open `files` files.
pub fn max_idle_connections(settings: &config::Sender, files: u64) -> usize {
    match settings.max_idle_connections {
        0 => usize::try_from(files / 4).map_or(MOST_UNLESS_SET, |quarter| quarter.min(MOST_UNLESS_SET)),
        set => set,
    }
}

pub(super) struct Clients {
    recipe: Recipe,
    pooled: RwLock<Pooled>,
    unpooled: Client,
    reservations: Arc<Mutex<Reservations>>,
    /// Seeded at random: hosts whose hashes are equal share their places, and nobody can choose such names.
    hasher: RandomState,
}

#[derive(Debug)]
struct Pooled {
    client: Client,
    since: Instant,
}

impl Clients {
    pub(super) fn new(settings: &config::Sender, resolver: Resolver) -> Result<Self, SetupError> {
        let recipe = Recipe::new(settings, resolver)?;
        let now = Instant::now();
        Ok(Self {
            pooled: RwLock::new(Pooled { client: recipe.pooled()?, since: now }),
            unpooled: recipe.unpooled()?,
            reservations: Arc::new(Mutex::new(Reservations::new(limits(settings), now))),
            hasher: RandomState::new(),
            recipe,
        })
    }

    /// The clients for one attempt at this URL. The caller keeps them until it has read the answer.
    pub(super) fn for_attempt(&self, url: &Url) -> Chosen {
        let now = Instant::now();
        let host = self.hasher.hash_one(&url[..Position::BeforePath]);
        let reservation = Reservation::new(&self.reservations, host, now);
        let pooled = reservation.is_some().then(|| self.pooled(now));
        let opening = Arc::new(Opening::new(reservation));
        Chosen { pooled, unpooled: self.unpooled.clone(), opening, tries_again: true }
    }

    /// The pooled client, a new one if it has reached `sender.max_connection_age`. Connections of the old client close: idle
    /// ones at once, others after their request. The new client looks up the receivers' addresses.
    fn pooled(&self, now: Instant) -> Client {
        let is_old =
            |pooled: &Pooled| now.saturating_duration_since(pooled.since) >= self.recipe.settings.max_connection_age;
        {
            let pooled = self.pooled.read().unwrap_or_else(PoisonError::into_inner);
            if !is_old(&pooled) {
                return pooled.client.clone();
            }
        }
        let mut pooled = self.pooled.write().unwrap_or_else(PoisonError::into_inner);
        if !is_old(&pooled) {
            return pooled.client.clone();
        }
        pooled.since = now;
        let old = match self.recipe.pooled() {
            Ok(client) => Some(std::mem::replace(&mut pooled.client, client)),
            Err(error) => {
                tracing::warn!(error = %crate::error_chain(&error), "connections are kept beyond their age");
                None
            }
        };
        let client = pooled.client.clone();
        // Dropping the old client closes its connections, which takes a while: others must not wait for the lock.
        drop(pooled);
        drop(old);
        client
    }
}

fn limits(settings: &config::Sender) -> ReservationLimits {
    // An error means that the system has no such limit.
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    let longest_in_pool = 2 * settings.idle_timeout.max(SHORTEST_LOOK);
    // A replaced client's pool lasts until the last request that began with it has its answer.
    let longest_in_client = settings.max_connection_age + settings.timeout;
    ReservationLimits {
        total: max_idle_connections(settings, files),
        per_host: kept_per_host(settings),
        longest_idle: longest_in_pool.min(longest_in_client),
    }
}

/// No connection is kept if the idle timeout is zero: the pool would then never close one.
fn kept_per_host(settings: &config::Sender) -> usize {
    if settings.idle_timeout.is_zero() { 0 } else { settings.idle_connections_per_host }
}

/// The clients of one attempt.
#[derive(Debug)]
pub(super) struct Chosen {
    /// `None` if the pool has no place for the attempt.
    pooled: Option<Client>,
    unpooled: Client,
    opening: Arc<Opening>,
    tries_again: bool,
}

impl Chosen {
    /// For a webhook with a pace, which counts requests: a request whose kept connection ends is not made once more.
    pub(super) fn without_second_try(self) -> Self {
        Self { tries_again: false, ..self }
    }

    /// Sends the request and waits for the head of its answer.
    ///
    /// A receiver may close a kept connection just as a request arrives on it. So a request that ended without the whole
    /// head of an answer, on a connection that was used before, is made once more on a fresh connection. RFC 9110, 9.2.2
    /// allows that for requests that are idempotent: ours are, by their `Webhook-Id`.
    ///
    /// # Errors
    ///
    /// The request got no whole head of an answer.
    pub(super) async fn execute(&self, request: Request) -> reqwest::Result<Response> {
        let Some(client) = &self.pooled else {
            return self.execute_unpooled(request).await;
        };
        let again = if self.tries_again { request.try_clone() } else { None };
        let answered = noted(self.opening.clone(), client.execute(request)).await;
        let was_reused = !self.opening.was_opened();
        match (answered, again) {
            (Err(error), Some(again)) if was_reused && ended_early(&error) => {
                tracing::debug!(
                    host = again.url().host_str(),
                    "a kept connection ended; the request is made once more"
                );
                self.execute_unpooled(again).await
            }
            (answered, _) => answered,
        }
    }

    async fn execute_unpooled(&self, request: Request) -> reqwest::Result<Response> {
        noted(self.opening.clone(), self.unpooled.execute(request)).await
    }

    /// Whether the attempt waits for a connection: connecting began too late to reach its own time-out.
    pub(super) fn is_connecting(&self) -> bool {
        self.opening.is_under_way()
    }
}

/// How clients are built.
struct Recipe {
    settings: config::Sender,
    resolver: Resolver,
    /// Shared by all clients: certificates are read once, and each client can resume the TLS sessions of the others.
    tls: rustls::ClientConfig,
}

impl Recipe {
    fn new(settings: &config::Sender, resolver: Resolver) -> Result<Self, SetupError> {
        Ok(Self { settings: settings.clone(), resolver, tls: tls()? })
    }

    fn pooled(&self) -> Result<Client, SetupError> {
        let builder = self.builder()?.pool_max_idle_per_host(kept_per_host(&self.settings));
        let builder = builder.pool_idle_timeout(self.settings.idle_timeout);
        Ok(builder.build()?)
    }

    fn unpooled(&self) -> Result<Client, SetupError> {
        Ok(self.builder()?.pool_max_idle_per_host(0).build()?)
    }

    fn builder(&self) -> Result<ClientBuilder, SetupError> {
        let builder = Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .http1_only()
            .http1_title_case_headers()
            .connector_layer(NoteOpening)
            // It also ends the task in which the pool goes on opening a connection after the attempt got one that became idle
            // meanwhile.
            .connect_timeout(connect_timeout(self.settings.timeout));
        Ok(with_proxy(builder, &self.settings, self.resolver.clone())?)
    }
}

/// How long connecting may take, from the look-up of the name to the end of the TLS handshake. If it begins with the attempt, it
/// ends before it; else [`Chosen::is_connecting`] says whether the connection or the answer was missing.
fn connect_timeout(attempt: Duration) -> Duration {
    attempt - (attempt / 10).min(Duration::from_millis(100))
}

fn tls() -> Result<rustls::ClientConfig, SetupError> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| SetupError::Client(error.into()))?;
    let mut tls = builder.with_platform_verifier().map_err(SetupError::Certificates)?.with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

//! The HTTP clients: how they are built, which one an attempt uses, and when they are replaced.
//!
//! One keeps connections open for the next requests. Whoever finds no place among those that are kept, and whoever
//! was given a connection that the receiver was about to close, uses a second one, which opens a connection for every
//! request.

use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::{Client, ClientBuilder, Request, Response, redirect, retry};
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::{Position, Url};

use super::opening::{NoteOpening, noted};
use super::places::{Limits, Places};
use super::proxy::with_proxy;
use super::resolver::Resolver;
use super::{SetupError, causes};
use crate::config;

/// What the files of a process allow is kept up to this number, unless a setting says otherwise: each connection takes
/// memory, too.
const MOST_UNLESS_SET: usize = 4096;
/// The client's pool looks for what was idle for too long no more often than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(90);

/// Connections that are kept open in total by a process that may open so many files.
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
    places: Arc<Mutex<Places>>,
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
            places: Arc::new(Mutex::new(Places::new(limits(settings), now))),
            hasher: RandomState::new(),
            recipe,
        })
    }

    /// What an attempt at this URL is made with, until it has read its answer.
    pub(super) fn for_attempt(&self, url: &Url) -> Chosen {
        let now = Instant::now();
        let host = self.hasher.hash_one(&url[..Position::BeforePath]);
        let has_place = lock(&self.places).enter(host, now);
        let pooled = has_place.then(|| {
            let place = Place { places: self.places.clone(), host, opened: AtomicBool::new(false) };
            (self.pooled(now), Arc::new(place))
        });
        Chosen { pooled, unpooled: self.unpooled.clone() }
    }

    /// The present client with a pool. One that has reached its age is replaced: its idle connections close, those in
    /// use with their request, and the new client looks for the receivers' addresses.
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
        // Closing what the old one kept takes a while.
        drop(pooled);
        drop(old);
        client
    }
}

fn limits(settings: &config::Sender) -> Limits {
    // Unknown only where there is no such limit.
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    let longest_in_pool = 2 * settings.idle_timeout.max(SHORTEST_LOOK);
    // A replaced client's pool lasts as long as a request that was begun with it waits for its answer.
    let longest_in_client = settings.max_connection_age + settings.timeout;
    Limits {
        total: max_idle_connections(settings, files),
        per_host: kept_per_host(settings),
        longest_idle: longest_in_pool.min(longest_in_client),
    }
}

/// The pool closes nothing by itself when its timeout is zero.
fn kept_per_host(settings: &config::Sender) -> usize {
    if settings.idle_timeout.is_zero() { 0 } else { settings.idle_connections_per_host }
}

fn lock(places: &Mutex<Places>) -> std::sync::MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the places for connections that are kept.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Mutex<Places>>,
    host: u64,
    opened: AtomicBool,
}

impl Place {
    pub(super) fn note_opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    pub(super) fn opened_for_nobody(&self) {
        lock(&self.places).opened_for_nobody(self.host, Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places).leave(self.host, Instant::now());
    }
}

/// The clients of one attempt.
#[derive(Debug)]
pub(super) struct Chosen {
    pooled: Option<(Client, Arc<Place>)>,
    unpooled: Client,
}

impl Chosen {
    /// Sends the request and waits for the head of its answer.
    ///
    /// A receiver may close a connection that was kept just as a request comes. So one that ended without a whole head
    /// on a connection that was used before is made once more on a fresh one: RFC 9110, 9.2.2 allows it to a client
    /// that knows its requests to be idempotent, as ours are by their `Webhook-Id`.
    pub(super) async fn execute(&self, request: Request) -> reqwest::Result<Response> {
        let Some((client, place)) = &self.pooled else {
            return self.unpooled.execute(request).await;
        };
        let again = request.try_clone();
        let answered = noted(place.clone(), client.execute(request)).await;
        let was_reused = !place.opened.load(Ordering::Relaxed);
        match (answered, again) {
            (Err(error), Some(again)) if was_reused && ended_early(&error) => {
                tracing::debug!(
                    host = again.url().host_str(),
                    "a kept connection ended; the request is made once more"
                );
                self.unpooled.execute(again).await
            }
            (answered, _) => answered,
        }
    }
}

/// Whether the connection ended before the whole head of an answer.
fn ended_early(error: &reqwest::Error) -> bool {
    let ended = |cause: &(dyn std::error::Error + 'static)| {
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            return error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        }
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        matches!(
            kind,
            Some(
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            )
        )
    };
    !error.is_connect() && !error.is_timeout() && causes(error).any(ended)
}

/// What all clients have in common.
struct Recipe {
    settings: config::Sender,
    resolver: Resolver,
    /// One for all: the certificates are read once, and sessions are resumed by whichever client comes next.
    tls: rustls::ClientConfig,
}

impl Recipe {
    fn new(settings: &config::Sender, resolver: Resolver) -> Result<Self, SetupError> {
        Ok(Self { settings: settings.clone(), resolver, tls: tls()? })
    }

    fn pooled(&self) -> Result<Client, SetupError> {
        let builder = self.builder()?.pool_max_idle_per_host(kept_per_host(&self.settings));
        let builder = builder.pool_idle_timeout(self.settings.idle_timeout);
        Ok(builder.connector_layer(NoteOpening).build()?)
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
            // An attempt may be given a pooled connection while it opens one. The pool goes on opening that one in a task
            // of its own, which nothing else would end.
            .connect_timeout(self.settings.timeout);
        Ok(with_proxy(builder, &self.settings, self.resolver.clone())?)
    }
}

fn tls() -> Result<rustls::ClientConfig, SetupError> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| SetupError::Client(error.into()))?;
    let mut tls = builder.with_platform_verifier().map_err(SetupError::Certificates)?.with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

//! The HTTP API with which customers manage their webhooks, and the page that uses it.
//!
//! Every request is answered in bounded time, with the rows of its own account only, and with a problem document if it
//! fails. A stop lets requests that are being answered finish.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, header};
use axum::middleware;
use axum::response::IntoResponse as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::{self, Settings};
use crate::error_chain;
use crate::event::Catalogue;
use crate::ids::AccountId;
use crate::listening;
use crate::metrics::Metrics;
use crate::reconnect::{Outage, Reconnect};
use crate::secret::Keyring;
use crate::sender::Sender;
use crate::store::{LONGEST_AHEAD, Store, StoreError};
use crate::token::Tokens;
use crate::upkeep::Upkeep;
use crate::webhook::UrlPolicy;

mod answer;
mod audit;
mod auth;
mod body;
mod connections;
mod counted;
mod cursor;
mod deliveries;
mod delivery;
mod etag;
mod event_types;
mod exchange;
mod given_headers;
mod idempotency;
mod limits;
mod openapi;
mod page;
mod problem;
mod query;
mod query_slots;
mod recoveries;
mod refused_fields;
mod secrets;
mod sending_addresses;
mod server;
mod stats;
mod test_sends;
mod timed_stream;
mod verify_examples;
mod webhook_changes;
mod webhooks;

pub(crate) use given_headers::GivenHeaders;

use audit::Audit;
use limits::RateLimits;
use problem::{Again, Problem};
use query::Parameters;
use query_slots::TakenBy;
use recoveries::Recoveries;
use server::{Server, Shutdown};

use openapi::document as openapi;

/// The state that all routes share.
struct Api {
    settings: config::Api,
    tokens: Tokens,
    store: Store,
    keyring: Keyring,
    sender: Sender,
    urls: UrlPolicy,
    catalogue: Catalogue,
    metrics: Metrics,
    limits: RateLimits,
    parameters: Parameters,
    recoveries: Recoveries,
    /// Test sends that are running, also those whose callers have hung up.
    tests: TaskTracker,
    /// The pace of webhooks that have none, or a higher one.
    max_per_second: Option<NonZeroU32>,
    /// The bound for a test send, which asks the database three times and the receiver once, and may have to wait for its place
    /// in the webhook's pace.
    test_timeout: Duration,
}

/// Serves until `stop` and for `api.drain_delay` after it, then finishes the requests that are being answered, within
/// `shutdown.grace`.
///
/// # Errors
///
/// A setting or the listening address cannot be used, or the database will never do: another product's schema, or a pooler
/// that does not keep sessions.
pub(crate) async fn run(settings: Settings, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = listening::listen("api.listen", settings.api.listen)?;
    counted::expect_all(&metrics);
    let api = Arc::new(Api::new(&settings, metrics)?);
    api.metrics.watch_pool(&api.store);
    tracing::info!(address = %listener.local_addr()?, "API address");
    let store = api.store.clone();
    let drain_delay = settings.api.drain_delay;
    let grace = settings.shutdown_grace.saturating_sub(drain_delay);
    let shutdown = Shutdown { stop: stop.clone(), drain_delay, closed: CancellationToken::new(), grace };
    let testing = finish_tests(api.tests.clone(), shutdown.clone());
    // Makes partitions: test sends and resends need today's, also where no worker runs.
    let upkeep = Upkeep { store: store.clone(), metrics: api.metrics.clone(), retention: None };
    let recovering = recoveries::run(api.clone(), stop.clone());
    let forgetting = idempotency::forget_old(api.clone(), stop.clone());
    let background = async {
        wait_for_schema(&store, &stop).await?;
        tokio::join!(upkeep.run(stop.clone()), recovering, forgetting);
        Ok::<_, StoreError>(())
    };
    let metrics = api.metrics.clone();
    let server = Server { metrics, router: router(api), limits: settings.api.limits, shutdown };
    let (ended, ..) = tokio::join!(background, testing, server.serve(listener));
    Ok(ended?)
}

/// Waits until the database is there and migrated; requests are answered meanwhile. Cancels `stop` if no request can ever
/// be answered: the schema is another product's, or a pooler does not keep our sessions.
async fn wait_for_schema(store: &Store, stop: &CancellationToken) -> Result<(), StoreError> {
    let usable = async {
        let (mut reconnect, mut told) = (Reconnect::default(), Outage::default());
        loop {
            match store.check_usable().await {
                Ok(()) => return Ok(()),
                Err(error @ (StoreError::Schema(_) | StoreError::Sessions(_))) => return Err(error),
                Err(error) => {
                    if told.is_news("schema") {
                        tracing::warn!(error = error_chain(&error), "the API cannot work yet");
                    }
                    tokio::time::sleep(reconnect.wait()).await;
                }
            }
        }
    };
    let found = stop.run_until_cancelled(usable).await.unwrap_or(Ok(()));
    found.inspect_err(|_| stop.cancel())
}

/// At a stop, waits for test sends whose callers have hung up. The server waits for the others.
async fn finish_tests(tests: TaskTracker, shutdown: Shutdown) {
    shutdown.closed.cancelled().await;
    tests.close();
    let _ = tokio::time::timeout(shutdown.grace, tests.wait()).await;
}

impl Api {
    fn new(settings: &Settings, metrics: Metrics) -> anyhow::Result<Self> {
        let bound = settings.api.database_timeout;
        // The API has connections of its own, so that no request waits for a worker's statement. Opening one may take longer
        // than a request may: the connection then serves the next request.
        let database = config::Database { statement_timeout: bound, ..settings.database.clone() };
        let sending = settings.sender.timeout + settings.sender.body_timeout;
        Ok(Self {
            tokens: settings.tokens()?.clone(),
            store: Store::new(&database)?,
            keyring: settings.keyring()?.clone(),
            sender: Sender::new(&settings.sender)?,
            urls: settings.sender.urls.clone(),
            catalogue: settings.events.catalogue.clone(),
            metrics,
            limits: RateLimits::new(&settings.api.limits, settings.database.pool_size),
            parameters: Parameters::described_by(&openapi()),
            recoveries: Recoveries::new(settings.recover.rate),
            tests: TaskTracker::new(),
            test_timeout: settings.api.limits.request_timeout.max(sending + LONGEST_AHEAD + 4 * bound),
            max_per_second: settings.sender.max_per_second,
            settings: settings.api.clone(),
        })
    }

    /// Asks a question that may keep the database busy for long. Waits for a slot first: the wait and the answer together take
    /// `api.database_timeout` at most. The slot is kept until the question has ended at the server, also when the caller hangs up.
    ///
    /// # Errors
    ///
    /// The question's own error as a problem. If the time is over: 429 if the account's own other questions took most of it,
    /// else 503.
    async fn ask_in_turn<T, E: From<StoreError> + Into<Problem>>(
        &self,
        account: &AccountId,
        question: impl AsyncFnOnce(Store) -> Result<T, E>,
    ) -> Result<T, Problem> {
        let began = Instant::now();
        let deadline = began + self.settings.database_timeout;
        // A database that has been silent since then keeps the slots taken: that is not the account's fault.
        let busy = || match self.store.has_answered_since(began.into_std()) {
            true => Problem::too_many_at_once(),
            false => Problem::unavailable(),
        };
        let slot = self.limits.query_slot(account, deadline).await.map_err(|taken_by| match taken_by {
            TakenBy::Account => busy(),
            TakenBy::AllAccounts => Problem::unavailable(),
        })?;
        let waited = slot.waited_for_account;
        let too_late = || if waited > self.settings.database_timeout / 2 { busy() } else { Problem::unavailable() };
        answer_by(deadline, question(self.store.keeping(slot)), too_late).await
    }

    /// Waits for an answer of the database, for `api.database_timeout` at most.
    ///
    /// # Errors
    ///
    /// The question's own error as a problem, or 503 if the time is over.
    async fn ask<T, E: From<StoreError> + Into<Problem>>(
        &self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Problem> {
        answer_by(Instant::now() + self.settings.database_timeout, question, Problem::unavailable).await
    }

    /// Makes a change, as [`Api::ask`] asks a question. The change must use the store that it gets. The audit line tells whether
    /// it was made.
    ///
    /// # Errors
    ///
    /// As `ask`, but if the change may have been made, the problem says so, and what to do.
    async fn change<T, E: From<StoreError> + Into<Problem>>(
        &self,
        audit: &Audit,
        again: Again,
        change: impl AsyncFnOnce(Store) -> Result<T, E>,
    ) -> Result<T, Problem> {
        let change = async |unconfirmed| self.ask(change(self.store.noting(&unconfirmed))).await;
        told_if_unconfirmed(audit, again, change).await
    }
}

/// Runs `work`, whose writes are made by a store that notes in the flag whether they are confirmed.
///
/// # Errors
///
/// Those of `work`, but if a write may have been made, the problem says so, and what to do.
async fn told_if_unconfirmed<T>(
    audit: &Audit,
    again: Again,
    work: impl AsyncFnOnce(Arc<AtomicBool>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let unconfirmed = Arc::new(AtomicBool::new(false));
    audit.change_begins();
    let done = work(unconfirmed.clone()).await;
    if unconfirmed.load(Ordering::Relaxed) {
        return done.map_err(|_| Problem::outcome_unknown(again));
    }
    audit.change_is_answered();
    done
}

async fn answer_by<T, E: Into<Problem>>(
    deadline: Instant,
    question: impl Future<Output = Result<T, E>>,
    too_late: impl FnOnce() -> Problem,
) -> Result<T, Problem> {
    match tokio::time::timeout_at(deadline, question).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(too_late()),
    }
}

fn router(api: Arc<Api>) -> Router {
    let (routes, document) = openapi::parts();
    let router = routes
        .merge(openapi::serve(&document))
        .merge(page::routes(&api.settings.frame_ancestors))
        .fallback(exchange::nothing_here)
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        // `body` reads all bodies and has the limit.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
        .layer(middleware::from_fn_with_state(api.clone(), exchange::observe));
    let router = match &api.settings.cors_origins[..] {
        [] => router,
        origins => router.layer(cors(origins)),
    };
    router.with_state(api)
}

fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            idempotency::NAME,
            exchange::REQUEST_ID,
        ])
        .expose_headers([header::ETAG, header::LOCATION, header::RETRY_AFTER, exchange::REQUEST_ID])
        .max_age(Duration::from_secs(3600))
}

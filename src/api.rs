//! The HTTP API by which customers keep their webhooks, and the page that uses it.
//!
//! Every request is answered: in bounded time, with the account's own rows and nobody else's, and with a problem document
//! if it could not be done. A stop lets those under way be answered.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, header};
use axum::middleware;
use axum::response::IntoResponse as _;
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
use crate::store::{Store, StoreError};
use crate::token::Tokens;
use crate::upkeep::Upkeep;
use crate::webhook::UrlPolicy;

mod answer;
mod auth;
mod body;
mod connections;
mod cursor;
mod deliveries;
mod drained;
mod etag;
mod event_types;
mod exchange;
mod limits;
mod openapi;
mod page;
mod problem;
mod query;
mod recoveries;
mod secrets;
mod server;
mod stats;
mod test_sends;
mod turns;
mod webhooks;

use limits::Limits;
use problem::Problem;
use query::Parameters;
use recoveries::Recoveries;
use server::{Course, Server};

pub use openapi::document as openapi;

/// What the routes share.
struct Api {
    settings: config::Api,
    tokens: Tokens,
    store: Store,
    keyring: Keyring,
    sender: Sender,
    urls: UrlPolicy,
    catalogue: Catalogue,
    metrics: Metrics,
    limits: Limits,
    parameters: Parameters,
    recoveries: Recoveries,
    /// Tests under way.
    tests: TaskTracker,
    /// A test send asks the database twice and the receiver once.
    test_timeout: Duration,
}

/// Serves until `stop` and for `api.drain_delay` after it, then ends within `shutdown.grace`: what is being answered is
/// answered.
pub async fn run(settings: Settings, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = listening::listen("api.listen", settings.api.listen)?;
    let api = Arc::new(Api::new(&settings, metrics)?);
    tracing::info!(address = %listener.local_addr()?, "API address");
    let store = api.store.clone();
    let drain_delay = settings.api.drain_delay;
    let rest = settings.shutdown_grace.saturating_sub(drain_delay);
    let course = Course { stop: stop.clone(), drain_delay, closed: CancellationToken::new(), rest };
    let testing = finish_tests(api.tests.clone(), course.clone());
    // Tests and resending need today's partitions, also where no worker runs.
    let upkeep = Upkeep { store: store.clone(), metrics: api.metrics.clone(), retention: None };
    let recovering = recoveries::run(api.clone(), stop.clone());
    let unasked = async {
        wait_for_schema(&store, &stop).await?;
        tokio::join!(upkeep.run(stop.clone()), recovering);
        Ok::<_, StoreError>(())
    };
    let metrics = api.metrics.clone();
    let server = Server { metrics, router: router(api), limits: settings.api.limits, course };
    let (unasked, ..) = tokio::join!(unasked, testing, server.serve(listener));
    Ok(unasked?)
}

/// Until the database is there and migrated; requests are answered meanwhile. Stops all if the schema is another
/// product's, or a pooler does not keep our sessions: then no request can be answered.
async fn wait_for_schema(store: &Store, stop: &CancellationToken) -> Result<(), StoreError> {
    let recognised = async {
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
    let found = stop.run_until_cancelled(recognised).await.unwrap_or(Ok(()));
    found.inspect_err(|_| stop.cancel())
}

/// Those whose callers have hung up; the others are waited for with their answers.
async fn finish_tests(tests: TaskTracker, course: Course) {
    course.closed.cancelled().await;
    tests.close();
    let _ = tokio::time::timeout(course.rest, tests.wait()).await;
}

impl Api {
    fn new(settings: &Settings, metrics: Metrics) -> anyhow::Result<Self> {
        let bound = settings.api.database_timeout;
        // Connections of its own, so that nobody waits behind a worker for longer than a request may take. Opening one may
        // take longer than that: it then serves the next request.
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
            limits: Limits::new(&settings.api.limits, settings.database.pool_size),
            parameters: Parameters::described_by(&openapi()),
            recoveries: Recoveries::new(settings.recover.rate),
            tests: TaskTracker::new(),
            test_timeout: settings.api.limits.request_timeout.max(sending + 3 * bound),
            settings: settings.api.clone(),
        })
    }

    /// Waits until this account may ask one more question that may keep the database busy for long, and gives the store to
    /// ask. The turn lasts until the store is dropped and the question has ended at the server, also when the caller hangs
    /// up.
    ///
    /// # Errors
    /// 429 if the account's own questions took all the time, 503 if the database answered nobody meanwhile.
    async fn turn_of(&self, account: &AccountId) -> Result<Store, Problem> {
        let began = Instant::now();
        match self.limits.turn(account, self.settings.database_timeout).await {
            Some(turn) => Ok(self.store.keeping(turn)),
            None if self.store.has_answered_since(began) => Err(Problem::too_many_at_once()),
            // Of a database that falls silent no account is told to ask less.
            None => Err(Problem::unavailable()),
        }
    }

    /// Asks the database, for as long as one request may.
    async fn ask<T, E: From<StoreError> + Into<Problem>>(
        &self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(self.settings.database_timeout, question).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(Problem::unavailable()),
        }
    }
}

fn router(api: Arc<Api>) -> Router {
    let (routes, document) = openapi::routes().split_for_parts();
    let router = routes
        .merge(openapi::serve(&document))
        .merge(page::routes(&api.settings.frame_ancestors))
        .fallback(exchange::nothing_here)
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        // Bodies are read in one place, which has the limit.
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
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH, exchange::REQUEST_ID])
        .expose_headers([header::ETAG, header::RETRY_AFTER, exchange::REQUEST_ID])
        .max_age(Duration::from_secs(3600))
}

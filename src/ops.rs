//! Answers the platform on an address of its own: `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::{self, Metrics};
use crate::store::Store;

/// A database that has not answered for so long is not ready; nor does a probe wait longer for it.
const RECENTLY: Duration = Duration::from_secs(2);

/// What a process needs to be ready.
#[derive(Clone)]
pub struct Health {
    pub store: Store,
    pub metrics: Metrics,
    pub role: Role,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Worker,
    Api,
    Both,
}

/// Serves until the handle is dropped.
pub async fn serve(listen: SocketAddr, health: Health) -> anyhow::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("ops.listen: {listen} cannot be used"))?;
    tracing::info!(address = %listener.local_addr()?, "operations address");
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Arc::new(health));
    let server = async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the operations address is not served any more");
        }
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(server)))
}

/// A database that answers but does not take our results is not ready either.
async fn readyz(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    let attached = health.role == Role::Api || health.metrics.consumer_attached.get() == 1;
    let database = health.metrics.database_waiting.get() == 0 && health.store.answers_within(RECENTLY).await;
    let word = |ready: bool| if ready { "ready" } else { "not ready" };
    let status = if attached && database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let consumer = match health.role {
        Role::Api => String::new(),
        Role::Worker | Role::Both => format!("consumer: {}\n", word(attached)),
    };
    (status, format!("{consumer}database: {}\n", word(database)))
}

async fn render(State(health): State<Arc<Health>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], health.metrics.render())
}

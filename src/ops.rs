//! Answers the platform's probes on an address of its own: `/livez` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::store::Store;

/// A probe that waits longer is no better than a failed one.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// What a worker needs to be ready.
#[derive(Clone)]
pub struct Readiness {
    /// Whether its consumer is attached.
    pub attached: watch::Receiver<bool>,
    pub store: Store,
}

/// Serves until the handle is dropped.
pub async fn serve(listen: SocketAddr, readiness: Readiness) -> anyhow::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("ops.listen: {listen} cannot be used"))?;
    tracing::info!(address = %listener.local_addr()?, "operations address");
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(readiness));
    let server = async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the operations address is not served any more");
        }
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(server)))
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> (StatusCode, String) {
    let attached = *readiness.attached.borrow();
    let answered = tokio::time::timeout(PING_TIMEOUT, readiness.store.ping()).await;
    let database = matches!(answered, Ok(Ok(())));
    let word = |ready: bool| if ready { "ready" } else { "not ready" };
    let status = if attached && database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("consumer: {}\ndatabase: {}\n", word(attached), word(database)))
}

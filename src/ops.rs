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
use crate::millis;
use crate::reconnect::Outage;
use crate::store::Store;

/// A database that has not answered for so long is not ready; nor does a probe wait longer for it.
const RECENTLY: Duration = Duration::from_secs(2);
/// Between two questions whether the database takes writes. Asked, because a process that only reads would not notice.
const WRITES_ASKED_EVERY: Duration = Duration::from_secs(2);

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
    let health = Arc::new(health);
    let watching = watch_writes(health.clone());
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(health);
    let server = async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(error = crate::error_chain(&error), "the operations address is not served any more");
        }
    };
    let both = async {
        tokio::join!(server, watching);
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(both)))
}

/// Tells once when the database begins to refuse writes, and once when it takes them again.
async fn watch_writes(health: Arc<Health>) {
    let mut refused = Outage::default();
    loop {
        match health.store.takes_writes().await {
            Ok(true) => {
                health.metrics.database_read_only.set(0);
                if let Some(after) = refused.end() {
                    tracing::info!(after_ms = millis(after), "the database takes writes again");
                }
            }
            Ok(false) => {
                health.metrics.database_read_only.set(1);
                if refused.is_news("read-only") {
                    tracing::warn!("the database refuses writes");
                }
            }
            // Of a database that does not answer others tell.
            Err(_) => {}
        }
        tokio::time::sleep(WRITES_ASKED_EVERY).await;
    }
}

/// A database that answers but does not take our results is not ready either. An API goes on reading.
async fn readyz(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    let attached = health.role == Role::Api || health.metrics.consumer_attached.get() == 1;
    let database = health.metrics.database_waiting.get() == 0 && health.store.answers_within(RECENTLY).await;
    let refused = health.metrics.database_read_only.get() == 1;
    let writable = health.role == Role::Api || !refused;
    let quorum = health.role == Role::Api || health.metrics.queue_without_quorum.get() == 0;
    let word = |ready: bool| if ready { "ready" } else { "not ready" };
    let status =
        if attached && quorum && database && writable { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let consumer = match health.role {
        Role::Api => String::new(),
        Role::Worker | Role::Both => format!("consumer: {}\n", word(attached)),
    };
    let queue = if quorum { "" } else { "queue: no quorum\n" };
    let writes = if refused { "writes: refused\n" } else { "" };
    let rights = if health.metrics.rights_missing.get() == 1 { "rights: missing\n" } else { "" };
    let isolated = if health.metrics.isolated.get() == 1 { "isolated: yes\n" } else { "" };
    let egress = if health.metrics.egress_out.get() == 1 { "egress: out\n" } else { "" };
    (status, format!("{consumer}{queue}database: {}\n{writes}{rights}{isolated}{egress}", word(database)))
}

async fn render(State(health): State<Arc<Health>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], health.metrics.render())
}

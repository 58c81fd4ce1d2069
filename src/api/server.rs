//! Takes connections: so many at a time, and none that is silent or deaf.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::drained::Drained;
use crate::config::ApiLimits;

/// After an accept that failed for want of files: others must close first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Heads beyond it are answered 431 without a body; well above what the routes take, which answer better.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Serves until `stop`; what is being answered then has `grace`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &ApiLimits,
    grace: Duration,
    stop: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(MAX_HEAD_BYTES);
    let room = Arc::new(Semaphore::new(limits.max_connections));
    let service = TowerToHyperService::new(router);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    while let Some((stream, permit)) = stop.run_until_cancelled(accept(&listener, &room)).await {
        let stream = TokioIo::new(Drained::new(stream, limits.request_timeout));
        let connection = graceful.watch(builder.serve_connection(stream, service.clone()));
        connections.spawn(async move {
            // That a caller left, or sent no HTTP, is its own affair.
            let _ = connection.await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests still being answered are abandoned");
    }
    connections.shutdown().await;
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small; none should wait for another.
                let _ = stream.set_nodelay(true);
                return (stream, permit);
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

//! Takes connections: so many at a time, and none that is silent or deaf. At the limit those that only wait make room.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connections::{Connection, Connections};
use super::drained::Drained;
use crate::config::ApiLimits;
use crate::metrics::Metrics;

/// After an accept that failed for want of files: others must close first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Heads beyond it are answered 431 without a body; well above what the routes take, which answer better.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Callers who have connected and are not accepted yet. Of those beyond it the kernel drops the first packet, and they wait
/// a second before they send it again; many callers connect at once when many are sent away.
const NOT_ACCEPTED: u32 = 4096;

/// Takes an address for callers, with room for many who come at once.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Also if connections of a process before this one have not quite ended.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(NOT_ACCEPTED)
}

/// What connections are served with.
pub(super) struct Server {
    pub(super) router: Router,
    pub(super) limits: ApiLimits,
    /// What is being answered at a stop has so long.
    pub(super) grace: Duration,
    pub(super) metrics: Metrics,
}

impl Server {
    /// Serves until `stop`, and then what is being answered.
    pub(super) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let Self { router, limits, grace, metrics } = self;
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(MAX_HEAD_BYTES);
        let open = Connections::new(limits.max_connections);
        let service = TowerToHyperService::new(router);
        let graceful = GracefulShutdown::new();
        let mut serving = JoinSet::new();
        while let Some((stream, connection)) = stop.run_until_cancelled(accept(&listener, &open)).await {
            let stream = TokioIo::new(Drained::new(stream, limits.request_timeout, connection.clone()));
            let (service, made_room) = (service.clone(), metrics.api_connections_closed.clone());
            let answering = connection.clone();
            let service = service_fn(move |request| {
                let busy = answering.busy();
                let answer = service.call(request);
                async move {
                    let answer = answer.await;
                    // hyper writes the answer in this same poll, before the connection can be told to close; if it cannot
                    // write all of it, `Drained` keeps the connection busy.
                    drop(busy);
                    answer
                }
            });
            let served = graceful.watch(builder.serve_connection(stream, service));
            serving.spawn(async move {
                tokio::select! {
                    // A head that has arrived is read first, and then answered.
                    biased;
                    // That a caller left, or sent no HTTP, is its own affair.
                    _ = served => {}
                    () = connection.must_close() => {
                        made_room.inc();
                        tracing::debug!("closed the connection that waited longest, to make room for another");
                    }
                }
            });
            while serving.try_join_next().is_some() {}
        }
        drop(listener);
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests still being answered are abandoned");
        }
        serving.shutdown().await;
    }
}

/// The next caller, who waits here for room beyond those that are open.
async fn accept(listener: &TcpListener, open: &Connections) -> (TcpStream, Arc<Connection>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small; none should wait for another.
                let _ = stream.set_nodelay(true);
                return (stream, open.open().await);
            }
            Err(error) => {
                tracing::debug!(error = crate::error_chain(&error), "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

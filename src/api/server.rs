//! Accepts and serves connections, up to `api.max_connections`. Callers who send or read too slowly are disconnected; at the
//! limit the connection that has waited longest for a request is closed for a new one.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use futures_util::{StreamExt as _, stream};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connections::{Connection, Connections};
use super::timed_stream::{CallerTimeouts, TimedStream};
use crate::config::ApiLimits;
use crate::metrics::Metrics;

/// At a stop, connections that wait in the kernel are still accepted for this time.
const LAST_CALLERS: Duration = Duration::from_millis(50);
/// The pause after an accept that failed because too many files are open: other connections must close first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// hyper answers longer heads with 431 and no body. The limit of `exchange` is far lower, and its answer has a body.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// The server, before it runs.
pub(super) struct Server {
    pub(super) router: Router,
    pub(super) limits: ApiLimits,
    pub(super) metrics: Metrics,
    pub(super) shutdown: Shutdown,
}

/// The steps of a stop.
#[derive(Clone)]
pub(super) struct Shutdown {
    /// Once it is cancelled, each answer closes its connection.
    pub(super) stop: CancellationToken,
    /// New connections are accepted for so long after `stop`.
    pub(super) drain_delay: Duration,
    /// The server cancels it when it accepts no more connections. Idle ones then close.
    pub(super) closed: CancellationToken,
    /// How long requests that are being answered have after that.
    pub(super) grace: Duration,
}

impl Shutdown {
    /// Returns when no more connections are to be accepted.
    async fn accepting_ends(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.drain_delay).await;
    }
}

/// The parts that all connections share.
struct Serving {
    builder: http1::Builder,
    timeouts: CallerTimeouts,
    service: TowerToHyperService<Router>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Server {
    /// Accepts connections until `stop` and for `drain_delay` after it, then finishes the requests that are being answered.
    pub(super) async fn serve(self, listener: TcpListener) {
        let Self { router, limits, metrics, shutdown } = self;
        let timeouts =
            CallerTimeouts { idle: limits.idle_timeout, head: limits.header_timeout, answer: limits.request_timeout };
        let mut builder = http1::Builder::new();
        // `TimedStream` is the first to end a connection. hyper's own timeout is for what it does not see: a head that came
        // with the body before it, or an answer that was read slowly. With that timeout, hyper also reads as soon as it has
        // answered, so that `TimedStream` counts from there.
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.idle + timeouts.head)
            .max_buf_size(MAX_HEAD_BYTES);
        let service = TowerToHyperService::new(router);
        let serving = Arc::new(Serving { builder, timeouts, service, metrics, shutdown: shutdown.clone() });
        let (open, mut tasks) = (Connections::new(limits.max_connections), JoinSet::new());
        let mut accepting_ends = std::pin::pin!(shutdown.accepting_ends());
        // The stream owns the listener, and closes it when it is dropped.
        let callers = stream::unfold(listener, async |listener| Some((accept(&listener, &open).await, listener)));
        let mut callers = Box::pin(callers);
        loop {
            let caller = tokio::select! {
                biased;
                () = &mut accepting_ends => break,
                caller = callers.next() => caller,
            };
            let Some((stream, connection)) = caller else { break };
            tasks.spawn(serving.clone().serve(stream, connection));
            while tasks.try_join_next().is_some() {}
        }
        // Connections made before this moment are still answered. Idle ones close now and make room for them.
        shutdown.closed.cancel();
        let mut last = Box::pin(callers.take_until(tokio::time::sleep(LAST_CALLERS)));
        while let Some((stream, connection)) = last.next().await {
            tasks.spawn(serving.clone().serve(stream, connection));
        }
        drop(last);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(shutdown.grace, all).await.is_err() {
            tracing::warn!("requests still being answered are abandoned");
        }
        tasks.shutdown().await;
    }
}

impl Serving {
    async fn serve(self: Arc<Self>, stream: TcpStream, connection: Arc<Connection>) {
        let stream = TokioIo::new(TimedStream::new(stream, self.timeouts, connection.clone()));
        let (this, answering) = (&self, &connection);
        let service = service_fn(move |request| {
            let busy = answering.busy();
            let answer = this.service.call(request);
            async move {
                let answer = answer.await.map(|answer| this.closing(answer));
                // hyper writes the answer in this same poll, before the connection can be told to close. If it cannot write
                // all of it, `TimedStream` keeps the connection busy.
                drop(busy);
                answer
            }
        });
        let mut served = std::pin::pin!(self.builder.serve_connection(stream, service));
        let closed = async {
            self.shutdown.closed.cancelled().await;
            // Lets bytes that have arrived be read first: the runtime sees them between two polls of a task.
            tokio::task::yield_now().await;
        };
        tokio::select! {
            // Serving comes first, so that a complete head that has arrived is answered.
            biased;
            // An error means that the caller left or sent no HTTP: nothing to log.
            _ = &mut served => return,
            () = connection.must_close() => {
                self.metrics.api_connections_closed.inc();
                return tracing::debug!("closed the connection that waited longest, to make room for another");
            }
            () = closed => {}
        }
        served.as_mut().graceful_shutdown();
        let _ = served.await;
    }

    /// Once this process stops, tells proxies not to send another request over this connection.
    fn closing(&self, mut answer: Response<Body>) -> Response<Body> {
        if self.shutdown.stop.is_cancelled() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// Accepts the next connection and waits until there is room for it.
async fn accept(listener: &TcpListener, open: &Connections) -> (TcpStream, Arc<Connection>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without Nagle's algorithm: an answer is small, and must not wait for the next one.
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

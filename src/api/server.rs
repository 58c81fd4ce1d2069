//! Takes connections: so many at a time, and none that is silent or deaf. At the limit those that only wait make room.

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
use super::drained::{Drained, Patience};
use crate::config::ApiLimits;
use crate::metrics::Metrics;

/// After an accept that failed for want of files: others must close first.
/// Those who have connected when nobody is accepted any more are taken in this time: they wait in the kernel already.
const LAST_CALLERS: Duration = Duration::from_millis(50);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Heads beyond it are answered 431 without a body; well above what the routes take, which answer better.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// What connections are served with.
pub(super) struct Server {
    pub(super) router: Router,
    pub(super) limits: ApiLimits,
    pub(super) metrics: Metrics,
    pub(super) course: Course,
}

/// How serving ends.
#[derive(Clone)]
pub(super) struct Course {
    /// From here on each answer closes its connection.
    pub(super) stop: CancellationToken,
    /// Callers are accepted for so long after it.
    pub(super) drain_delay: Duration,
    /// Cancelled by the server when it accepts nobody any more: idle connections close.
    pub(super) closed: CancellationToken,
    /// What is being answered then has so long.
    pub(super) rest: Duration,
}

impl Course {
    async fn drained(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.drain_delay).await;
    }
}

/// What each connection is served with.
struct Serving {
    builder: http1::Builder,
    patience: Patience,
    service: TowerToHyperService<Router>,
    metrics: Metrics,
    course: Course,
}

impl Server {
    /// Serves until `stop` and its `drain_delay`, and then what is being answered.
    pub(super) async fn serve(self, listener: TcpListener) {
        let Self { router, limits, metrics, course } = self;
        let patience =
            Patience { idle: limits.idle_timeout, head: limits.header_timeout, answer: limits.request_timeout };
        let mut builder = http1::Builder::new();
        // `Drained` is the first to end a connection. What it does not see, a head that came with a body or an answer that
        // was taken slowly, ends by hyper's own time-out. With one hyper also reads as soon as it has answered, and so
        // `Drained` counts from there.
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(patience.idle + patience.head)
            .max_buf_size(MAX_HEAD_BYTES);
        let service = TowerToHyperService::new(router);
        let serving = Arc::new(Serving { builder, patience, service, metrics, course: course.clone() });
        let (open, mut tasks) = (Connections::new(limits.max_connections), JoinSet::new());
        let mut drained = std::pin::pin!(course.drained());
        // It owns the listener, which ends with it.
        let callers = stream::unfold(listener, async |listener| Some((accept(&listener, &open).await, listener)));
        let mut callers = Box::pin(callers);
        loop {
            let caller = tokio::select! {
                biased;
                () = &mut drained => break,
                caller = callers.next() => caller,
            };
            let Some((stream, connection)) = caller else { break };
            tasks.spawn(serving.clone().serve(stream, connection));
            while tasks.try_join_next().is_some() {}
        }
        // Who has connected in time is answered. Idle connections, which close now, make room.
        course.closed.cancel();
        let mut last = Box::pin(callers.take_until(tokio::time::sleep(LAST_CALLERS)));
        while let Some((stream, connection)) = last.next().await {
            tasks.spawn(serving.clone().serve(stream, connection));
        }
        drop(last);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(course.rest, all).await.is_err() {
            tracing::warn!("requests still being answered are abandoned");
        }
        tasks.shutdown().await;
    }
}

impl Serving {
    async fn serve(self: Arc<Self>, stream: TcpStream, connection: Arc<Connection>) {
        let stream = TokioIo::new(Drained::new(stream, self.patience, connection.clone()));
        let (this, answering) = (&self, &connection);
        let service = service_fn(move |request| {
            let busy = answering.busy();
            let answer = this.service.call(request);
            async move {
                let answer = answer.await.map(|answer| this.closing(answer));
                // hyper writes the answer in this same poll, before the connection can be told to close; if it cannot
                // write all of it, `Drained` keeps the connection busy.
                drop(busy);
                answer
            }
        });
        let mut served = std::pin::pin!(self.builder.serve_connection(stream, service));
        let closed = async {
            self.course.closed.cancelled().await;
            // What has arrived is read first: the runtime learns of it between two polls of a task.
            tokio::task::yield_now().await;
        };
        tokio::select! {
            // A whole head that has arrived is read first, and then answered.
            biased;
            // That a caller left, or sent no HTTP, is its own affair.
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

    /// Has a proxy that keeps connections open go elsewhere with its next request, once this process stops.
    fn closing(&self, mut answer: Response<Body>) -> Response<Body> {
        if self.course.stop.is_cancelled() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
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

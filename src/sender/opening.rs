//! Tells an attempt whether a connection was opened for it, or is still being opened. The HTTP client itself does not say so.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tower::util::ServiceExt as _;
use tower::{Layer, Service};

use super::reservation_guard::Reservation;

/// What is known of the connections of one attempt.
#[derive(Debug)]
pub(super) struct Opening {
    /// The attempt's place in the pool; `None` if it uses the unpooled client alone.
    reservation: Option<Reservation>,
    /// Connections that are being opened for the attempt. It waits for all of them.
    awaited: AtomicUsize,
    opened: AtomicBool,
}

impl Opening {
    pub(super) fn new(reservation: Option<Reservation>) -> Self {
        Self { reservation, awaited: AtomicUsize::new(0), opened: AtomicBool::new(false) }
    }

    /// Whether the attempt waits for a connection that is being opened.
    pub(super) fn is_under_way(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    /// Whether a connection was opened for the attempt; if not, it uses one that was kept open.
    pub(super) fn was_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.awaited.fetch_add(1, Ordering::Relaxed);
    }

    /// The attempt does not wait for one of the connections any more.
    fn end(&self) {
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }

    fn note_opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    /// Notes that a connection was opened which the attempt does not use.
    fn note_opened_for_nobody(&self) {
        if let Some(reservation) = &self.reservation {
            reservation.note_opened_for_nobody();
        }
    }
}

tokio::task_local! {
    /// Of the attempt that this task is making.
    static ATTEMPT: Arc<Opening>;
}

/// Runs a request of an attempt and notes which connections are opened for it.
pub(super) async fn noted<T>(opening: Arc<Opening>, request: impl Future<Output = T>) -> T {
    ATTEMPT.scope(opening, request).await
}

/// Wraps the client's connector.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoteOpening;

impl<S> Layer<S> for NoteOpening {
    type Service = Noting<S>;

    fn layer(&self, connector: S) -> Noting<S> {
        Noting { connector: Arc::new(connector) }
    }
}

/// Shares the connector, since the client clones it for every request, even for one that opens no connection.
#[derive(Debug)]
pub(super) struct Noting<S> {
    connector: Arc<S>,
}

impl<S> Clone for Noting<S> {
    fn clone(&self) -> Self {
        Self { connector: self.connector.clone() }
    }
}

impl<S, To> Service<To> for Noting<S>
where
    S: Service<To> + Clone + Send + Sync + 'static,
    S::Future: Send,
    To: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // `oneshot` waits until the clone that connects is ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: To) -> Self::Future {
        let connecting = S::clone(&self.connector).oneshot(to);
        let attempt = ATTEMPT.try_with(Arc::clone).ok();
        if let Some(attempt) = &attempt {
            attempt.begin();
        }
        Box::pin(async move {
            let Some(attempt) = attempt else { return connecting.await };
            let mut connecting = pin!(connecting);
            let mut is_awaited = true;
            let connected = poll_fn(|context| {
                // If the attempt got another connection meanwhile, a task of the client polls this, outside the attempt's
                // scope: `try_with` fails there.
                if is_awaited && ATTEMPT.try_with(|_| ()).is_err() {
                    is_awaited = false;
                    attempt.end();
                }
                connecting.as_mut().poll(context)
            });
            let connected = connected.await;
            if is_awaited {
                attempt.end();
            }
            match (&connected, is_awaited) {
                (Ok(_), true) => attempt.note_opened(),
                (Ok(_), false) => attempt.note_opened_for_nobody(),
                (Err(_), _) => {}
            }
            connected
        })
    }
}

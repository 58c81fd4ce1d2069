//! Tells an attempt whether a connection was opened for it. The HTTP client itself does not say so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::util::ServiceExt as _;
use tower::{Layer, Service};

use super::reservation_guard::Reservation;

tokio::task_local! {
    /// The reservation of the attempt that this task is making.
    static ATTEMPT: Arc<Reservation>;
}

/// Runs a request and notes in its reservation which connections were opened for it.
pub(super) async fn noted<T>(reservation: Arc<Reservation>, request: impl Future<Output = T>) -> T {
    ATTEMPT.scope(reservation, request).await
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
        let begun_for = ATTEMPT.try_with(Arc::clone).ok();
        Box::pin(async move {
            let connection = connecting.await?;
            // If the attempt got another connection meanwhile, a task of the client runs this code, outside the attempt's
            // scope: `try_with` fails there.
            let is_for_attempt = ATTEMPT.try_with(|reservation| reservation.note_opened()).is_ok();
            if let Some(reservation) = begun_for.filter(|_| !is_for_attempt) {
                reservation.note_opened_for_nobody();
            }
            Ok(connection)
        })
    }
}

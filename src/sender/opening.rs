//! Tells an attempt whether a connection was opened for it, which the HTTP client itself does not say.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::util::ServiceExt as _;
use tower::{Layer, Service};

use super::clients::Place;

tokio::task_local! {
    /// The attempt that this task is making with the pool.
    static ATTEMPT: Arc<Place>;
}

/// Runs a request with the pool and notes at its place what was opened for it.
pub(super) async fn noted<T>(place: Arc<Place>, request: impl Future<Output = T>) -> T {
    ATTEMPT.scope(place, request).await
}

/// Goes around the client's connector.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoteOpening;

impl<S> Layer<S> for NoteOpening {
    type Service = Noting<S>;

    fn layer(&self, connector: S) -> Noting<S> {
        Noting { connector: Arc::new(connector) }
    }
}

/// The client clones its connector for every request, also for those that need none: a shared one is cheap to clone.
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
        // The clone that connects waits for it.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: To) -> Self::Future {
        let connecting = S::clone(&self.connector).oneshot(to);
        let begun_for = ATTEMPT.try_with(Arc::clone).ok();
        Box::pin(async move {
            let connection = connecting.await?;
            // An attempt may be given another connection meanwhile. Then a task of the client's gets here, outside the
            // attempt's scope, where `try_with` fails.
            let is_for_attempt = ATTEMPT.try_with(|place| place.note_opened()).is_ok();
            if let Some(place) = begun_for.filter(|_| !is_for_attempt) {
                place.opened_for_nobody();
            }
            Ok(connection)
        })
    }
}

//! Holds events that were sent and are not confirmed yet, in the order in which they were sent.

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};

use crate::queue::{PublishError, Unconfirmed};

/// Events that are not confirmed yet, at most.
const MOST: usize = 256;

/// Unconfirmed events, each with what the caller wants to know of it later.
pub(super) struct Window<T>(FuturesOrdered<BoxFuture<'static, Answer<T>>>);

/// What the broker said to an event.
pub(super) type Answer<T> = (T, Result<(), PublishError>);

impl<T: Send + 'static> Window<T> {
    pub(super) fn new() -> Self {
        Self(FuturesOrdered::new())
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, event: T, sent: Unconfirmed) {
        self.0.push_back(async move { (event, sent.confirmed().await) }.boxed());
    }

    /// Waits for the broker's answer to the oldest event. `None` if there is none. Nothing is lost if the wait is given up.
    pub(super) async fn next(&mut self) -> Option<Answer<T>> {
        self.0.next().await
    }
}

//! Reads webhooks again for deliveries that waited. One question serves all turns of a webhook that come to it within
//! `worker.lookup_lifetime`: a lane that is behind would ask for each of its turns otherwise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::WebhookId;
use crate::snapshot::Snapshot;

/// Webhooks that are remembered before those no longer needed are forgotten.
const REMEMBERED: usize = 1024;

/// When a webhook was asked for, and what it was then; `None` if it was deleted.
type Seen = (Instant, Option<Arc<Snapshot>>);

pub(super) struct Lookups {
    lifetime: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    webhooks: HashMap<WebhookId, Arc<tokio::sync::Mutex<Option<Seen>>>>,
    /// How many there may be before the next tidying.
    most: usize,
}

impl Lookups {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, known: Mutex::default() }
    }

    /// The webhook as it was asked for within the lifetime, or as `ask` finds it now. Turns that come while one asks wait
    /// for its answer.
    pub(super) async fn now(
        &self,
        webhook: WebhookId,
        ask: impl AsyncFnOnce() -> Option<Snapshot>,
    ) -> Option<Arc<Snapshot>> {
        let came = Instant::now();
        let seen = self.seen(webhook);
        let mut seen = seen.lock().await;
        if let Some((at, now)) = &*seen
            // However long the answer took: an own question would have been asked no later.
            && (*at >= came || at.elapsed() < self.lifetime)
        {
            return now.clone();
        }
        let asked = Instant::now();
        let now = ask().await.map(Arc::new);
        *seen = Some((asked, now.clone()));
        now
    }

    fn seen(&self, webhook: WebhookId) -> Arc<tokio::sync::Mutex<Option<Seen>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.webhooks.len() > known.most {
            let fresh = |seen: &Seen| seen.0.elapsed() < self.lifetime;
            // One that is locked is being asked for.
            known.webhooks.retain(|_, seen| seen.try_lock().map_or(true, |seen| seen.as_ref().is_some_and(fresh)));
            known.most = (2 * known.webhooks.len()).max(REMEMBERED);
        }
        known.webhooks.entry(webhook).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use uuid::Uuid;

    fn webhook(number: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn turns_of_one_webhook_share_a_question_and_those_of_another_do_not() {
        let (lookups, asked) = (Lookups::new(Duration::from_secs(600)), AtomicUsize::new(0));
        let ask = async |number: u128| {
            let question = async || {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                None
            };
            lookups.now(webhook(number), question).await
        };
        tokio::join!(ask(1), ask(1), ask(2), ask(1));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_crowd_asks_twice_at_most_however_long_an_answer_takes() {
        let (lookups, asked) = (Lookups::new(Duration::ZERO), AtomicUsize::new(0));
        let ask = async || {
            let slow = async || {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
                None
            };
            lookups.now(webhook(1), slow).await
        };
        futures_util::future::join_all((0..20).map(|_| ask())).await;
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_is_no_longer_fresh_is_asked_again_and_forgotten() {
        let (lookups, mut asked) = (Lookups::new(Duration::ZERO), 0);
        for number in 0..3 * REMEMBERED as u128 {
            for _ in 0..2 {
                let question = async || {
                    asked += 1;
                    None
                };
                lookups.now(webhook(number), question).await;
            }
        }
        assert_eq!(asked, 6 * REMEMBERED);
        assert!(lookups.known.lock().unwrap().webhooks.len() <= REMEMBERED + 1);
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_leaves_it_to_the_next() {
        let lookups = Lookups::new(Duration::from_secs(600));
        let never = lookups.now(webhook(1), async || std::future::pending().await);
        assert!(tokio::time::timeout(Duration::from_millis(1), never).await.is_err());
        assert!(lookups.now(webhook(1), async || None).await.is_none());
    }
}

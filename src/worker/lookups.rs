//! Reads webhooks again for deliveries that have waited. One query serves all turns of a webhook that ask within
//! `worker.lookup_lifetime`: otherwise a lane with a backlog would query for each of its turns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::WebhookId;
use crate::snapshot::Snapshot;

/// Webhooks that are cached before the first tidying.
const CACHED: usize = 1024;

/// When a webhook was queried, and what was found; `None` if it was deleted.
type Found = (Instant, Option<Arc<Snapshot>>);

pub(super) struct Lookups {
    lifetime: Duration,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// The lock of a webhook is held while it is queried: other turns wait for the answer.
    webhooks: HashMap<WebhookId, Arc<tokio::sync::Mutex<Option<Found>>>>,
    /// How many there may be before the next tidying.
    most: usize,
}

impl Lookups {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, cache: Mutex::default() }
    }

    /// The webhook as it was found within the lifetime, or as `query` finds it now. Turns that come during a query wait for
    /// its answer.
    pub(super) async fn get(
        &self,
        webhook: WebhookId,
        query: impl AsyncFnOnce() -> Option<Snapshot>,
    ) -> Option<Arc<Snapshot>> {
        let came = Instant::now();
        let entry = self.entry(webhook);
        let mut found = entry.lock().await;
        if let Some((at, newest)) = &*found
            // A query that began after this turn came is fresh enough, however long its answer took.
            && (*at >= came || at.elapsed() < self.lifetime)
        {
            return newest.clone();
        }
        let queried = Instant::now();
        let newest = query().await.map(Arc::new);
        *found = Some((queried, newest.clone()));
        newest
    }

    fn entry(&self, webhook: WebhookId) -> Arc<tokio::sync::Mutex<Option<Found>>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.webhooks.len() > cache.most {
            let is_fresh = |found: &Found| found.0.elapsed() < self.lifetime;
            // An entry that is locked is being queried.
            cache
                .webhooks
                .retain(|_, entry| entry.try_lock().map_or(true, |found| found.as_ref().is_some_and(is_fresh)));
            cache.most = (2 * cache.webhooks.len()).max(CACHED);
        }
        cache.webhooks.entry(webhook).or_default().clone()
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
            lookups.get(webhook(number), question).await
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
            lookups.get(webhook(1), slow).await
        };
        futures_util::future::join_all((0..20).map(|_| ask())).await;
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_is_no_longer_fresh_is_asked_again_and_forgotten() {
        let (lookups, mut asked) = (Lookups::new(Duration::ZERO), 0);
        for number in 0..3 * CACHED as u128 {
            for _ in 0..2 {
                let question = async || {
                    asked += 1;
                    None
                };
                lookups.get(webhook(number), question).await;
            }
        }
        assert_eq!(asked, 6 * CACHED);
        assert!(lookups.cache.lock().unwrap().webhooks.len() <= CACHED + 1);
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_leaves_it_to_the_next() {
        let lookups = Lookups::new(Duration::from_secs(600));
        let never = lookups.get(webhook(1), async || std::future::pending().await);
        assert!(tokio::time::timeout(Duration::from_millis(1), never).await.is_err());
        assert!(lookups.get(webhook(1), async || None).await.is_none());
    }
}

//! Remembers which webhooks' secrets or headers cannot be decrypted, so that the log says it once and not for every delivery.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::WebhookId;
use crate::metrics::Metrics;
use crate::secret::OpenError;

/// By reason, which names the missing key: the webhooks whose secrets or headers cannot be decrypted, and when each was last met.
type Waiting = HashMap<String, HashMap<WebhookId, Instant>>;

pub(super) struct Unopened {
    webhooks: Mutex<Waiting>,
    metrics: Metrics,
}

impl Unopened {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { webhooks: Mutex::default(), metrics }
    }

    /// A request could not be made. Logs the first one for each reason.
    pub(super) fn note(&self, webhook: WebhookId, error: &OpenError) {
        let mut webhooks = self.webhooks();
        let reason = error.to_string();
        if !webhooks.contains_key(&reason) {
            tracing::error!(webhook_id = %webhook, error = reason, "a secret or a header cannot be decrypted; deliveries that need it wait");
        }
        webhooks.retain(|other, waiting| {
            if *other != reason {
                waiting.remove(&webhook);
            }
            !waiting.is_empty()
        });
        webhooks.entry(reason).or_default().insert(webhook, Instant::now());
        self.count(&webhooks);
    }

    /// A webhook's secrets and headers can be decrypted, or its deliveries are closed.
    pub(super) fn forget(&self, webhook: WebhookId) {
        self.keep(|waiting, _| waiting != webhook);
    }

    /// Forgets webhooks that were not met for this long: another worker attempts their deliveries, or they have none.
    pub(super) fn forget_unseen(&self, long: Duration) {
        self.keep(|_, seen| seen.elapsed() < long);
    }

    /// Keeps the webhooks that are to stay. Logs each reason that no webhook is left for.
    fn keep(&self, stays: impl Fn(WebhookId, Instant) -> bool) {
        // Usually there are none: every attempt comes here, and need not take the lock.
        if self.metrics.secrets_unopened.get() == 0 {
            return;
        }
        let mut webhooks = self.webhooks();
        webhooks.retain(|reason, waiting| {
            waiting.retain(|webhook, seen| stays(*webhook, *seen));
            if waiting.is_empty() {
                tracing::info!(error = reason, "no delivery waits for this any more");
            }
            !waiting.is_empty()
        });
        self.count(&webhooks);
    }

    fn webhooks(&self) -> MutexGuard<'_, Waiting> {
        self.webhooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, webhooks: &Waiting) {
        let count = webhooks.values().map(HashMap::len).sum::<usize>();
        self.metrics.secrets_unopened.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

//! Knows which webhooks' secrets cannot be decrypted, so that an operator is told once and not for every delivery.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::metrics::Metrics;
use crate::secret::OpenError;
use crate::webhook::WebhookId;

/// Webhooks by the reason for which their secrets do not open, which names the missing key.
pub(super) struct Unopened {
    webhooks: Mutex<HashMap<String, HashSet<WebhookId>>>,
    metrics: Metrics,
}

impl Unopened {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { webhooks: Mutex::default(), metrics }
    }

    /// A delivery could not be signed. The first one for each reason is told.
    pub(super) fn note(&self, webhook: WebhookId, error: &OpenError) {
        let mut webhooks = self.webhooks();
        let reason = error.to_string();
        if !webhooks.contains_key(&reason) {
            tracing::error!(webhook_id = %webhook, error = reason, "a secret cannot be decrypted; deliveries that need it wait");
        }
        webhooks.entry(reason).or_default().insert(webhook);
        self.count(&webhooks);
    }

    /// A webhook's secret opens, or nothing is owed to it any more. The last one of each reason is told.
    pub(super) fn forget(&self, webhook: WebhookId) {
        // Usually there are none, and every attempt asks.
        if self.metrics.secrets_unopened.get() == 0 {
            return;
        }
        let mut webhooks = self.webhooks();
        webhooks.retain(|reason, waiting| {
            if waiting.remove(&webhook) && waiting.is_empty() {
                tracing::info!(error = reason, "no delivery waits for this any more");
            }
            !waiting.is_empty()
        });
        self.count(&webhooks);
    }

    fn webhooks(&self) -> MutexGuard<'_, HashMap<String, HashSet<WebhookId>>> {
        self.webhooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, webhooks: &HashMap<String, HashSet<WebhookId>>) {
        let count = webhooks.values().map(HashSet::len).sum::<usize>();
        self.metrics.secrets_unopened.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

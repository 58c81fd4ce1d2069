//! Makes the partitions of the coming days and drops those that are past their retention, once an hour. Making comes first and
//! does not depend on dropping: without today's partitions no result can be recorded.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Retention;
use crate::error_chain;
use crate::metrics::{Metrics, UpkeepFailure};
use crate::store::{DropError, Dropped, Store, StoreError};

/// The time between two runs. Partitions are made for a week ahead, so a missed run does no harm.
const EVERY: Duration = Duration::from_secs(3600);
/// The time until the next run after a failure.
const SOON: Duration = Duration::from_secs(60);
/// Bounds for a server that does not answer; one that answers ends each statement earlier by itself.
const MAKING_BOUND: Duration = Duration::from_secs(60);
const DROPPING_BOUND: Duration = Duration::from_secs(600);

/// The upkeep of one process. Every process makes partitions; workers also drop them.
#[derive(Clone)]
pub struct Upkeep {
    pub store: Store,
    pub metrics: Metrics,
    /// How long events and attempts are kept; `None` drops nothing.
    pub retention: Option<Retention>,
}

impl Upkeep {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            let (mut making, mut dropping) = (Failures::default(), Failures::default());
            loop {
                let made = self.make(&mut making).await;
                let dropped = self.drop_expired(&mut dropping).await;
                tokio::time::sleep(if made && dropped { EVERY } else { SOON }).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Returns whether all partitions are there.
    async fn make(&self, failures: &mut Failures) -> bool {
        let made = timeout(MAKING_BOUND, self.store.make_partitions()).await;
        let looked = timeout(MAKING_BOUND, self.store.partition_days()).await;
        // 0 without an answer: what was seen hours ago may hold no more, and the figures of other processes are to count.
        self.metrics.partitions_ahead.set(looked.ok().and_then(Result::ok).map_or(0, i64::from));
        failures.note_denied(matches!(made, Ok(Err(StoreError::Denied(_)))));
        let error = match made {
            Ok(Ok(())) => return failures.end("partitions are made again"),
            Ok(Err(error)) => error_chain(&error),
            Err(_) => "no answer".to_owned(),
        };
        self.metrics.upkeep_failures.count(UpkeepFailure::Make);
        failures.log(&error, "cannot make partitions ahead, trying again every minute");
        false
    }

    /// Returns whether nothing has failed.
    async fn drop_expired(&self, failures: &mut Failures) -> bool {
        let Some(retention) = &self.retention else { return true };
        let (reason, error) = match timeout(DROPPING_BOUND, self.store.drop_expired(retention)).await {
            Ok(Ok(Dropped { left, .. })) => {
                if left > 0 {
                    tracing::info!(left, "more partitions are past their retention, dropping three of a table an hour");
                }
                return failures.end("partitions past their retention are dropped again");
            }
            // This is not a failure: the installation is set up so that the tables' owner drops partitions.
            Ok(Err(DropError::NotOwner)) => {
                if !std::mem::replace(&mut failures.owner_logged, true) {
                    tracing::info!("partitions past their retention are not dropped here: {}", DropError::NotOwner);
                }
                return failures.end("partitions past their retention are left to their owner");
            }
            Ok(Err(DropError::Locked)) => (UpkeepFailure::Locked, error_chain(&DropError::Locked)),
            Ok(Err(error @ DropError::Clocks(_))) => (UpkeepFailure::Clocks, error_chain(&error)),
            Ok(Err(DropError::Store(error))) => (UpkeepFailure::Drop, error_chain(&error)),
            Err(_) => (UpkeepFailure::Drop, "no answer".to_owned()),
        };
        self.metrics.upkeep_failures.count(reason);
        const WHAT: &str = "partitions past their retention are not dropped, trying again every minute";
        match reason {
            // Workers that start together drop at the same time. If the lock is still held a minute later, it is a failure.
            UpkeepFailure::Locked if !std::mem::replace(&mut failures.was_locked, true) => {
                tracing::info!(error, "{WHAT}")
            }
            _ => failures.log(&error, WHAT),
        }
        false
    }
}

/// Logs a lasting failure once an hour instead of once a minute.
#[derive(Debug, Default)]
struct Failures {
    /// When the failure was last logged as a warning or an error.
    logged: Option<Instant>,
    /// Whether the last run found the lock held.
    was_locked: bool,
    /// Whether the role lacks a right, so that an operator must act.
    denied: bool,
    /// Whether it was logged that the tables' owner drops partitions.
    owner_logged: bool,
}

impl Failures {
    fn log(&mut self, error: &str, what: &'static str) {
        if self.logged.is_some_and(|logged| logged.elapsed() < EVERY) {
            tracing::debug!(error, "{what}");
            return;
        }
        self.logged = Some(Instant::now());
        match self.denied {
            true => tracing::error!(error, "{what}"),
            false => tracing::warn!(error, "{what}"),
        }
    }

    fn note_denied(&mut self, denied: bool) {
        if denied && !self.denied {
            self.logged = None;
        }
        self.denied = denied;
    }

    fn end(&mut self, what: &'static str) -> bool {
        self.was_locked = false;
        if self.logged.take().is_some() {
            tracing::info!("{what}");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Database, UrlSource};

    #[tokio::test]
    async fn what_was_seen_before_does_not_stand_after_a_look_that_failed() {
        let store = Store::new(&Database {
            url: "postgres://nobody@127.0.0.1:1/nothing".into(),
            url_from: UrlSource::default(),
            pool_size: 1,
            connect_timeout: Duration::from_millis(100),
            statement_timeout: Duration::from_secs(1),
        });
        let upkeep = Upkeep { store: store.unwrap(), metrics: Metrics::default(), retention: None };
        upkeep.metrics.partitions_ahead.set(8);
        assert!(!upkeep.make(&mut Failures::default()).await);
        assert_eq!(upkeep.metrics.partitions_ahead.get(), 0);
    }
}

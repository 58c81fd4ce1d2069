//! Keeps partitions ahead of time and drops what retention has ended. Partitions ahead come first, whatever becomes of
//! the rest: without today's nothing can be recorded.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Retention;
use crate::error_chain;
use crate::metrics::{Metrics, Reason};
use crate::store::{DropError, Dropped, Store, StoreError};

/// Partitions are made days ahead, so an hour missed is nothing.
const EVERY: Duration = Duration::from_secs(3600);
/// After something failed.
const SOON: Duration = Duration::from_secs(60);
/// The server gives up each statement before; these are for a server that does not answer.
const MAKING_BOUND: Duration = Duration::from_secs(60);
const DROPPING_BOUND: Duration = Duration::from_secs(600);

/// Who does what: any process can make partitions, workers also drop them.
#[derive(Clone)]
pub struct Upkeep {
    pub store: Store,
    pub metrics: Metrics,
    /// `None` drops nothing.
    pub retention: Option<Retention>,
}

impl Upkeep {
    /// Until `stop`.
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

    async fn make(&self, failures: &mut Failures) -> bool {
        let made = timeout(MAKING_BOUND, self.store.make_partitions()).await;
        if let Ok(Ok(days)) = timeout(MAKING_BOUND, self.store.partition_days()).await {
            self.metrics.partition_days.set(i64::from(days));
        }
        failures.is_denied(matches!(made, Ok(Err(StoreError::Denied(_)))));
        let error = match made {
            Ok(Ok(())) => return failures.end("partitions are made again"),
            Ok(Err(error)) => error_chain(&error),
            Err(_) => "no answer".to_owned(),
        };
        self.count("make");
        failures.tell(&error, "cannot make partitions ahead, trying again every minute");
        false
    }

    async fn drop_expired(&self, failures: &mut Failures) -> bool {
        let Some(retention) = &self.retention else { return true };
        let (reason, error) = match timeout(DROPPING_BOUND, self.store.drop_expired(retention)).await {
            Ok(Ok(Dropped { left, .. })) => {
                if left > 0 {
                    tracing::info!(left, "more partitions are past their retention, dropping three of a table an hour");
                }
                return failures.end("partitions past their retention are dropped again");
            }
            // No failure: it is how this installation is set up.
            Ok(Err(DropError::NotOwner)) => {
                if !std::mem::replace(&mut failures.told_of_owner, true) {
                    tracing::info!("partitions past their retention are not dropped here: {}", DropError::NotOwner);
                }
                return failures.end("partitions past their retention are left to their owner");
            }
            Ok(Err(DropError::Locked)) => ("locked", error_chain(&DropError::Locked)),
            Ok(Err(error @ DropError::Clocks(_))) => ("clocks", error_chain(&error)),
            Ok(Err(DropError::Store(error))) => ("drop", error_chain(&error)),
            Err(_) => ("drop", "no answer".to_owned()),
        };
        self.count(reason);
        const WHAT: &str = "partitions past their retention are not dropped, trying again every minute";
        match reason {
            // Replicas that start together meet: the other one is at work, unless it still is in a minute.
            "locked" if !std::mem::replace(&mut failures.was_locked, true) => tracing::info!(error, "{WHAT}"),
            _ => failures.tell(&error, WHAT),
        }
        false
    }

    fn count(&self, reason: &'static str) {
        self.metrics.upkeep_failures.get_or_create(&Reason { reason }).inc();
    }
}

/// Tells of a failure that lasts once an hour, not once a minute.
#[derive(Debug, Default)]
struct Failures {
    told: Option<Instant>,
    was_locked: bool,
    /// Waiting does not end the last one: somebody has to do something.
    denied: bool,
    told_of_owner: bool,
}

impl Failures {
    fn tell(&mut self, error: &str, what: &'static str) {
        if self.told.is_some_and(|told| told.elapsed() < EVERY) {
            tracing::debug!(error, "{what}");
            return;
        }
        self.told = Some(Instant::now());
        match self.denied {
            true => tracing::error!(error, "{what}"),
            false => tracing::warn!(error, "{what}"),
        }
    }

    fn is_denied(&mut self, denied: bool) {
        if denied && !self.denied {
            self.told = None;
        }
        self.denied = denied;
    }

    fn end(&mut self, what: &'static str) -> bool {
        self.was_locked = false;
        if self.told.take().is_some() {
            tracing::info!("{what}");
        }
        true
    }
}

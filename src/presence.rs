//! Tells others that this process is there, and what it does: writes its row of the table `processes` every few seconds.
//!
//! Nothing waits for this. Without the table (before `migrate`), or without a right on it, the process works all the same and
//! goes on trying.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Settings;
use crate::error_chain;
use crate::figures::{Distribution, Figures};
use crate::ids::ProcessId;
use crate::lanes::HeldBackBy;
use crate::metrics::{Metrics, RoleLabel};
use crate::ops::Role;
use crate::reconnect::Outage;
use crate::store::{OwnProcess, Store, StoreError};

/// Between two writes of the row.
const EVERY: Duration = Duration::from_secs(5);
/// The time of which the figures tell how long first verdicts took.
const LATELY: Duration = Duration::from_secs(60);
/// A process that was not seen for so long counts as gone. It may miss a few writes.
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(30);
/// The longest time that a stop waits for the row to be deleted. If it stays, the process counts as gone after
/// [`GONE_AFTER`].
const FORGETTING: Duration = Duration::from_secs(1);
/// Sessions at PostgreSQL that a worker may have beside its pool: for partitions, and to look for the server that has replaced a
/// silent one.
const BESIDE_POOL: u64 = 2;
/// And an API, which has the same two, one for readiness and its row, and for this one also a look.
const BESIDE_POOL_OF_API: u64 = 4;

/// What a process tells of itself.
pub(crate) struct Presence {
    store: Store,
    metrics: Metrics,
    process: OwnProcess,
    role: Role,
    /// Those that never change.
    settings: Figures,
    started: Instant,
    told: Told,
}

/// What the log has said.
#[derive(Debug, Default)]
struct Told {
    without_table: bool,
    denied: Outage,
}

/// What was counted when the row was last written.
#[derive(Debug, Clone)]
struct Counted {
    at: Instant,
    events: u64,
    attempts: u64,
    failed: u64,
    held_back: [u64; HeldBackBy::ALL.len()],
    first_verdict: Vec<u64>,
}

impl Presence {
    pub(crate) fn new(id: ProcessId, role: Role, settings: &Settings, store: Store, metrics: Metrics) -> Self {
        let process = OwnProcess { id, role: role.as_str(), version: env!("CARGO_PKG_VERSION"), host: host() };
        let settings = figures_of(settings, role);
        Self { store, metrics, process, role, settings, started: Instant::now(), told: Told::default() }
    }

    /// Writes the row until `over`, then deletes it.
    pub(crate) async fn run(mut self, over: CancellationToken) {
        let mut before = VecDeque::from([self.counted()]);
        loop {
            let now = self.counted();
            self.write(&self.figures(&before, &now)).await;
            before.push_back(now);
            // The first one stays that is a minute old.
            while before.len() > 2 && before[1].at.elapsed() >= LATELY {
                before.pop_front();
            }
            if over.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                break;
            }
        }
        if let Err(error) = self.store.forget_process(self.process.id).await {
            tracing::debug!(error = error_chain(&error), "cannot delete this process's row");
        }
    }

    /// Writes the row, and counts all processes if this is a worker.
    async fn write(&mut self, figures: &Figures) {
        match self.store.note_process(&self.process, self.started.elapsed(), figures).await {
            Ok(true) => {
                if self.told.denied.end().is_some() {
                    tracing::info!("other processes see this one again");
                }
            }
            Ok(false) => {
                if !std::mem::replace(&mut self.told.without_table, true) {
                    tracing::debug!("the schema has no table for processes yet: `penr-webhooks migrate` makes it");
                }
                return;
            }
            Err(error) => return self.tell(&error),
        }
        if self.role != Role::Api
            && let Err(error) = self.count().await
        {
            self.tell(&error);
        }
    }

    /// An operator must give a right. Other parts of the process log a database that is away.
    fn tell(&mut self, error: &StoreError) {
        let reason = error_chain(error);
        match matches!(error, StoreError::Denied(_)) && self.told.denied.is_news(&reason) {
            true => tracing::error!(error = reason, "other processes do not see this one, which works all the same"),
            false => tracing::debug!(error = reason, "cannot write this process's row"),
        }
    }

    async fn count(&self) -> Result<(), StoreError> {
        let seen = self.store.processes(GONE_AFTER).await?.unwrap_or_default();
        for role in Role::ALL.map(Role::as_str) {
            let count = seen.iter().filter(|process| process.role == role).count();
            self.metrics.processes.get_or_create(&RoleLabel { role }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    fn counted(&self) -> Counted {
        let (attempts, failed) = self.metrics.attempts.made_and_failed();
        Counted {
            at: Instant::now(),
            events: self.metrics.events.all(),
            attempts,
            failed,
            held_back: HeldBackBy::ALL.map(|by| self.metrics.lane_held_back.get_or_create(&by.into()).get()),
            first_verdict: self.metrics.first_verdict.counts(),
        }
    }

    fn figures(&self, before: &VecDeque<Counted>, now: &Counted) -> Figures {
        let settings = self.settings.clone();
        let (Some(oldest), Some(last)) = (before.front(), before.back()) else { return settings };
        if self.role == Role::Api {
            return settings;
        }
        let seconds = now.at.duration_since(last.at).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "it is shown with a few digits")]
        let per_second = |now: u64, before: u64| (seconds > 0.0).then(|| now.saturating_sub(before) as f64 / seconds);
        let held_back = HeldBackBy::ALL.iter().zip(now.held_back).zip(last.held_back);
        let held_back = held_back.map(|((by, now), before)| (by.as_str().to_owned(), now.saturating_sub(before)));
        let lately =
            now.first_verdict.iter().zip(&oldest.first_verdict).map(|(now, before)| now.saturating_sub(*before));
        Figures {
            in_flight: u64::try_from(self.metrics.in_flight.get()).ok(),
            unacknowledged: u64::try_from(self.metrics.unacknowledged.get()).ok(),
            attached: Some(self.metrics.consumer_attached.get() == 1),
            events_per_second: per_second(now.events, last.events),
            attempts_per_second: per_second(now.attempts, last.attempts),
            failed_per_second: per_second(now.failed, last.failed),
            held_back: Some(held_back.filter(|(_, count)| *count > 0).collect()),
            first_verdict: Some(Distribution {
                bounds: self.metrics.first_verdict.bounds().to_vec(),
                counts: lately.collect(),
            }),
            ..settings
        }
    }
}

/// Runs a process's work beside its [`Presence`], which ends after it.
pub(crate) async fn beside<T>(presence: Presence, work: impl Future<Output = T>) -> T {
    let over = CancellationToken::new();
    let telling = AbortOnDropHandle::new(tokio::spawn(presence.run(over.clone())));
    let told = AbortOnDropHandle::new(tokio::spawn(watch(telling)));
    let ended = work.await;
    over.cancel();
    let _ = tokio::time::timeout(FORGETTING, told).await;
    ended
}

/// Waits for the end of the task. A panic there ends nothing else, so the log says it.
async fn watch(telling: AbortOnDropHandle<()>) {
    if let Err(error) = telling.await {
        let error = error_chain(&error);
        tracing::error!(
            error,
            "other processes will not see this one, which works all the same, until it is started again"
        );
    }
}

/// How many sessions at PostgreSQL a process has at most.
pub(crate) fn connections(role: Role, pool_size: usize) -> u64 {
    let pool_size = pool_size as u64;
    match role {
        Role::Worker => pool_size + BESIDE_POOL,
        Role::Api => pool_size + BESIDE_POOL_OF_API,
        // The worker's pool is also for readiness and the row.
        Role::Both => 2 * (pool_size + BESIDE_POOL),
    }
}

fn figures_of(settings: &Settings, role: Role) -> Figures {
    let connections = Some(connections(role, settings.database.pool_size));
    if role == Role::Api {
        return Figures { connections, ..Figures::default() };
    }
    Figures {
        in_flight_limit: Some(settings.worker.limits().in_flight as u64),
        prefetch: Some(settings.worker.prefetch.into()),
        connections,
        queues: Some(settings.worker.shards_taken(&settings.queue).into_iter().map(|shard| shard.queue).collect()),
        ..Figures::default()
    }
}

/// The name of this machine, as the kernel of Linux has it, or that of the container.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Logged(Arc<Mutex<Vec<u8>>>);

    impl Write for Logged {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_log_says_that_the_task_has_panicked() {
        let written = Logged::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        watch(AbortOnDropHandle::new(tokio::spawn(async {}))).await;
        assert!(written.0.lock().unwrap().is_empty());
        watch(AbortOnDropHandle::new(tokio::spawn(async { panic!("a bug") }))).await;
        let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(log.contains("ERROR") && log.contains("will not see this one") && log.contains("a bug"), "{log}");
    }
}

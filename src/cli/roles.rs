//! Runs the roles of a process, worker and API, until they are told to stop.

use tokio_util::sync::CancellationToken;

use super::{Outcome, Process, broker_address};
use crate::config::{Database, Settings};
use crate::metrics::Metrics;
use crate::ops::{self, Role};
use crate::store::Store;
use crate::{api, worker};

pub(super) async fn run(settings: Settings, role: Role, process: &Process) -> Outcome {
    // All that can be known to be wrong without a connection stops the start.
    settings.database_url()?;
    // Of an API only readiness asks it. A second session would be kept, too, and where a pooler has few, requests have none
    // left.
    let pool_size = if role == Role::Api { 1 } else { settings.database.pool_size };
    let store = Store::new(&Database { pool_size, ..settings.database.clone() })?;
    settings.keyring()?;
    // Where one process has a published key, another uses it.
    settings.published_keys.check()?;
    if role != Role::Api {
        broker_address(&settings)?;
    }
    if role != Role::Worker {
        settings.tokens()?;
    }
    // Every connection is one: the usual soft limit is for programs that have few.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(error = crate::error_chain(&error), "cannot raise the limit of open files");
    }
    let stop = CancellationToken::new();
    process.signals.stop(stop.clone())?;
    let name = match role {
        Role::Worker => "worker starts",
        Role::Api => "API starts",
        Role::Both => "worker and API start",
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "{name}");
    let metrics = Metrics::with_log(process.log.dropped_lines.clone());
    let health = ops::Readiness { store: store.clone(), metrics: metrics.clone(), role, stop: stop.clone() };
    // Answers until the process ends.
    let _ops = ops::serve(settings.ops_listen, health)?;
    match role {
        Role::Worker => worker::run(settings, store, metrics, stop).await?,
        Role::Api => api::run(settings, metrics, stop).await?,
        Role::Both => {
            let api = until_either_ends(&stop, api::run(settings.clone(), metrics.clone(), stop.clone()));
            let worker = until_either_ends(&stop, worker::run(settings, store, metrics, stop.clone()));
            let (api, worker) = tokio::join!(api, worker);
            worker.and(api)?;
        }
    }
    Ok(())
}

/// One role without the other is no use to whoever asked for both.
async fn until_either_ends<T>(stop: &CancellationToken, role: impl Future<Output = T>) -> T {
    let _stop = stop.clone().drop_guard();
    role.await
}

//! Runs the roles of a process, worker and API, until they are told to stop.

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CommandResult, Process, broker_address};
use crate::config::{Database, Settings};
use crate::ids::ProcessId;
use crate::metrics::Metrics;
use crate::ops::{self, Role};
use crate::presence::{self, Presence};
use crate::store::Store;
use crate::{api, worker};

pub(super) async fn run(settings: Settings, role: Role, process: &Process) -> CommandResult {
    // Everything that can be checked without a connection is checked before the start.
    settings.database_url()?;
    // An API uses this store only for readiness: a second session would take one away from its requests where a pooler has
    // few.
    let pool_size = if role == Role::Api { 1 } else { settings.database.pool_size };
    let store = Store::new(&Database { pool_size, ..settings.database.clone() })?;
    settings.keyring()?;
    // Checks also the keys that this role does not use: another process with the same settings does.
    settings.published_keys.check()?;
    if role != Role::Api {
        broker_address(&settings)?;
    }
    if role != Role::Worker {
        settings.tokens()?;
    }
    // Every connection is an open file, and the usual soft limit of 1,024 is too low for that.
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
    let id = ProcessId(Uuid::now_v7());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), process_id = %id, "{name}");
    let metrics = Metrics::new(&settings.events.catalogue, process.log.dropped_lines.clone());
    metrics.watch_pool(&store);
    let state = ops::ProbeState { store: store.clone(), metrics: metrics.clone(), role, stop: stop.clone() };
    // Serves until this function ends.
    let _ops = ops::serve(settings.ops_listen, state)?;
    let presence = Presence::new(id, role, &settings, store.clone(), metrics.clone());
    // Boxed, for it is large: moved from function to function, it would overflow the stack of an unoptimised build.
    let work = Box::pin(async move {
        match role {
            Role::Worker => worker::run(settings, store, metrics, id, stop).await,
            Role::Api => api::run(settings, metrics, stop).await,
            Role::Both => {
                let api = until_either_ends(&stop, api::run(settings.clone(), metrics.clone(), stop.clone()));
                let worker = until_either_ends(&stop, worker::run(settings, store, metrics, id, stop.clone()));
                let (api, worker) = tokio::join!(api, worker);
                worker.and(api)
            }
        }
    });
    Ok(presence::beside(presence, work).await?)
}

/// Runs a role, and stops the other one when it ends: whoever asked for both roles wants both or none.
async fn until_either_ends<T>(stop: &CancellationToken, role: impl Future<Output = T>) -> T {
    let _stop = stop.clone().drop_guard();
    role.await
}

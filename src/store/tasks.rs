//! Owns the tasks that a store runs in the background.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

/// Tasks that are aborted when the store is dropped. Each must end by itself within a bounded time.
#[derive(Default)]
pub(super) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

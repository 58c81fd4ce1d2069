//! What a process holds open and in memory before a fault, to be found again after it.

use super::replica::Replica;
use super::wait::wait_until;

/// Connections to Postgres that its pool opened later than the level was taken.
const FILES_SLACK: usize = 8;

/// What an allocator keeps of a debug build's busy time.
const MEMORY_SLACK_KIB: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy)]
pub struct Level {
    open_files: usize,
    memory_kib: u64,
}

impl Level {
    pub fn of(replica: &Replica) -> Self {
        Self { open_files: replica.open_files(), memory_kib: replica.memory_kib() }
    }

    /// Waits until it is back, about: idle connections to receivers close in their time.
    pub async fn wait_for_return(self, replica: &Replica) {
        let files = self.open_files + FILES_SLACK;
        wait_until(&format!("at most {files} files are open"), async || replica.open_files() <= files).await;
        let memory = self.memory_kib + MEMORY_SLACK_KIB;
        wait_until(&format!("at most {memory} KiB are in use"), async || replica.memory_kib() <= memory).await;
    }
}

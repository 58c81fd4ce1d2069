//! How many files a process has open and how much memory it uses before a fault, to be compared with those after it.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use super::replica::Replica;
use super::wait::wait_until;

/// For connections to Postgres that the pool opens after the level was taken.
const FILES_SLACK: usize = 8;

/// For memory that the allocator keeps after a busy time of a debug build.
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

    /// Waits until the process is about back at this level: idle connections to receivers close only after a while.
    pub async fn wait_for_return(self, replica: &Replica) {
        let files = self.open_files + FILES_SLACK;
        wait_until(&format!("at most {files} files are open"), async || replica.open_files() <= files).await;
        let memory = self.memory_kib + MEMORY_SLACK_KIB;
        wait_until(&format!("at most {memory} KiB are in use"), async || replica.memory_kib() <= memory).await;
    }
}

impl Replica {
    /// How many sockets the process has open to a server's address.
    pub fn sockets_to(&self, address: &str) -> usize {
        let (_, port) = address.rsplit_once(':').expect("an address has a port");
        let port = format!(":{:04X}", port.parse::<u16>().expect("a port"));
        let process = format!("/proc/{}", self.pid());
        let files = fs::read_dir(format!("{process}/fd")).expect("it is running");
        // Several descriptors may name one socket.
        let held: HashSet<_> = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect();
        let sockets = fs::read_to_string(format!("{process}/net/tcp")).expect("it is running");
        let to_server = sockets.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(2)?.ends_with(&port).then(|| PathBuf::from(format!("socket:[{}]", fields[9])))
        });
        to_server.filter(|socket| held.contains(socket)).count()
    }
}

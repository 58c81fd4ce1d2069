//! The runtime that commands run on, or in one line why there cannot be one: whoever makes it finds out only by a panic, and
//! where some threads are there and others are not, ends only when killed.

use std::num::NonZero;
use std::thread;

use tokio::runtime::{Builder, Runtime};

use super::Failure;

const MIB: u64 = 1024 * 1024;

/// Also where `RUST_MIN_STACK` says something else. Nothing that comes from outside is read recursively without a bound.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// tokio's own variable, which it panics about.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";
const MOST_THREADS: usize = 1024;

/// The log's, the signals', connections to the broker, files, look-ups of the servers' names.
const OTHER_THREADS: usize = 8;

/// Address space of a command that has little in hand, and of each thread: its stack, and what the allocator sets aside
/// for it.
const BASE: u64 = 512 * MIB;
const PER_THREAD: u64 = 24 * MIB;

pub(super) fn runtime() -> Result<Runtime, Failure> {
    let workers = worker_threads(std::env::var(WORKER_THREADS).ok().as_deref()).map_err(Failure::Usage)?;
    let limit = rlimit::Resource::AS.get_soft().ok().filter(|limit| *limit != rlimit::INFINITY);
    if let Some(problem) = limit.and_then(|limit| too_little_space(limit, workers)) {
        return Err(anyhow::anyhow!(problem).into());
    }
    try_threads(workers + OTHER_THREADS).map_err(|error| {
        let advice = "raise the limit of processes and threads (ulimit -u, pids_limit, TasksMax=) or of memory";
        anyhow::anyhow!("{workers} worker threads cannot be started: {error}: {advice}, or lower {WORKER_THREADS}")
    })?;
    Ok(Builder::new_multi_thread().worker_threads(workers).thread_stack_size(STACK_BYTES).enable_all().build()?)
}

/// What the variable says, or as many as there are processors.
fn worker_threads(variable: Option<&str>) -> Result<usize, String> {
    let Some(text) = variable else { return Ok(thread::available_parallelism().map_or(1, NonZero::get)) };
    let given = text.parse().ok().filter(|number| (1..=MOST_THREADS).contains(number));
    given.ok_or_else(|| format!("{WORKER_THREADS} must be a number from 1 to {MOST_THREADS}"))
}

/// Why so large an address space does not do for so many worker threads.
fn too_little_space(limit: u64, workers: usize) -> Option<String> {
    let needed = BASE + PER_THREAD * workers as u64;
    (limit < needed).then(|| {
        format!(
            "the address space is limited to {} MiB, and {workers} worker threads need {} MiB: raise the limit (ulimit -v, \
             LimitAS=), or lower {WORKER_THREADS}",
            limit / MIB,
            needed / MIB
        )
    })
}

/// Has so many threads at once, for a moment.
fn try_threads(count: usize) -> std::io::Result<()> {
    let mut started = Vec::with_capacity(count);
    let tried = (0..count).try_for_each(|_| {
        started.push(thread::Builder::new().stack_size(STACK_BYTES).spawn(thread::park)?);
        Ok(())
    });
    for thread in started {
        thread.thread().unpark();
        // It does nothing that could panic.
        let _ = thread.join();
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_threads_that_tokio_would_panic_about_is_refused() {
        assert_eq!(worker_threads(Some("64")), Ok(64));
        assert!(worker_threads(None).is_ok_and(|threads| threads > 0));
        for text in ["", "0", "-1", "two", "100000"] {
            assert!(worker_threads(Some(text)).is_err_and(|problem| problem.contains("1 to 1024")), "{text:?}");
        }
    }

    #[test]
    fn four_gibibytes_are_enough_for_64_threads_and_too_little_is_named() {
        assert_eq!(too_little_space(4096 * MIB, 64), None);
        assert_eq!(too_little_space(1024 * MIB, 2), None);
        let problem = too_little_space(1024 * MIB, 64).unwrap();
        assert!(["1024 MiB", "64 worker threads", "2048 MiB", "ulimit -v"].iter().all(|fact| problem.contains(fact)));
    }

    #[test]
    fn threads_that_were_tried_end() {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        assert!(try_threads(50).is_ok());
        // Tests run beside this one.
        assert!(threads() < 50);
    }
}

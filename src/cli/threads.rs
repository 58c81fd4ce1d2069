//! Makes the tokio runtime, or says in one line why it cannot be made. tokio itself would panic where threads or memory are
//! limited, or hang if it gets only some of its threads.

use std::num::NonZero;
use std::thread;

use tokio::runtime::{Builder, Runtime};

use super::Failure;

const MIB: u64 = 1024 * 1024;

/// The stack of each thread, whatever `RUST_MIN_STACK` says. It is enough: all recursion over input is bounded.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// tokio's own variable; tokio panics if its value is wrong.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";
const MOST_THREADS: usize = 1024;

/// Threads beside the workers: for the log, signals, the broker's connections, files and name look-ups.
const OTHER_THREADS: usize = 8;

/// The address space that an idle command needs, in bytes.
const BASE: u64 = 512 * MIB;
/// The address space of each thread, in bytes: its stack, and what the allocator reserves for it.
const PER_THREAD: u64 = 24 * MIB;

/// # Errors
///
/// `Usage` if the variable is wrong, `Failed` if the system's limits are too low.
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

/// The variable's value, or the number of processors.
fn worker_threads(variable: Option<&str>) -> Result<usize, String> {
    let Some(text) = variable else { return Ok(thread::available_parallelism().map_or(1, NonZero::get)) };
    let given = text.parse().ok().filter(|number| (1..=MOST_THREADS).contains(number));
    given.ok_or_else(|| format!("{WORKER_THREADS} must be a number from 1 to {MOST_THREADS}"))
}

/// Why `limit` bytes of address space are too few for so many worker threads; `None` if they are enough.
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

/// Starts so many threads at once and ends them again, to see whether the system allows it.
fn try_threads(count: usize) -> std::io::Result<()> {
    let mut started = Vec::with_capacity(count);
    let tried = (0..count).try_for_each(|_| {
        started.push(thread::Builder::new().stack_size(STACK_BYTES).spawn(thread::park)?);
        Ok(())
    });
    for thread in started {
        thread.thread().unpark();
        // Parking cannot panic.
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

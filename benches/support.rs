//! What the benchmarks share: a bench of its own servers, receiver and workers, load, and a report.
//!
//! Everything runs on one machine: compare figures of one run with each other, not with those of another machine.

#![allow(dead_code, unused_imports, reason = "each benchmark uses a part of it")]

mod crowd;
mod database;
mod drain;
mod load;
mod processes;
mod receiver;
mod report;
mod site;

pub use crowd::Crowd;
pub use drain::drain;
pub use load::{Load, OpenLoop};
pub use processes::{Api, Cpu, Worker, cpu_of};
pub use receiver::{FIRST_OWN_HOST, Receiver, WEBHOOK_HOSTS, host};
pub use report::{Figures, Report, latencies, quantile};
pub use site::{Site, Webhooks, url};

/// The one event type that all benchmarks publish.
pub const TYPE: &str = "content.published";

/// Runs a benchmark, or the receiver that it started as a process of its own.
pub fn main<O: clap::Parser>(run: impl AsyncFnOnce(O) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some(receiver::COMMAND) {
        return receiver::serve();
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    // Cargo adds it to the arguments of every benchmark.
    let options = O::parse_from(std::env::args().filter(|argument| argument != "--bench"));
    tokio::runtime::Runtime::new()?.block_on(run(options))
}

/// Nanoseconds of the clock that all processes of a machine share.
pub fn now() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A count in arithmetic that needs no more than its leading digits.
#[allow(clippy::cast_precision_loss, reason = "counts of a benchmark stay far below 2^52")]
pub fn number(count: u64) -> f64 {
    count as f64
}

//! The metrics that every exporter has of its own process, as Linux tells them in `/proc`. What it does not tell is left out.
//! Their names are those of Prometheus's client libraries.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The kernel tells times in ticks, and there are as many on every architecture that Rust's standard library supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc` at every scrape.
#[derive(Debug)]
pub(super) struct ThisProcess;

/// What `/proc/self/stat` tells.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// Since the machine started.
    started_seconds: f64,
}

impl Collector for ThisProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: Option<f64>| match value {
            Some(value) => ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                unit.as_ref(),
                MetricType::Gauge,
            )?),
            None => Ok(()),
        };
        let open_fds = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        let max_fds = rlimit::Resource::NOFILE.get_soft().ok();
        gauge("process_open_fds", "Open file descriptors", None, open_fds.map(float))?;
        gauge("process_max_fds", "The most open file descriptors that the process may have", None, max_fds.map(float))?;
        let (resident, of_space) = (bytes(&status, "VmRSS:"), bytes(&status, "VmSize:"));
        gauge("process_resident_memory", "Memory that the process occupies", Some(Unit::Bytes), resident)?;
        gauge("process_virtual_memory", "Address space that the process has taken", Some(Unit::Bytes), of_space)?;
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat) else { return Ok(()) };
        let booted = fs::read_to_string("/proc/stat").ok().as_deref().and_then(booted);
        let started = booted.map(|booted| booted + stat.started_seconds);
        gauge("process_start_time", "When the process started, since 1970", Some(Unit::Seconds), started)?;
        gauge("process_threads", "Threads", None, Some(float(stat.threads)))?;
        let help = "Processor time that the process has used";
        let encoder = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(stat.cpu_seconds).encode(encoder)
    }
}

fn stat(text: &str) -> Option<Stat> {
    // The name of the program stands in parentheses and may have any character. The state, field 3, comes after it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let seconds = |ticks: u64| float(ticks) / TICKS_PER_SECOND;
    Some(Stat {
        cpu_seconds: seconds(field(14)? + field(15)?),
        threads: field(20)?,
        started_seconds: seconds(field(22)?),
    })
}

/// When the machine started, in seconds since 1970.
fn booted(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// A size in `/proc/self/status`.
fn bytes(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| float(kib * 1024))
}

#[allow(clippy::cast_precision_loss, reason = "all are far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let text = "7 (a ) name) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 12 0 1234 5 6";
        assert_eq!(stat(text), Some(Stat { cpu_seconds: 3.0, threads: 12, started_seconds: 12.34 }));
        assert_eq!(stat("7 (cut off) S 1"), None);
        assert_eq!(booted("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert_eq!(bytes("Name:\tx\nVmRSS:\t     12 kB\n", "VmRSS:"), Some(12_288.0));
    }
}

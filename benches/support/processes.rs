//! The processes of a benchmark: starts workers, and reads what each process used from /proc.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::Figures;

/// Settings of every process of ours, this one included.
pub const SETTINGS: [(&str, &str); 6] = [
    ("PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS", r#"["127.0.0.0/8"]"#),
    ("PENR_WEBHOOKS__QUEUE__EVENTS_EXCHANGE", "bench.events"),
    ("PENR_WEBHOOKS__QUEUE__WORKER_QUEUE", "bench.webhooks"),
    ("PENR_WEBHOOKS__QUEUE__DEAD_EXCHANGE", "bench.dead"),
    ("PENR_WEBHOOKS__QUEUE__DEAD_QUEUE", "bench.dead"),
    ("PENR_WEBHOOKS__QUEUE__NOTICES_EXCHANGE", "bench.notices"),
];

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penr-webhooks"));
    command.args(arguments).envs(SETTINGS).stderr(Stdio::null());
    command
}

/// A running worker, stopped when dropped.
pub struct Worker(Child);

impl Worker {
    pub fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Ok(Self(command(&["worker"]).envs(settings.iter().copied()).spawn()?))
    }

    pub fn process(&self) -> u32 {
        self.0.id()
    }

    /// Resident memory now, in MiB.
    pub fn memory(&self) -> f64 {
        status(self.process(), "VmRSS:") / 1024.0
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process())).map_or(0, Iterator::count)
    }

    /// The most it ever had, in MiB.
    pub fn peak_memory(&self) -> f64 {
        status(self.process(), "VmHWM:") / 1024.0
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

/// A running API, stopped when dropped.
pub struct Api(Child);

impl Api {
    /// With the limits of the default settings.
    pub fn start(address: &str) -> anyhow::Result<Self> {
        Self::start_with(address, &[])
    }

    /// With no limit that a benchmark would meet.
    pub fn without_limits(address: &str) -> anyhow::Result<Self> {
        let limits = ["PENR_WEBHOOKS__API__REQUESTS_PER_SECOND", "PENR_WEBHOOKS__API__REQUESTS_BURST"];
        Self::start_with(address, &limits.map(|name| (name, "100000")))
    }

    fn start_with(address: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let listen = ("PENR_WEBHOOKS__API__LISTEN", address);
        let drain_delay = ("PENR_WEBHOOKS__API__DRAIN_DELAY", "0s");
        Ok(Self(command(&["api"]).envs(settings.iter().copied().chain([listen, drain_delay])).spawn()?))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

fn stop(process: &mut Child) {
    Command::new("kill").arg(process.id().to_string()).status().ok();
    process.wait().ok();
}

/// Seconds of processor time since their start. Servers outside this project's private instances count as 0.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    pub worker: f64,
    pub broker: f64,
    pub postgres: f64,
    pub receiver: f64,
}

impl Cpu {
    pub fn now(workers: &[Worker], receiver: u32) -> Self {
        Self {
            worker: workers.iter().map(|worker| cpu_of(worker.process())).sum(),
            broker: server("rabbitmq").map_or(0.0, cpu_of_tree),
            postgres: server("postgres").map_or(0.0, cpu_of_tree),
            receiver: cpu_of(receiver),
        }
    }

    /// Microseconds for each of `count` deliveries since `before`.
    pub fn per_delivery(&self, before: &Self, count: f64) -> Figures {
        let spent = |now: f64, before: f64| (now - before) * 1e6 / count;
        Figures::from([
            ("worker µs", spent(self.worker, before.worker)),
            ("broker µs", spent(self.broker, before.broker)),
            ("postgres µs", spent(self.postgres, before.postgres)),
            ("receiver µs", spent(self.receiver, before.receiver)),
        ])
    }
}

/// A server of the private instance that `scripts/with-services` started.
fn server(name: &str) -> Option<u32> {
    let instance = std::env::var("PENR_SERVICES_NAME").ok()?;
    let base = std::env::var("PENR_SERVICES_DIR").map(PathBuf::from).ok().or_else(default_base)?;
    std::fs::read_to_string(base.join(instance).join(format!("{name}.pid"))).ok()?.trim().parse().ok()
}

fn default_base() -> Option<PathBuf> {
    let user = status_text(std::process::id(), "Uid:").split_whitespace().next()?.to_owned();
    Some(format!("/tmp/penr-webhooks-services-{user}").into())
}

/// Seconds of a process and its children. Children that have ended count in their parent, as database sessions that end.
fn cpu_of_tree(process: u32) -> f64 {
    let children: f64 = children(process).into_iter().map(cpu_of_tree).sum();
    ticks(process, 4) + children
}

/// Seconds of processor time of one process.
pub fn cpu_of(process: u32) -> f64 {
    ticks(process, 2)
}

/// User and system time, and those of ended children (proc(5): fields 14 to 17 of stat, in ticks of 10 ms).
fn ticks(process: u32, fields: usize) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let values = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    values.skip(11).take(fields).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// In KiB.
fn status(process: u32, field: &str) -> f64 {
    status_text(process, field).trim_end_matches(" kB").parse().unwrap_or_default()
}

fn status_text(process: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim().to_owned()
}

//! Drains preloaded events through one worker: deliveries per second, where the CPU went, and memory.
//!
//! `make bench`, or `cargo bench --bench throughput -- [EVENTS]` with DATABASE_URL and AMQP_URL set. The receiver runs in
//! this process, broker and database beside it: compare runs on one quiet machine, not absolute numbers.

#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const EVENT_BYTES: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    let events = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(20_000);
    tokio::runtime::Runtime::new().unwrap().block_on(drain(events));
}

async fn drain(events: u64) {
    let (url, received) = receiver().await;
    cli(&["migrate"]);
    let webhook = cli(&["webhooks", "create", "--account", "bench", "--name", "b", "--url", &url, "--events", TYPE]);
    declare_topology();
    let data = format!("{{\"filler\":\"{}\"}}", "x".repeat(EVENT_BYTES - 150));
    cli(&["publish", "--account", "bench", "--type", TYPE, "--data", &data, "--count", &events.to_string()]);
    let others = Others::find();
    let before = others.cpu();
    let worker = Worker(command(&["worker"]).stderr(Stdio::null()).spawn().unwrap());
    wait_for(&received, 1).await;
    let started = Instant::now();
    wait_for(&received, events).await;
    let took = started.elapsed();
    let (cpu, memory) = (cpu_of(worker.0.id()), status(worker.0.id(), "VmHWM:"));
    println!(
        "{events} events of {EVENT_BYTES} bytes in {took:.2?}: {:.0} deliveries/s",
        events as f64 / took.as_secs_f64()
    );
    println!("CPU per delivery: worker {:.0} µs{}", per(cpu, events), others.since(&before, events));
    println!("worker memory at its highest: {} MiB", memory / 1024);
    drop(worker);
    let id = webhook["id"].as_str().unwrap();
    cli(&["webhooks", "delete", id]);
}

const TYPE: &str = "content.published";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penr-webhooks"));
    command.args(arguments);
    command.env("PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS", r#"["127.0.0.1/32"]"#);
    command.env("PENR_WEBHOOKS__QUEUE__EVENTS_EXCHANGE", "bench.events");
    command.env("PENR_WEBHOOKS__QUEUE__WORKER_QUEUE", "bench.webhooks");
    command
}

fn cli(arguments: &[&str]) -> Value {
    let output = command(arguments).arg("--json").stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{arguments:?} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A worker declares the queue; nothing is published before.
fn declare_topology() {
    let worker = Worker(command(&["worker"]).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let publish = ["publish", "--account", "nobody", "--type", TYPE];
    while !command(&publish).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success() {
        assert!(Instant::now() < deadline, "the worker did not come up");
    }
    drop(worker);
}

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

async fn wait_for(received: &AtomicU64, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while received.load(Ordering::Relaxed) < count {
        assert!(Instant::now() < deadline, "received {} of {count}", received.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Answers 200 to every request, as cheaply as it can.
async fn receiver() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let received = Arc::new(AtomicU64::new(0));
    let counter = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, counter.clone()));
        }
    });
    (url, received)
}

async fn serve(mut stream: TcpStream, received: Arc<AtomicU64>) {
    let mut buffer = Vec::with_capacity(8192);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        while let Some(length) = request_length(&buffer) {
            buffer.drain(..length);
            received.fetch_add(1, Ordering::Relaxed);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    }
}

/// Of the first request, if all of it is there.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let length = head + length.parse::<usize>().unwrap();
    (buffer.len() >= length).then_some(length)
}

/// Broker and database, where they run on this machine.
struct Others(Vec<(&'static str, Vec<u32>)>);

impl Others {
    fn find() -> Self {
        let named = |name: &str| {
            let output = Command::new("pgrep").arg(name).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            text.lines().filter_map(|line| line.parse().ok()).collect()
        };
        Self(vec![("RabbitMQ", named("beam")), ("PostgreSQL", named("postgres"))])
    }

    fn cpu(&self) -> Vec<f64> {
        self.0.iter().map(|(_, processes)| processes.iter().map(|process| cpu_of(*process)).sum()).collect()
    }

    fn since(&self, before: &[f64], events: u64) -> String {
        // New sessions of the database belong to the worker.
        let now = Self::find();
        let spent = now.cpu().into_iter().zip(before).map(|(now, before)| per(now - before, events));
        self.0.iter().zip(spent).map(|((name, _), spent)| format!(", {name} {spent:.0} µs")).collect()
    }
}

fn per(seconds: f64, events: u64) -> f64 {
    seconds * 1e6 / events as f64
}

/// User and system time of a process, in seconds (proc(5): fields 14 and 15 of stat, in ticks of 10 ms).
fn cpu_of(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn status(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

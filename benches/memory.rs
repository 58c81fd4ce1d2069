//! How much memory a worker takes: idle, however much waits for it in the queue, and however many hosts it calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

mod support;

use support::{FIRST_OWN_HOST, Figures, Load, Report, Site, Webhooks, Worker};

#[derive(clap::Parser)]
struct Options {
    /// Ready in the queue, of 1 KiB; of the larger ones there are fewer
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Hosts that get an event each
    #[arg(long, default_value_t = 20_000)]
    hosts: u32,
    #[arg(long, default_value_t = 1)]
    runs: usize,
}

const IDLE: Duration = Duration::from_secs(5);
const SAMPLE: Duration = Duration::from_millis(100);

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("memory");
    for _ in 0..options.runs {
        report.add("idle", idle(&mut site).await?);
        for (name, bytes, events) in [
            ("1 KiB events, a tenth", 1024, options.events / 10),
            ("1 KiB events", 1024, options.events),
            ("64 KiB events", 64 * 1024, options.events / 50),
        ] {
            report.add(&format!("{name}: {events} ready"), draining(&mut site, bytes, events).await?);
        }
        report.add(&format!("{} hosts, an event each", options.hosts), visiting(&mut site, options.hosts).await?);
    }
    site.empty().await?;
    report.finish("Resident memory of one worker; 100 webhooks.")
}

async fn idle(site: &mut Site) -> anyhow::Result<Figures> {
    site.empty().await?;
    let webhooks = Site::healthy(1);
    site.register(&webhooks).await?;
    let worker = site.warm_worker(&webhooks).await?;
    tokio::time::sleep(IDLE).await;
    Ok(figures(&worker, vec![worker.memory()]))
}

async fn draining(site: &mut Site, bytes: usize, events: u64) -> anyhow::Result<Figures> {
    site.empty().await?;
    let webhooks = Site::healthy(100);
    site.register(&webhooks).await?;
    Load::new(&webhooks, bytes).publish(&site.settings, 0..events).await?;
    let worker = Worker::start(&[])?;
    let mut samples = Vec::new();
    for percent in 10..=100 {
        site.receiver.wait_for(events * percent / 100).await?;
        samples.push(worker.memory());
    }
    Ok(figures(&worker, samples))
}

/// Connections are kept as the default settings say.
async fn visiting(site: &mut Site, hosts: u32) -> anyhow::Result<Figures> {
    site.empty().await?;
    let answered = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    let listening = tokio::spawn(listen(listener, answered.clone()));
    let first_host = FIRST_OWN_HOST;
    let webhooks = Webhooks { name: "m", accounts: hosts as usize, per_account: 1, path: "/ok", first_host };
    site.database.register(&site.settings, port, &webhooks).await?;
    Load::new(&webhooks, 1024).publish(&site.settings, 0..u64::from(hosts)).await?;
    let worker = Worker::start(&[])?;
    let (mut samples, mut files, mut quiet) = (Vec::new(), 0, 0);
    while answered.load(Ordering::Relaxed) < u64::from(hosts) {
        let before = answered.load(Ordering::Relaxed);
        samples.push(worker.memory());
        files = files.max(worker.open_files());
        tokio::time::sleep(SAMPLE).await;
        quiet = if answered.load(Ordering::Relaxed) == before { quiet + 1 } else { 0 };
        anyhow::ensure!(quiet < 600, "only {before} of {hosts} deliveries arrived");
    }
    // Connections in use are closed or become idle first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let kept = worker.open_files();
    samples.push(worker.memory());
    listening.abort();
    Ok(Figures::from([
        ("MiB, median", support::quantile(samples, 0.5)),
        ("MiB, peak", worker.peak_memory()),
        ("files, peak", support::number(files as u64)),
        ("files, afterwards", support::number(kept as u64)),
    ]))
}

async fn listen(listener: TcpListener, answered: Arc<AtomicU64>) {
    while let Ok((stream, peer)) = listener.accept().await {
        if peer.ip().is_loopback() {
            tokio::spawn(answer(stream, answered.clone()));
        }
    }
}

/// Requests come one at a time, and their bodies end with a brace.
async fn answer(mut stream: TcpStream, answered: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? > 0 {
        if request.ends_with(b"}") {
            request.clear();
            stream.write_all(b"HTTP/1.1 200 -\r\nContent-Length: 0\r\n\r\n").await?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn figures(worker: &Worker, samples: Vec<f64>) -> Figures {
    Figures::from([("MiB, median", support::quantile(samples, 0.5)), ("MiB, peak", worker.peak_memory())])
}

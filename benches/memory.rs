//! How much memory a worker takes: idle, and however much waits for it in the queue.

use std::time::Duration;

mod support;

use support::{Figures, Load, Report, Site, Worker};

#[derive(clap::Parser)]
struct Options {
    /// Ready in the queue, of 1 KiB; of the larger ones there are fewer
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    #[arg(long, default_value_t = 1)]
    runs: usize,
}

const IDLE: Duration = Duration::from_secs(5);

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

fn figures(worker: &Worker, samples: Vec<f64>) -> Figures {
    Figures::from([("MiB, median", support::quantile(samples, 0.5)), ("MiB, peak", worker.peak_memory())])
}

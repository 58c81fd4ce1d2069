//! How long an event takes from the moment it should be published to its arrival at the receiver. The publisher waits for
//! nobody: what a slow moment delays counts as late, however late it was published.

use std::time::Duration;

mod support;

use support::{Figures, Load, Report, Site, latencies, number};

#[derive(clap::Parser)]
struct Options {
    /// Events a second
    #[arg(long, value_delimiter = ',', default_values_t = [200, 1_000, 5_000])]
    rates: Vec<u64>,
    /// Of publishing at each rate, besides the warm-up
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

const WARM_UP_SECONDS: u64 = 2;
/// What is not delivered so long after the last publish counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("latency");
    for _ in 0..options.runs {
        for &rate in &options.rates {
            let figures = publish_to_receipt(&mut site, rate, options.seconds).await?;
            report.add(&format!("{rate} events/s"), figures);
        }
    }
    site.empty().await?;
    report.finish("From scheduled publish to arrival; 100 webhooks of 1 KiB events, one worker, fsync on.")
}

async fn publish_to_receipt(site: &mut Site, rate: u64, seconds: u64) -> anyhow::Result<Figures> {
    let webhooks = Site::healthy(100);
    site.empty().await?;
    site.register(&webhooks).await?;
    let worker = site.warm_worker(&webhooks).await?;
    let load = Load::new(&webhooks, 1024);
    let schedule = load.on_schedule(&site.settings, rate, WARM_UP_SECONDS + seconds).published().await?;
    site.receiver.wait_at_most(schedule.count, PATIENCE).await?;
    drop(worker);
    let (arrived, again) = site.receiver.take_first().await?;
    let scheduled = schedule.after(Duration::from_secs(WARM_UP_SECONDS));
    Ok(latencies(&scheduled, &arrived).and([("duplicates", number(again))]))
}

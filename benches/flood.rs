//! By how much one account's flood delays the accounts that come after it, and how many requests a slow receiver gets.
//!
//! A flood is a bulk import: many events of one account before a worker starts, then one event of another account. Its
//! receiver answers at once, or takes its time. The last cases are one receiver of 200 ms on this machine as it is, and
//! beside threads that use all the processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

mod support;

use support::{Figures, Load, Report, Site, Webhooks, Worker, number};

#[derive(clap::Parser)]
struct Options {
    /// Events of the account that floods
    #[arg(long, default_value_t = 30_000)]
    events: u64,
    /// A drain is watched no longer than this
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Threads that use the processors in the last case
    #[arg(long, default_value_t = 8)]
    neighbours: usize,
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Only cases with this in their name
    #[arg(long, default_value = "")]
    case: String,
}

const EVENT_BYTES: usize = 1024;
/// The number of the other account's event. Its id is `h9` and this number, and the receiver notes what follows the `h`.
const OTHERS_EVENT: u64 = 9_000_000;
const OTHERS_ARRIVAL: u64 = 99_000_000;
const OPS: &str = "127.0.0.1:19477";
/// How long the requests to the receiver of 200 ms are counted, and how long the worker warms up before.
const WATCHED: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(20);

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("flood");
    let floods = [("at once", "/ok"), ("50 ms", "/delay/50"), ("1 s", "/delay/1000")];
    let waiting = [("200 ms, quiet", 0), ("200 ms, neighbours", options.neighbours)];
    for _ in 0..options.runs {
        for (name, path) in floods.into_iter().filter(|(name, _)| name.contains(&options.case)) {
            report.add(name, flood(&mut site, path, &options).await?);
        }
        for (name, neighbours) in waiting.into_iter().filter(|(name, _)| name.contains(&options.case)) {
            report.add(name, waits(&mut site, neighbours).await?);
        }
    }
    site.empty().await?;
    report.finish(&format!("{} events of one account, then one of another; one worker.", options.events))
}

async fn flood(site: &mut Site, path: &'static str, options: &Options) -> anyhow::Result<Figures> {
    let one = Webhooks { name: "h", accounts: 1, per_account: 1, path, first_host: 0 };
    let other = Webhooks { name: "h9", path: "/ok", first_host: 1, ..one };
    site.empty().await?;
    for group in [&one, &other] {
        site.register(group).await?;
    }
    Load::new(&one, EVENT_BYTES).publish(&site.settings, 0..options.events).await?;
    Load::new(&other, EVENT_BYTES).publish(&site.settings, OTHERS_EVENT..OTHERS_EVENT + 1).await?;
    site.settle().await?;
    let worker = Worker::start(&[("PENR_WEBHOOKS__OPS__LISTEN", OPS)])?;
    site.receiver.wait_for(1).await?;
    let started = Instant::now();
    let longest = Duration::from_secs(options.seconds);
    site.receiver.wait_at_most(options.events + 1, longest).await?;
    let took = started.elapsed().as_secs_f64();
    let parked = parked().await?;
    drop(worker);
    let (arrived, again) = site.receiver.take_first().await?;
    let first = arrived.values().min().copied().unwrap_or_default();
    let late = arrived.get(&OTHERS_ARRIVAL).map_or(f64::NAN, |time| number(time - first) / 1e9);
    let rate = number(arrived.len() as u64) / took;
    Ok(Figures::from([("other after s", late), ("delivered/s", rate), ("parked", parked), ("twice", number(again))]))
}

async fn waits(site: &mut Site, neighbours: usize) -> anyhow::Result<Figures> {
    let one = Webhooks { name: "h", accounts: 1, per_account: 1, path: "/delay/200", first_host: 0 };
    site.empty().await?;
    site.register(&one).await?;
    Load::new(&one, EVENT_BYTES).publish(&site.settings, 0..30_000).await?;
    site.settle().await?;
    let _busy = Neighbours::start(neighbours);
    let worker = Worker::start(&[("PENR_WEBHOOKS__OPS__LISTEN", OPS)])?;
    site.receiver.wait_for(1).await?;
    tokio::time::sleep(WARM_UP).await;
    let (before, started) = (site.receiver.count().await?, Instant::now());
    while started.elapsed() < WATCHED {
        tokio::time::sleep(POLL).await;
    }
    let count = site.receiver.count().await? - before;
    let rate = number(count) / started.elapsed().as_secs_f64();
    let parked = parked().await?;
    drop(worker);
    let (_, again) = site.receiver.take_first().await?;
    let late = f64::NAN;
    Ok(Figures::from([("other after s", late), ("delivered/s", rate), ("parked", parked), ("twice", number(again))]))
}

/// Deliveries that the worker has parked in the database.
async fn parked() -> anyhow::Result<f64> {
    let metrics = reqwest::get(format!("http://{OPS}/metrics")).await?.text().await?;
    let value = |line: &str| line.strip_prefix("penr_webhooks_parked_total ")?.parse().ok();
    metrics.lines().find_map(value).context("the worker counts what it parks")
}

/// Threads that do nothing but use processors, until dropped.
struct Neighbours(Arc<AtomicBool>);

impl Neighbours {
    fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..count {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {});
        }
        Self(stop)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

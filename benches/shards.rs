//! What two and four worker queues take and give, beside one: how fast events are published to them, and how fast one worker
//! delivers a backlog from them.
//!
//! On one machine all queues share the processors with everything else: measured is what the way by the exchange costs, and whether
//! one queue was the limit, not what queues on more processors could do.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

mod support;

use support::{Cpu, Figures, Load, Report, Site, Worker, drain, number};

#[derive(clap::Parser)]
struct Options {
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    shards: Vec<u16>,
    /// Connections that publish
    #[arg(long, default_value_t = 4)]
    publishers: u64,
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

/// How long a worker has to bind all of its queues.
const BINDING: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("shards");
    let webhooks = Site::healthy(100);
    let most = options.shards.iter().copied().max().unwrap_or(1);
    for _ in 0..options.runs {
        for &shards in &options.shards {
            // Queues beyond these get no events, and are there to be emptied.
            (site.settings.queue.shards, site.settings.queue.shard_queues) = (shards, most);
            let (of_shards, of_queues) = (shards.to_string(), most.to_string());
            let settings =
                [("PENR_WEBHOOKS__QUEUE__SHARDS", &*of_shards), ("PENR_WEBHOOKS__QUEUE__SHARD_QUEUES", &*of_queues)];
            let worker = Worker::start(&settings)?;
            tokio::time::sleep(BINDING).await;
            drop(worker);
            site.empty().await?;
            site.register(&webhooks).await?;
            let published = publish(&site, Load::new(&webhooks, 1024), &options).await?;
            site.empty().await?;
            site.register(&webhooks).await?;
            let drained = drain(&mut site, Load::new(&webhooks, 1024), options.events, 1, (1, &settings)).await?;
            report.add(&format!("{shards} queues"), published.and(drained));
        }
    }
    site.empty().await?;
    report.finish("Published by some connections at a time, each event confirmed; then delivered by one worker.")
}

/// Publishes while nobody consumes.
async fn publish(site: &Site, load: Load, options: &Options) -> anyhow::Result<Figures> {
    let each = options.events / options.publishers;
    let (started, before) = (Instant::now(), Cpu::now(&[], site.receiver.process()));
    let publishers =
        (0..options.publishers).map(|number| {
            let settings = site.settings.clone();
            async move {
                tokio::spawn(async move { load.publish(&settings, number * each..(number + 1) * each).await }).await?
            }
        });
    try_join_all(publishers).await?;
    let (took, after) = (started.elapsed().as_secs_f64(), Cpu::now(&[], site.receiver.process()));
    let count = number(each * options.publishers);
    let broker = after.per_delivery(&before, count).get("broker µs");
    Ok(Figures::from([("published/s", count / took), ("broker µs to publish", broker)]))
}

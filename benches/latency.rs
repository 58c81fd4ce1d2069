//! How long an event takes from the moment it should be published to its arrival at the receiver. The schedule does not wait:
//! an event that was published late counts from the moment at which it should have been published.
//!
//! Beside it, how long the broker alone takes: from the same schedule to a consumer that does nothing but ack.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

mod support;

use support::{Cpu, Figures, Load, Report, Site, latencies, now, number};

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
const PREFETCH: u16 = 1000;
/// An event that is not delivered this long after the last publish counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("latency");
    for _ in 0..options.runs {
        for &rate in &options.rates {
            let alone = publish_to_consumer(&mut site, rate, options.seconds).await?;
            report.add(&format!("{rate} events/s, broker alone"), alone);
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
    let workers = [site.warm_worker(&webhooks).await?];
    let load = Load::new(&webhooks, 1024);
    let before = Cpu::now(&workers, site.receiver.process());
    let schedule = load.on_schedule(&site.settings, rate, WARM_UP_SECONDS + seconds).published().await?;
    site.receiver.wait_at_most(schedule.count, PATIENCE).await?;
    let spent = Cpu::now(&workers, site.receiver.process()).per_delivery(&before, number(schedule.count));
    drop(workers);
    let (arrived, again) = site.receiver.take_first().await?;
    let scheduled = schedule.after(Duration::from_secs(WARM_UP_SECONDS));
    Ok(latencies(&scheduled, &arrived).and([("duplicates", number(again))]).and(spent))
}

async fn publish_to_consumer(site: &mut Site, rate: u64, seconds: u64) -> anyhow::Result<Figures> {
    site.empty().await?;
    let published = Load::new(&Site::healthy(100), 1024).on_schedule(&site.settings, rate, WARM_UP_SECONDS + seconds);
    let arrived = consume(site, rate * (WARM_UP_SECONDS + seconds)).await?;
    let scheduled = published.published().await?.after(Duration::from_secs(WARM_UP_SECONDS));
    Ok(latencies(&scheduled, &arrived))
}

/// When each of so many events came from the worker queue.
async fn consume(site: &Site, count: u64) -> anyhow::Result<HashMap<u64, u64>> {
    let connection = Connection::connect(site.settings.amqp.url.expose(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let queue = site.settings.queue.worker_queue.as_str().into();
    let options = BasicConsumeOptions::default();
    let mut messages = channel.basic_consume(queue, "bench".into(), options, FieldTable::default()).await?;
    let mut arrived = HashMap::new();
    while (arrived.len() as u64) < count {
        let Ok(Some(message)) = tokio::time::timeout(PATIENCE, messages.next()).await else { break };
        let message = message?;
        let id = message.properties.message_id().as_ref().map(|id| id.as_str().trim_start_matches(char::is_alphabetic));
        arrived.insert(id.unwrap_or_default().parse()?, now());
        message.ack(BasicAckOptions::default()).await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(arrived)
}

//! Measures how fast preloaded events are delivered, and what a delivery costs each process.

use std::time::Instant;

use super::{Cpu, Figures, Load, Site, Worker, number};

/// A moment of a drain.
struct Moment {
    arrived: u64,
    at: Instant,
    cpu: Cpu,
}

/// Publishes events, starts workers, and measures between the arrivals of the first and of the ninth tenth: connections
/// and plans are warm by then, and no worker has run out of events yet.
pub async fn drain(
    site: &mut Site,
    load: Load,
    events: u64,
    fan_out: u64,
    workers: (usize, &[(&str, &str)]),
) -> anyhow::Result<Figures> {
    let deliveries = load.own(events) * fan_out;
    load.publish(&site.settings, 0..events).await?;
    site.settle().await?;
    let (count, settings) = workers;
    let workers = (0..count).map(|_| Worker::start(settings)).collect::<Result<Vec<_>, _>>()?;
    let from = moment(site, deliveries / 10, &workers).await?;
    let to = moment(site, deliveries * 9 / 10, &workers).await?;
    site.receiver.wait_for(deliveries).await?;
    let peak = workers.iter().map(Worker::peak_memory).fold(0.0, f64::max);
    // Workers that end record what they have in hand.
    drop(workers);
    let duplicates = site.receiver.count().await?.saturating_sub(deliveries);
    let measured = number(to.arrived - from.arrived);
    let rate = measured / (to.at - from.at).as_secs_f64();
    let figures = Figures::from([("deliveries/s", rate)]);
    let figures = figures.and(to.cpu.per_delivery(&from.cpu, measured));
    Ok(figures.and([("worker MiB", peak), ("duplicates", number(duplicates))]))
}

async fn moment(site: &mut Site, count: u64, workers: &[Worker]) -> anyhow::Result<Moment> {
    site.receiver.wait_for(count).await?;
    let arrived = site.receiver.count().await?;
    Ok(Moment { arrived, at: Instant::now(), cpu: Cpu::now(workers, site.receiver.process()) })
}

//! Whether two and four workers deliver more than one, to slow receivers.
//!
//! On one machine all workers share the processors, so each worker may have few requests in flight: measured is how workers
//! share a queue, not how many processors there are.

mod support;

use support::{Figures, Load, Report, Site, Webhooks, drain};

#[derive(clap::Parser)]
struct Options {
    /// Events for each worker
    #[arg(long, default_value_t = 10_000)]
    events: u64,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    workers: Vec<u64>,
    /// Requests in flight per worker: with 25 and answers after 50 ms, 500 a second
    #[arg(long, default_value = "25")]
    in_flight: String,
    #[arg(long, default_value_t = 1)]
    runs: usize,
}

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("replicas");
    let webhooks = Webhooks { path: "/delay/50", ..Site::healthy(100) };
    let settings = [("PENR_WEBHOOKS__WORKER__MAX_IN_FLIGHT", options.in_flight.as_str())];
    for _ in 0..options.runs {
        let mut one = f64::NAN;
        for &workers in &options.workers {
            site.empty().await?;
            site.register(&webhooks).await?;
            let load = Load::new(&webhooks, 1024);
            let count = usize::try_from(workers)?;
            let figures = drain(&mut site, load, options.events * workers, 1, (count, &settings)).await?;
            let each = figures.get("deliveries/s") / support::number(workers);
            one = if one.is_nan() { each } else { one };
            report.add(&format!("{workers} workers"), Figures::from([("of linear", each / one)]).and(figures));
        }
    }
    site.empty().await?;
    report.finish("Linear is the first case's rate per worker; receivers answer after 50 ms.")
}

//! Whether a delivery costs more with more registered webhooks, more rows in the log, more due retries of other webhooks,
//! or more deliveries of another webhook that wait for its pace.

mod support;

use support::{Load, Report, Site, Webhooks, drain};

#[derive(clap::Parser)]
struct Options {
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Registered, in the largest case
    #[arg(long, default_value_t = 100_000)]
    webhooks: usize,
    /// In the webhook log
    #[arg(long, default_value_t = 500_000)]
    log_rows: i64,
    /// Due, of webhooks that never answer
    #[arg(long, default_value_t = 200_000)]
    retries: i64,
    /// Waiting, of one webhook that gets 5 requests in a second
    #[arg(long, default_value_t = 1_000_000)]
    paced: i64,
    #[arg(long, default_value_t = 1)]
    runs: usize,
}

/// What the database holds besides the events that are delivered.
struct Case {
    name: String,
    webhooks: usize,
    log_rows: i64,
    retries: i64,
    paced: i64,
}

const USUAL_WEBHOOKS: usize = 1_000;

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("growth");
    for _ in 0..options.runs {
        for case in cases(&options) {
            site.empty().await?;
            let webhooks = Site::healthy(case.webhooks);
            fill(&site, &webhooks, &case).await?;
            let figures = drain(&mut site, Load::new(&webhooks, 1024), options.events, 1, (1, &[])).await?;
            report.add(&case.name, figures);
        }
    }
    site.empty().await?;
    report.finish("The second case is what the third and later ones are to be compared with.")
}

fn cases(options: &Options) -> [Case; 6] {
    let usual = |name| Case { name, webhooks: USUAL_WEBHOOKS, log_rows: 0, retries: 0, paced: 0 };
    [
        Case { webhooks: 1, ..usual("1 webhook".to_owned()) },
        usual(format!("{USUAL_WEBHOOKS} webhooks")),
        Case { webhooks: options.webhooks, ..usual(format!("{} webhooks", options.webhooks)) },
        Case { log_rows: options.log_rows, ..usual(format!("{} log rows", options.log_rows)) },
        Case { retries: options.retries, ..usual(format!("{} due retries", options.retries)) },
        Case { paced: options.paced, ..usual(format!("{} wait for a pace", options.paced)) },
    ]
}

async fn fill(site: &Site, webhooks: &Webhooks, case: &Case) -> anyhow::Result<()> {
    let ids = site.register(webhooks).await?;
    site.database.log(&ids, case.log_rows).await?;
    if case.retries > 0 {
        let others = Webhooks { name: "x", accounts: 100, per_account: 1, path: "/never", first_host: 100 };
        let others = site.register(&others).await?;
        site.database.owe(&others, case.retries).await?;
    }
    if case.paced > 0 {
        let slow = Webhooks { name: "x", accounts: 1, per_account: 1, path: "/ok", first_host: 100 };
        let slow = site.register(&slow).await?;
        site.database.pace(&slow, 5).await?;
        site.database.owe(&slow, case.paced).await?;
    }
    Ok(())
}

//! How long the HTTP API takes to answer a page that is open, beside a log of millions of rows and a worker that
//! delivers. Requests come on a schedule that waits for nobody.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use penr_webhooks::event::AccountId;
use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

mod support;

use support::{Api, Figures, Load, Report, Site, Webhooks, number, quantile};

#[derive(clap::Parser)]
struct Options {
    /// Requests a second
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Events a second that the worker delivers meanwhile
    #[arg(long, default_value_t = 200)]
    events: u64,
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    #[arg(long, default_value_t = 5_000_000)]
    rows: i64,
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

const WARM_UP: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("api");
    let shown = Webhooks { name: "x", accounts: 1, per_account: 100, path: "/ok", first_host: 100 };
    let delivering = Site::healthy(100);
    let webhooks = site.register(&shown).await?;
    site.register(&delivering).await?;
    site.database.log(&webhooks, options.rows).await?;
    site.settle().await?;
    let _worker = site.warm_worker(&delivering).await?;
    let visitor = Visitor::of(&site, free_port()?)?;
    let _api = Api::start(&visitor.address)?;
    visitor.until_answered().await?;
    for _ in 0..options.runs {
        let seconds = WARM_UP.as_secs() + options.seconds;
        let events = Load::new(&delivering, 1024).on_schedule(&site.settings, options.events, seconds);
        for (kind, figures) in visitor.visit(&webhooks, &options).await? {
            report.add(kind, figures);
        }
        events.published().await?;
    }
    site.empty().await?;
    let (rate, rows, events) = (options.rate, options.rows, options.events);
    report.finish(&format!(
        "{rate} requests/s of all kinds together, from the scheduled time; 100 webhooks, {rows} rows, {events} deliveries/s."
    ))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Who has the page open.
#[derive(Clone)]
struct Visitor {
    client: Client,
    address: String,
    token: String,
}

impl Visitor {
    fn of(site: &Site, port: u16) -> anyhow::Result<Self> {
        let account = AccountId::parse("x0").expect("a valid account id");
        let token =
            site.settings.tokens()?.sign(&account, jiff::Timestamp::now().as_second(), Duration::from_secs(3600));
        Ok(Self { client: Client::new(), address: format!("127.0.0.1:{port}"), token })
    }

    async fn ask(&self, path: &str) -> anyhow::Result<()> {
        let url = format!("http://{}/v1/webhooks{path}", self.address);
        self.client.get(url).bearer_auth(&self.token).send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }

    async fn until_answered(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(error) = self.ask("").await {
            anyhow::ensure!(began.elapsed() < PATIENCE, "the API does not answer: {error}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Asks on schedule, each kind in turn, and tells how late the answers were.
    async fn visit(&self, webhooks: &[Uuid], options: &Options) -> anyhow::Result<BTreeMap<&'static str, Figures>> {
        let spacing = Duration::from_secs(1) / u32::try_from(options.rate)?;
        let (began, mut asked) = (Instant::now(), JoinSet::new());
        for number in 0..options.rate * (WARM_UP.as_secs() + options.seconds) {
            let due = began + spacing * u32::try_from(number)?;
            sleep_until(due).await;
            let webhook = webhooks[usize::try_from(number / 4)? % webhooks.len()];
            let (kind, path) = request(number, webhook);
            let visitor = self.clone();
            asked.spawn(async move { visitor.ask(&path).await.map(|()| (kind, due, due.elapsed())) });
        }
        let mut late: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        while let Some(answered) = asked.join_next().await {
            let (kind, due, took) = answered??;
            if due >= began + WARM_UP {
                late.entry(kind).or_default().push(took.as_secs_f64() * 1e3);
            }
        }
        let figures = |late: Vec<f64>| {
            let count = number(late.len() as u64);
            let [p50, p99] = [0.5, 0.99].map(|share| quantile(late.clone(), share));
            Figures::from([("answers", count), ("p50 ms", p50), ("p99 ms", p99)])
        };
        Ok(late.into_iter().map(|(kind, late)| (kind, figures(late))).collect())
    }
}

/// The chart is drawn anew far less often than the rest is asked for.
fn request(number: u64, webhook: Uuid) -> (&'static str, String) {
    match number % 20 {
        19 => ("chart of 24 h", format!("/{webhook}/stats?window=24h")),
        other if other % 4 == 0 => ("list of webhooks", "?include=activity".to_owned()),
        other if other % 4 == 1 => ("one webhook", format!("/{webhook}")),
        other if other % 4 == 2 => ("log", format!("/{webhook}/deliveries")),
        _ => ("log, failed only", format!("/{webhook}/deliveries?status=failed")),
    }
}

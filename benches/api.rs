//! How long the HTTP API takes to answer a page that is open, beside a log of millions of rows and a worker that
//! delivers; and how long another account's list takes beside callers who want to keep it from being answered. Requests
//! come on a schedule that waits for nobody.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use penr_webhooks::ids::AccountId;
use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

mod support;

use support::{Api, Crowd, Figures, Load, Report, Site, Webhooks, number, quantile};

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
    /// Questions to the filtered log that one account asks a second, hanging up after 5 ms, beside another's list
    #[arg(long, default_value_t = 200)]
    flood: u32,
    /// Callers that never finish their head and come again, beside somebody's list
    #[arg(long, default_value_t = 1_500)]
    unfinished: u32,
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

const WARM_UP: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
/// Lists a second of the account that is hindered, within the default limits.
const LISTS: u32 = 20;

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
    site.register(&Webhooks { name: "y", ..shown }).await?;
    site.database.log(&webhooks, options.rows).await?;
    site.settle().await?;
    let _worker = site.warm_worker(&delivering).await?;
    let visitor = Visitor::of(&site, "x0", free_port()?)?;
    let hindered = Visitor::of(&site, "y0", free_port()?)?;
    let hinderer = Visitor { address: hindered.address.clone(), ..visitor.clone() };
    let _apis = (Api::without_limits(&visitor.address)?, Api::start(&hindered.address)?);
    visitor.until_answered().await?;
    hindered.until_answered().await?;
    for _ in 0..options.runs {
        let seconds = WARM_UP.as_secs() + options.seconds;
        let events = Load::new(&delivering, 1024).on_schedule(&site.settings, options.events, seconds);
        for (kind, figures) in visitor.visit(&webhooks, &options).await? {
            report.add(kind, figures);
        }
        events.published().await?;
        report.add("another's list, alone", hindered.list(options.seconds).await?);
        let crowd = Crowd::of_hang_ups(&hinderer.address, hinderer.questions(&webhooks), options.flood);
        report.add("the same beside a flood", hindered.list(options.seconds).await?);
        drop(crowd);
        let crowd = Crowd::of_unfinished(&hinderer.address, options.unfinished);
        report.add("the same beside unfinished heads", hindered.list(options.seconds).await?);
        drop(crowd);
    }
    site.empty().await?;
    let Options { rate, rows, events, flood, unfinished, .. } = options;
    report.finish(&format!(
        "{rate} requests/s of all kinds together, from the scheduled time; 100 webhooks, {rows} rows, {events} deliveries/s. \
         Another's list is asked for {LISTS} times a second, beside {flood} hang-ups a second, or {unfinished} callers \
         that never finish their head and come again 100 ms after they were sent away."
    ))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// An account whose page is open.
#[derive(Clone)]
struct Visitor {
    client: Client,
    address: String,
    token: String,
}

impl Visitor {
    fn of(site: &Site, account: &str, port: u16) -> anyhow::Result<Self> {
        let account = AccountId::parse(account).expect("a valid account id");
        let token =
            site.settings.tokens()?.sign(&account, jiff::Timestamp::now().as_second(), Duration::from_secs(3600));
        Ok(Self { client: Client::new(), address: format!("127.0.0.1:{port}"), token })
    }

    async fn ask(&self, path: &str) -> anyhow::Result<()> {
        self.status(&self.client, path).await?.1.map_err(Into::into)
    }

    /// Sends a request. Returns the status, and an error if it is not a success.
    async fn status(&self, client: &Client, path: &str) -> anyhow::Result<(u16, Result<(), reqwest::Error>)> {
        let url = format!("http://{}/v1/webhooks{path}", self.address);
        let answer = client.get(url).bearer_auth(&self.token).send().await?;
        let (status, wrong) = (answer.status().as_u16(), answer.error_for_status_ref().map(drop));
        answer.bytes().await?;
        Ok((status, wrong))
    }

    /// Heads of requests for pages of the log with a filter that matches nothing.
    fn questions(&self, webhooks: &[Uuid]) -> Vec<String> {
        let head = |webhook| {
            format!(
                "GET /v1/webhooks/{webhook}/deliveries?event_type=keyword.created HTTP/1.1\r\nHost: {}\r\n\
                 Authorization: Bearer {}\r\n\r\n",
                self.address, self.token
            )
        };
        webhooks.iter().map(head).collect()
    }

    /// Asks for the list on schedule, each time as a new caller. Returns how late the answers were, and how many requests got
    /// no 200.
    async fn list(&self, seconds: u64) -> anyhow::Result<Figures> {
        let client = Client::builder().pool_max_idle_per_host(0).build()?;
        let (began, mut asked) = (Instant::now() + WARM_UP, JoinSet::new());
        for number in 0..LISTS * u32::try_from(seconds)? {
            let due = began + Duration::from_secs(1) / LISTS * number;
            sleep_until(due).await;
            let (visitor, client) = (self.clone(), client.clone());
            asked.spawn(async move { (visitor.status(&client, "").await, due.elapsed()) });
        }
        let (mut late, mut unavailable, mut others) = (Vec::new(), 0, 0);
        while let Some(answered) = asked.join_next().await {
            match answered? {
                (Ok((200, _)), took) => late.push(took.as_secs_f64() * 1e3),
                (Ok((503, _)), _) => unavailable += 1,
                _ => others += 1,
            }
        }
        let figures = [("answers", 1.0), ("p50 ms", 0.5), ("p99 ms", 0.99), ("slowest ms", 1.0)];
        let mut figures = figures.map(|(name, share)| (name, quantile(late.clone(), share)));
        figures[0].1 = number(late.len() as u64);
        Ok(Figures::from(figures).and([("503", number(unavailable)), ("failed otherwise", number(others))]))
    }

    async fn until_answered(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(error) = self.ask("").await {
            anyhow::ensure!(began.elapsed() < PATIENCE, "the API does not answer: {error}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Sends requests on schedule, each kind in turn, and returns how late the answers were.
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

/// The page asks for the chart far less often than for the rest.
fn request(number: u64, webhook: Uuid) -> (&'static str, String) {
    match number % 20 {
        19 => ("chart of 24 h", format!("/{webhook}/stats?window=24h")),
        other if other % 4 == 0 => ("list of webhooks", "?include=activity".to_owned()),
        other if other % 4 == 1 => ("one webhook", format!("/{webhook}")),
        other if other % 4 == 2 => ("log", format!("/{webhook}/deliveries")),
        _ => ("log, failed only", format!("/{webhook}/deliveries?status=failed")),
    }
}

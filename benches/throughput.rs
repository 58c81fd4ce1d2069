//! How fast preloaded events are delivered, beside what the same machine can send at all: the raw ceiling is the same
//! HTTP client in a bare loop, with the same bodies, headers and signatures to the same receiver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penr_webhooks::secret::SigningSecret;
use penr_webhooks::signature::{SigningKey, body_signature, standard_signature};
use reqwest::Client;
use tokio::task::JoinSet;

mod support;

use support::{Figures, Load, Report, Site, TYPE, Webhooks, cpu_of, drain, number, url};

#[derive(clap::Parser)]
struct Options {
    /// Events of 1 KiB; the other cases have fewer
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[arg(long, default_value_t = 100)]
    accounts: usize,
    /// Seconds that the ceiling is measured, at each concurrency
    #[arg(long, default_value_t = 3)]
    ceiling_seconds: u64,
    /// Only cases with this in their name
    #[arg(long, default_value = "")]
    case: String,
}

const CONCURRENCIES: [usize; 3] = [32, 64, 128];

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let mut report = Report::new("throughput");
    let one = Site::healthy(options.accounts);
    let five = Webhooks { per_account: 5, ..one };
    let never = Webhooks { name: "never", accounts: 1, per_account: 1, path: "/never", first_host: options.accounts };
    let cases = [
        ("1 KiB", one, 1024, options.events, None),
        ("1 KiB, 3 headers of the webhook", one, 1024, options.events, None),
        ("1 KiB, 1 % never answered", one, 1024, options.events, Some(never)),
        ("1 KiB, 5 webhooks each", five, 1024, options.events / 5, None),
        ("16 KiB", one, 16 * 1024, options.events / 5, None),
    ];
    for _ in 0..options.runs {
        let chosen = cases.into_iter().filter(|(name, ..)| name.contains(&options.case));
        for (name, webhooks, bytes, events, hundredth) in chosen {
            site.empty().await?;
            let registered = site.register(&webhooks).await?;
            if name.contains("headers") {
                site.give_headers(&registered, 3).await?;
            }
            let mut load = Load::new(&webhooks, bytes);
            if let Some(others) = hundredth {
                site.register(&others).await?;
                load = load.but_for_a_hundredth(&others);
            }
            let raw = ceiling(&site, load, &options).await?;
            let figures = drain(&mut site, load, events, webhooks.per_account as u64, (1, &[])).await?;
            let share = figures.get("deliveries/s") / raw.get("ceiling/s");
            report.add(name, raw.and([("of ceiling", share)]).and(figures));
        }
    }
    site.empty().await?;
    report.finish("From the arrival of the first tenth to that of the ninth; one worker, quorum queue, fsync on.")
}

/// The best of a few concurrencies.
async fn ceiling(site: &Site, load: Load, options: &Options) -> anyhow::Result<Figures> {
    let body = load.sent_body(&site.settings)?;
    let urls: Vec<String> = (0..options.accounts).map(|webhook| url(webhook, site.receiver.port, "/ok")).collect();
    let mut best = Figures::default();
    for concurrency in CONCURRENCIES {
        let raw = Raw { client: client()?, urls: urls.clone(), body: body.clone() };
        let figures = raw.measure(concurrency, Duration::from_secs(options.ceiling_seconds)).await?;
        if figures.get("ceiling/s") > best.get("ceiling/s") || best.get("ceiling/s").is_nan() {
            best = figures;
        }
    }
    Ok(best)
}

/// As the worker's sender builds it.
fn client() -> reqwest::Result<Client> {
    Client::builder()
        .user_agent("penr-webhooks/bench")
        .no_proxy()
        .http1_only()
        .http1_title_case_headers()
        .pool_max_idle_per_host(64)
        .build()
}

struct Raw {
    client: Client,
    urls: Vec<String>,
    body: bytes::Bytes,
}

impl Raw {
    async fn measure(self, concurrency: usize, measured: Duration) -> anyhow::Result<Figures> {
        let (raw, sent, stop) = (Arc::new(self), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut loops = JoinSet::new();
        for number in 0..concurrency {
            loops.spawn(raw.clone().send_on(number, concurrency, sent.clone(), stop.clone()));
        }
        tokio::time::sleep(measured / 4).await;
        let cpu = || cpu_of(std::process::id());
        let (from, started, spent) = (sent.load(Ordering::Relaxed), Instant::now(), cpu());
        tokio::time::sleep(measured).await;
        let count = number(sent.load(Ordering::Relaxed) - from);
        let (took, spent) = (started.elapsed().as_secs_f64(), cpu() - spent);
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = loops.join_next().await {
            ended??;
        }
        Ok(Figures::from([("ceiling/s", count / took), ("ceiling µs", spent * 1e6 / count)]))
    }

    async fn send_on(
        self: Arc<Self>,
        first: usize,
        step: usize,
        sent: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<()> {
        let key = SigningKey::from(&SigningSecret::from_random(rand::random()));
        let mut url = first;
        while !stop.load(Ordering::Relaxed) {
            self.post(&self.urls[url % self.urls.len()], url, &key).await?;
            sent.fetch_add(1, Ordering::Relaxed);
            url += step;
        }
        Ok(())
    }

    async fn post(&self, url: &str, event: usize, key: &SigningKey) -> anyhow::Result<()> {
        let (id, timestamp) = (format!("raw{event}"), jiff::Timestamp::now().as_second());
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json")
            .header("x-webhook-signature", body_signature(key, &self.body))
            .header("x-webhook-event", TYPE)
            .header("x-webhook-attempt", 1)
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", standard_signature(&[key], &id, timestamp, &self.body))
            .body(self.body.clone());
        request.send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }
}

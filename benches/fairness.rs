//! What bad receivers do to healthy ones: healthy traffic at half of what the machine carries, alone and beside as much
//! traffic again to receivers of several kinds, or beside a backlog of retries.

use std::time::{Duration, Instant};

mod support;

use support::{Figures, Load, Report, Site, Webhooks, latencies, number};

#[derive(clap::Parser)]
struct Options {
    /// Healthy events a second; half of the measured maximum unless given
    #[arg(long)]
    rate: Option<u64>,
    /// Of publishing in each case, besides the warm-up
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Due retries of one webhook, in the last case
    #[arg(long, default_value_t = 200_000)]
    backlog: i64,
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Besides the healthy traffic alone, only cases whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
}

const EVENT_BYTES: usize = 1024;
/// Published within a second, to find the maximum: more than a worker delivers in that time.
const EVENTS_FOR_MAXIMUM: u64 = 40_000;
const WARM_UP: Duration = Duration::from_secs(3);
/// An event that is not delivered this long after the last publish counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    support::main(run)
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut site = Site::open().await?;
    let rate = match options.rate {
        Some(rate) => rate,
        None => maximum(&mut site).await? / 2,
    };
    let mut report = Report::new("fairness");
    for _ in 0..options.runs {
        let alone = healthy_beside(&mut site, rate, options.seconds, &Beside::Nothing).await?;
        let wanted =
            |(name, beside): &(String, Beside)| matches!(beside, Beside::Nothing) || name.contains(&options.only);
        for (name, beside) in cases(&options).into_iter().filter(wanted) {
            let figures = match beside {
                Beside::Nothing => alone.clone(),
                beside => healthy_beside(&mut site, rate, options.seconds, &beside).await?,
            };
            let share = figures.get("healthy/s") / alone.get("healthy/s");
            let slower = figures.get("p99 ms") / alone.get("p99 ms");
            report.add(&name, figures.and([("of alone", share), ("p99 to alone", slower)]));
        }
    }
    site.empty().await?;
    report.finish(&format!("{rate} healthy events/s to 100 webhooks, from scheduled publish to arrival; one worker."))
}

enum Beside {
    Nothing,
    AsMuchTo(Webhooks),
    Backlog(i64),
}

/// The second case shows what the load alone does, the others what its receivers add.
fn cases(options: &Options) -> [(String, Beside); 6] {
    let to = |accounts, path| Beside::AsMuchTo(others(accounts, path));
    [
        ("alone".to_owned(), Beside::Nothing),
        ("100 more healthy".to_owned(), to(100, "/ok")),
        ("one never answers".to_owned(), to(1, "/never")),
        ("100 answer after 4 s".to_owned(), to(100, "/delay/4000")),
        ("one answers 500".to_owned(), to(1, "/status/500")),
        (format!("{} due retries", options.backlog), Beside::Backlog(options.backlog)),
    ]
}

/// Webhooks beside the healthy ones. The receiver does not note their events, and no healthy webhook is on their hosts.
fn others(accounts: usize, path: &'static str) -> Webhooks {
    Webhooks { name: "x", accounts, per_account: 1, path, first_host: 100 }
}

async fn healthy_beside(site: &mut Site, rate: u64, seconds: u64, beside: &Beside) -> anyhow::Result<Figures> {
    let healthy = Site::healthy(100);
    site.empty().await?;
    site.register(&healthy).await?;
    let worker = site.warm_worker(&healthy).await?;
    let seconds = WARM_UP.as_secs() + seconds;
    let other = match beside {
        Beside::Nothing => None,
        Beside::AsMuchTo(others) => {
            site.register(others).await?;
            Some(Load::new(others, EVENT_BYTES).on_schedule(&site.settings, rate, seconds))
        }
        Beside::Backlog(retries) => {
            let webhook = site.register(&others(1, "/ok")).await?;
            site.database.owe(&webhook, *retries).await?;
            None
        }
    };
    let schedule = Load::new(&healthy, EVENT_BYTES).on_schedule(&site.settings, rate, seconds).published().await?;
    if let Some(other) = other {
        other.published().await?;
    }
    site.receiver.wait_at_most(schedule.count, PATIENCE).await?;
    drop(worker);
    let (arrived, _) = site.receiver.take_first().await?;
    let scheduled = schedule.after(WARM_UP);
    let from = scheduled.values().min().copied().unwrap_or_default();
    let to = scheduled.values().max().copied().unwrap_or_default();
    let in_time = arrived.values().filter(|time| (from..=to).contains(*time)).count();
    let rate = number(in_time as u64) * 1e9 / number(to - from);
    Ok(Figures::from([("healthy/s", rate)]).and(latencies(&scheduled, &arrived)))
}

/// Deliveries a second, with publishing on the same machine as in the cases, since it takes processor time, too.
async fn maximum(site: &mut Site) -> anyhow::Result<u64> {
    let webhooks = Site::healthy(100);
    site.register(&webhooks).await?;
    let worker = site.warm_worker(&webhooks).await?;
    let started = Instant::now();
    Load::new(&webhooks, EVENT_BYTES).on_schedule(&site.settings, EVENTS_FOR_MAXIMUM, 1).published().await?;
    site.receiver.wait_for(EVENTS_FOR_MAXIMUM).await?;
    let millis = u64::try_from(started.elapsed().as_millis())?;
    drop(worker);
    Ok(EVENTS_FOR_MAXIMUM * 1000 / millis)
}

//! The load doubles twice, and workers are added by the rule of config/kubernetes/scaling: events stay within the service level.
//!
//! The rule's queries are asked of a real Prometheus, and the numbers become workers as Kubernetes' autoscaler computes them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::duration_or;
use crate::support::*;

const TYPE: &str = "content.created";
/// A webhook alone gets half of a worker's requests, so there are many.
const ACCOUNTS: usize = 20;
/// With answers after 200 ms, a worker delivers 50 events a second at most.
const MAX_IN_FLIGHT: &str = "10";
const ANSWERS_AFTER: Duration = Duration::from_millis(200);
/// Events a second: what two workers bear, then twice and four times as many.
const LOADS: [usize; 3] = [40, 80, 160];
const BURSTS_PER_SECOND: usize = 20;
/// The service level: PenrWebhooksFirstVerdictLate and PenrWebhooksQueueWaitLong page for more.
const NINE_OF_TEN_WITHIN: Duration = Duration::from_secs(30);

/// The ScaledObject.
struct Rule {
    least: usize,
    most: usize,
    polling: Duration,
    triggers: Vec<Trigger>,
    scale_up: Vec<Policy>,
}

struct Trigger {
    query: String,
    /// The sum over all workers, not a number that more workers make smaller.
    is_average: bool,
    threshold: f64,
}

struct Policy {
    is_percent: bool,
    value: usize,
    period: Duration,
}

impl Rule {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/kubernetes/scaling/scaledobject.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let spec = &serde_saphyr::from_str::<Value>(&text).unwrap()["spec"];
        let number = |value: &Value| usize::try_from(value.as_u64().expect("a number")).unwrap();
        let seconds = |value: &Value| Duration::from_secs(value.as_u64().expect("seconds"));
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let triggers = spec["triggers"].as_array().unwrap().iter().map(|trigger| Trigger {
            query: text(&trigger["metadata"]["query"]),
            is_average: trigger["metricType"] == "AverageValue",
            threshold: text(&trigger["metadata"]["threshold"]).parse().unwrap(),
        });
        let behavior = &spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"];
        let policies = behavior["scaleUp"]["policies"].as_array().unwrap().iter().map(|policy| Policy {
            is_percent: policy["type"] == "Percent",
            value: number(&policy["value"]),
            period: seconds(&policy["periodSeconds"]),
        });
        Self {
            least: number(&spec["minReplicaCount"]),
            most: number(&spec["maxReplicaCount"]),
            polling: seconds(&spec["pollingInterval"]),
            triggers: triggers.collect(),
            scale_up: policies.collect(),
        }
    }

    /// How many workers the rule wants. Kubernetes leaves the number as it is within a tenth of the threshold.
    async fn wanted(&self, prometheus: &Prometheus, workers: usize) -> usize {
        let mut wanted = self.least;
        for trigger in &self.triggers {
            let Some(value) = prometheus.ask(&trigger.query).await else { return workers };
            let per_worker = if trigger.is_average { 1.0 } else { workers as f64 };
            let ratio = value * per_worker / (trigger.threshold * workers as f64);
            let number = if (ratio - 1.0).abs() < 0.1 { workers } else { (workers as f64 * ratio).ceil() as usize };
            wanted = wanted.max(number);
        }
        wanted.min(self.most)
    }

    /// As many of them as may be added now: the policy that permits more counts.
    fn permitted(&self, wanted: usize, history: &[(Instant, usize)]) -> usize {
        let before = |period| {
            let since = history.iter().rev().take_while(|(at, _)| at.elapsed() < period).count();
            history[history.len().saturating_sub(since + 1)].1
        };
        let limits = self.scale_up.iter().map(|policy| match policy.is_percent {
            true => before(policy.period) * (100 + policy.value) / 100,
            false => before(policy.period) + policy.value,
        });
        wanted.min(limits.max().expect("there are policies"))
    }
}

/// When each event was published.
type Published = HashMap<String, Instant>;

#[tokio::test]
#[ignore = "takes minutes"]
async fn workers_added_by_the_rule_keep_events_within_the_service_level_while_the_load_doubles_twice() {
    let rule = Rule::read();
    let site = Site::new().await.set("worker.max_in_flight", MAX_IN_FLIGHT).set("worker.prefetch", "20");
    let site = site.set("database.pool_size", "3").set("log.filter", "info");
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(200).after(ANSWERS_AFTER));
    for account in 0..ACCOUNTS {
        site.create_webhook(&format!("acc_{account}"), &receiver.url(), &[TYPE]).await;
    }
    let prometheus = Prometheus::start().await;
    let mut fleet = Fleet { site: &site, prometheus: &prometheus, workers: Vec::new(), history: Vec::new() };
    fleet.grow_to(rule.least).await;
    let phase = duration_or(270) / u32::try_from(LOADS.len()).unwrap();
    let scaling = async {
        let end = Instant::now() + phase * u32::try_from(LOADS.len()).unwrap();
        let mut ticks = tokio::time::interval(rule.polling);
        while Instant::now() < end {
            ticks.tick().await;
            let wanted = rule.wanted(&prometheus, fleet.workers.len()).await;
            fleet.grow_to(rule.permitted(wanted, &fleet.history)).await;
        }
        fleet
    };
    let (published, fleet) = tokio::join!(publish(&site, phase), scaling);
    let pages = prometheus.alerts_that_fired("page").await;
    let workers: Vec<usize> = fleet.history.iter().map(|(_, workers)| *workers).collect();
    let events: usize = published.iter().map(HashMap::len).sum();
    // In parts, each with its own time: too few workers take long for a backlog, and then the ages are to say so.
    for part in 1..=10 {
        receiver.wait_for(events * part / 10).await;
    }
    let ages: Vec<Duration> = published.iter().map(|published| nine_of_ten(&receiver, published)).collect();
    println!("soak scaling: {LOADS:?} events/s, workers {workers:?}, nine of ten within {ages:.1?}");
    assert!(ages.iter().all(|age| *age < NINE_OF_TEN_WITHIN), "{ages:?}");
    assert_eq!(pages, [""; 0]);
    // 50 events a second each.
    assert!(fleet.workers.len() >= 4, "{workers:?}");
    // The rule takes them away again.
    wait_until("the rule wants few workers", async || {
        rule.wanted(&prometheus, fleet.workers.len()).await == rule.least
    })
    .await;
}

/// The workers, and how many there were when.
struct Fleet<'a> {
    site: &'a Site,
    prometheus: &'a Prometheus,
    workers: Vec<Replica>,
    history: Vec<(Instant, usize)>,
}

impl Fleet<'_> {
    async fn grow_to(&mut self, number: usize) {
        if number <= self.workers.len() {
            return;
        }
        while self.workers.len() < number {
            self.workers.push(self.site.worker().await);
        }
        self.history.push((Instant::now(), number));
        let mut addresses = Vec::new();
        for worker in &mut self.workers {
            addresses.push(worker.logged("operations address", "address").await);
        }
        self.prometheus.scrape(&addresses).await;
    }
}

/// Publishes each load for this long, on a schedule that does not wait for deliveries.
async fn publish(site: &Site, phase: Duration) -> Vec<Published> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(BURSTS_PER_SECOND).unwrap());
    let mut phases = Vec::new();
    for load in LOADS {
        let (mut published, end) = (Published::new(), Instant::now() + phase);
        for burst in 0.. {
            let now = ticks.tick().await.into_std();
            if now >= end {
                break;
            }
            let account = format!("acc_{}", burst % ACCOUNTS);
            let ids = site.publish_many(load / BURSTS_PER_SECOND, &account, TYPE, json!({})).await;
            published.extend(ids.into_iter().map(|id| (id, now)));
        }
        phases.push(published);
    }
    phases
}

/// The age at which nine of ten of these events had arrived at their receiver.
fn nine_of_ten(receiver: &Receiver, published: &Published) -> Duration {
    let requests = receiver.requests();
    let mut ages: Vec<Duration> =
        requests.iter().filter_map(|request| Some(request.at - *published.get(request.event_id())?)).collect();
    ages.sort_unstable();
    ages[ages.len() * 9 / 10]
}

//! `/metrics` answers operators' questions: every metric is documented, every known label is there from the start, and each
//! counts what it says.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::http::{ask, get, metric};
use crate::support::*;

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

/// The types of the default catalogue.
const TYPES: [&str; 7] = [
    "content.created",
    "content.updated",
    "content.published",
    "content.scheduled",
    "keyword.created",
    "keyword.approved",
    "site.connected",
];

async fn operations(process: &mut Replica) -> String {
    process.logged("operations address", "address").await
}

/// A process with both roles whose metrics of queues and processes are there.
async fn run(site: &Site) -> (Replica, String) {
    let mut process = site.api_of(site.launch(&["run"])).await.replica;
    process.wait_for_log(replica::ATTACHED).await;
    let operations = operations(&mut process).await;
    let queue = format!("queue_consumers{{queue=\"{}\"}}", site.worker_queue());
    wait_until("the queue is counted", async || metric(&operations, &queue).await >= 1.0).await;
    let is_counted = async || get(&operations, "/metrics").await.text().contains("penr_webhooks_unrouted ");
    wait_until("the queue of unrouted events is counted", is_counted).await;
    wait_until("it sees itself", async || metric(&operations, "processes{role=\"both\"}").await == 1.0).await;
    (process, operations)
}

#[tokio::test]
async fn the_document_and_the_process_name_the_same_metrics_with_the_same_types() {
    let site = Site::new().await;
    let (_process, operations) = run(&site).await;
    let text = get(&operations, "/metrics").await.text();
    let shown: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let documented: BTreeSet<(String, String)> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap().to_owned()))
        .collect();
    assert_eq!(shown, documented);
}

#[tokio::test]
async fn promtool_finds_no_fault_with_the_classic_format() {
    let site = Site::new().await;
    let (_process, operations) = run(&site).await;
    let text = get(&operations, "/metrics").await.text();
    let services = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let there = Command::new(services).args(["need", "promtool=prometheus"]).status().await.unwrap();
    assert!(there.success());
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let output = promtool.wait_with_output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8(said).unwrap(), "");
}

#[tokio::test]
async fn a_caller_gets_the_format_that_it_asks_for() {
    let site = Site::new().await;
    let mut worker = site.worker().await;
    let operations = operations(&mut worker).await;
    const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                              text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, open_metrics) in [("*/*", false), ("text/plain", false), (PROMETHEUS, true)] {
        let answer = ask(&operations, "GET", "/metrics", &[("Accept", accept)], b"").await;
        let kind = answer.header("content-type").unwrap().to_owned();
        let expected = match open_metrics {
            true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            false => "text/plain; version=0.0.4; charset=utf-8",
        };
        assert_eq!(kind, expected, "{accept}");
        assert_eq!(answer.header("vary"), Some("Accept"));
        assert_eq!(answer.text().ends_with("# EOF\n"), open_metrics, "{accept}");
        assert_eq!(answer.text().contains("\n# TYPE penr_webhooks_events_total counter\n"), !open_metrics, "{accept}");
    }
}

#[tokio::test]
async fn every_known_label_stands_at_0_from_the_start() {
    let site = Site::new().await;
    let (_process, operations) = run(&site).await;
    let text = get(&operations, "/metrics").await.text();
    let mut expected = Vec::new();
    let outcomes = [
        "success",
        "http_status",
        "timeout",
        "dns",
        "connect",
        "tls",
        "protocol",
        "blocked_address",
        "invalid_url",
        "internal",
    ];
    for outcome in outcomes {
        for event_type in TYPES.iter().chain(&["other"]) {
            expected.push(format!("attempts_total{{outcome=\"{outcome}\",event_type=\"{event_type}\"}}"));
        }
    }
    let of = |name: &str, label: &str, values: &[&str]| -> Vec<String> {
        values.iter().map(|value| format!("{name}{{{label}=\"{value}\"}}")).collect()
    };
    expected.extend(of("dead_letters_total", "reason", &["not_json", "unknown_type", "too_large", "invalid_id"]));
    expected.extend(of("closed_total", "reason", &["exhausted", "cancelled", "disabled", "unrecordable"]));
    expected.extend(of("upkeep_failures_total", "reason", &["make", "drop", "locked", "clocks"]));
    expected.extend(of("processes", "role", &["worker", "api"]));
    for status in ["2xx", "4xx", "5xx"] {
        expected.push(format!("api_requests_total{{method=\"POST\",route=\"/v1/webhooks\",status=\"{status}\"}}"));
    }
    for series in expected {
        assert!(text.contains(&format!("\npenr_webhooks_{series} 0\n")), "no {series} at 0 in {text}");
    }
}

#[tokio::test]
async fn the_first_verdict_counts_each_delivery_once_and_parked_ones_with_their_whole_wait() {
    let site =
        Site::new().await.set("retry.schedule", r#"["10ms", "1h"]"#).set("worker.max_in_flight_per_webhook", "1");
    // Deliveries are parked when more than half of what the worker may have in hand waits.
    let site = site.set("worker.prefetch", "4");
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let site = site.set("sender.timeout", "60s").set("worker.lease", "10m");
    let mut worker = site.worker().await;
    let operations = operations(&mut worker).await;
    let verdicts =
        async |bucket: &str| metric(&operations, &format!("first_verdict_seconds_bucket{{le=\"{bucket}\"}}")).await;
    // Attempted twice, counted once.
    receiver.script([Reply::status(500)]);
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(2).await;
    wait_until("both are recorded", async || metric(&operations, "recorded_total").await == 2.0).await;
    assert_eq!((verdicts("600.0").await, verdicts("+Inf").await), (1.0, 1.0));
    // The second of these is parked while the first is being answered. Its row is made older, as if it had waited an hour.
    gate.close();
    receiver.always(Reply::status(204).held_by(&gate));
    site.publish_many(2, ACCOUNT, TYPE, json!({})).await;
    let parked = "SELECT count(*) FROM pending_deliveries WHERE trigger = 'event'";
    wait_until("one is parked", async || site.count(parked).await == 1).await;
    wait_until("the sweep has counted it", async || metric(&operations, "parked_waiting").await == 1.0).await;
    let older = "UPDATE pending_deliveries SET created_at = created_at - interval '1 hour' WHERE trigger = 'event'";
    site.sql().await.batch_execute(older).await.unwrap();
    gate.open();
    receiver.wait_for(4).await;
    wait_until("all have a verdict", async || verdicts("+Inf").await == 3.0).await;
    assert_eq!(verdicts("600.0").await, 2.0);
}

#[tokio::test]
async fn a_row_of_a_parked_delivery_says_when_a_worker_received_the_event() {
    let site = Site::new().await.set("worker.park_after", "2s").set("sender.timeout", "60s").set("worker.lease", "10m");
    let site = site.set("worker.max_in_flight_per_webhook", "1").set("worker.prefetch", "4");
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    gate.close();
    receiver.always(Reply::status(204).held_by(&gate));
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    site.publish_many(2, ACCOUNT, TYPE, json!({})).await;
    // It waits in its lane before it is parked.
    let parked =
        "SELECT extract(epoch FROM due_at - created_at)::float8 FROM pending_deliveries WHERE trigger = 'event'";
    let parked = eventually("one is parked", async || site.sql().await.query_opt(parked, &[]).await.unwrap()).await;
    let waited: f64 = parked.get(0);
    assert!(waited > 0.2, "{waited}");
    gate.open();
    drop(worker);
}

#[tokio::test]
async fn what_is_owed_to_a_webhook_that_is_off_is_neither_due_nor_late() {
    // The receiver is probed in an hour, and the next attempt is due at once.
    let site = Site::new().await.set("retry.schedule", r#"["100ms"]"#).set("worker.probe_after", "1");
    let site = site.set("worker.probe_interval", "1h").set("worker.probe_interval_max", "1h");
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(500));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    let operations = operations(&mut worker).await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("a delivery is late", async || metric(&operations, "due_lag_seconds").await > 0.5).await;
    wait_until("it is counted", async || metric(&operations, "due").await == 1.0).await;
    site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    let cancelled = "closed_total{reason=\"cancelled\"}";
    wait_until("it is closed", async || metric(&operations, cancelled).await == 1.0).await;
    wait_until("none is due", async || metric(&operations, "due").await == 0.0).await;
    wait_until("none is late", async || metric(&operations, "due_lag_seconds").await == 0.0).await;
    wait_until("none is pending", async || metric(&operations, "pending").await == 0.0).await;
}

#[tokio::test]
async fn what_waits_at_the_broker_and_what_a_worker_has_in_hand_are_counted() {
    let site = Site::new().await.set("worker.prefetch", "4").set("sender.timeout", "60s").set("worker.lease", "10m");
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    gate.close();
    receiver.always(Reply::status(204).held_by(&gate));
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let site = site.set("worker.park_after", "60s");
    let mut worker = site.worker().await;
    let operations = operations(&mut worker).await;
    let (of_queue, of_dead) = (site.worker_queue().to_owned(), site.dead_queue().to_owned());
    site.publish_many(10, ACCOUNT, TYPE, json!({})).await;
    let waiting = format!("queue_messages{{queue=\"{of_queue}\"}}");
    wait_until("the rest waits at the broker", async || metric(&operations, &waiting).await == 6.0).await;
    assert_eq!(metric(&operations, "prefetch").await, 4.0);
    assert_eq!(metric(&operations, "in_flight_limit").await, 3.0);
    assert!(metric(&operations, "unacknowledged").await >= 3.0);
    assert!(get(&operations, "/metrics").await.text().contains(&format!("queue_messages{{queue=\"{of_dead}\"}} 0\n")));
    gate.open();
    receiver.wait_for(10).await;
    wait_until("nothing is in hand", async || metric(&operations, "unacknowledged").await == 0.0).await;
    for size in ["lookup_batch_size_sum", "record_batch_size_sum", "ack_batch_size_sum", "ack_duration_seconds_count"] {
        assert!(metric(&operations, size).await >= 1.0, "{size}");
    }
    site.sql()
        .await
        .batch_execute(
            "INSERT INTO notices (id, kind, body, due_at)
        SELECT gen_random_uuid(), 'x', '{}', now() + interval '1 hour' FROM generate_series(1, 3)",
        )
        .await
        .unwrap();
    wait_until("notices are counted", async || metric(&operations, "notices_waiting").await == 3.0).await;
    assert_eq!(metric(&operations, "database_connections_limit").await, 8.0);
    assert!(metric(&operations, "database_connection_wait_seconds_count").await > 0.0);
}

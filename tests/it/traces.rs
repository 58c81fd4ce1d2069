//! An event goes on in the trace of its publisher: in the log, and at its receivers if they are to know.

use serde_json::{Value, json};

use crate::support::older_schema::back_to;
use crate::support::*;

const ACCOUNT: &str = "acc_42";
const TYPE: &str = "content.published";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// An event whose publisher's span is `SPAN` of this trace.
fn traced(site: &Site, id: &str, trace: &str, flags: &str) -> Message {
    site.event(id, ACCOUNT, TYPE, &json!({})).with_header("traceparent", &format!("00-{trace}-{SPAN}-{flags}"))
}

async fn publish(site: &Site, message: &Message) {
    assert_eq!(site.publish_message(message).await, Fate::Confirmed);
}

async fn stop(mut worker: Replica) -> Replica {
    worker.terminate();
    assert!(worker.wait().await.success(), "{}", worker.log());
    worker
}

/// The parts of a request's `Traceparent` behind its version, if it has one.
fn traceparent(request: &Request) -> Option<[String; 3]> {
    let parts: Vec<String> = request.head.header("traceparent")?.split('-').map(str::to_owned).collect();
    let [version, trace, span, flags] = parts.try_into().expect("four parts");
    assert_eq!(version, "00");
    Some([trace, span, flags])
}

/// The log lines about deliveries, each with its message and its trace id.
fn lines_of_deliveries(worker: &Replica) -> Vec<(String, Value)> {
    let field = |line: &Value, name: &str| line.get(name).or_else(|| line["fields"].get(name)).cloned();
    let lines = worker.log_lines().into_iter().filter(|line| field(line, "delivery_id").is_some());
    lines
        .map(|line| {
            let message = field(&line, "message").and_then(|message| message.as_str().map(str::to_owned));
            (message.unwrap_or_default(), field(&line, "trace_id").unwrap_or_default())
        })
        .collect()
}

#[tokio::test]
async fn the_trace_goes_on_in_another_worker_when_one_is_killed() {
    let site = Site::new().await.set("retry.schedule", r#"["1s", "10ms"]"#).set("sender.traceparent", "true");
    let receiver = Receiver::start().await;
    receiver.script([500, 500].map(Reply::status));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    publish(&site, &traced(&site, "evt_1", TRACE, "01")).await;
    site.wait_for_attempts(&webhook, 1).await;
    worker.kill9();
    let next = site.worker().await;
    site.wait_for_attempts(&webhook, 3).await;
    let next = stop(next).await;
    let told: Vec<[String; 3]> =
        receiver.requests().iter().map(|request| traceparent(request).expect("it is sent")).collect();
    assert!(told.iter().all(|[trace, span, flags]| trace == TRACE && span != SPAN && flags == "01"), "{told:?}");
    let spans: std::collections::BTreeSet<&String> = told.iter().map(|[_, span, _]| span).collect();
    assert_eq!(spans.len(), 3, "each attempt is a span of its own: {told:?}");
    let lines = lines_of_deliveries(&next);
    let attempts = lines.iter().filter(|(message, _)| message == "attempt").count();
    assert!(attempts >= 1, "{lines:?}");
    assert!(lines.iter().all(|(_, trace)| *trace == json!(TRACE)), "{lines:?}");
    assert_eq!(lines_of_deliveries(&worker)[0], ("attempt".to_owned(), json!(TRACE)));
}

#[tokio::test]
async fn the_trace_stands_in_the_lines_of_what_is_parked_or_closed_without_an_attempt() {
    let site = Site::new().await.set("sender.max_per_second", "1");
    let receiver = Receiver::start().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    for number in 0..4 {
        publish(&site, &traced(&site, &format!("evt_{number}"), TRACE, "00")).await;
    }
    worker.wait_for_log("\"parked\"").await;
    let disabled = "UPDATE webhooks SET active = false, disabled_reason = 'gone', activation = activation + 1";
    site.sql().await.batch_execute(disabled).await.unwrap();
    publish(&site, &traced(&site, "evt_last", TRACE, "00")).await;
    worker.wait_for_log("closed a delivery").await;
    let lines = lines_of_deliveries(&worker);
    for message in ["parked", "closed a delivery"] {
        assert!(lines.iter().any(|(found, _)| found == message), "{lines:?}");
    }
    assert!(lines.iter().all(|(_, trace)| *trace == json!(TRACE)), "{lines:?} of {}", webhook.id);
}

#[tokio::test]
async fn no_receiver_is_told_of_a_trace_that_is_not_valid_or_unless_the_setting_says_so() {
    let site = Site::new().await;
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let worker = site.worker().await;
    publish(&site, &traced(&site, "evt_1", TRACE, "01")).await;
    assert_eq!(traceparent(&*receiver.next().await), None, "the setting is off");
    let worker = stop(worker).await;
    assert_eq!(lines_of_deliveries(&worker)[0].1, json!(TRACE), "the log has it all the same");
    let worker = site.launch(&["worker"]).set("sender.traceparent", "true").start_worker().await;
    for (number, trace) in [&TRACE.to_uppercase(), &"0".repeat(32), "x"].into_iter().enumerate() {
        publish(&site, &traced(&site, &format!("evt_invalid_{number}"), trace, "01")).await;
        assert_eq!(traceparent(&*receiver.next().await), None, "{trace}");
    }
    publish(&site, &traced(&site, "evt_valid", TRACE, "01")).await;
    let request = receiver.next().await;
    assert_eq!(traceparent(&request).expect("it is sent")[0], TRACE);
    let place = |name: &str| request.head.headers.iter().position(|(found, _)| found == name).expect(name);
    let places = ["Webhook-Signature", "Traceparent", "X-Hidden-Value"].map(place);
    assert!(places.is_sorted(), "ours, then the trace, then the customer's: {:?}", request.head.headers);
    let worker = stop(worker).await;
    let of_invalid = lines_of_deliveries(&worker).into_iter().filter(|(_, trace)| trace.is_null()).count();
    assert_eq!(of_invalid, 3);
}

#[tokio::test]
async fn before_migrate_has_run_an_event_with_a_trace_is_delivered_and_its_retries_have_none() {
    let site = Site::new().await.set("retry.schedule", r#"["10ms"]"#).set("sender.traceparent", "true");
    site.sql().await.batch_execute(&back_to(16)).await.unwrap();
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    publish(&site, &traced(&site, "evt_1", TRACE, "01")).await;
    site.wait_for_attempts(&webhook, 2).await;
    site.json(&["migrate"]).await;
    receiver.script([Reply::status(500)]);
    publish(&site, &traced(&site, "evt_2", TRACE, "01")).await;
    site.wait_for_attempts(&webhook, 4).await;
    let worker = stop(worker).await;
    let told: Vec<bool> = receiver.requests().iter().map(|request| traceparent(request).is_some()).collect();
    assert_eq!(told, [true, false, true, true]);
    assert!(worker.warnings().is_empty(), "{:?}", worker.warnings());
}

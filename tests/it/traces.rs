//! An event goes on in the trace of its publisher.

use serde_json::{Value, json};

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

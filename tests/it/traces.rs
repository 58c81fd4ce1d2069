//! An event goes on in the trace of its publisher: in the log, at its receivers if they are to know, and at a collector.

use serde_json::{Value, json};

use crate::support::older_schema::back_to;
use crate::support::*;

const ACCOUNT: &str = "acc_42";
const TYPE: &str = "content.published";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
/// In the numbers of OTLP.
const CLIENT: i32 = 3;
const CONSUMER: i32 = 5;

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
async fn spans_continue_the_publishers_trace_and_have_the_host_of_a_receiver_but_never_its_url() {
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    let site = Site::new().await.set("otel.endpoint", &collector.url()).set("sender.traceparent", "true");
    let site = site.env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of-the-collector");
    receiver.always(Reply::status(202));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url_at("/hush-path?token=hush-query"), &[TYPE]).await;
    let worker = site.worker().await;
    publish(&site, &traced(&site, "evt_1", TRACE, "01")).await;
    let request = receiver.next().await;

    let consumed = collector.wait_for("consume", 1).await.remove(0);
    assert_eq!([&*consumed.trace_id, &*consumed.parent], [TRACE, SPAN]);
    assert_eq!((consumed.kind, consumed.failed), (CONSUMER, false));
    let destination = format!("{}:{TYPE}:{}", site.events_exchange(), site.worker_queue());
    assert_eq!(consumed.name, format!("consume {destination}"));
    let expected = [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.name", "consume"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", &destination),
        ("messaging.message.id", "evt_1"),
    ];
    assert_eq!(expected.map(|(name, _)| consumed.attribute(name)), expected.map(|(_, value)| value));

    let attempt = collector.wait_for("POST", 1).await.remove(0);
    assert_eq!([&attempt.trace_id, &attempt.parent], [TRACE, &consumed.span_id]);
    assert_eq!((attempt.kind, attempt.failed), (CLIENT, false));
    assert!(consumed.start <= attempt.start && attempt.start < attempt.end && attempt.end <= consumed.end);
    let port = receiver.address().port().to_string();
    let expected = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "202"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("penr_webhooks.webhook_id", &webhook.id),
    ];
    assert_eq!(expected.map(|(name, _)| attempt.attribute(name)), expected.map(|(_, value)| value));
    assert_eq!(traceparent(&request), Some([TRACE.to_owned(), attempt.span_id.clone(), "01".to_owned()]));

    for (name, of) in [("look-up", &consumed), ("record", &attempt)] {
        let batch = collector.wait_for(name, 1).await.remove(0);
        assert_eq!((batch.links, &*batch.parent, batch.kind), (vec![of.span_id.clone()], "", CLIENT), "{name}");
        assert_ne!(batch.trace_id, TRACE, "{name} is work on many events");
    }
    assert_eq!(attempt.resource["service.name"], "penr-webhooks");
    assert_eq!(attempt.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(!attempt.resource["service.instance.id"].is_empty());
    stop(worker).await;
    for export in collector.exports() {
        assert_eq!(export.first_line, "POST /v1/traces");
        assert_eq!(export.headers["api-key"], "of-the-collector");
        let body = String::from_utf8_lossy(&export.body);
        assert!(!body.contains("hush") && !body.contains("/hook") && !body.contains(&webhook.secret), "{body}");
        assert!(!body.contains(request.header("x-hidden-value")), "{body}");
    }
}

#[tokio::test]
async fn a_span_names_the_queue_that_its_message_came_from() {
    let collector = Collector::start().await;
    let site = Site::new().await.set("otel.endpoint", &collector.url()).set("queue.shards", "2");
    let worker = site.launch(&["worker"]).start_worker_of(2).await;
    let queues = [site.worker_queue().to_owned(), site.second_queue()];
    for (queue, id) in queues.iter().zip(["evt_1", "evt_2"]) {
        // The default exchange has no name, and its routing key is the queue.
        publish(&site, &traced(&site, id, TRACE, "01").into_queue(queue)).await;
    }
    let consumed = collector.wait_for("consume", 2).await;
    for (queue, id) in queues.iter().zip(["evt_1", "evt_2"]) {
        let span = consumed.iter().find(|span| span.attribute("messaging.message.id") == id).expect("its span");
        assert_eq!(span.attribute("messaging.destination.name"), format!("{queue}:{queue}"));
        assert_eq!(span.name, format!("consume {queue}:{queue}"));
    }
    stop(worker).await;
}

#[tokio::test]
async fn what_is_not_sampled_has_no_spans() {
    let collector = Collector::start().await;
    let site = Site::new().await.set("otel.endpoint", &collector.url()).set("otel.sample_ratio", "0");
    let site = site.set("sender.traceparent", "true").set("worker.batch", "1");
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let worker = site.worker().await;
    let unsampled = "1".repeat(32);
    publish(&site, &traced(&site, "evt_unsampled", &unsampled, "00")).await;
    let request = receiver.next().await;
    let [trace, span, flags] = traceparent(&request).expect("the receiver is told that nothing is sampled");
    assert_eq!([&trace, &flags], [&unsampled, "00"]);
    assert_ne!(span, SPAN);
    site.publish(ACCOUNT, TYPE, json!({})).await;
    assert_eq!(traceparent(&*receiver.next().await), None);
    publish(&site, &traced(&site, "evt_sampled", TRACE, "01")).await;
    receiver.next().await;
    // A stop sends every span.
    let mut worker = worker;
    assert!(worker.metric("spans_dropped_total").await.abs() < f64::EPSILON);
    stop(worker).await;
    let spans = collector.spans();
    let named = |name: &str| spans.iter().filter(|span| span.name.split(' ').next() == Some(name)).count();
    assert_eq!(["consume", "look-up", "POST", "record"].map(named), [1; 4], "{spans:?}");
    let of_the_trace = spans.iter().filter(|span| span.trace_id == TRACE).count();
    assert_eq!((of_the_trace, spans.len()), (2, 4), "{spans:?}");
}

#[tokio::test]
async fn a_trace_is_begun_for_the_share_of_events_without_one_and_goes_on_in_retries() {
    let collector = Collector::start().await;
    let site = Site::new().await.set("otel.endpoint", &collector.url()).set("otel.sample_ratio", "1");
    let site = site.set("sender.traceparent", "true").set("retry.schedule", r#"["10ms"]"#);
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(503)]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    site.wait_for_attempts(&webhook, 2).await;
    let worker = stop(worker).await;
    let consumed = collector.wait_for("consume", 1).await.remove(0);
    assert_eq!(consumed.parent, "");
    let attempts = collector.wait_for("POST", 2).await;
    for (attempt, request) in attempts.iter().zip(receiver.requests()) {
        assert_eq!([&attempt.trace_id, &attempt.parent], [&consumed.trace_id, &consumed.span_id]);
        let expected = [attempt.trace_id.clone(), attempt.span_id.clone(), "03".to_owned()];
        assert_eq!(traceparent(&request), Some(expected));
    }
    let failed = attempts.iter().map(|attempt| attempt.failed).collect::<Vec<_>>();
    assert_eq!((failed, attempts[0].attribute("error.type")), (vec![true, false], "503"));
    assert_eq!(attempts[1].attribute("http.request.resend_count"), "1");
    let lines = lines_of_deliveries(&worker);
    assert!(lines.len() >= 2 && lines.iter().all(|(_, trace)| *trace == json!(consumed.trace_id)), "{lines:?}");
}

#[tokio::test]
async fn a_message_that_is_no_event_is_a_failed_span_of_its_publishers_trace() {
    let collector = Collector::start().await;
    let site = Site::new().await.set("otel.endpoint", &collector.url());
    let mut worker = site.worker().await;
    let message = Message { body: b"no event".to_vec(), ..traced(&site, "evt_1", TRACE, "01") };
    publish(&site, &message).await;
    let consumed = collector.wait_for("consume", 1).await.remove(0);
    assert_eq!([&*consumed.trace_id, &*consumed.parent, consumed.attribute("error.type")], [TRACE, SPAN, "not_json"]);
    assert!(consumed.failed);
    worker.wait_for_log("becomes a dead letter").await;
    assert!(worker.log().contains(TRACE), "{}", worker.log());
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
async fn deliveries_go_on_while_the_collector_is_away_or_silent_and_lost_spans_are_counted() {
    let port = ReservedPort::new();
    // Some collectors take a token in the path.
    let endpoint = format!("http://{}/hush-token", port.address());
    let site = Site::new().await.set("otel.endpoint", &endpoint).set("shutdown.grace", "2s");
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let mut worker = site.worker().await;
    publish(&site, &traced(&site, "evt_1", TRACE, "01")).await;
    receiver.next().await;
    wait_until("spans are dropped and counted", async || worker.metric("spans_dropped_total").await >= 4.0).await;
    worker.wait_for_log("cannot send spans").await;
    assert_eq!(worker.warnings().len(), 1, "{:?}", worker.warnings());

    let collector = Collector::on(port.listen().await);
    publish(&site, &traced(&site, "evt_2", TRACE, "01")).await;
    receiver.next().await;
    worker.wait_for_log("spans are sent again").await;
    collector.wait_for("POST", 1).await;

    collector.gate.close();
    publish(&site, &traced(&site, "evt_3", TRACE, "01")).await;
    assert_eq!(receiver.next().await.event_id(), "evt_3");
    // Its answer never comes, and the stop does not wait for it longer than the grace.
    let log = stop(worker).await.log();
    assert!(log.contains(endpoint.trim_end_matches("/hush-token")), "{log}");
    assert!(!log.contains("hush-token"), "{log}");
    assert!(!collector.spans().iter().any(|span| span.attributes.values().any(|value| value == "evt_3")));
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

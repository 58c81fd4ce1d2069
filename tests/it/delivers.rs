//! An event reaches exactly the webhooks that subscribe to it: signed, unchanged and with a row in the log.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::*;

const ACCOUNT: &str = "acc_42";
const TYPE: &str = "content.published";

#[tokio::test]
async fn a_request_carries_every_header_once_in_title_case() {
    let site = Site::new().await;
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    let published_at = unix_seconds(SystemTime::now());
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    let request = receiver.next().await;
    let mut names: Vec<&str> = request.head.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let promised = [
        "Accept",
        "Content-Length",
        "Content-Type",
        "Host",
        "User-Agent",
        "Webhook-Id",
        "Webhook-Signature",
        "Webhook-Timestamp",
        "X-Hidden-Value",
        "X-Webhook-Attempt",
        "X-Webhook-Event",
        "X-Webhook-Signature",
    ];
    assert_eq!(names, promised);
    assert_eq!(request.head.first_line, "POST /hook HTTP/1.1");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("user-agent"), format!("penr-webhooks/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(request.header("x-webhook-event"), TYPE);
    assert_eq!(request.header("x-webhook-attempt"), "1");
    assert_eq!(request.header("webhook-id"), event);
    assert!((published_at..=unix_seconds(request.at_wall_clock)).contains(&request.timestamp()));
}

#[tokio::test]
async fn both_signatures_verify_with_the_webhooks_own_secret_only() {
    let site = Site::new().await;
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let stranger = site.create_webhook("acc_43", &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({"title": "Grüße"})).await;
    let request = receiver.next().await;
    assert_eq!(request.verify(&webhook.secret), Verdict { hex: true, standard: true });
    assert_eq!(request.verify(&stranger.secret), Verdict { hex: false, standard: false });
    let hex = request.header("x-webhook-signature");
    assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
    assert!(!request.header("webhook-signature").contains(' '), "one secret makes one signature");
}

#[tokio::test]
async fn the_body_holds_the_data_byte_for_byte_on_every_attempt() {
    let data = r#"{ "z":1e400,  "a" : 12345678901234567890 ,"n":-0.0,"f":1.10,"e":1E+2,
        "s":"\u0000 \/ \u00e9 é \ud83d\ude00 \ud800 \" \\", "":{}, "l":[ ],	"a":null }"#;
    let site = Site::new().await.set("retry.schedule", r#"["10ms"]"#);
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500)]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    let event = format!(
        r#"{{"data":{data},"more":[1],"occurred_at":"2026-11-23t10:00:00.5+02:00","id":"evt-1_A","account_id":"{ACCOUNT}",
        "type":"{TYPE}"}}"#
    );
    assert_eq!(site.publish_message(&site.message(event)).await, Fate::Confirmed);
    let expected = format!(r#"{{"id":"evt-1_A","type":"{TYPE}","timestamp":"2026-11-23T08:00:00.5Z","data":{data}}}"#);
    for attempt in 1..=2 {
        let request = receiver.next().await;
        assert_eq!(request.attempt(), attempt);
        assert_eq!(String::from_utf8_lossy(&request.body), expected);
        assert!(request.verify(&webhook.secret).is_genuine());
    }
}

#[tokio::test]
async fn an_event_without_id_and_time_takes_them_from_its_message() {
    let site = Site::new().await;
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    let message = site.message(format!(r#"{{"type":"{TYPE}","account_id":"{ACCOUNT}","data":null}}"#));
    let message = message.with_id("from-the-message").with(|properties| properties.with_timestamp(1_800_000_000));
    assert_eq!(site.publish_message(&message).await, Fate::Confirmed);
    let request = receiver.next().await;
    assert_eq!(request.event_id(), "from-the-message");
    let expected =
        format!(r#"{{"id":"from-the-message","type":"{TYPE}","timestamp":"2027-01-15T08:00:00Z","data":null}}"#);
    assert_eq!(String::from_utf8_lossy(&request.body), expected);
}

#[tokio::test]
async fn a_success_leaves_one_log_row_and_nothing_waiting() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    receiver.always(Reply::body(202, "taken"));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.next().await;
    stop(worker).await;
    let log = site.log(&webhook.id).await;
    let [row] = &log[..] else { panic!("one row, not {log:?}") };
    let field = |name: &str| row[name].clone();
    assert_eq!([field("event_id"), field("event_type")], [json!(event), json!(TYPE)]);
    assert_eq!([field("trigger"), field("attempt")], [json!("event"), json!(1)]);
    assert_eq!([field("status"), field("http_status"), field("error")], [json!("success"), json!(202), Value::Null]);
    assert_eq!([field("response_snippet"), field("next_attempt_at")], [json!("taken"), Value::Null]);
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 0);
    assert_eq!(site.count("SELECT count(*) FROM closed_deliveries").await, 0);
}

#[tokio::test]
async fn an_event_goes_to_active_webhooks_of_exactly_its_account_and_type() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let cases = [
        ("/one-type", ACCOUNT, &[TYPE][..]),
        ("/two-types", ACCOUNT, &["content.created", TYPE]),
        ("/other-type", ACCOUNT, &["content.created", "site.connected"]),
        ("/other-account", "acc_43", &[TYPE]),
        ("/longer-account", "acc_421", &[TYPE]),
        ("/upper-case-account", "ACC_42", &[TYPE]),
        ("/inactive", ACCOUNT, &[TYPE]),
    ];
    for (path, account, types) in cases {
        let webhook = site.create_webhook(account, &receiver.url_at(path), types).await;
        if path == "/inactive" {
            site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
        }
    }
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(2).await;
    stop(worker).await;
    let mut called: Vec<String> = receiver.requests().iter().map(|request| request.path.clone()).collect();
    called.sort();
    assert_eq!(called, ["/one-type", "/two-types"]);
}

#[tokio::test]
async fn an_event_for_nobody_is_acked_and_not_stored() {
    // With one message in hand at a time the second event arrives only after the first is acked.
    let site = Site::new().await.set("worker.prefetch", "1");
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let worker = site.worker().await;
    site.publish("acc_nobody", TYPE, json!({})).await;
    let for_somebody = site.publish(ACCOUNT, TYPE, json!({})).await;
    assert_eq!(receiver.next().await.event_id(), for_somebody);
    stop(worker).await;
    let stored = site.sql().await.query_one("SELECT array_agg(event_id) FROM events", &[]).await.unwrap();
    assert_eq!(stored.get::<_, Vec<String>>(0), [for_somebody]);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
    assert!(site.dead_letters().await.is_empty());
}

#[tokio::test]
async fn an_event_for_50_webhooks_reaches_each_of_them_once() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let mut webhooks = Vec::new();
    for number in 0..50 {
        webhooks.push(site.create_webhook(ACCOUNT, &receiver.url_at(&format!("/{number}")), &[TYPE]).await);
    }
    let worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(50).await;
    stop(worker).await;
    assert_eq!(receiver.count(), 50);
    for (number, webhook) in webhooks.iter().enumerate() {
        let requests = receiver.requests_at(&format!("/{number}"));
        let [request] = &requests[..] else { panic!("/{number} got {} requests", requests.len()) };
        assert_eq!(request.event_id(), event);
        assert!(request.verify(&webhook.secret).is_genuine());
    }
    assert_eq!(site.count("SELECT count(*) FROM attempts WHERE error IS NULL").await, 50);
    assert_eq!(site.count("SELECT count(*) FROM events").await, 1);
}

#[tokio::test]
async fn an_event_published_twice_keeps_its_webhook_id() {
    let site = Site::new().await;
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let worker = site.worker().await;
    let event = site.event("evt_twice", ACCOUNT, TYPE, &json!({}));
    for _ in 0..2 {
        assert_eq!(site.publish_message(&event).await, Fate::Confirmed);
    }
    let last = site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the last event is delivered", async || is_delivered(&receiver, &last)).await;
    stop(worker).await;
    let mut requests = receiver.requests();
    requests.retain(|request| request.event_id() == "evt_twice");
    assert!((1..=2).contains(&requests.len()), "{} requests", requests.len());
    assert!(requests.iter().all(|request| request.verify(&webhook.secret).is_genuine()));
    assert_eq!(site.log(&webhook.id).await.len(), receiver.count());
}

#[tokio::test]
async fn events_of_two_accounts_with_the_same_id_stay_apart() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let ours = site.create_webhook(ACCOUNT, &receiver.url_at("/ours"), &[TYPE]).await;
    let theirs = site.create_webhook("acc_43", &receiver.url_at("/theirs"), &[TYPE]).await;
    let worker = site.worker().await;
    for account in [ACCOUNT, "acc_43"] {
        let event = site.event("evt_same", account, TYPE, &json!({"of": account}));
        assert_eq!(site.publish_message(&event).await, Fate::Confirmed);
    }
    receiver.wait_for(2).await;
    stop(worker).await;
    for (webhook, path) in [(ours, "/ours"), (theirs, "/theirs")] {
        let requests = receiver.requests_at(path);
        let [request] = &requests[..] else { panic!("{path} got {} requests", requests.len()) };
        assert_eq!(request.json()["data"]["of"], json!(webhook.account));
        assert!(request.verify(&webhook.secret).is_genuine());
        assert_eq!(site.log(&webhook.id).await.len(), 1);
    }
}

#[tokio::test]
async fn two_contents_under_one_id_are_each_sent_whole_and_signed() {
    let site = Site::new().await.set("retry.schedule", r#"["10ms"]"#);
    let receiver = Receiver::start().await;
    receiver.answer(|request| Reply::status(if request.attempt() == 1 { 500 } else { 200 }));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    for content in ["first", "second"] {
        let event = site.event("evt_same", ACCOUNT, TYPE, &json!(content));
        assert_eq!(site.publish_message(&event).await, Fate::Confirmed);
    }
    wait_until("nothing waits any more", async || {
        receiver.requests().iter().filter(|request| request.attempt() == 1).count() == 2
            && site.count("SELECT count(*) FROM attempts WHERE error IS NULL").await > 0
            && site.count("SELECT count(*) FROM pending_deliveries").await == 0
    })
    .await;
    stop(worker).await;
    for request in receiver.requests() {
        assert_eq!(request.event_id(), "evt_same");
        assert!(["first", "second"].map(Value::from).contains(&request.json()["data"]));
        assert!(request.verify(&webhook.secret).is_genuine());
    }
}

#[tokio::test]
async fn a_redelivered_message_is_not_sent_again_to_a_webhook_that_had_it() {
    let site = Site::new().await.set("sender.timeout", "30s").set("worker.lease", "2m");
    let (served, crashed) = (Receiver::start().await, Receiver::start().await);
    crashed.script([Reply::silence()]);
    let had_it = site.create_webhook(ACCOUNT, &served.url(), &[TYPE]).await;
    site.create_webhook(ACCOUNT, &crashed.url(), &[TYPE]).await;
    let mut doomed = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    crashed.wait_for(1).await;
    wait_until("the success is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    doomed.kill9();
    doomed.wait().await;
    let successor = site.worker().await;
    let requests = crashed.wait_for(2).await;
    stop(successor).await;
    assert!(requests.iter().all(|request| request.event_id() == event && request.attempt() == 1));
    assert_eq!((served.count(), crashed.count()), (1, 2));
    assert_eq!(site.log(&had_it.id).await.len(), 1);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
}

#[tokio::test]
async fn two_workers_share_the_queue() {
    let site = Site::new().await.set("worker.prefetch", "10");
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let workers = [site.worker().await, site.worker().await];
    let ids = site.publish_many(200, ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(200).await;
    for worker in workers {
        let log = stop(worker).await;
        assert!(log.contains(r#""message":"attempt""#), "one worker did nothing");
    }
    let published = ids.into_iter().map(|event_id| {
        let (account, event_type) = (ACCOUNT.to_owned(), TYPE.to_owned());
        Published { event_id, account, event_type }
    });
    let books = Books::read(&site, &webhook, receiver.requests()).await;
    check(&published.collect::<Vec<_>>(), &[books]).assert_sound(0);
}

/// Stops a worker, which finishes what it has in hand, and returns its log.
async fn stop(mut worker: Replica) -> String {
    worker.terminate();
    assert!(worker.wait().await.success());
    worker.log()
}

fn is_delivered(receiver: &Receiver, event: &str) -> bool {
    receiver.requests().iter().any(|request| request.event_id() == event)
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).expect("the clock is right").as_secs()
}

//! `publish` publishes like penr.ai's services, and refuses what a worker would refuse.

use serde_json::{Value, json};

use super::{ACCOUNT, TYPE, assert_fails, keys};
use crate::support::*;

#[tokio::test]
async fn publish_sends_its_data_byte_for_byte_under_the_given_id() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    let data = r#"{ "b": 1e400, "a": 12345678901234567890 }"#;
    let published = site.json(&publish(TYPE, &["--data", data, "--id", "evt_mine"])).await;
    assert_eq!(published, json!({"published": 1, "event_ids": ["evt_mine"]}));
    let request = receiver.next().await;
    assert_eq!(request.event_id(), "evt_mine");
    assert!(String::from_utf8_lossy(&request.body).ends_with(&format!(r#","data":{data}}}"#)));
}

#[tokio::test]
async fn publish_reads_its_data_from_a_file() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    let file = site.folder().join("data.json");
    std::fs::write(&file, r#"{"from": "a file"}"#).unwrap();
    let output = site.cli(&publish(TYPE, &["--data", &format!("@{}", file.display())])).await;
    let request = receiver.next().await;
    assert_eq!(output.stdout, format!("published {}\n", request.event_id()));
    assert_eq!(request.json()["data"], json!({"from": "a file"}));
}

#[tokio::test]
async fn publish_sends_as_many_events_as_asked_each_with_its_own_id() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    let published = site.json(&publish(TYPE, &["--count", "300"])).await;
    assert_eq!((keys(&published).len(), &published["published"]), (2, &json!(300)));
    let requests = receiver.wait_for(300).await;
    let mut received: Vec<Value> = requests.iter().map(|request| json!(request.event_id())).collect();
    let mut ids = published["event_ids"].as_array().unwrap().clone();
    for ids in [&mut received, &mut ids] {
        ids.sort_by_key(Value::to_string);
    }
    assert_eq!(received, ids);
}

#[tokio::test]
async fn publish_refuses_what_a_worker_would_refuse() {
    let site = Site::new().await;
    let large = site.folder().join("large.json");
    std::fs::write(&large, format!("\"{}\"", "x".repeat(256 * 1024))).unwrap();
    let large = format!("@{}", large.display());
    let deep = "[".repeat(200) + &"]".repeat(200);
    let cases: [(&str, &[&str], &str); 10] = [
        ("content.exploded", &[], "there is no event type `content.exploded`; did you mean"),
        (TYPE, &["--id", "no spaces"], "`id`"),
        (TYPE, &["--id", ""], "`id`"),
        (TYPE, &["--data", "{"], "--data"),
        (TYPE, &["--data", ""], "--data"),
        (TYPE, &["--data", "@/nowhere/at-all"], "/nowhere/at-all"),
        (TYPE, &["--data", &large], "max_event_bytes"),
        (TYPE, &["--data", &deep], "deep"),
        (TYPE, &["--count", "0"], "--count"),
        (TYPE, &["--count", "2", "--id", "evt_1"], "--id"),
    ];
    for (event_type, flags, said) in cases {
        assert_fails(&site.cli(&publish(event_type, flags)).await, 2, &[said]);
    }
}

#[tokio::test]
async fn publish_says_that_no_worker_has_declared_the_exchange() {
    let site = Site::new().await;
    assert_fails(&site.cli(&publish(TYPE, &[])).await, 1, &["exchange does not exist"]);
}

#[tokio::test]
async fn publish_says_that_no_queue_takes_the_event() {
    let site = Site::new().await;
    drop(site.worker().await);
    let new_type = site.folder().join("settings.toml");
    std::fs::write(&new_type, "[event_types.\"site.removed\"]\nname = \"Removed\"\ndescription = \"Later\"\n").unwrap();
    let site = site.env("PENR_WEBHOOKS_CONFIG", new_type.to_str().unwrap());
    assert_fails(&site.cli(&publish("site.removed", &[])).await, 1, &["routed to no queue"]);
    assert_eq!(site.cli(&publish(TYPE, &[])).await.code, 0);
}

#[tokio::test]
async fn publish_says_that_the_broker_is_not_there() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.refuse(true).await;
    let site = site.amqp_through(&proxy.addr());
    let output = site.cli(&publish(TYPE, &[])).await;
    assert_fails(&output, 1, &["the broker is not available"]);
    let password = url::Url::parse(site.amqp_url()).unwrap().password().unwrap().to_owned();
    assert!(!output.stderr.contains(&password));
}

fn publish<'a>(event_type: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&["publish", "--account", ACCOUNT, "--type", event_type], flags].concat()
}

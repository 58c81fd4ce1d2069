//! `listen` is a receiver for development: it verifies, answers as told and prints a line per request.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ACCOUNT, TYPE, assert_fails, keys};
use crate::support::http::ask;
use crate::support::*;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const OTHER: &str = "whsec_b3RoZXIgc2VjcmV0IG90aGVyIHNlY3JldCBvdGhlcjE=";

#[tokio::test]
async fn listen_finds_both_signatures_valid_with_the_webhooks_secret() {
    let site = Site::new().await;
    let (event, line) = deliver_to_a_listener(&site, None).await;
    let expected = ["event_type", "event_id", "attempt", "x_webhook_signature", "webhook_signature"];
    assert!(expected.iter().all(|key| keys(&line).contains(key)), "{line}");
    assert_eq!([&line["event_type"], &line["event_id"], &line["attempt"]], [&json!(TYPE), &json!(event), &json!(1)]);
    assert_eq!([&line["x_webhook_signature"], &line["webhook_signature"]], ["valid"; 2].map(Value::from).each_ref());
    assert_eq!(line["status"], json!(200));
}

#[tokio::test]
async fn listen_finds_both_signatures_invalid_with_another_secret() {
    let site = Site::new().await;
    let (_, line) = deliver_to_a_listener(&site, Some(OTHER)).await;
    assert_eq!([&line["x_webhook_signature"], &line["webhook_signature"]], ["invalid"; 2].map(Value::from).each_ref());
}

/// Delivers one event to `listen --json`. Returns its id and the printed line.
async fn deliver_to_a_listener(site: &Site, secret: Option<&str>) -> (String, Value) {
    let webhook = site.create_plain_webhook(ACCOUNT, "http://hooks.example.com/", &[TYPE]).await;
    let listener = Listener::start(site, secret.unwrap_or(&webhook.secret), &["--json"]).await;
    let url = format!("http://{}/hook", listener.address);
    site.json(&["webhooks", "update", &webhook.id, "--url", &url]).await;
    let _worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    let lines = listener.lines(1).await;
    (event, serde_json::from_str(&lines[0]).unwrap_or_else(|error| panic!("no JSON ({error}): {}", lines[0])))
}

#[tokio::test]
async fn listen_prints_a_line_for_people_about_each_request() {
    let site = Site::new().await;
    let listener = Listener::start(&site, SECRET, &[]).await;
    let headers = [("X-Webhook-Event", TYPE), ("Webhook-Id", "evt_1"), ("X-Webhook-Attempt", "3")];
    let wrong = [("X-Webhook-Signature", "0a"), ("Webhook-Signature", "v1,AAAA"), ("Webhook-Timestamp", "1")];
    ask(&listener.address, "POST", "/", &headers, b"{}").await;
    ask(&listener.address, "POST", "/", &[headers, wrong].concat(), b"{}").await;
    let lines = listener.lines(2).await;
    for (line, verdict) in lines.iter().zip(["missing", "invalid"]) {
        assert!([TYPE, "evt_1", "attempt 3", "2 bytes"].iter().all(|fact| line.contains(fact)), "{line}");
        assert!(line.contains(&format!("X-Webhook-Signature {verdict}, Webhook-Signature {verdict}")), "{line}");
    }
}

#[tokio::test]
async fn listen_prints_nothing_but_json_for_programs_and_null_for_what_is_missing() {
    let site = Site::new().await;
    let listener = Listener::start(&site, SECRET, &["--json"]).await;
    ask(&listener.address, "POST", "/", &[], b"{}").await;
    listener.lines(1).await;
    let output = listener.process.stdout();
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines[0], json!({"listening": format!("http://{}", listener.address)}));
    for field in ["event_type", "event_id", "attempt"] {
        assert_eq!(lines[1].get(field), Some(&Value::Null), "{field}");
    }
    assert_eq!([&lines[1]["x_webhook_signature"], &lines[1]["body_bytes"]], [&json!("missing"), &json!(2)]);
}

#[tokio::test]
async fn listen_answers_its_statuses_in_turn_and_repeats_the_last() {
    let site = Site::new().await;
    let listener = Listener::start(&site, SECRET, &["--status", "500,503,200"]).await;
    for expected in [500, 503, 200, 200] {
        assert_eq!(ask(&listener.address, "POST", "/any/path?q", &[], b"").await.status, expected);
    }
    let lines = listener.lines(4).await;
    assert!(lines[1].ends_with("answered 503"), "{}", lines[1]);
}

#[tokio::test]
async fn listen_takes_the_address_that_it_is_told() {
    let site = Site::new().await;
    let listener = Listener::start(&site, SECRET, &["--address", "127.0.0.2"]).await;
    assert!(listener.address.starts_with("127.0.0.2:"), "{}", listener.address);
    assert_eq!(ask(&listener.address, "POST", "/", &[], b"").await.status, 200);
    let all = Listener::start(&site, SECRET, &["--address", "0.0.0.0"]).await;
    let port = all.address.strip_prefix("0.0.0.0:").unwrap();
    assert_eq!(ask(&format!("127.0.0.3:{port}"), "POST", "/", &[], b"").await.status, 200);
}

#[tokio::test]
async fn listen_waits_before_it_answers() {
    let site = Site::new().await;
    let listener = Listener::start(&site, SECRET, &["--delay", "300ms"]).await;
    let asked = Instant::now();
    ask(&listener.address, "POST", "/", &[], b"").await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn listen_refuses_what_it_cannot_use() {
    let site = Site::new().await;
    let taken = Receiver::start().await;
    let port = taken.address().port().to_string();
    assert_fails(&site.cli(&["listen", "--port", &port, "--secret", SECRET]).await, 1, &[&port]);
    let no_secret = site.cli(&["listen", "--port", "0", "--secret", "hunter2"]).await;
    assert_fails(&no_secret, 2, &["whsec_"]);
    assert!(!no_secret.stderr.contains("hunter2"));
    for (flag, value) in
        [("--status", "99"), ("--status", "ok"), ("--delay", "soon"), ("--address", "localhost"), ("--port", "70000")]
    {
        let arguments = ["listen", "--port", "0", "--secret", SECRET, flag, value];
        let arguments = if flag == "--port" { &["listen", "--secret", SECRET, flag, value][..] } else { &arguments };
        assert_fails(&site.cli(arguments).await, 2, &[flag, value]);
    }
    assert_fails(&site.cli(&["listen", "--port", "0"]).await, 2, &["--secret"]);
}

#[tokio::test]
async fn listen_ends_well_on_either_signal() {
    let site = Site::new().await;
    for signal in ["INT", "TERM"] {
        let mut listener = Listener::start(&site, SECRET, &[]).await;
        listener.process.signal(signal);
        assert_eq!(listener.process.wait().await.code(), Some(0), "SIG{signal}");
    }
}

struct Listener {
    process: Replica,
    address: String,
}

impl Listener {
    async fn start(site: &Site, secret: &str, flags: &[&str]) -> Self {
        let process = site.launch(&[&["listen", "--port", "0", "--secret", secret], flags].concat()).start();
        let address = eventually("it listens", async || {
            let output = process.stdout();
            let (_, rest) = output.lines().next()?.split_once("http://")?;
            Some(rest.trim_end_matches("\"}").to_owned())
        })
        .await;
        Self { process, address }
    }

    /// The printed lines about requests, as soon as there are this many.
    async fn lines(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} requests are printed"), async || {
            let lines: Vec<String> = self.process.stdout().lines().skip(1).map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }
}

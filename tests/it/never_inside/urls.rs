//! A URL is checked when it is saved, and again at every attempt.

use super::canary::Canary;
use crate::support::{Configure, LoggedAttempt, Receiver, Site, Webhook};

/// Writes a URL that `webhooks create` refuses into the database.
pub async fn smuggle(site: &Site, webhook: &Webhook, url: &str) {
    // The values of its headers would not go to another host.
    let update = "UPDATE webhooks SET url = $1, header_names = NULL, headers = NULL WHERE id::text = $2";
    let changed = site.sql().await.execute(update, &[&url, &webhook.id]).await.expect("the statement is right");
    assert_eq!(changed, 1);
}

pub async fn refusal(site: &Site, url: &str) -> String {
    let arguments =
        ["webhooks", "create", "--account", "acc_1", "--name", "x", "--url", url, "--events", "content.created"];
    let output = site.cli(&arguments).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{url}: {}", output.stderr);
    output.stderr
}

/// URLs that some parser takes for `canary` on 127.0.0.2, and the outcome of an attempt.
fn tricks(receiver: &Receiver, canary: &Canary) -> Vec<(String, &'static str)> {
    let (own, port) = (receiver.address(), canary.port());
    let mapped = "[::ffff:127.0.0.2]";
    vec![
        (format!("http://127.0.0.2:{port}/hook"), "blocked_address"),
        (format!("http://{mapped}:{port}/hook"), "blocked_address"),
        (format!("http://[::ffff:7f00:2]:{port}/hook"), "blocked_address"),
        (format!("http://[::127.0.0.2]:{port}/hook"), "blocked_address"),
        (format!("http://[64:ff9b::7f00:2]:{port}/hook"), "blocked_address"),
        ("http://[64:ff9b::808:808]/hook".to_owned(), "blocked_address"),
        (format!("http://[::1]:{port}/hook"), "blocked_address"),
        (format!("http://0.0.0.0:{port}/hook"), "blocked_address"),
        (format!("http://{own}@127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://127.0.0.2:{port}@{own}/hook"), "invalid_url"),
        (format!("http://{own}\\@127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://127.0.0.2:{port}#@{own}/hook"), "invalid_url"),
        (format!("http://127.0.0.2:{port}?@{own}/hook"), "blocked_address"),
        (format!("http://{own} @127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://@127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://0177.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://0x7f.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://2130706434:{port}/hook"), "invalid_url"),
        (format!("http://127.2:{port}/hook"), "invalid_url"),
        (format!("http://127.0.0.2.:{port}/hook"), "blocked_address"),
        (format!("http://１２７.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://127%2e0.0.2:{port}/hook"), "invalid_url"),
        (format!("http://localhost:{port}/hook"), "invalid_url"),
        (format!("http://canary.localhost:{port}/hook"), "invalid_url"),
        (format!("http:///127.0.0.2:{port}/hook"), "blocked_address"),
        (format!("//127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("http:127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("\thttp://127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("ftp://127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("gopher://127.0.0.2:{port}/hook"), "invalid_url"),
        (format!("unix://127.0.0.2:{port}/hook"), "invalid_url"),
        ("file:///etc/passwd".to_owned(), "invalid_url"),
        (format!("http://127.0.0.1:{port}/hook\r\nX: y"), "invalid_url"),
    ]
}

#[tokio::test]
async fn a_url_that_leads_inside_is_refused_when_saved_and_at_every_attempt() {
    let site = Site::new().await.set("retry.schedule", r#"["20ms", "1h"]"#);
    let (receiver, canary) = (Receiver::start().await, Canary::inside().await);
    let mut webhooks = Vec::new();
    for (url, verdict) in tricks(&receiver, &canary) {
        let complaint = refusal(&site, &url).await;
        assert!(!complaint.contains("127.0.0.2") && !complaint.contains("passwd"), "{complaint}");
        let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
        smuggle(&site, &webhook, &url).await;
        webhooks.push((webhook, url, verdict));
    }
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    for (webhook, url, verdict) in &webhooks {
        let attempts = site.wait_for_attempts(webhook, 2).await;
        let verdicts: Vec<String> = attempts.iter().map(LoggedAttempt::verdict).collect();
        assert_eq!(verdicts, [*verdict, *verdict], "{url}");
    }
    canary.assert_untouched().await;
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn what_the_operator_denies_is_refused_although_something_allows_it() {
    let site = Site::new().await;
    let canary = Canary::beside().await;
    let webhook = site.create_webhook("acc_1", &canary.url(), &["content.created"]).await;
    let site = site.set("sender.deny_networks", r#"["127.0.0.0/30"]"#).set("retry.schedule", r#"["1h"]"#);
    let complaint = refusal(&site, &canary.url()).await;
    assert!(complaint.contains("cannot be called"), "{complaint}");
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    let attempts = site.wait_for_attempts(&webhook, 1).await;
    assert_eq!(attempts[0].verdict(), "blocked_address");
    canary.assert_untouched().await;
}

#[tokio::test]
async fn https_once_required_is_required_of_webhooks_saved_before() {
    let site = Site::new().await;
    let canary = Canary::beside().await;
    let webhook = site.create_webhook("acc_1", &canary.url(), &["content.created"]).await;
    let site = site.set("sender.require_https", "true").set("retry.schedule", r#"["20ms", "1h"]"#);
    let complaint = refusal(&site, &canary.url()).await;
    assert!(complaint.contains("https://"), "{complaint}");
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    let attempts = site.wait_for_attempts(&webhook, 2).await;
    assert!(attempts.iter().all(|attempt| attempt.verdict() == "invalid_url"), "{attempts:?}");
    canary.assert_untouched().await;
}

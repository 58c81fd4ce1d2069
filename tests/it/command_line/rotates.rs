//! Rotating a signing secret: how long the old one also signs, and how that ends at once, as after a leak.

use jiff::{Span, Timestamp};
use serde_json::{Value, json};

use super::{ACCOUNT, NOBODY, TYPE, assert_fails, keys};
use crate::support::*;

const OLD_SECRETS: &str = "SELECT count(previous_secret) FROM webhooks";

#[tokio::test]
async fn the_old_secret_signs_for_as_long_as_the_operator_says() {
    let site = Site::new().await;
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    let regenerate = ["webhooks", "secret", &webhook.id, "--regenerate"];
    let fresh = site.json(&[&regenerate[..], &["--grace", "30m"]].concat()).await;
    assert_eq!(keys(&fresh), ["previous_valid_until", "secret"].into());
    let until: Timestamp = fresh["previous_valid_until"].as_str().unwrap().parse().unwrap();
    let minutes = Timestamp::now().until(until).unwrap().total(jiff::Unit::Minute).unwrap();
    assert!((25.0..31.0).contains(&minutes), "{minutes} minutes");
    assert_eq!(site.webhook(&webhook.id).await["previous_valid_until"], fresh["previous_valid_until"]);

    // Scripts take stdout for the secret.
    let shown = site.cli(&regenerate).await;
    assert!(shown.stdout.starts_with("whsec_") && shown.stdout.lines().count() == 1, "{}", shown.stdout);
    let day = (Timestamp::now() + Span::new().hours(24)).strftime("until %Y-%m-%d ").to_string();
    let told = ["the old secret also signs", &day, "--end-previous"];
    assert!(told.iter().all(|told| shown.stderr.contains(told)), "{}", shown.stderr);
    let table = site.cli(&["webhooks", "show", &webhook.id]).await.stdout;
    assert!(table.contains("the old secret also signs until"), "{table}");

    let shown = site.cli(&[&regenerate[..], &["--grace", "0s"]].concat()).await;
    assert!(shown.stderr.contains("the old secret signs no more"), "{}", shown.stderr);
    assert_eq!(site.count(OLD_SECRETS).await, 0);
    assert_eq!(site.webhook(&webhook.id).await["previous_valid_until"], Value::Null);
}

#[tokio::test]
async fn a_leaked_secret_is_ended_at_once() {
    let site = Site::new().await;
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let secret = ["webhooks", "secret", &webhook.id];
    let fresh = site.json(&[&secret[..], &["--regenerate"]].concat()).await;
    let end = [&secret[..], &["--end-previous"]].concat();
    assert_eq!(site.json(&end).await, json!({ "previous_valid_until": null }));
    assert_eq!(site.count(OLD_SECRETS).await, 0);
    assert_eq!(site.webhook(&webhook.id).await["previous_valid_until"], Value::Null);
    // Also when there is none.
    let shown = site.cli(&end).await;
    assert!(shown.code == 0 && shown.stdout.contains("the newest secret alone signs"), "{shown:?}");
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    let request = receiver.next().await;
    assert!(request.verify(fresh["secret"].as_str().unwrap()).is_genuine());
    assert_eq!(request.verify(&webhook.secret), Verdict { hex: false, standard: false });
}

#[tokio::test]
async fn a_grace_that_cannot_be_is_refused() {
    let site = Site::new().await;
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--regenerate", "--grace", "25h"], 2, "0s to 24h"),
        (&["--regenerate", "--grace", "soon"], 2, "0s to 24h"),
        (&["--grace", "1h"], 2, "--regenerate"),
        (&["--regenerate", "--end-previous"], 2, "cannot be used with"),
        (&["--end-previous"], 1, "there is no webhook"),
    ];
    for (flags, code, said) in cases {
        assert_fails(&site.cli(&[&["webhooks", "secret", NOBODY], flags].concat()).await, code, &[said]);
    }
}

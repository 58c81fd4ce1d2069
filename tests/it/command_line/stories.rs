//! "My receiver broke last night", by the command line: find what failed, look at it, send it again, see it delivered.

use serde_json::{Value, json};

use super::{ACCOUNT, TYPE, assert_fails};
use crate::support::*;

fn states(events: &Value) -> Vec<&str> {
    events["data"].as_array().unwrap().iter().map(|reached| reached["state"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn who_was_broken_last_night_finds_reads_and_resends_what_failed() {
    let site = Site::new().await.set("retry.schedule", r#"["10ms"]"#);
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    receiver.always(Reply::body(503, "out of disk"));
    let _worker = site.worker().await;
    let mut events = Vec::new();
    for number in 0..3 {
        events.push(site.publish(ACCOUNT, TYPE, json!({ "number": number })).await);
    }
    let closed = "SELECT count(*) FROM closed_deliveries";
    wait_until("all deliveries are exhausted", async || site.count(closed).await == 3).await;

    let log = ["webhooks", "log", &webhook.id, "--failed", "--since", "1h"];
    let failed = site.json(&log).await;
    assert_eq!(failed["data"].as_array().unwrap().len(), 6);
    let of_event = site.json(&[&log[..], &["--event", &events[0]]].concat()).await;
    let delivery = of_event["data"][0]["delivery_id"].as_str().unwrap();
    let whole = site.json(&["webhooks", "delivery", &webhook.id, delivery]).await;
    assert_eq!([&whole["state"], &whole["attempts_made"]], [&json!("exhausted"), &json!(2)]);
    let payload: Value = serde_json::from_str(whole["payload"].as_str().unwrap()).unwrap();
    assert_eq!([&payload["id"], &payload["data"]], [&json!(events[0]), &json!({ "number": 0 })]);
    let shown = site.cli(&["webhooks", "delivery", &webhook.id, delivery]).await.stdout;
    for part in [&events[0], "exhausted", "out of disk", "webhook-id: ", r#""number":0"#, " UTC"] {
        assert!(shown.to_lowercase().contains(&part.to_lowercase()), "no {part} in:\n{shown}");
    }

    receiver.always(Reply::status(200));
    assert_eq!(site.cli(&["webhooks", "resend", &webhook.id, delivery]).await.code, 0);
    let event = async |id: &str| site.json(&["events", "show", id, "--account", ACCOUNT]).await;
    wait_until("the first is delivered", async || states(&event(&events[0]).await) == ["delivered"]).await;
    assert_eq!(states(&event(&events[1]).await), ["exhausted"]);
    let recovered = site.json(&["webhooks", "recover", &webhook.id, "--since", "1h"]).await;
    assert_eq!(recovered["recovering"], json!(2));
    for id in &events {
        wait_until("it is delivered", async || states(&event(id).await) == ["delivered"]).await;
    }
    assert_eq!(site.count(closed).await, 0);
}

#[tokio::test]
async fn what_was_closed_in_a_night_is_recovered_and_nothing_after_it() {
    let site = Site::new().await.set("retry.schedule", r#"["10ms"]"#);
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    receiver.always(Reply::status(503));
    let _worker = site.worker().await;
    let (night, today) = (site.publish(ACCOUNT, TYPE, json!({})).await, site.publish(ACCOUNT, TYPE, json!({})).await);
    let closed = "SELECT count(*) FROM closed_deliveries";
    wait_until("both are exhausted", async || site.count(closed).await == 2).await;
    let of_night = "UPDATE closed_deliveries SET closed_at = now() - interval '5 hours'
                    WHERE event_key = (SELECT key FROM events WHERE event_id = $1)";
    assert_eq!(site.sql().await.execute(of_night, &[&night]).await.unwrap(), 1);
    receiver.always(Reply::status(200));
    let recover = ["webhooks", "recover", &webhook.id, "--since", "8h", "--until", "1h"];
    let count = site.json(&[&recover[..], &["--dry-run"]].concat()).await;
    assert_eq!(count, json!({ "recovering": 1, "not_recoverable": 0 }));
    assert_eq!(site.json(&recover).await, count);
    let event = async |id: &str| site.json(&["events", "show", id, "--account", ACCOUNT]).await;
    wait_until("it is delivered", async || states(&event(&night).await) == ["delivered"]).await;
    assert_eq!(states(&event(&today).await), ["exhausted"]);
    let reversed = ["webhooks", "recover", &webhook.id, "--since", "1h", "--until", "2h"];
    assert_fails(&site.cli(&reversed).await, 2, &["--until must be later than --since"]);
}

#[tokio::test]
async fn an_event_is_shown_with_every_webhook_of_its_account_that_got_it() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let (good, one) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let (bad, two) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let (_gone, three) = site.subscriber(ACCOUNT, &[TYPE]).await;
    site.subscriber(ACCOUNT, &["site.connected"]).await;
    bad.always(Reply::status(500));
    let _worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    good.wait_for(1).await;
    let attempts = "SELECT count(*) FROM attempts";
    wait_until("all attempts are in the log", async || site.count(attempts).await == 3).await;
    assert_eq!(site.cli(&["webhooks", "delete", &three.id]).await.code, 0);
    let show = ["events", "show", &event, "--account", ACCOUNT];
    let shown = site.json(&show).await;
    let find = |id: &str| shown["data"].as_array().unwrap().iter().find(|row| row["webhook_id"] == json!(id)).unwrap();
    assert_eq!(shown["data"].as_array().unwrap().len(), 3, "{shown}");
    assert_eq!(find(&one.id)["state"], json!("delivered"));
    assert_eq!([&find(&two.id)["state"], &find(&two.id)["last_http_status"]], [&json!("pending"), &json!(500)]);
    assert_eq!([&find(&three.id)["state"], &find(&three.id)["webhook_name"]], [&json!("delivered"), &Value::Null]);
    let table = site.cli(&show).await.stdout;
    for part in ["(deleted)", "pending", "500", &two.id] {
        assert!(table.contains(part), "no {part} in:\n{table}");
    }
    // Another account has no such event.
    let other = site.cli(&["events", "show", &event, "--account", "acc_43"]).await;
    assert_fails(&other, 1, &["no webhook of account acc_43", &event, "`dead-letters list`", "`events check`"]);
}

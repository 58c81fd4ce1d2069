//! What customers and operators see of a hold: in the API, on the command line.

use serde_json::{Value, json};

use crate::support::api::assert_problem;
use crate::support::older_schema::back_to;
use crate::support::*;

const TYPE: &str = "content.created";

async fn held_since(site: &Site, webhook: &Webhook) -> Value {
    site.webhook(&webhook.id).await["held_since"].clone()
}

#[tokio::test]
async fn customers_see_since_when_a_webhook_is_held_and_cannot_test_it() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = format!("/v1/webhooks/{}", webhook.id);
    let before = customer.get(&path).await;
    assert_eq!(before.json()["held_since"], Value::Null);
    let hold = site.json(&["webhooks", "hold", "--account", "acc_1", "--reason", "they move"]).await;
    let held = customer.get(&path).await;
    let since = held.json()["held_since"].clone();
    assert_eq!((&since, held.header("etag")), (&hold["since"], before.header("etag")));
    assert!(!held.text().contains("they move"), "the reason is for operators");
    assert_eq!(customer.get("/v1/webhooks").await.json()["data"][0]["held_since"], since);
    assert_eq!(customer.patch(&path, &json!({ "name": "Other" })).await.json()["held_since"], since);
    let new = json!({ "name": "New", "url": "https://example.com/hook", "events": [TYPE] });
    assert_eq!(customer.post("/v1/webhooks", &new).await.json()["held_since"], since);
    let test = customer.post(&format!("{path}/test"), &json!({})).await;
    assert_problem(&test, 409, "held");
    let output = site.cli(&["webhooks", "test", &webhook.id]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("the webhook is held since "), "{}", output.stderr);
    assert_eq!(receiver.count(), 0);

    // Of several holds the oldest counts.
    site.json(&["webhooks", "hold", "--all"]).await;
    site.json(&["webhooks", "hold", &webhook.id]).await;
    assert_eq!(held_since(&site, &webhook).await, since);
    let shown = site.cli(&["webhooks", "show", &webhook.id]).await.stdout;
    assert!(shown.contains("held since ") && shown.contains(" held "), "{shown}");
    let _worker = site.launch(&["worker"]).start();
    for what in [&["--all"][..], &["--account", "acc_1"], &[&webhook.id]] {
        assert_ne!(held_since(&site, &webhook).await, Value::Null);
        let output = site.cli(&[&["webhooks", "release"], what].concat()).await;
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert!(output.stdout.starts_with("released: "), "{}", output.stdout);
    }
    wait_until("it is free", async || held_since(&site, &webhook).await == Value::Null).await;
    assert_eq!(customer.post(&format!("{path}/test"), &json!({})).await.status, 200);
}

#[tokio::test]
async fn operators_list_what_is_held_and_a_second_hold_keeps_the_time() {
    let site = Site::new().await;
    let webhook = site.create_webhook("acc_1", "https://example.com/", &[TYPE]).await;
    assert_eq!(site.json(&["webhooks", "holds"]).await, json!({ "data": [] }));
    let first = site.json(&["webhooks", "hold", &webhook.id, "--reason", "first"]).await;
    let again = site.json(&["webhooks", "hold", &webhook.id]).await;
    assert_eq!(again, first, "without a reason everything stays");
    let second = site.json(&["webhooks", "hold", &webhook.id, "--reason", "second"]).await;
    assert_eq!((&second["since"], &second["reason"]), (&first["since"], &json!("second")));
    let account = site.json(&["webhooks", "hold", "--account", "acc 2", "--reason", "moves"]).await;
    assert_eq!((&account["account_id"], &account["all"]), (&json!("acc 2"), &json!(false)));
    let all = site.json(&["webhooks", "hold", "--all"]).await;
    assert_eq!(all["all"], true);
    assert_eq!(site.json(&["webhooks", "holds"]).await, json!({ "data": [second, account, all] }));

    let output = site.cli(&["webhooks", "release", &webhook.id]).await;
    assert!(output.stdout.contains("it stays held: there is a hold of all webhooks too"), "{}", output.stdout);
    let table = site.cli(&["webhooks", "holds"]).await.stdout;
    for row in [format!("webhook {}", webhook.id), "being released".to_owned(), "account acc 2".to_owned()] {
        assert!(table.contains(&row), "{table}");
    }
    // A new hold begins now.
    let anew = site.json(&["webhooks", "hold", &webhook.id]).await;
    assert!(anew["since"].as_str() > first["since"].as_str() && anew["reason"].is_null(), "{anew}");
}

#[tokio::test]
async fn what_cannot_be_held_or_released_is_said() {
    let site = Site::new().await;
    let webhook = site.create_webhook("acc 1", "https://example.com/", &[TYPE]).await;
    let nobody = "00000000-0000-4000-8000-000000000000";
    site.json(&["webhooks", "hold", "--account", "acc 1"]).await;
    for (arguments, code, said) in [
        (&["hold", nobody][..], 1, "there is no webhook"),
        (&["release", nobody], 1, "there is no webhook"),
        (&["release", "--account", "acc_2"], 1, "not held: account acc_2"),
        (&["release", "--all"], 1, "not held: all webhooks"),
        (&["release", &webhook.id], 1, "To release that: webhooks release --account 'acc 1'"),
        (&["hold"], 2, "required"),
        (&["hold", "--all", "--account", "acc_2"], 2, "cannot be used with"),
        (&["hold", "--all", "--reason", " "], 2, "a reason has 1 to 200 characters"),
    ] {
        let output = site.cli(&[&["webhooks"], arguments].concat()).await;
        assert_eq!(output.code, code, "{arguments:?} {}", output.stderr);
        assert!(output.stderr.contains(said), "{arguments:?} {}", output.stderr);
    }
    site.sql().await.batch_execute(&back_to(16)).await.unwrap();
    for arguments in [&["hold", &webhook.id][..], &["release", "--all"]] {
        let output = site.cli(&[&["webhooks"], arguments].concat()).await;
        assert_eq!(output.code, 1);
        assert!(output.stderr.contains("run `penr-webhooks migrate` first"), "{}", output.stderr);
    }
    assert_eq!(held_since(&site, &webhook).await, Value::Null);
}

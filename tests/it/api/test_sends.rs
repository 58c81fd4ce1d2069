//! A test send is a request like that of a real event. The caller is shown the request, and only the log changes.

use serde_json::{Value, json};

use crate::support::api::assert_problem;
use crate::support::*;

#[tokio::test]
async fn what_is_shown_is_what_was_sent() {
    let site = Site::new().await;
    let api = site.api().await;
    let receiver = Receiver::start().await;
    receiver.always(Reply::body(201, "thanks <b>"));
    let customer = api.customer("acc_1");
    let webhook = customer.create(&receiver.url(), &["site.connected", "content.created"]).await;
    let path = format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap());
    let sent = customer.ask("POST", &format!("{path}/test"), &[], b"").await.json();
    let request = receiver.wait_for(1).await.remove(0);
    let shown: Vec<(String, String)> =
        serde_json::from_value::<serde_json::Map<String, Value>>(sent["request"]["headers"].clone())
            .unwrap()
            .into_iter()
            .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
            .collect();
    let mut got = request.head.headers.clone();
    let own = got.iter_mut().find(|(name, _)| name == hidden_value::NAME).unwrap();
    own.1 = "[hidden]".to_owned();
    got.sort();
    assert_eq!(shown, got);
    assert_eq!(sent["request"]["body"].as_str().unwrap().as_bytes(), request.body);
    let timestamp = request.head.header("webhook-timestamp").unwrap();
    let id = request.head.header("webhook-id").unwrap();
    let body = String::from_utf8(request.body.clone()).unwrap();
    assert_eq!(sent["request"]["signed"], format!("{id}.{timestamp}.{body}"));
    assert!(request.verify(webhook["secret"].as_str().unwrap()).is_genuine());
    let event: Value = serde_json::from_str(&body).unwrap();
    assert!(id.starts_with("evt_test_") && event["id"] == id && event["test"] == true, "{event}");
    assert_eq!(event["type"], "content.created", "the first type, in the catalogue's order");
    assert_eq!(
        (&sent["status"], &sent["http_status"], &sent["trigger"]),
        (&"success".into(), &201.into(), &"test".into())
    );
    assert_eq!((&sent["attempt"], &sent["next_attempt_at"]), (&1.into(), &Value::Null));
    assert_eq!(sent["response_snippet"], "thanks <b>");
    let mut row = sent.clone();
    row.as_object_mut().unwrap().remove("request");
    assert_eq!(customer.get(&format!("{path}/deliveries")).await.json()["data"], json!([row]));
    let other = customer.post(&format!("{path}/test"), &json!({ "event_type": "keyword.created" })).await.json();
    assert_eq!(other["event_type"], "keyword.created");
    let unknown = customer.post(&format!("{path}/test"), &json!({ "event_type": "nope" })).await;
    assert_problem(&unknown, 422, "invalid-fields");
}

#[tokio::test]
async fn a_test_sends_the_example_of_its_type_or_the_callers_data_as_they_are_written() {
    let site = Site::new().await;
    let file = site.folder().join("extended.toml");
    let removed = "[event_types.\"site.removed\"]\nname = \"Site Removed\"\ndescription = \"When it is removed\"\n";
    std::fs::write(&file, removed).unwrap();
    let launch = site.launch(&["api"]).env("PENR_WEBHOOKS_CONFIG", file.to_str().unwrap());
    let api = site.api_of(launch.set("api.database_timeout", "15s").set("api.request_timeout", "20s")).await;
    let receiver = Receiver::start().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await + "/test";
    let types = customer.get("/v1/event-types").await;
    assert!(
        types.text().contains(r#""example":{"site_id": "site_42", "name": "Teehaus Gr\u00fcn""#),
        "{}",
        types.text()
    );
    let example = |name: &str| {
        let all = types.json()["data"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["type"] == name).unwrap()["example"].clone()
    };
    assert_eq!(example("site.removed"), Value::Null);
    let data = r#"{"spaced":  1.0, "u": "\u00fc", "a":1, "a":2}"#;
    let own = format!(r#"{{"event_type":"content.created","data": {data} }}"#);
    let json = [("Content-Type", "application/json")];
    for body in [r#"{"event_type":"site.connected"}"#, r#"{"event_type":"site.removed"}"#, &own] {
        assert_eq!(customer.ask("POST", &path, &json, body.as_bytes()).await.json()["status"], "success");
    }
    let bodies: Vec<String> =
        receiver.wait_for(3).await.into_iter().map(|one| String::from_utf8(one.body.clone()).unwrap()).collect();
    let sent = |body: &str| serde_json::from_str::<Value>(body).unwrap();
    assert_eq!((&sent(&bodies[0])["data"], &sent(&bodies[0])["test"]), (&example("site.connected"), &true.into()));
    assert!(bodies[0].contains(r#""name": "Teehaus Gr\u00fcn""#), "{}", bodies[0]);
    assert_eq!(sent(&bodies[1])["data"]["test"], true, "a type without an example");
    assert!(bodies[2].ends_with(&format!(r#""data":{data},"test":true}}"#)), "{}", bodies[2]);
    for (refused, what) in [
        (format!(r#"{{"data":"{}"}}"#, "a".repeat(60 * 1024)), "61440 bytes"),
        (format!(r#"{{"data":{}{}}}"#, "[".repeat(128), "]".repeat(128)), "127 levels"),
    ] {
        let answer = customer.ask("POST", &path, &json, refused.as_bytes()).await;
        assert_problem(&answer, 422, "invalid-fields");
        assert!(answer.text().contains(r#""field":"data""#) && answer.text().contains(what), "{}", answer.text());
    }
    assert_eq!(receiver.count(), 3);
}

#[tokio::test]
async fn a_test_send_whose_caller_hangs_up_is_logged() {
    let site = Site::new().await;
    let api = site.api().await;
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.always(Reply::status(200).held_by(&gate));
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    let (test, nothing) = (format!("{path}/test"), json!({}));
    tokio::select! {
        answer = customer.post(&test, &nothing) => panic!("answered {}", answer.status),
        _ = receiver.wait_for_begun(1) => {}
    }
    gate.open();
    wait_until("it is logged", async || site.count("SELECT count(*) FROM attempts WHERE error IS NULL").await == 1)
        .await;
}

#[tokio::test]
async fn failed_test_sends_neither_disable_a_webhook_nor_are_retried() {
    let site = Site::new().await.set("health.disable_attempts", "1").set("health.disable_after", "0s");
    let api = site.api().await;
    let receiver = Receiver::start().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    for status in [410, 500] {
        receiver.always(Reply::status(status));
        let sent = customer.post(&format!("{path}/test"), &json!({})).await.json();
        assert_eq!((&sent["status"], &sent["error"]), (&"failed".into(), &"http_status".into()));
    }
    let webhook = customer.get(&path).await.json();
    assert_eq!((&webhook["active"], &webhook["failing_since"]), (&true.into(), &Value::Null));
    for table in ["pending_deliveries", "closed_deliveries", "events", "notices"] {
        assert_eq!(site.count(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    let delivery = customer.get(&format!("{path}/deliveries")).await.json()["data"][0]["delivery_id"].clone();
    let resend = format!("{path}/deliveries/{}/resend", delivery.as_str().unwrap());
    assert_problem(&customer.ask("POST", &resend, &[], b"").await, 404, "not-found");
}

#[tokio::test]
async fn an_inactive_webhook_is_not_tested_and_says_why() {
    let site = Site::new().await;
    let api = site.api().await;
    let receiver = Receiver::start().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    customer.patch(&path, &json!({ "active": false })).await;
    let off = customer.post(&format!("{path}/test"), &json!({})).await;
    assert_problem(&off, 409, "inactive-webhook");
    assert!(off.json()["detail"].as_str().unwrap().contains("switched off"));
    site.sql().await.execute("UPDATE webhooks SET disabled_reason = 'gone'", &[]).await.unwrap();
    let disabled = customer.post(&format!("{path}/test"), &json!({})).await;
    assert!(disabled.json()["detail"].as_str().unwrap().contains("gone"), "{}", disabled.text());
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn every_blocked_target_gets_the_same_answer() {
    let site = Site::new().await;
    let api = site.api().await;
    let (open, closed) = (Receiver::start().await, ClosedPort::new());
    open.always(Reply::body(200, "inside"));
    let customer = api.customer("acc_1");
    let paths = [customer.create_at(&open.url()).await, customer.create_at(&closed.url()).await];
    let strict = site.set("sender.allow_networks", "[]");
    let api = strict.api().await;
    let customer = api.customer("acc_1");
    for path in paths {
        let sent = customer.post(&format!("{path}/test"), &json!({})).await.json();
        assert_eq!(
            (&sent["error"], &sent["response_snippet"], &sent["http_status"]),
            (&"blocked_address".into(), &Value::Null, &Value::Null)
        );
    }
    assert_eq!(open.count(), 0);
}

#[tokio::test]
async fn the_command_line_sends_the_same_test() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let sent = site.json(&["webhooks", "test", &webhook.id, "--event-type", "site.connected"]).await;
    assert_eq!(
        (&sent["status"], &sent["trigger"], &sent["event_type"]),
        (&"success".into(), &"test".into(), &"site.connected".into())
    );
    assert!(sent["request"]["headers"]["X-Webhook-Signature"].is_string());
    assert!(receiver.wait_for(1).await.remove(0).verify(&webhook.secret).is_genuine());
    assert_eq!(site.cli(&["webhooks", "test", &webhook.id, "--event-type", "nope"]).await.code, 2);
    site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    let off = site.cli(&["webhooks", "test", &webhook.id]).await;
    assert!(off.code == 1 && off.stderr.contains("switched off"), "{off:?}");
}

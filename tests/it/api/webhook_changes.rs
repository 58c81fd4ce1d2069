//! Customers change their webhooks: one at a time, and also with the whole webhook as they read it.

use serde_json::{Value, json};

use crate::support::api::assert_problem;
use crate::support::older_schema::{back_to, names_after};
use crate::support::*;

const URL: &str = "http://127.0.0.1:9999/hook";

#[tokio::test]
async fn of_many_changes_of_one_version_exactly_one_succeeds() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let tag = customer.get(&path).await.header("etag").unwrap().to_owned();
    let changes = (0..20).map(|n| {
        let (customer, path, tag) = (customer.clone(), path.clone(), tag.clone());
        tokio::spawn(async move {
            let headers = [("Content-Type", "application/json"), ("If-Match", tag.as_str())];
            customer
                .ask("PATCH", &path, &headers, json!({ "name": format!("{n}") }).to_string().as_bytes())
                .await
                .status
        })
    });
    let mut statuses = Vec::new();
    for change in changes.collect::<Vec<_>>() {
        statuses.push(change.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[412; 19][..]));
}

#[tokio::test]
async fn a_whole_webhook_may_be_sent_back_as_it_was_read() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let mut whole = customer.get(&path).await.json();
    whole["name"] = json!("Sent back");
    let changed = customer.patch(&path, &whole).await;
    assert_eq!((changed.status, &changed.json()["name"]), (200, &json!("Sent back")), "{}", changed.text());
    let mut listed = customer.get("/v1/webhooks?include=activity").await.json()["data"][0].clone();
    let before = customer.get(&path).await.json();
    // What changes by itself is ignored, whatever it is.
    for field in [
        "updated_at",
        "version",
        "inactive_since",
        "failing",
        "failing_since",
        "disabled_reason",
        "warnings",
        "previous_valid_until",
        "held_since",
    ] {
        listed[field] = json!("2001-01-01T00:00:00Z");
    }
    assert_eq!(customer.patch(&path, &listed).await.status, 200);
    let after = customer.get(&path).await.json();
    for field in ["version", "failing_since", "disabled_reason", "warnings", "created_at", "id"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    // As another language's library writes the same time.
    let same = before["created_at"].as_str().unwrap().replace('Z', "000+00:00");
    assert_eq!(customer.patch(&path, &json!({ "created_at": same })).await.status, 200);
    for (field, other) in [
        ("id", json!("01900000-0000-7000-8000-000000000000")),
        ("id", json!("mine")),
        ("created_at", json!("2001-01-01T00:00:00Z")),
        ("created_at", json!("yesterday")),
    ] {
        let mut whole = before.clone();
        whole[field] = other;
        whole["name"] = json!("Never saved");
        let refused = customer.patch(&path, &whole).await;
        assert_problem(&refused, 422, "invalid-fields");
        assert_eq!(refused.json()["errors"][0]["field"], field);
    }
    assert_eq!(customer.get(&path).await.json()["name"], "Sent back");
    assert_problem(&customer.patch(&path, &json!({ "account_id": "acc_2" })).await, 400, "malformed-request");
}

#[tokio::test]
async fn a_disabled_webhook_that_is_sent_back_whole_stays_disabled() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let disable = "UPDATE webhooks SET active = false, disabled_reason = 'failing'";
    site.sql().await.batch_execute(disable).await.unwrap();
    let mut whole = customer.get(&path).await.json();
    whole["name"] = json!("Sent back");
    let changed = customer.patch(&path, &whole).await.json();
    assert_eq!([&changed["name"], &changed["disabled_reason"]], [&json!("Sent back"), &json!("failing")]);
    let off = customer.patch(&path, &json!({ "active": false })).await.json();
    assert!(off["disabled_reason"].is_null(), "its owner switched it off: {off}");
}

#[tokio::test]
async fn a_webhook_tells_since_when_it_is_off_whatever_else_is_changed_meanwhile() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let change = async |change: Value| customer.patch(&path, &change).await.json();
    assert_eq!(customer.get(&path).await.json()["inactive_since"], Value::Null);
    let off = change(json!({ "active": false })).await;
    let since = &off["inactive_since"];
    assert_eq!((since.is_string(), since), (true, &off["updated_at"]), "{off}");
    // As if the webhook had been off for an hour.
    let earlier = "UPDATE webhooks SET inactive_since = inactive_since - interval '1 hour'";
    site.sql().await.batch_execute(earlier).await.unwrap();
    let since = customer.get(&path).await.json()["inactive_since"].clone();
    assert!(since.as_str().unwrap() < off["inactive_since"].as_str().unwrap(), "{since}");
    for other in [json!({ "name": "Other" }), json!({ "active": false }), json!({ "active": false, "url": URL })] {
        assert_eq!(change(other.clone()).await["inactive_since"], since, "{other}");
    }
    assert_eq!(customer.get("/v1/webhooks").await.json()["data"][0]["inactive_since"], since);
    assert_eq!(change(json!({ "active": true })).await["inactive_since"], Value::Null);
    let again = change(json!({ "active": false })).await["inactive_since"].clone();
    assert!(again.as_str().unwrap() >= off["inactive_since"].as_str().unwrap(), "{again}");
}

/// How the release before V15 switches a webhook.
const SWITCH_BY_AN_OLDER_RELEASE: &str = "UPDATE webhooks
    SET active = $1::boolean, activation = activation + (active AND NOT $1)::integer, updated_at = now()";

#[tokio::test]
async fn a_time_from_before_is_not_shown_for_a_webhook_that_an_older_release_switched_on_and_off_since() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let inactive_since = async || customer.get(&path).await.json()["inactive_since"].clone();
    let switch = async |active: bool| {
        site.sql().await.execute(SWITCH_BY_AN_OLDER_RELEASE, &[&active]).await.unwrap();
    };
    customer.patch(&path, &json!({ "active": false })).await;
    assert!(inactive_since().await.is_string());
    switch(true).await;
    assert_eq!(inactive_since().await, Value::Null);
    switch(false).await;
    assert_eq!(inactive_since().await, Value::Null, "the time of the first switching off");
    customer.patch(&path, &json!({ "name": "Other", "active": false })).await;
    assert_eq!(inactive_since().await, Value::Null, "it was off already");
    customer.patch(&path, &json!({ "active": true })).await;
    customer.patch(&path, &json!({ "active": false })).await;
    assert!(inactive_since().await.is_string());
}

#[tokio::test]
async fn before_the_migration_nobody_knows_since_when_a_webhook_is_off() {
    let site = Site::new().await;
    site.sql().await.batch_execute(&back_to(14)).await.unwrap();
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_plain_at(URL).await;
    let switch = async |active: bool| {
        let answer = customer.patch(&path, &json!({ "active": active })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["inactive_since"].clone()
    };
    assert_eq!(switch(false).await, Value::Null);
    assert_eq!(site.json(&["migrate"]).await["applied"], json!(names_after(14)));
    assert_eq!(switch(false).await, Value::Null);
    switch(true).await;
    assert!(switch(false).await.is_string());
}

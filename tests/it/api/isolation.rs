//! No route shows, changes or counts anything of another account: its ids are answered as unknown.

use serde_json::{Value, json};

use crate::support::api::assert_problem;
use crate::support::*;

/// The parts of an answer that must be the same for a foreign id and a random one.
fn lasting(answer: &http::Response) -> (u16, Vec<String>, Value) {
    let names = answer.head.headers.iter().map(|(name, _)| name.clone()).collect();
    let mut body: Value = answer.json();
    body["request_id"].take();
    (answer.status, names, body)
}

/// A query without which the route refuses to look.
fn query_for(method: &str, template: &str) -> &'static str {
    if method == "get" && template.ends_with("/recover") { "?since=2026-01-01T00:00:00Z" } else { "" }
}

/// A body that the route accepts.
fn body_for(path: &str) -> Value {
    match path {
        _ if path.ends_with("/recover") => json!({ "since": "2026-01-01T00:00:00Z" }),
        _ => json!({}),
    }
}

#[tokio::test]
async fn another_accounts_webhook_is_as_unknown_as_a_random_one_on_every_route() {
    let site = Site::new().await;
    let api = site.api().await;
    let (owner, stranger) = (api.customer("acc_1"), api.customer("ACC_1"));
    let webhook = owner.create("http://127.0.0.1:9999/", &["content.created"]).await;
    let id = webhook["id"].as_str().unwrap();
    let test = owner.post(&format!("/v1/webhooks/{id}/test"), &json!({})).await.json();
    let delivery = test["delivery_id"].as_str().unwrap();
    let random = "01a20a1a-16ef-7628-85cf-6985fbc9f4bf";
    let described = owner.get("/v1/openapi.json").await.json();
    let mut asked = 0;
    for (template, operations) in described["paths"].as_object().unwrap() {
        if !template.contains("{id}") {
            continue;
        }
        for method in ["get", "post", "patch", "delete"].iter().filter(|method| operations.get(**method).is_some()) {
            let ask = async |id: &str| {
                let path =
                    template.replace("{id}", id).replace("{delivery_id}", delivery) + query_for(method, template);
                stranger.send(&method.to_uppercase(), &path, &body_for(&path)).await
            };
            let foreign = ask(id).await;
            assert_problem(&foreign, 404, "not-found");
            assert_eq!(lasting(&foreign), lasting(&ask(random).await), "{method} {template}");
            asked += 1;
        }
    }
    assert!(asked >= 10, "{asked} routes");
    let after = owner.get(&format!("/v1/webhooks/{id}")).await.json();
    assert_eq!(after["updated_at"], webhook["updated_at"]);
    assert_eq!(owner.get(&format!("/v1/webhooks/{id}/secret")).await.json()["secret"], webhook["secret"]);
    assert_eq!(site.count("SELECT count(*) FROM attempts").await, 1);
    assert_eq!(stranger.get("/v1/webhooks?include=activity").await.json()["data"], json!([]));
}

#[tokio::test]
async fn a_foreign_delivery_is_neither_listed_nor_sent_again() {
    let site = Site::new().await;
    let api = site.api().await;
    let (one, other) = (api.customer("acc_1"), api.customer("acc_2"));
    let (own, foreign) =
        (one.create_at("http://127.0.0.1:9999/").await, other.create_at("http://127.0.0.1:9999/").await);
    let sent = other.post(&format!("{foreign}/test"), &json!({})).await.json();
    let delivery = sent["delivery_id"].as_str().unwrap();
    let listed = one.get(&format!("{own}/deliveries?delivery_id={delivery}")).await;
    assert_eq!(listed.json()["data"], json!([]));
    let resent = one.ask("POST", &format!("{own}/deliveries/{delivery}/resend"), &[], b"").await;
    assert_problem(&resent, 404, "not-found");
    for _ in 0..2 {
        other.post(&format!("{foreign}/test"), &json!({})).await;
    }
    let page = other.get(&format!("{foreign}/deliveries?limit=1")).await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    for path in [format!("{own}/deliveries?cursor={cursor}"), format!("/v1/webhooks?cursor={cursor}")] {
        assert_problem(&one.get(&path).await, 400, "malformed-request");
    }
}

#[tokio::test]
async fn headers_choose_no_account() {
    let site = Site::new().await;
    let api = site.api().await;
    api.customer("acc_2").create_at("http://127.0.0.1:9999/").await;
    let headers = [("X-Account-Id", "acc_2"), ("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-User", "acc_2")];
    let answer = api.customer("acc_1").ask("GET", "/v1/webhooks", &headers, b"").await;
    assert_eq!(answer.json()["data"], json!([]));
}

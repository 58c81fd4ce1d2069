//! Changes are saved also behind a proxy that compresses answers and changes or drops their ETag.

use serde_json::json;

use crate::support::api::assert_problem;
use crate::support::http::Response;
use crate::support::*;

const URL: &str = "http://127.0.0.1:9999/hook";

async fn change(customer: &Customer, path: &str, if_match: &str, name: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("If-Match", if_match)];
    customer.ask("PATCH", path, &headers, json!({ "name": name }).to_string().as_bytes()).await
}

#[tokio::test]
async fn behind_a_proxy_that_compresses_a_fresh_change_is_saved_and_a_stale_one_is_not() {
    let site = Site::new().await;
    let api = site.api().await;
    let proxy = Nginx::that_compresses(&api.address).await;
    let customer = Customer { address: proxy.addr(), ..api.customer("acc_1") };
    let path = customer.create_at(URL).await;
    let seen = customer.ask("GET", &path, &[("Accept-Encoding", "gzip")], b"").await;
    assert_eq!((seen.status, seen.header("content-encoding")), (200, Some("gzip")));
    let tag = seen.header("etag").expect("nginx keeps a tag");
    assert!(tag.starts_with("W/"), "nginx makes the tag weak: {tag}");
    let saved = change(&customer, &path, tag, "first").await;
    assert_eq!((saved.status, saved.json()["name"].as_str()), (200, Some("first")), "{}", saved.text());
    assert_problem(&change(&customer, &path, tag, "second").await, 412, "precondition-failed");
    assert_eq!(customer.get(&path).await.json()["name"], "first");
}

#[tokio::test]
async fn where_a_proxy_drops_the_tag_the_version_in_the_body_is_the_tag() {
    let site = Site::new().await;
    let api = site.api().await;
    let proxy = Nginx::that_drops_etags(&api.address).await;
    let customer = Customer { address: proxy.addr(), ..api.customer("acc_1") };
    let path = customer.create_at(URL).await;
    let seen = customer.get(&path).await;
    assert_eq!(seen.header("etag"), None);
    let tag = format!("\"{}\"", seen.json()["version"].as_str().expect("a version is text"));
    assert_eq!(change(&customer, &path, &tag, "first").await.status, 200);
    assert_problem(&change(&customer, &path, &tag, "second").await, 412, "precondition-failed");
}

//! A webhook's own request headers in the API: names are shown and values never, and a value stays with the receiver that it was
//! given for.

use serde_json::{Map, Value, json};

use crate::support::api::assert_problem;
use crate::support::http::Response;
use crate::support::older_schema::{back_to, names_after};
use crate::support::*;

const URL: &str = "https://hooks.example.com/a";
const WEBHOOKS: &str = "/v1/webhooks";
/// No answer of the API may repeat it.
const VALUE: &str = "Bearer hunter2hunter2";

fn registration(url: &str, headers: &Value) -> Value {
    json!({ "name": "A test's", "url": url, "events": ["content.created"], "headers": headers })
}

/// Registers a webhook and returns its path in the API.
async fn create(customer: &Customer, url: &str, headers: &Value) -> String {
    let answer = customer.post(WEBHOOKS, &registration(url, headers)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    format!("{WEBHOOKS}/{}", answer.json()["id"].as_str().unwrap())
}

/// Asserts that a change was made, and returns the headers as they are shown.
fn changed(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    answer.json()["headers"].clone()
}

/// Asserts that the headers were refused, with a text that has these words and no value.
fn assert_refused(answer: &Response, words: &str) {
    assert_problem(answer, 422, "invalid-fields");
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors.as_array().map(Vec::len), Some(1), "{errors}");
    assert_eq!(errors[0]["field"], "headers", "{errors}");
    let reason = errors[0]["reason"].as_str().unwrap();
    assert!(reason.contains(words) && !answer.text().contains("hunter2"), "{words:?} in {}", answer.text());
}

#[tokio::test]
async fn every_answer_shows_the_names_as_they_were_typed_with_null() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let shown = json!({ "authorization": null, "X-KEY": null });
    // As text, for its order.
    let body = registration(URL, &json!("HEADERS")).to_string();
    let body = body.replace(r#""HEADERS""#, &format!(r#"{{"authorization":"{VALUE}","X-KEY":"hunter2"}}"#));
    let created = customer.send_text("POST", WEBHOOKS, &body).await;
    assert_eq!((created.status, &created.json()["headers"]), (201, &shown));
    assert!(created.text().contains(r#""headers":{"authorization":null,"X-KEY":null}"#), "{}", created.text());
    let path = format!("{WEBHOOKS}/{}", created.json()["id"].as_str().unwrap());
    assert_eq!(changed(&customer.get(&path).await), shown);
    assert_eq!(changed(&customer.patch(&path, &json!({ "name": "Other" })).await), shown);
    assert_eq!(customer.get(WEBHOOKS).await.json()["data"][0]["headers"], shown);
    let plain = customer.create_plain_at(URL).await;
    assert_eq!(changed(&customer.get(&plain).await), json!({}));
    for output in [
        site.cli(&["webhooks", "show", &path[13..], "--json"]).await,
        site.cli(&["webhooks", "list", "--all-accounts"]).await,
    ] {
        assert!(output.code == 0 && !output.stdout.contains("hunter2"), "{} {}", output.stdout, output.stderr);
    }
}

#[tokio::test]
async fn a_change_replaces_the_whole_set_and_null_keeps_a_stored_value() {
    let site = Site::new().await;
    let (api, receiver) = (site.api().await, Receiver::start().await);
    let customer = api.customer("acc_1");
    let path = create(&customer, &receiver.url(), &json!({ "X-One": "hunter2-1", "X-Two": "hunter2-2" })).await;
    let sent = async || {
        assert_eq!(customer.post(&format!("{path}/test"), &json!({})).await.json()["status"], "success");
        let request = receiver.next().await;
        ["X-One", "X-Two", "X-Three"].map(|name| request.head.header(name).map(str::to_owned))
    };
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(sent().await, [some("hunter2-1"), some("hunter2-2"), None]);
    let change = json!({ "headers": { "x-ONE": null, "X-Three": "hunter2-3" } });
    assert_eq!(changed(&customer.patch(&path, &change).await), json!({ "x-ONE": null, "X-Three": null }));
    assert_eq!(sent().await, [some("hunter2-1"), None, some("hunter2-3")]);
    let refused = customer.patch(&path, &json!({ "headers": { "X-One": null, "X-Two": null } })).await;
    assert_refused(&refused, "there is no stored value of X-Two");
    assert_eq!(sent().await, [some("hunter2-1"), None, some("hunter2-3")], "nothing of it was done");
    let new_value = json!({ "headers": { "X-One": "hunter2-4", "X-Three": null } });
    changed(&customer.patch(&path, &new_value).await);
    assert_eq!(sent().await, [some("hunter2-4"), None, some("hunter2-3")]);
    assert_eq!(changed(&customer.patch(&path, &json!({ "headers": {} })).await), json!({}));
    assert_eq!(sent().await, [None, None, None]);
    let kept = "SELECT count(*) FROM webhooks WHERE headers IS NOT NULL OR header_names <> '{}'";
    assert_eq!(site.count(kept).await, 0);
    let refused = customer.post(WEBHOOKS, &registration(URL, &json!({ "X-One": null }))).await;
    assert_refused(&refused, "there is no stored value of X-One");
}

#[tokio::test]
async fn a_whole_webhook_that_is_sent_back_keeps_all_and_its_version_and_any_other_headers_change_it() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = create(&customer, URL, &json!({ "X-One": "hunter2", "X-Two": "hunter2" })).await;
    let whole = customer.get(&path).await;
    let tag = |answer: &Response| answer.header("etag").unwrap().to_owned();
    let envelope = async || {
        let row = site.sql().await.query_one("SELECT headers, headers_set_at::text FROM webhooks", &[]).await.unwrap();
        (row.get::<_, Vec<u8>>(0), row.get::<_, String>(1))
    };
    let before = envelope().await;
    let sent_back = customer.patch(&path, &whole.json()).await;
    assert_eq!((sent_back.status, tag(&sent_back)), (200, tag(&whole)), "{}", sent_back.text());
    assert_eq!(envelope().await, before);
    let mut tags = vec![tag(&whole)];
    for headers in [
        json!({ "X-One": null, "X-Two": "hunter2" }),
        json!({ "X-ONE": null, "X-Two": null }),
        json!({ "X-Two": null }),
        json!({}),
    ] {
        let answer = customer.patch(&path, &json!({ "headers": headers })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!tags.contains(&tag(&answer)), "{headers}");
        tags.push(tag(&answer));
    }
    let nothing = customer.patch(&path, &json!({ "headers": {} })).await;
    assert_eq!(tag(&nothing), tags[4], "there were none");
}

#[tokio::test]
async fn another_scheme_host_or_port_needs_all_values_again_or_none() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let whole = json!({ "X-One": "hunter2", "X-Two": "hunter2" });
    let path = create(&customer, "http://hooks.example.com/a", &whole).await;
    let version = async || customer.get(&path).await.header("etag").unwrap().to_owned();
    let before = version().await;
    for url in [
        "https://hooks.example.com/a",
        "http://hooks.example.org/a",
        "http://hooks.example.com:8080/a",
        "https://hooks.example.com:8443/a",
    ] {
        for headers in [None, Some(json!({ "X-One": "hunter2", "X-Two": null })), Some(json!({ "X-One": null }))] {
            for active in [None, Some(true), Some(false)] {
                let mut change = Map::from_iter([("url".to_owned(), url.into())]);
                change.extend(headers.clone().map(|headers| ("headers".to_owned(), headers)));
                change.extend(active.map(|active| ("active".to_owned(), active.into())));
                let refused = customer.patch(&path, &change.into()).await;
                assert_refused(&refused, "the URL has another scheme, host or port");
            }
        }
    }
    let mut read = customer.get(&path).await.json();
    read["url"] = json!("https://hooks.example.com/a");
    assert_refused(&customer.patch(&path, &read).await, "the URL has another scheme, host or port");
    assert_eq!(version().await, before, "nothing of them was done");

    // The same receiver, under other words.
    for url in ["http://hooks.example.com:80/b?c=d", "http://HOOKS.example.com/e"] {
        let answer = customer.patch(&path, &json!({ "url": url })).await;
        assert_eq!(changed(&answer), json!({ "X-One": null, "X-Two": null }));
        assert_ne!(answer.json()["url"], "http://hooks.example.com/a");
    }
    let moved = json!({ "url": "https://hooks.example.com/a", "headers": { "X-One": "hunter2-again" } });
    assert_eq!(changed(&customer.patch(&path, &moved).await), json!({ "X-One": null }));
    let moved = json!({ "url": "https://hooks.example.org/a", "headers": {} });
    assert_eq!(changed(&customer.patch(&path, &moved).await), json!({}));
    let moved = json!({ "url": "https://hooks.example.net/a" });
    assert_eq!(changed(&customer.patch(&path, &moved).await), json!({}), "there is nothing to keep");
    // The command line asks the same.
    let path = create(&customer, URL, &whole).await;
    let output = site.cli(&["webhooks", "update", &path[13..], "--url", "https://hooks.example.org/"]).await;
    assert!(output.code != 0 && output.stderr.contains("another scheme, host or port"), "{}", output.stderr);
}

#[tokio::test]
async fn headers_over_plain_http_are_warned_of() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let warning = "everyone on the way can read the values of the headers";
    let warns = async |url: &str, headers: Value| {
        let path = create(&customer, url, &headers).await;
        customer.get(&path).await.json()["warnings"].to_string().contains(warning)
    };
    assert!(warns("http://hooks.example.com/", json!({ "X-One": "hunter2" })).await);
    assert!(!warns("http://hooks.example.com/", json!({})).await);
    assert!(!warns(URL, json!({ "X-One": "hunter2" })).await);
}

#[tokio::test]
async fn names_and_values_have_bounds_and_no_refusal_repeats_a_value() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = create(&customer, URL, &json!({ "X-Kept": "hunter2" })).await;
    let many = |count: usize| Value::Object((0..count).map(|at| (format!("X-{at}"), "hunter2".into())).collect());
    let long = |length: usize| "hunter2".repeat(length).split_at(length).0.to_owned();
    for accepted in [
        many(10),
        json!({ "X-One": long(2048) }),
        json!({ "X": long(2047), "Y": long(2047) }),
        json!({ "X-One": "x", "x_one": " ~".trim() }),
    ] {
        create(&customer, URL, &accepted).await;
    }
    for (refused, words) in [
        (many(11), "at most 10 headers"),
        (json!({ "X-One": long(2049) }), "the value of X-One"),
        (json!({ "X": long(2047), "Y": long(2048) }), "at most 4096 bytes"),
        (json!({ "X-One": "" }), "the value of X-One"),
        (json!({ "X-One": " hunter2" }), "the value of X-One"),
        (json!({ "X-One": "hunter2 " }), "the value of X-One"),
        (json!({ "X-One": "hunter2\r\nHost: x" }), "the value of X-One"),
        (json!({ "X-One": "hunter2\t" }), "the value of X-One"),
        (json!({ "X-One": "hunter2\u{7f}" }), "the value of X-One"),
        (json!({ "X-One": "hunter2é" }), "the value of X-One"),
        (json!({ "X-One": "x", "x-ONE": "hunter2" }), "the header x-ONE is given twice"),
        (json!({ "X-One: hunter2": "x" }), "begins with `X-One`"),
        (json!({ "": "hunter2" }), "the name of a header"),
        (json!({ format!("sk_live_51H8abcdhunter2{}", "x".repeat(120)): "x" }), "at most 128 characters"),
        (json!({ "sk_live_51H8abcdhunter2 ": "x" }), "begins with `sk_live_51H8abcd`"),
        (json!({ "Proxy": "hunter2" }), "the header Proxy cannot be set"),
        (json!({ "AUTHORIZATION": "bearer  oracle" }), "opens the metadata service of Oracle's cloud"),
        (json!({ "Host": "hunter2" }), "the header Host cannot be set"),
        (json!({ "x_forwarded_for": "hunter2" }), "the header x_forwarded_for cannot be set"),
        (json!({ "Metadata-Flavor": "hunter2" }), "the header Metadata-Flavor cannot be set"),
    ] {
        assert_refused(&customer.post(WEBHOOKS, &registration(URL, &refused)).await, words);
        assert_refused(&customer.patch(&path, &json!({ "headers": refused })).await, words);
    }
    let twice = r#"{"headers":{"X-One":"hunter2","X-One":"hunter2-2"}}"#;
    assert_refused(&customer.send_text("PATCH", &path, twice).await, "the header X-One is given twice");
}

#[tokio::test]
async fn headers_that_are_no_object_of_texts_are_refused_without_a_word_of_them() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = create(&customer, URL, &json!({ "X-Kept": "hunter2" })).await;
    for malformed in [
        json!(null),
        json!("Authorization: hunter2"),
        json!(["Authorization", "hunter2"]),
        json!([["Authorization", "hunter2"]]),
        json!(3_141_592),
        json!(true),
        json!({ "X-One": 3_141_592 }),
        json!({ "X-One": ["hunter2"] }),
        json!({ "X-One": { "hunter2": "hunter2" } }),
        json!({ "X-One": true }),
    ] {
        for answer in [
            customer.post(WEBHOOKS, &registration(URL, &malformed)).await,
            customer.patch(&path, &json!({ "headers": malformed })).await,
        ] {
            assert!([400, 422].contains(&answer.status), "{malformed}: {}", answer.text());
            assert!(answer.text().contains("headers"), "{malformed}: {}", answer.text());
            for value in ["hunter2", "3141592"] {
                assert!(!answer.text().contains(value), "{malformed}: {}", answer.text());
            }
        }
    }
    assert_eq!(changed(&customer.get(&path).await), json!({ "X-Kept": null }));
}

#[tokio::test]
async fn a_stale_version_is_told_before_anything_about_stored_headers() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = create(&customer, URL, &json!({ "X-One": "hunter2" })).await;
    let stale = customer.get(&path).await.header("etag").unwrap().to_owned();
    let newest = customer.patch(&path, &json!({ "name": "Other" })).await.header("etag").unwrap().to_owned();
    let patch = async |tag: &str, change: Value| {
        let headers = [("Content-Type", "application/json"), ("If-Match", tag)];
        customer.ask("PATCH", &path, &headers, change.to_string().as_bytes()).await
    };
    for change in [json!({ "headers": { "X-Two": null } }), json!({ "url": "https://hooks.example.org/" })] {
        assert_problem(&patch(&stale, change.clone()).await, 412, "precondition-failed");
        assert_problem(&patch(&newest, change).await, 422, "invalid-fields");
    }
    assert_problem(&patch(&stale, json!({ "headers": { "X-One": "hunter2" } })).await, 412, "precondition-failed");
    assert_eq!(patch(&newest, json!({ "headers": { "X-One": "hunter2" } })).await.status, 200);
}

#[tokio::test]
async fn only_the_account_itself_changes_its_headers() {
    let site = Site::new().await;
    let api = site.api().await;
    let path = create(&api.customer("acc_1"), URL, &json!({ "X-One": "hunter2" })).await;
    let stranger = api.customer("acc_2");
    for change in
        [json!({ "headers": {} }), json!({ "headers": { "X-One": null } }), json!({ "url": "https://x.example/" })]
    {
        assert_problem(&stranger.patch(&path, &change).await, 404, "not-found");
    }
}

#[tokio::test]
async fn before_the_schema_keeps_headers_they_are_refused_and_all_else_goes_on() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    site.sql().await.batch_execute(&back_to(15)).await.unwrap();
    let mut api = site.api_of(site.launch(&["run"])).await;
    api.replica.wait_for_log(replica::ATTACHED).await;
    let customer = api.customer("acc_1");
    let refused = customer.post(WEBHOOKS, &registration(&receiver.url(), &json!({ "X-One": "hunter2" }))).await;
    assert!(refused.status == 503 && !refused.text().contains("hunter2"), "{}", refused.text());
    let path = customer.create_plain_at(&receiver.url()).await;
    assert_eq!(changed(&customer.patch(&path, &json!({ "url": receiver.url_at("/other") })).await), json!({}));
    assert_eq!(customer.patch(&path, &json!({ "headers": { "X-One": "hunter2" } })).await.status, 503);
    let whole = customer.get(&path).await.json();
    assert_eq!(changed(&customer.patch(&path, &whole).await), json!({}));
    site.publish("acc_1", "content.created", 1.into()).await;
    assert_eq!(receiver.next().await.head.header("x-one"), None);
    let list = format!("{path}/deliveries");
    let delivery = eventually("it is in the log", async || {
        customer.get(&list).await.json()["data"][0]["delivery_id"].as_str().map(str::to_owned)
    })
    .await;
    assert!(customer.get(&format!("{list}/{delivery}")).await.json()["request_headers"].is_object());
    assert_eq!(site.json(&["webhooks", "reencrypt"]).await["reencrypted"], 0);
    assert_eq!(site.json(&["migrate"]).await["applied"], json!(names_after(15)));
    assert_eq!(
        changed(&customer.patch(&path, &json!({ "headers": { "X-One": "hunter2" } })).await),
        json!({ "X-One": null })
    );
    let with_header = async || {
        site.publish("acc_1", "content.created", 2.into()).await;
        receiver.next().await.head.header("x-one").map(str::to_owned)
    };
    // A look-up that was made before is used for a second at most.
    eventually("the header is sent", async || with_header().await).await;
}

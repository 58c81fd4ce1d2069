//! A body that is not plain JSON with known fields is refused, and changes nothing.

use serde_json::json;

use crate::support::api::assert_problem;
use crate::support::*;

const PATH: &str = "/v1/webhooks";
const GOOD: &str = r#"{"name":"x","url":"http://127.0.0.1:9999/","events":["content.created"]}"#;

#[tokio::test]
async fn a_body_that_can_be_read_in_two_ways_or_in_none_is_refused() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let with = |more: &str| GOOD.replacen('{', &format!("{{{more},"), 1);
    let deep = |depth: usize| with(&format!("\"x\":{}{}", "[".repeat(depth), "]".repeat(depth)));
    let wrong = [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        r#"["x","http://127.0.0.1:9999/",["content.created"]]"#.into(),
        GOOD.replace("\"]}", "\"],}"),
        GOOD.replace("\"x\"", "NaN"),
        GOOD.replace("{", "{/* */"),
        format!("\u{feff}{GOOD}"),
        format!("{GOOD}{GOOD}"),
        with(r#""name":"y""#),
        with(r#""account_id":"acc_2""#),
        GOOD.replace("\"x\"", "null"),
        GOOD.replace("\"x\"", "5"),
        GOOD.replace("\"x\"", "\"a\\u0000b\""),
        GOOD.replace("9999/", "9999/\\u0000"),
        GOOD.replace("content.created", "content\\u0000"),
        GOOD.replace("\"x\"", "\"\\ud800\""),
        deep(200),
        deep(20_000),
    ];
    for body in wrong {
        let answer = customer.send_text("POST", PATH, &body).await;
        assert_problem(&answer, 400, "malformed-request");
        assert!(!answer.json()["errors"].as_array().unwrap().is_empty());
    }
    let json = [("Content-Type", "application/json")];
    let control =
        customer.ask("POST", PATH, &json, &GOOD.replace('x', "\u{1}").replace('\u{1}', "\x7f").into_bytes()).await;
    assert_eq!(control.status, 422);
    let invalid = [&GOOD.as_bytes()[..9], b"\xff\xfe", &GOOD.as_bytes()[10..]].concat();
    assert_problem(&customer.ask("POST", PATH, &json, &invalid).await, 400, "malformed-request");
    let huge = GOOD.replace("\"x\"", &format!("\"{}\"", "x".repeat(100_000)));
    assert_problem(&customer.send_text("POST", PATH, &huge).await, 413, "payload-too-large");
    let named = customer.send_text("POST", PATH, &GOOD.replace("[\"content.created\"]", "\"content.created\"")).await;
    assert_eq!(named.json()["errors"][0]["field"], "events");
    assert_eq!(customer.get(PATH).await.json(), json!({ "data": [], "next_cursor": null }));
}

#[tokio::test]
async fn only_plain_json_is_taken_for_json() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let wrong: [&[(&str, &str)]; 7] = [
        &[],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "application/x-www-form-urlencoded")],
        &[("Content-Type", "multipart/form-data; boundary=x")],
        &[("Content-Type", "application/json; charset=utf-16")],
        &[("Content-Type", "application/json"), ("Content-Type", "application/json")],
        &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")],
    ];
    for headers in wrong {
        assert_problem(&customer.ask("POST", PATH, headers, GOOD.as_bytes()).await, 415, "unsupported-media-type");
    }
    for good in ["application/json", "Application/JSON; charset=\"UTF-8\""] {
        assert_eq!(customer.ask("POST", PATH, &[("Content-Type", good)], GOOD.as_bytes()).await.status, 201);
    }
}

#[tokio::test]
async fn every_route_with_a_body_refuses_unknown_fields_and_nulls() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    for (method, path, body) in [
        ("PATCH", path.clone(), json!([])),
        ("PATCH", path.clone(), json!({ "secret": "whsec_x" })),
        ("PATCH", path.clone(), json!({ "active": null })),
        ("PATCH", path.clone(), json!({ "active": "false" })),
        ("POST", format!("{path}/test"), json!([])),
        ("POST", format!("{path}/test"), json!({ "url": "http://127.0.0.1/" })),
        ("POST", format!("{path}/test"), json!({ "event_type": null })),
        ("POST", format!("{path}/secret/regenerate"), json!(null)),
        ("POST", format!("{path}/secret/regenerate"), json!({ "grace": null })),
        ("POST", format!("{path}/recover"), json!({})),
        ("POST", format!("{path}/recover"), json!({ "since": 5 })),
        ("POST", format!("{path}/recover"), json!({ "since": "2026-11-23T10:00:00Z", "till": "x" })),
        ("POST", format!("{path}/recover"), json!({ "since": "2026-11-23T10:00:00Z", "until": null })),
    ] {
        assert_problem(&customer.send(method, &path, &body).await, 400, "malformed-request");
    }
    for since in ["yesterday", "2026-11-23", "2026-11-23T10:00:00", "-009999-01-01T00:00:00Z"] {
        let answer = customer.post(&format!("{path}/recover"), &json!({ "since": since })).await;
        assert_problem(&answer, 422, "invalid-fields");
    }
}

//! Bodies that are no event become dead letters, and the worker logs the reason.

use serde_json::{Value, json};

use super::{Bad, MARKER, Scene, event_with, event_with_data, valid};
use crate::support::{RawMessage, Site};

type Row = (&'static str, Vec<u8>);

async fn all_become_dead_letters(rows: Vec<Row>) {
    let scene = Scene::open().await;
    let message = |body| scene.site.message(body);
    let bad = rows.into_iter().map(|(reason, body)| Bad { message: message(body).into(), reason }).collect();
    scene.only_these_become_dead_letters(bad).await;
}

#[tokio::test]
async fn what_is_no_json_object_becomes_a_dead_letter() {
    let event = || valid("evt_whole").to_string();
    let mut cut = event();
    cut.truncate(cut.len() - 1);
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let mut not_utf8 = event().into_bytes();
    let position = event().find(MARKER).expect("it is in there");
    not_utf8[position] = 0xFF;
    all_become_dead_letters(vec![
        ("empty", b"".to_vec()),
        ("empty", b" ".to_vec()),
        ("empty", b"\n".to_vec()),
        ("not_an_object", b"null".to_vec()),
        ("not_an_object", b"true".to_vec()),
        ("not_an_object", b"42".to_vec()),
        ("not_an_object", b"\"s\"".to_vec()),
        ("not_an_object", b"[]".to_vec()),
        ("not_an_object", format!("[{}]", event()).into_bytes()),
        ("not_json", format!("{} trailing", event()).into_bytes()),
        ("not_json", format!("{}{}", event(), event()).into_bytes()),
        ("not_json", format!("{}\n{}", event(), event()).into_bytes()),
        ("not_json", format!("{}\0", event()).into_bytes()),
        ("not_json", cut.into_bytes()),
        ("not_json", event().replace('"', "'").into_bytes()),
        ("not_json", event_with_data("evt_1", "NaN").into_bytes()),
        ("not_json", event_with_data("evt_1", "\"a\tb\"").into_bytes()),
        ("not_json", event_with_data("evt_1", "1,\"\\ud800\":1").into_bytes()),
        ("not_json", format!("\u{feff}{}", event()).into_bytes()),
        ("not_utf8", utf16(&event())),
        ("not_utf8", [b"\xff\xfe".to_vec(), utf16(&event())].concat()),
        ("not_utf8", not_utf8),
    ])
    .await;
}

#[tokio::test]
async fn one_malformed_body_among_a_thousand_good_events_is_the_only_dead_letter() {
    let mut scene = Scene::open().await;
    scene.worker.pause();
    scene.publish_good(800).await;
    let message = scene.site.message("{").into();
    scene.only_these_become_dead_letters(vec![Bad { message, reason: "not_json" }]).await;
}

#[tokio::test]
async fn an_event_without_one_of_its_fields_becomes_a_dead_letter() {
    let missing = |field| ("missing_field", event_with(field, None));
    all_become_dead_letters(vec![
        missing("id"),
        missing("type"),
        missing("account_id"),
        missing("data"),
        ("missing_field", b"{}".to_vec()),
        ("missing_field", event_with("id", Some(json!("")))),
        ("missing_field", event_with("id", Some(Value::Null))),
    ])
    .await;
}

#[tokio::test]
async fn a_field_of_another_type_becomes_a_dead_letter() {
    let mut rows = Vec::new();
    for field in ["id", "type", "account_id", "occurred_at"] {
        let values = [json!(42), json!(true), json!(["evt_1"]), json!({"is": "evt_1"})];
        rows.extend(values.map(|value| ("wrong_type", event_with(field, Some(value)))));
    }
    for field in ["type", "account_id"] {
        rows.push(("wrong_type", event_with(field, Some(Value::Null))));
    }
    let lone_surrogate = String::from_utf8(event_with("id", Some(json!("LONE")))).expect("it is JSON");
    rows.push(("wrong_type", lone_surrogate.replace("LONE", r"\ud800").into_bytes()));
    all_become_dead_letters(rows).await;
}

#[tokio::test]
async fn a_field_with_an_unusable_value_becomes_a_dead_letter() {
    let with = |reason, field, value: &str| (reason, event_with(field, Some(json!(value))));
    let mut rows = Vec::new();
    for id in ["evt\r\n1", "evt 1", "evt\0", "évt", "../evt", &"e".repeat(129), &"e".repeat(10_000)] {
        rows.push(with("invalid_id", "id", id));
    }
    for account in ["", "acc\0", "acc\n", "accé", "acc\u{7f}", &"a".repeat(129)] {
        rows.push(with("invalid_account_id", "account_id", account));
    }
    for time in ["", "yesterday", "2026-11-23T10:00:00", "2026-11-23", "2026-02-30T10:00:00Z", "10000-01-01T00:00:00Z"]
    {
        rows.push(with("invalid_occurred_at", "occurred_at", time));
    }
    for name in ["", "*", "#", "content.*", "content.created\r\n", "Content.Created", "content.erstellt", "контент"]
    {
        rows.push(with("unknown_type", "type", name));
    }
    rows.push(with("unknown_type", "type", &"content.".repeat(1_250)));
    all_become_dead_letters(rows).await;
}

#[tokio::test]
async fn an_event_with_a_repeated_key_becomes_a_dead_letter() {
    let event = valid("evt_1").to_string();
    let twice = |more: &str| ("repeated_key", event.replacen('{', &format!("{{{more},"), 1).into_bytes());
    all_become_dead_letters(vec![
        twice(r#""id":"evt_2""#),
        twice(r#""\u0069d":"evt_2""#),
        twice(r#""account_id":"acc_other""#),
        twice(r#""data":1"#),
        twice(r#""unknown":1,"unknown":2"#),
    ])
    .await;
}

#[tokio::test]
async fn json_nested_too_deep_becomes_a_dead_letter() {
    let nested = |levels: usize| event_with_data("evt_1", &format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(20_000), "}".repeat(20_000));
    all_become_dead_letters(vec![
        ("too_deep", nested(128).into_bytes()),
        ("too_deep", nested(100_000).into_bytes()),
        ("too_deep", event_with_data("evt_1", &objects).into_bytes()),
        ("too_deep", "[".repeat(200_000).into_bytes()),
    ])
    .await;
}

#[tokio::test]
async fn a_compressed_body_becomes_a_dead_letter_unopened() {
    let scene = Scene::open().await;
    let encoded = |encoding: &str, body: Vec<u8>| {
        let message = RawMessage { content_encoding: Some(encoding.into()), ..scene.site.message(body).into() };
        Bad { message, reason: "encoded" }
    };
    // The head of a gzip stream with zeros after it: the worker must not unpack it.
    let bomb = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), vec![0; 100_000]].concat();
    let plain = || valid("evt_1").to_string().into_bytes();
    let bad = vec![
        encoded("gzip", bomb),
        encoded("gzip", plain()),
        encoded("deflate", plain()),
        encoded("br", plain()),
        encoded("application/gzip", plain()),
    ];
    scene.only_these_become_dead_letters(bad).await;
}

#[tokio::test]
async fn a_bad_message_published_straight_to_the_queue_becomes_a_dead_letter_too() {
    let scene = Scene::open().await;
    let bad = |body: &str, site: &Site| Bad { message: site.message_to_queue(body).into(), reason: "not_json" };
    let bad = vec![bad("{", &scene.site), bad("}", &scene.site)];
    scene.only_these_become_dead_letters(bad).await;
}

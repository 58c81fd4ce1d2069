//! The value of a header is seen in requests only. Every test searches for it what it leaves (`support/search.rs`): these tests
//! show that such a search finds what is there.

use serde_json::json;
use url::form_urlencoded::byte_serialize;

use crate::support::*;

/// The value as others may write it.
fn spellings(value: &HiddenValue) -> Vec<String> {
    let text = value.text();
    let whole = format!("\"{text}\" <&>");
    vec![
        text.to_owned(),
        json!({ "a": whole }).to_string(),
        byte_serialize(whole.as_bytes()).collect(),
        format!("&quot;{text}&lt;"),
        hex::encode(format!("X-Header\n{text}\n")),
        base64(&format!("user:{text}")),
        base64(&format!("users:{text}")),
        base64(&format!("a user:{text}")),
        base64(&format!("{text} and more")),
    ]
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(text)
}

#[tokio::test]
async fn the_search_of_a_database_finds_the_value_in_every_spelling_and_column() {
    let site = Site::new().await;
    let value = HiddenValue::another();
    let table = "CREATE TABLE kept (text text, bytes bytea, list text[], document jsonb)";
    let sql = site.another_sql().await;
    sql.batch_execute(table).await.unwrap();
    let found = value.search_database(site.database_url()).await.unwrap();
    assert!(found.leaks.is_empty() && found.places > 6 && found.size > 10, "{found:?}");
    let text = value.text();
    let columns = [
        format!("INSERT INTO kept (bytes) VALUES ('x {text} y')"),
        format!("INSERT INTO kept (list) VALUES (ARRAY['x', 'x {text}'])"),
        format!("INSERT INTO kept (document) VALUES ('{{\"a\": [\"{text}\"]}}')"),
    ];
    let texts = spellings(&value).into_iter().map(|text| format!("INSERT INTO kept (text) VALUES ('{text}')"));
    for insert in texts.chain(columns) {
        // The search ends all other sessions.
        let sql = site.another_sql().await;
        sql.batch_execute(&format!("DELETE FROM kept; {insert}")).await.unwrap();
        let found = value.search_database(site.database_url()).await.unwrap();
        assert_eq!(found.leaks, ["1 rows of kept"], "{insert}");
    }
    assert!(HiddenValue::another().search_database(site.database_url()).await.unwrap().leaks.is_empty());
}

#[tokio::test]
async fn the_search_of_a_tests_files_finds_the_value_in_a_log() {
    let (site, value) = (Site::new().await, HiddenValue::another());
    let worker = site.worker().await;
    let found = value.search_files(site.folder()).unwrap();
    assert!(found.leaks.is_empty() && found.places >= 2 && found.size > 0, "{found:?}");
    for spelling in spellings(&value) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        let log = folder.path().join("inner/a.log");
        std::fs::write(&log, format!("{}{spelling}\n", worker.log())).unwrap();
        assert_eq!(value.search_files(folder.path()).unwrap().leaks, [log.display().to_string()], "{spelling}");
        assert!(HiddenValue::another().search_files(folder.path()).unwrap().leaks.is_empty());
    }
}

#[tokio::test]
async fn the_search_of_servers_finds_the_value_in_tables_messages_and_logs() {
    let servers = PrivateServers::start().await;
    let site = Site::on(&servers).await;
    let _worker = site.worker().await;
    let found = async |value: &HiddenValue| {
        let found = servers.search(value).unwrap();
        assert!(found.places > 100 && found.size > 1 << 20, "{found:?}");
        found.leaks.join(" ")
    };
    assert_eq!(found(&HiddenValue::another()).await, "");
    for spelling in 0..9 {
        let (table, message, log) = (HiddenValue::another(), HiddenValue::another(), HiddenValue::another());
        let spelled = |value: &HiddenValue| spellings(value)[spelling].replace('\'', "''");
        let insert = format!("CREATE TABLE t{spelling} AS SELECT '{}' AS text; CHECKPOINT", spelled(&table));
        site.sql().await.batch_execute(&insert).await.unwrap();
        let raise = format!("DO $$ BEGIN RAISE LOG '%', '{}'; END $$", spelled(&log));
        site.sql().await.batch_execute(&raise).await.unwrap();
        let fate = site.publish_message(&Message::to("", site.dead_queue(), spelled(&message))).await;
        assert_eq!(fate, Fate::Confirmed);
        for (value, place) in [(table, "/postgres/data/"), (message, "/rabbitmq/data/"), (log, "/postgres.log")] {
            let found = found(&value).await;
            assert!(found.contains(place), "spelling {spelling} is not in {place}: {found:?}");
        }
    }
}

/// A registration or a change with the run's value in or around its headers: valid, refused by a rule, of a wrong type, or no JSON.
fn odd_body() -> String {
    const NAMES: [&str; 10] =
        ["X-Key", "x-key", "Authorization", "Host", "Webhook-Id", "bad name", "", "Ü", "X-Forwarded-For", "X-A\r\nB"];
    const AROUND: [&str; 10] = ["", "Bearer ", " ", "\n", "\r\nX: ", "\0", "ü", "\"", "\u{2028}", "\\u0041"];
    let text = || {
        let around = AROUND[rand::random_range(0..AROUND.len())];
        let value = format!("{around}{}", HiddenValue::of_run().text());
        if rand::random_ratio(1, 12) { value.repeat(60) } else { value }
    };
    let value = || match rand::random_range(0..8) {
        0 => json!(null),
        1 => json!([text()]),
        2 => json!({ "value": text() }),
        3 => json!(7),
        _ => json!(text()),
    };
    // Written by hand, so that a name may stand there twice.
    let pairs = (0..rand::random_range(0..13)).map(|_| {
        let name = NAMES[rand::random_range(0..if rand::random_ratio(1, 2) { 3 } else { NAMES.len() })];
        format!("{}:{}", json!(name), value())
    });
    let headers = match rand::random_range(0..8) {
        0 => json!(text()).to_string(),
        1 => json!([text()]).to_string(),
        _ => format!("{{{}}}", pairs.collect::<Vec<_>>().join(",")),
    };
    let url = ["https://example.com/", "http://example.com/", "https://10.0.0.1/"][rand::random_range(0..3)];
    let mut body = format!(r#"{{"name":"n","url":"{url}","events":["content.created"],"headers":{headers}}}"#);
    if rand::random_ratio(1, 6) {
        let mut end = rand::random_range(0..body.len());
        while !body.is_char_boundary(end) {
            end -= 1;
        }
        body.truncate(end);
    }
    body
}

#[tokio::test]
async fn no_answer_to_headers_of_any_kind_repeats_a_value() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("https://example.com/").await;
    let mut seen = std::collections::BTreeSet::new();
    for nth in 0..600 {
        let (method, path) = if nth % 2 == 0 { ("POST", "/v1/webhooks") } else { ("PATCH", &path[..]) };
        // The client searches every answer, and the end of the site all that was logged and kept.
        let answer = customer.send_text(method, path, &odd_body()).await;
        assert!(answer.status < 500, "{}", answer.text());
        seen.insert((method, answer.status));
        if answer.status == 201 {
            let webhook = answer.json();
            customer.delete(&format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap())).await;
        }
    }
    for wanted in [("POST", 201), ("POST", 400), ("POST", 422), ("PATCH", 200), ("PATCH", 400), ("PATCH", 422)] {
        assert!(seen.contains(&wanted), "{wanted:?} is not in {seen:?}");
    }
}

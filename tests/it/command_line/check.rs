//! `publish --check` and `events check` say what a worker would do with a message, and publish nothing.

use serde_json::{Value, json};

use super::{ACCOUNT, TYPE, assert_fails, keys};
use crate::support::amqp::Message;
use crate::support::*;

const TIME: &str = "2026-11-23T10:00:00Z";
/// The same in Unix seconds.
const SECONDS: u64 = 1_795_428_000;

fn event(more: &str) -> String {
    format!(r#"{{"id":"evt_1","type":"{TYPE}","account_id":"{ACCOUNT}","data":{{}}{more}}}"#)
}

/// An event with a time of its own.
fn timed() -> String {
    event(&format!(r#","occurred_at":"{TIME}""#))
}

/// What `events check --json` says of the message, with the exit code.
async fn check(site: &Site, message: &str, flags: &[&str]) -> (Value, i32) {
    let output = site.cli_with_input(&[&["events", "check", "--json"], flags].concat(), message).await;
    let document = output.stdout.parse().unwrap_or_else(|_| panic!("no JSON for {message:.99}: {output:?}"));
    (document, output.code)
}

/// What `publish --check` prints of a file with this text, for programs or for people.
async fn check_file(site: &Site, text: impl AsRef<[u8]>, flags: &[&str]) -> Output {
    let path = site.folder().join("messages");
    std::fs::write(&path, text).unwrap();
    site.cli(&[&["publish", "--check", path.to_str().unwrap()], flags].concat()).await
}

async fn data(site: &Site, text: impl AsRef<[u8]>) -> (Vec<Value>, i32) {
    let output = check_file(site, text, &["--json"]).await;
    let document: Value = output.stdout.parse().unwrap_or_else(|_| panic!("no JSON: {output:?}"));
    assert_eq!(keys(&document), ["data", "notes"].into());
    (document["data"].as_array().unwrap().clone(), output.code)
}

/// A site that has neither a database nor a broker.
async fn alone() -> Site {
    Site::new().await.remove_env("DATABASE_URL").remove_env("AMQP_URL")
}

#[tokio::test]
async fn without_a_database_it_is_said_what_would_become_of_a_message_and_what_is_missing() {
    let site = alone().await;
    let (checked, code) = check(&site, &(timed() + "\r\n"), &[]).await;
    let expected = json!({
        "line": null,
        "verdict": "deliver",
        "reason": null,
        "text": null,
        "event": {"id": "evt_1", "type": TYPE, "account_id": ACCOUNT, "timestamp": TIME, "bytes": 86},
        "bytes": timed().len(),
        "queues": [site.worker_queue()],
        "warnings": [],
        "webhooks": null,
        "nobody": null,
        "notes": ["DATABASE_URL is not set: to which webhooks messages would go is not known"],
    });
    assert_eq!((checked, code), (expected, 0));
    let said = site.cli_with_input(&["events", "check"], &timed()).await.stdout;
    let expected = format!(
        "deliver: event evt_1, {TYPE} of account {ACCOUNT}, timestamp {TIME}, {} bytes\n\
         note: DATABASE_URL is not set: to which webhooks messages would go is not known\n",
        timed().len()
    );
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_dead_letter_is_told_with_its_reason_and_ends_with_1() {
    let site = alone().await;
    let message = r#"{"id":"evt_1","type":"content.published","accountId":"acc","data":1}"#;
    let (checked, code) = check(&site, message, &[]).await;
    assert_eq!((&checked["verdict"], &checked["reason"], code), (&json!("dead_letter"), &json!("missing_field"), 1));
    assert!(checked["text"].as_str().unwrap().starts_with("`account_id` is missing"));
    assert!(checked["warnings"][0].as_str().unwrap().contains("`accountId`"));
    assert_eq!(checked["event"], Value::Null);
    let output = site.cli_with_input(&["events", "check"], message).await;
    assert!(output.stdout.starts_with("dead letter: missing_field: `account_id` is missing"), "{output:?}");
    assert!(output.stdout.contains("\n  warning: `accountId`"), "{output:?}");
    assert_eq!((output.code, &output.stderr[..]), (1, "error: the message would not be delivered\n"));
}

#[tokio::test]
async fn an_unknown_type_is_told_with_the_nearest_one() {
    let site = alone().await;
    let (checked, code) = check(&site, &timed().replace(TYPE, "content.publishd"), &[]).await;
    let text = checked["text"].as_str().unwrap();
    assert!(text.ends_with(" (it is `content.publishd`; did you mean `content.published`?)"), "{text}");
    assert_eq!((&checked["reason"], code), (&json!("unknown_type"), 1));
}

/// Each message is published by an ordinary client, with the properties that the check is told.
#[tokio::test]
async fn a_check_says_what_a_worker_then_does() {
    let site = Site::new().await;
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    let seconds = SECONDS.to_string();
    let own_id = timed().replace("evt_1", "");
    let too_large = timed().replace("{}", &format!("\"{}\"", "x".repeat(256 * 1024)));
    let messages: [(&str, &[&str]); 12] = [
        (&timed(), &[]),
        (&event(r#","occurred_at":"2026-11-23t11:00:00.1234567+01:00""#), &[]),
        (&event(""), &["--timestamp", &seconds]),
        (&own_id, &["--message-id", "evt_outside"]),
        (&own_id, &["--message-id", "no id"]),
        (&own_id, &[]),
        (&timed(), &["--content-encoding", "gzip"]),
        (&timed(), &["--content-encoding", "UTF8"]),
        (&timed(), &["--routing-key", "site.connected"]),
        ("", &[]),
        (&timed().replace(TYPE, "content.exploded"), &["--routing-key", TYPE]),
        (&too_large, &[]),
    ];
    for (body, flags) in messages {
        let flag = |name: &str| flags.iter().position(|flag| *flag == name).map(|at| flags[at + 1]);
        let (checked, code) = check(&site, body, flags).await;
        let key = flag("--routing-key").unwrap_or(TYPE);
        let message = Message::to(site.events_exchange(), key, body).with(|properties| {
            let properties = match flag("--message-id") {
                Some(id) => properties.with_message_id(id.into()),
                None => properties,
            };
            let properties = match flag("--timestamp") {
                Some(_) => properties.with_timestamp(SECONDS),
                None => properties,
            };
            match flag("--content-encoding") {
                Some(encoding) => properties.with_content_encoding(encoding.into()),
                None => properties,
            }
        });
        assert_eq!(site.publish_message(&message).await, amqp::Fate::Confirmed);
        if checked["verdict"] == "deliver" {
            let request = receiver.next().await;
            assert_eq!(checked["event"]["id"], request.event_id(), "{body} {flags:?}");
            assert_eq!(checked["event"]["timestamp"], request.json()["timestamp"], "{body} {flags:?}");
            assert_eq!((&checked["event"]["bytes"], code), (&json!(request.body.len()), 0));
        } else {
            wait_until("it is a dead letter", async || site.queue_depth(site.dead_queue()).await == 1).await;
            let listed = site.json(&["dead-letters", "list"]).await["data"][0].clone();
            assert_eq!((&checked["verdict"], code), (&json!("dead_letter"), 1), "{body:.99} {flags:?}: {listed}");
            assert_eq!(checked["reason"], listed["reason"], "{body:.99} {flags:?}: {listed}");
            site.dead_letters().await;
        }
    }
}

#[tokio::test]
async fn the_routing_key_tells_which_queue_takes_the_message_if_any_does() {
    let site = alone().await.set("queue.shards", "2");
    let queues = json!([site.worker_queue(), site.second_queue()]);
    let (checked, code) = check(&site, &timed(), &["--routing-key", "site.connected"]).await;
    assert_eq!((&checked["verdict"], &checked["queues"], code), (&json!("deliver"), &queues, 0));
    assert!(checked["warnings"][0].as_str().unwrap().contains("site.connected is not the event's type"), "{checked}");
    let (checked, code) = check(&site, &timed(), &["--routing-key", "content.publishd"]).await;
    assert_eq!((&checked["verdict"], &checked["queues"], code), (&json!("unrouted"), &json!([]), 1));
    assert!(checked["text"].as_str().unwrap().contains("mandatory"), "{checked}");
    let output = site.cli_with_input(&["events", "check", "--routing-key", "#"], &timed()).await;
    assert!(output.stdout.starts_with("unrouted: no queue is bound for the routing key \"#\""), "{output:?}");
}

#[tokio::test]
async fn a_message_without_a_time_gets_the_time_at_which_a_worker_takes_it() {
    let site = alone().await;
    let (checked, _) = check(&site, &event(""), &[]).await;
    assert_eq!(checked["event"]["timestamp"], Value::Null);
    assert!(checked["warnings"][0].as_str().unwrap().contains("the time at which a worker takes it"), "{checked}");
    let said = site.cli_with_input(&["events", "check"], &event("")).await.stdout;
    assert!(said.contains("timestamp the time of taking it"), "{said}");
}

#[tokio::test]
async fn each_webhook_that_gets_the_event_is_listed_with_what_becomes_of_it_there() {
    let site = Site::new().await;
    let host = "hooks.example.com";
    let url = format!("https://{host}/path?token=of-a-customer");
    let names = ["sent", "paced", "failing", "paused", "held", "refused_url", "closed", "off", "other type"];
    let mut ids = Vec::new();
    for name in names {
        let events = if name == "other type" { "site.connected" } else { TYPE };
        let arguments = ["webhooks", "create", "--account", ACCOUNT, "--name", name, "--url", &url, "--events", events];
        ids.push(site.json(&arguments).await["id"].as_str().unwrap().to_owned());
    }
    let change = async |name: &str, change: &str| {
        let sql = format!("UPDATE webhooks SET {change} WHERE name = $1");
        assert_eq!(site.sql().await.execute(&sql, &[&name]).await.unwrap(), 1);
    };
    change("paced", "max_per_second = 5").await;
    change("failing", "consecutive_failures = 3, failing_since = now()").await;
    change("paused", "paused_until = now() + interval '1 hour'").await;
    change("refused_url", "url = 'http://10.0.0.1:8080/?token=of-a-customer'").await;
    change("closed", "active = false, disabled_reason = 'gone'").await;
    change("off", "active = false").await;
    assert_eq!(site.cli(&["webhooks", "hold", &ids[4]]).await.code, 0);
    let (checked, code) = check(&site, &timed(), &[]).await;
    let webhooks = checked["webhooks"].as_array().unwrap();
    let shown = |webhook: &Value| [&webhook["name"], &webhook["then"]].map(|text| text.as_str().unwrap().to_owned());
    let expected = ["sent", "paced", "failing", "paused", "held", "refused_url", "closed"];
    let expected = expected.map(|name| [name.to_owned(), name.replace("paced", "sent")]);
    assert_eq!((webhooks.iter().map(shown).collect::<Vec<_>>(), code), (expected.to_vec(), 0));
    for (webhook, id) in webhooks.iter().zip(&ids) {
        assert_eq!(webhook["id"], json!(id));
        let host = if webhook["name"] == "refused_url" { "10.0.0.1:8080" } else { host };
        assert_eq!(webhook["host"], json!(host));
    }
    let text = |index: usize| webhooks[index]["text"].as_str().unwrap();
    assert_eq!([text(0), text(1)], ["sent at once", "sent, at most 5 a second"]);
    assert!(text(3).contains("asked for no requests until 20"), "{}", text(3));
    assert!(text(6).contains("(gone): closed at once"), "{}", text(6));
    let people = site.cli_with_input(&["events", "check"], &timed()).await.stdout;
    assert!(people.contains(&format!("\n  to webhook {}, sent ({host}): sent at once\n", ids[0])), "{people}");
    assert_eq!(people.lines().count(), 1 + 7);
    for output in [checked.to_string(), people] {
        assert!(!output.contains("of-a-customer") && !output.contains("/path"), "{output}");
    }
}

#[tokio::test]
async fn why_nobody_gets_an_event_is_said_and_is_no_failure() {
    let site = Site::new().await;
    let nobody = async || {
        let (checked, code) = check(&site, &timed(), &[]).await;
        assert_eq!((&checked["verdict"], &checked["webhooks"], code), (&json!("deliver"), &json!([]), 0));
        checked["nobody"].as_str().unwrap().to_owned()
    };
    assert_eq!(nobody().await, "account acc_42 has no webhook");
    site.create_webhook("acc_43", "https://hooks.example.com/", &[TYPE]).await;
    assert_eq!(nobody().await, "account acc_42 has no webhook");
    site.create_webhook(ACCOUNT, "https://hooks.example.com/", &["site.connected"]).await;
    assert_eq!(nobody().await, "the only webhook of account acc_42 does not subscribe to content.published");
    let off = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &["site.connected"]).await;
    assert_eq!(nobody().await, "none of the 2 webhooks of account acc_42 subscribes to content.published");
    site.json(&["webhooks", "update", &off.id, "--events", TYPE, "--active", "false"]).await;
    assert!(nobody().await.ends_with("1 would get content.published, but their owner has switched them off"));
    let said = site.cli_with_input(&["events", "check"], &timed()).await.stdout;
    assert!(said.contains("\n  to nobody: of the webhooks of account acc_42, 1 would get"), "{said}");
}

#[tokio::test]
async fn a_secret_that_does_not_open_is_told_if_there_are_keys_to_open_it() {
    let site = Site::new().await;
    site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    let other = site.set("security.encryption_keys", &settings::encryption_key("k2"));
    assert_eq!(check(&other, &timed(), &[]).await.0["webhooks"][0]["then"], json!("unreadable"));
    let none = other.unset("security.encryption_keys");
    let (checked, _) = check(&none, &timed(), &[]).await;
    assert_eq!(checked["webhooks"][0]["then"], json!("sent"));
    assert!(checked["notes"][0].as_str().unwrap().starts_with("security.encryption_keys is not set"), "{checked}");
}

#[tokio::test]
async fn a_file_of_one_json_text_is_one_message() {
    let site = alone().await;
    let indented = serde_json::to_string_pretty(&timed().parse::<Value>().unwrap()).unwrap();
    for text in [timed(), timed() + "\n", indented.clone(), indented.clone() + "\r\n"] {
        let (data, code) = data(&site, &text).await;
        assert_eq!((data.len(), &data[0]["line"], &data[0]["verdict"], code), (1, &Value::Null, &json!("deliver"), 0));
        assert_eq!(data[0]["bytes"], json!(text.trim_end().len()), "{text:?}");
    }
    let mistake = indented.replace(",\n", "\n");
    let array = format!("[{},\n{}]", timed(), timed());
    let too_large = indented.replace("{}", &format!("\"{}\"", "x".repeat(256 * 1024)));
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\n\0\xff\n";
    for (text, reason, bytes) in [
        (mistake.as_bytes(), "not_json", json!(mistake.len())),
        (array.as_bytes(), "not_an_object", json!(array.len())),
        (too_large.as_bytes(), "too_large", Value::Null),
        (b"", "empty", json!(0)),
        (gzip, "not_utf8", json!(gzip.len() - 1)),
    ] {
        let (data, code) = data(&site, text).await;
        assert_eq!((data.len(), &data[0]["reason"], code), (1, &json!(reason), 1));
        assert_eq!((&data[0]["line"], &data[0]["bytes"]), (&Value::Null, &bytes), "{reason}");
    }
}

#[tokio::test]
async fn a_file_of_json_lines_is_a_message_in_each_line() {
    let site = Site::new().await;
    let (_receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let too_large = timed().replace("{}", &format!("\"{}\"", "x".repeat(300 * 1024)));
    let text = format!("{}\r\n\n{{\n{too_large}\n{}", timed(), timed());
    let (checked, code) = data(&site, &text).await;
    let shown = |checked: &Value| (checked["line"].as_u64().unwrap(), checked["reason"].as_str().map(str::to_owned));
    let dead = |reason: &str| Some(reason.to_owned());
    let expected = [(1, None), (3, dead("not_json")), (4, dead("too_large")), (5, None)];
    assert_eq!((checked.iter().map(shown).collect::<Vec<_>>(), code), (expected.to_vec(), 1));
    assert_eq!(checked[3]["webhooks"][0]["id"], json!(webhook.id));
    let said = "the id stood in line 1 already: many receivers drop the second event of an id";
    assert_eq!([&checked[0]["warnings"], &checked[3]["warnings"]], [&json!([]), &json!([said])]);
    let output = check_file(&site, &text, &[]).await;
    let starts: Vec<&str> = output.stdout.lines().map(|line| line.split(" (").next().unwrap()).collect();
    assert!(starts[0].starts_with("line 1: deliver: event evt_1"), "{output:?}");
    assert!(starts[2].starts_with("line 3: dead letter: not_json: "), "{output:?}");
    assert_eq!(starts.last(), Some(&"4 messages, 2 would be delivered"));
    assert_eq!((output.code, &output.stderr[..]), (1, "error: 2 of 4 messages would not be delivered\n"));
    // Nothing was published: a worker's topology would have to be there.
    let several = site.cli_with_input(&["events", "check"], &text).await;
    assert_fails(&several, 2, &["several messages", "publish --check -"]);
}

#[tokio::test]
async fn a_check_reads_standard_input_for_a_minus() {
    let site = alone().await;
    let lines: String = (1..=3000).map(|number| timed().replace("evt_1", &format!("evt_{number}")) + "\n").collect();
    let output = site.cli_with_input(&["publish", "--check", "-"], &lines).await;
    assert_eq!((output.code, output.stdout.lines().count()), (0, 3000 + 2), "{}", output.stderr);
    assert!(output.stdout.contains("line 3000: deliver: ") && output.stdout.contains("3,000 messages, 3,000 would"));
}

#[tokio::test]
async fn a_file_that_is_named_to_the_check_of_one_message_is_answered_by_how_to_give_it() {
    let site = alone().await;
    let output = site.cli(&["events", "check", "event.json"]).await;
    assert_fails(&output, 2, &["standard input", "publish --check FILE"]);
    assert_eq!(site.cli_with_input(&["events", "check", "-"], &timed()).await.code, 0);
}

#[tokio::test]
async fn a_check_publishes_nothing_and_asks_no_broker() {
    let site = Site::new().await;
    site.worker().await.kill9();
    let broker = Proxy::to(site.amqp_address()).await;
    let checking = site.amqp_through(&broker.addr());
    assert_eq!(check(&checking, &timed(), &[]).await.1, 0);
    assert_eq!(data(&checking, timed()).await.1, 0);
    assert_eq!(broker.opened(), 0);
    assert_eq!(checking.queue_depth(checking.worker_queue()).await, 0);
}

#[tokio::test]
async fn a_database_that_is_away_is_an_error() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.postgres_address()).await;
    proxy.refuse(true).await;
    let site = site.postgres_through(&proxy.addr());
    assert_fails(&site.cli_with_input(&["events", "check"], &timed()).await, 1, &["database"]);
}

#[tokio::test]
async fn flags_of_a_check_stand_beside_nothing_else() {
    let site = Site::new().await;
    let made = ["publish", "--account", ACCOUNT, "--type", TYPE];
    for flags in [["--check", "-"], ["--routing-key", TYPE], ["--message-id", "evt_1"], ["--timestamp", "1"]] {
        assert_fails(&site.cli(&[&made[..], &flags].concat()).await, 2, &[flags[0]]);
        assert_fails(&site.cli(&[&["publish", "--stdin"][..], &flags].concat()).await, 2, &[flags[0]]);
    }
    assert_fails(&site.cli(&["publish", "--check", "/nowhere/at-all"]).await, 2, &["--check", "/nowhere/at-all"]);
    assert_fails(&site.cli(&["publish", "--check", "/"]).await, 2, &["--check"]);
    assert_fails(&site.cli(&["events", "check", "--timestamp", "yesterday"]).await, 2, &["--timestamp"]);
}

#[tokio::test]
async fn a_check_whose_reader_is_gone_keeps_its_exit_code() {
    let site = alone().await;
    for (text, code) in [(timed(), 0), ("{".to_owned(), 1), (format!("{}\n", timed()).repeat(2000), 0)] {
        let path = site.folder().join("messages");
        std::fs::write(&path, text).unwrap();
        for json in [&[][..], &["--json"]] {
            let arguments = [&["publish", "--check", path.to_str().unwrap()][..], json].concat();
            assert_eq!(site.cli_into_head(&arguments).await.code, code, "{arguments:?}");
        }
    }
}

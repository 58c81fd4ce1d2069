//! What scripts rely on: flags, JSON fields, exit codes, and one clear line on stderr for every error.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::*;

mod changes;
mod check;
mod erases;
mod foreign_text;
mod headers_and_pace;
mod installs;
mod listen;
mod pipes;
mod publish;
mod publish_stdin;
mod rotates;
mod startup;
mod stories;
mod tables;
mod top;

const ACCOUNT: &str = "acc_42";
const TYPE: &str = "content.published";
/// The id of no webhook.
const NOBODY: &str = "01900000-0000-7000-8000-000000000000";

/// The fields of a webhook in JSON.
const WEBHOOK: [&str; 17] = [
    "id",
    "name",
    "url",
    "events",
    "active",
    "inactive_since",
    "disabled_reason",
    "failing",
    "failing_since",
    "headers",
    "held_since",
    "max_per_second",
    "warnings",
    "created_at",
    "updated_at",
    "previous_valid_until",
    "version",
];

#[tokio::test]
async fn create_prints_the_webhook_with_its_secret() {
    let site = Site::new().await;
    let url = "http://hooks.example.com/a?token=1";
    let events = "site.connected,content.created";
    let created = site.json(&create(&["--name", " Our site ", "--url", url, "--events", events])).await;
    assert_eq!(keys(&created), WEBHOOK.into_iter().chain(["secret"]).collect());
    let secret = created["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == "whsec_".len() + 44, "{secret}");
    assert_eq!([&created["name"], &created["url"]], [&json!("Our site"), &json!(url)]);
    assert_eq!(created["events"], json!(["content.created", "site.connected"]));
    assert_eq!(created["active"], json!(true));
    assert_eq!([&created["disabled_reason"], &created["failing_since"]], [&Value::Null, &Value::Null]);
    assert!(created["warnings"][0].as_str().unwrap().contains("http"));
    let id = created["id"].as_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().to_string(), id);
    for time in ["created_at", "updated_at"] {
        let time: Timestamp = created[time].as_str().unwrap().parse().expect("RFC 3339");
        assert!(time <= Timestamp::now());
    }
}

#[tokio::test]
async fn an_https_webhook_has_no_warnings() {
    let site = Site::new().await;
    let arguments = create(&["--name", "n", "--url", "https://hooks.example.com/", "--events", TYPE]);
    assert_eq!(site.json(&arguments).await["warnings"], json!([]));
}

#[tokio::test]
async fn show_and_list_print_webhooks_without_their_secret() {
    let site = Site::new().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(site.create_webhook(ACCOUNT, "http://hooks.example.com/", &[TYPE]).await.id);
    }
    site.create_webhook("acc_43", "http://hooks.example.com/", &[TYPE]).await;
    let list = site.json(&["webhooks", "list", "--account", ACCOUNT]).await;
    assert_eq!(keys(&list), BTreeSet::from(["data"]));
    let listed: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|webhook| &webhook["id"]).collect();
    assert_eq!(listed, ids.iter().collect::<Vec<_>>());
    let shown = site.webhook(&ids[1]).await;
    assert_eq!(keys(&shown), WEBHOOK.into_iter().chain(["activity"]).collect());
    assert_eq!(shown["version"], list["data"][1]["version"]);
    assert_eq!(site.json(&["webhooks", "list", "--account", "acc_44"]).await, json!({"data": []}));
}

#[tokio::test]
async fn show_tells_how_much_waits_and_at_which_pace() {
    let site = Site::new().await;
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    let last_line =
        async || site.cli(&["webhooks", "show", &webhook.id]).await.stdout.lines().last().unwrap().to_owned();
    assert_eq!(last_line().await, "nothing waiting");
    let more = async |count: i32| {
        let park = "INSERT INTO pending_deliveries
                (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
            SELECT gen_random_uuid(), $1::text::uuid, 1, current_date, gen_random_uuid(), 'retry', 1, now()
            FROM generate_series(1, $2::integer)";
        site.sql().await.execute(park, &[&webhook.id, &count]).await.unwrap();
    };
    more(12_400).await;
    assert_eq!(last_line().await, "12,400 waiting");
    site.json(&["webhooks", "update", &webhook.id, "--max-per-second", "5"]).await;
    assert_eq!(last_line().await, "12,400 waiting, at 5 a second");
    assert_eq!(site.webhook(&webhook.id).await["activity"]["waiting"], json!(12_400));
    more(87_600).await;
    assert_eq!(last_line().await, "100,000 or more waiting, at 5 a second");
}

#[tokio::test]
async fn update_changes_what_it_is_told_and_nothing_else() {
    let site = Site::new().await;
    let before = site.json(&create(&["--name", "old", "--url", "https://hooks.example.com/", "--events", TYPE])).await;
    let id = before["id"].as_str().unwrap();
    let renamed = site.json(&["webhooks", "update", id, "--name", "new"]).await;
    assert_eq!(keys(&renamed), WEBHOOK.into());
    assert_eq!(renamed["name"], json!("new"));
    for same in ["url", "events", "active", "created_at"] {
        assert_eq!(renamed[same], before[same], "{same}");
    }
    let url = "https://other.example.com/x";
    let change = ["--url", url, "--events", "site.connected", "--active", "false"];
    let changed = site.json(&[&["webhooks", "update", id][..], &change].concat()).await;
    assert_eq!(
        [&changed["name"], &changed["url"], &changed["events"], &changed["active"], &changed["disabled_reason"]],
        [&json!("new"), &json!(url), &json!(["site.connected"]), &json!(false), &Value::Null]
    );
    assert_eq!(site.json(&["webhooks", "list", "--account", ACCOUNT]).await["data"], json!([changed]));
}

#[tokio::test]
async fn a_deleted_webhook_is_unknown_but_its_log_stays() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the attempt is in the log", async || site.log(&webhook.id).await.len() == 1).await;
    assert_eq!(site.cli(&["webhooks", "delete", &webhook.id]).await.code, 0);
    assert_fails(&site.cli(&["webhooks", "show", &webhook.id]).await, 1, &[&webhook.id]);
    assert_fails(&site.cli(&["webhooks", "delete", &webhook.id]).await, 1, &[&webhook.id]);
    assert_eq!(site.log(&webhook.id).await.len(), 1);
}

#[tokio::test]
async fn every_command_says_which_webhook_it_does_not_know() {
    let site = Site::new().await;
    let commands: [&[&str]; 6] = [
        &["show", NOBODY],
        &["update", NOBODY, "--name", "x"],
        &["delete", NOBODY],
        &["secret", NOBODY],
        &["secret", NOBODY, "--regenerate"],
        &["log", NOBODY],
    ];
    for command in commands {
        for json in [&[][..], &["--json"]] {
            let output = site.cli(&[&["webhooks"], command, json].concat()).await;
            assert_fails(&output, 1, &["there is no webhook", NOBODY]);
        }
    }
}

#[tokio::test]
async fn wrong_arguments_end_with_exit_code_2_and_one_line() {
    let site = Site::new().await;
    let good = ["--name", "n", "--url", "https://hooks.example.com/", "--events", TYPE];
    let with = |at: usize, value: &'static str| {
        let mut flags = good;
        flags[at] = value;
        create(&flags)
    };
    let commands: [(Vec<&str>, &str); 14] = [
        (with(1, ""), "name"),
        (with(3, "hooks.example.com"), "URL"),
        (with(3, "http://10.0.0.1/"), "address"),
        (with(3, "http://user@hooks.example.com/"), "user name"),
        (with(5, "content.exploded"), "content.exploded"),
        (with(5, ""), "event type"),
        (vec!["webhooks", "create", "--account", ACCOUNT], "--url"),
        (vec!["webhooks", "list", "--account", "ü"], "account id"),
        (vec!["webhooks", "show", "12"], "UUID"),
        (vec!["webhooks", "update", NOBODY], "--active"),
        (vec!["webhooks", "update", NOBODY, "--active", "maybe"], "maybe"),
        (vec!["webhooks", "log", NOBODY, "--limit", "0"], "0"),
        (vec!["webhooks", "explode"], "explode"),
        (vec!["--colour"], "--colour"),
    ];
    for (command, named) in commands {
        assert_fails(&site.cli(&command).await, 2, &[named]);
    }
    assert_eq!(site.count("SELECT count(*) FROM webhooks").await, 0);
}

#[tokio::test]
async fn the_log_prints_rows_newest_first_up_to_its_limit() {
    let site = Site::new().await.set("retry.schedule", r#"["10ms"]"#);
    let receiver = Receiver::start().await;
    receiver.script([Reply::body(503, "come back later")]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("both attempts are in the log", async || site.log(&webhook.id).await.len() == 2).await;
    let log = site.json(&["webhooks", "log", &webhook.id]).await;
    assert_eq!(keys(&log), BTreeSet::from(["data"]));
    let row = &log["data"][1];
    assert_eq!(keys(row), log_row_keys());
    assert_eq!([&row["event_id"], &row["event_type"], &row["trigger"]], [&json!(event), &json!(TYPE), &json!("event")]);
    assert_eq!([&row["attempt"], &row["status"], &row["http_status"]], [&json!(1), &json!("failed"), &json!(503)]);
    assert_eq!([&row["error"], &row["response_snippet"]], [&json!("http_status"), &json!("come back later")]);
    assert!(row["duration_ms"].is_u64());
    for time in ["created_at", "next_attempt_at"] {
        row[time].as_str().unwrap().parse::<Timestamp>().expect("RFC 3339");
    }
    let limited = site.json(&["webhooks", "log", &webhook.id, "--limit", "1"]).await;
    assert_eq!(limited, json!({"data": [log["data"][0]]}));
    assert_eq!(limited["data"][0]["attempt"], json!(2));
}

fn log_row_keys() -> BTreeSet<&'static str> {
    let keys = "id delivery_id event_id event_type trigger attempt status http_status duration_ms error error_detail \
                response_snippet response_truncated response_headers created_at next_attempt_at";
    keys.split_whitespace().collect()
}

#[tokio::test]
async fn after_a_regeneration_both_secrets_verify_until_the_old_one_expires() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let secret = ["webhooks", "secret", &webhook.id];
    assert_eq!(site.json(&secret).await, json!({"secret": webhook.secret}));
    let fresh = site.json(&[&secret[..], &["--regenerate"]].concat()).await;
    assert_eq!(site.json(&secret).await, json!({"secret": fresh["secret"]}));
    let fresh = fresh["secret"].as_str().unwrap();
    assert_ne!(fresh, webhook.secret);
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    let request = receiver.next().await;
    assert_eq!(request.header("webhook-signature").split(' ').count(), 2);
    assert_eq!(request.verify(fresh), Verdict { hex: true, standard: true });
    assert_eq!(request.verify(&webhook.secret), Verdict { hex: false, standard: true });
    let a_day_later = "UPDATE webhooks SET previous_secret_until = previous_secret_until - interval '24 hours'";
    site.sql().await.execute(a_day_later, &[]).await.unwrap();
    site.publish(ACCOUNT, TYPE, json!({})).await;
    let request = receiver.next().await;
    assert_eq!(request.verify(fresh), Verdict { hex: true, standard: true });
    assert_eq!(request.verify(&webhook.secret), Verdict { hex: false, standard: false });
}

#[tokio::test]
async fn tables_tell_people_the_same_facts() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(410));
    let flags = ["--name", "Our site", "--url", &receiver.url(), "--events", TYPE];
    let created = site.cli(&create(&flags)).await;
    assert!(created.stdout.contains("active") && created.stdout.contains("warning: "), "{}", created.stdout);
    let secret = created.stdout.lines().find_map(|line| line.strip_prefix("secret: ")).unwrap();
    let list = site.json(&["webhooks", "list", "--account", ACCOUNT]).await;
    let id = list["data"][0]["id"].as_str().unwrap();
    assert_eq!(site.cli(&["webhooks", "secret", id]).await.stdout.trim_end(), secret);
    let _worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the attempt is in the log", async || !site.log(id).await.is_empty()).await;
    let log = site.cli(&["webhooks", "log", id]).await.stdout;
    for fact in ["failed", TYPE, &event, "410", "http_status"] {
        assert!(log.contains(fact), "no {fact} in:\n{log}");
    }
    for command in [["webhooks", "list", "--account", ACCOUNT].as_slice(), &["webhooks", "show", id]] {
        let table = site.cli(command).await.stdout;
        for fact in [id, "Our site", &receiver.url(), TYPE, "disabled: gone"] {
            assert!(table.contains(fact), "no {fact} in:\n{table}");
        }
    }
}

#[tokio::test]
async fn migrate_prints_what_it_applied() {
    let site = Site::new().await;
    assert_eq!(site.json(&["migrate"]).await, json!({"applied": []}));
    assert_eq!(site.cli(&["migrate"]).await.stdout, "the schema is up to date\n");
}

fn create<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [&["webhooks", "create", "--account", ACCOUNT], flags].concat()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect()
}

/// Asserts that stderr has exactly one line besides the log, which is JSON here, that the line holds all of `said`, and
/// that stdout is empty.
#[track_caller]
fn assert_fails(output: &Output, code: i32, said: &[&str]) {
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    let [line] = &lines[..] else { panic!("not one line on stderr: {output:?}") };
    assert!(line.starts_with("error: "), "{line}");
    assert!(said.iter().all(|said| line.contains(said)), "no {said:?} in {line}");
    assert_eq!((output.code, &output.stdout[..]), (code, ""), "{line}");
}

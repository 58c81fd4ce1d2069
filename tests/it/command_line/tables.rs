//! What people see: tables on a terminal and in a pipe, and which rows flags choose.

use serde_json::json;

use super::{ACCOUNT, TYPE};
use crate::support::*;

#[tokio::test]
async fn a_table_fits_the_terminal_and_is_whole_in_a_pipe() {
    let site = Site::new().await;
    let url = format!("https://hooks.example.com/{}", "long/".repeat(60));
    let webhook = site.create_webhook(ACCOUNT, &url, &[TYPE]).await;
    let list = ["webhooks", "list", "--account", ACCOUNT];
    let piped = site.cli(&list).await.stdout;
    assert!(piped.contains(&url) && piped.lines().count() == 2, "{piped}");
    for columns in [60, 130] {
        let shown = site.cli_on_terminal(&list, columns, "export NO_COLOR=1", "").await;
        assert_eq!(shown.code, 0, "{}", shown.stdout);
        let widest = shown.stdout.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
        assert!(widest <= columns.into() && widest > 40, "{widest} of {columns} columns:\n{}", shown.stdout);
        let whole: String = shown.stdout.split_whitespace().collect();
        assert!(whole.contains("active"), "{}", shown.stdout);
        assert_eq!(shown.stdout.contains(&webhook.id), columns >= 120, "{}", shown.stdout);
    }
}

#[tokio::test]
async fn attempts_fit_the_terminal_too() {
    let site = Site::new().await;
    let (_receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the attempt is in the log", async || site.log(&webhook.id).await.len() == 1).await;
    let log = site.log(&webhook.id).await;
    let delivery = log[0]["delivery_id"].as_str().unwrap();
    let (log, whole) = (["webhooks", "log", &webhook.id], ["webhooks", "delivery", &webhook.id, delivery]);
    for (columns, command) in [(70, &log[..]), (70, &whole), (130, &log), (130, &whole)] {
        let shown = site.cli_on_terminal(command, columns, "export NO_COLOR=1", "").await;
        assert_eq!(shown.code, 0, "{}", shown.stdout);
        // What was sent, below the table of attempts, is in lines of its own length.
        let lines = shown.stdout.lines().take_while(|line| !line.starts_with("request headers"));
        let widest = lines.map(|line| line.trim_end().chars().count()).max().unwrap();
        assert!(widest <= columns.into() && widest > 40, "{widest} of {columns} columns:\n{}", shown.stdout);
        assert!(columns < 120 || shown.stdout.contains(delivery), "{}", shown.stdout);
    }
}

#[tokio::test]
async fn a_line_break_in_foreign_text_breaks_no_row_of_a_table() {
    let site = Site::new().await;
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    // The commands refuse such a name; another program may have written it.
    let name = "UPDATE webhooks SET name = E'two\\nlines\\u202e\\u001b[31m'";
    site.sql().await.execute(name, &[]).await.unwrap();
    for command in [&["list", "--account", ACCOUNT][..], &["list", "--all-accounts"], &["show", &webhook.id]] {
        let table = site.cli(&[&["webhooks"], command].concat()).await.stdout;
        let lines = table.lines().filter(|line| *line != "nothing waiting");
        assert_eq!(lines.count(), 2, "{table}");
        assert!(table.contains("two lines\\u{202e} [31m"), "{table}");
    }
}

#[tokio::test]
async fn a_terminal_that_wants_no_colours_gets_no_escape_sequence() {
    let site = Site::new().await.set("log.filter", "debug");
    site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    for (shell, coloured) in [("true", true), ("export NO_COLOR=1", false), ("export TERM=dumb", false)] {
        // The second logs a line at stderr, which is the same terminal.
        for command in [&["webhooks", "list", "--account", ACCOUNT][..], &["migrate"]] {
            let shown = site.cli_on_terminal(command, 100, shell, "").await;
            assert_eq!(shown.code, 0, "{}", shown.stdout);
            let escapes = shown.stdout.contains('\x1b');
            assert!(escapes == coloured || command == ["migrate"] && !escapes, "{shell}: {:?}", shown.stdout);
        }
    }
}

#[tokio::test]
async fn an_empty_table_says_none() {
    let site = Site::new().await;
    assert_eq!(site.cli(&["webhooks", "list", "--account", ACCOUNT]).await.stdout, "none\n");
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    assert_eq!(site.cli(&["webhooks", "log", &webhook.id]).await.stdout, "none\n");
}

#[tokio::test]
async fn the_log_is_chosen_by_result_event_type_and_time() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE, "site.connected"]).await;
    let _worker = site.worker().await;
    let good = site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the success is in the log", async || site.log(&webhook.id).await.len() == 1).await;
    receiver.always(Reply::status(503));
    let bad = site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the failure is in the log", async || site.log(&webhook.id).await.len() == 2).await;
    let other = site.publish(ACCOUNT, "site.connected", json!({})).await;
    wait_until("all are in the log", async || site.log(&webhook.id).await.len() == 3).await;
    let log = site.log(&webhook.id).await;
    let time = |place: usize| log[place]["created_at"].as_str().unwrap().to_owned();
    let (newest, middle) = (time(0), time(1));
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--failed"], &[&other, &bad]),
        (&["--failed", "--limit", "1"], &[&other]),
        (&["--http-status", "503"], &[&other, &bad]),
        (&["--http-status", "200"], &[&good]),
        (&["--http-status", "404"], &[]),
        (&["--event", &good], &[&good]),
        (&["--event", "evt_never"], &[]),
        (&["--type", TYPE], &[&bad, &good]),
        (&["--type", TYPE, "--failed"], &[&bad]),
        (&["--since", "1h"], &[&other, &bad, &good]),
        (&["--until", "1h"], &[]),
        (&["--since", &middle, "--until", &newest], &[&bad]),
    ];
    for (flags, events) in cases {
        let rows = site.json(&[&["webhooks", "log", &webhook.id][..], flags].concat()).await;
        let rows = rows["data"].as_array().unwrap();
        let found: Vec<&str> = rows.iter().map(|row| row["event_id"].as_str().unwrap()).collect();
        assert_eq!(found, events, "{flags:?}");
    }
    let table = site.cli(&["webhooks", "log", &webhook.id]).await.stdout;
    for shown in ["TIME (UTC)", log[0]["delivery_id"].as_str().unwrap()] {
        assert!(table.contains(shown), "no {shown} in:\n{table}");
    }
}

#[tokio::test]
async fn the_webhooks_of_all_accounts_are_listed_with_their_account() {
    let site = Site::new().await;
    let one = site.create_webhook(ACCOUNT, "https://one.example.com/", &[TYPE]).await;
    let other = site.create_webhook("acc_43", "https://two.example.com/", &[TYPE]).await;
    let all = ["webhooks", "list", "--all-accounts"];
    let listed = site.json(&all).await;
    let pair = |place: usize| [&listed["data"][place]["account_id"], &listed["data"][place]["id"]];
    assert_eq!((pair(0), pair(1)), ([&json!(ACCOUNT), &json!(one.id)], [&json!("acc_43"), &json!(other.id)]));
    let table = site.cli(&all).await.stdout;
    assert!(table.starts_with(" ACCOUNT") && table.contains("acc_43"), "{table}");
    let failing = [&all[..], &["--failing"]].concat();
    assert_eq!(site.json(&failing).await, json!({ "data": [] }));
    let told = "UPDATE webhooks SET failing_since = now(), failing_noticed_at = now() WHERE account_id = 'acc_43'";
    site.sql().await.execute(told, &[]).await.unwrap();
    let failing = site.json(&failing).await;
    assert_eq!(failing["data"].as_array().unwrap().len(), 1);
    assert_eq!(failing["data"][0]["id"], json!(other.id));
    let of_account = async |account: &str| site.json(&["webhooks", "list", "--account", account, "--failing"]).await;
    assert_eq!(of_account("acc_43").await["data"][0]["id"], json!(other.id));
    assert_eq!(of_account(ACCOUNT).await, json!({ "data": [] }));
}

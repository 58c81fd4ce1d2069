//! The overview for operators: on a terminal until q is pressed, and as one document for scripts.

use serde_json::{Value, json};

use super::{ACCOUNT, NOBODY, TYPE, assert_fails, keys};
use crate::support::*;

/// What a terminal shows, its words apart by one blank: cursor movements (`CSI … H`) become blanks, colours nothing.
fn text_of(screen: &str) -> String {
    let mut text = String::new();
    let mut parts = screen.split("\x1b[");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        if part[..end].ends_with('H') {
            text.push(' ');
        }
        text.push_str(&part[end..]);
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Puts pending deliveries into the table that have been due for a minute.
async fn park(site: &Site, webhook: &str, count: i32) {
    let park = "INSERT INTO pending_deliveries
            (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
        SELECT gen_random_uuid(), $1::text::uuid, 1, current_date, gen_random_uuid(), 'event', 0, now() - interval '1 minute'
        FROM generate_series(1, $2::integer)";
    site.sql().await.execute(park, &[&webhook, &count]).await.unwrap();
}

#[tokio::test]
async fn top_prints_once_what_waits_for_whom_who_fails_and_which_processes_are_there() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    receiver.always(Reply::status(503));
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    let failed = "SELECT count(*) FROM webhooks WHERE failing_since IS NOT NULL";
    wait_until("the webhook fails", async || site.count(failed).await == 1).await;
    let top = eventually("the worker tells of its attempt", async || {
        let top = site.json(&["top"]).await;
        (top["first_verdict"]["count"] == 1).then_some(top)
    })
    .await;
    let parts = "time processes rates first_verdict in_flight waiting failing failing_count holds";
    assert_eq!(keys(&top), parts.split(' ').collect());
    let process = &top["processes"][0];
    assert_eq!([&process["role"], &process["version"]], [&json!("worker"), &json!(env!("CARGO_PKG_VERSION"))]);
    assert!(process["seen_seconds_ago"].as_f64().unwrap() < 30.0, "{process}");
    assert_eq!(top["in_flight"], json!({ "now": 0, "limit": 500 }));
    assert!(top["first_verdict"]["p99_seconds"].as_f64().unwrap() > 0.0, "{top}");
    let failing = &top["failing"][0];
    assert_eq!(
        [&failing["webhook_id"], &failing["account_id"], &failing["failures"], &failing["last_error"]],
        [&json!(webhook.id), &json!(ACCOUNT), &json!(1), &json!("http_status")]
    );
    // It waits for its retry.
    let waiting = &top["waiting"];
    assert_eq!([&waiting["estimated"], &waiting["pending"], &waiting["due"]], [&json!(false), &json!(1), &json!(0)]);
    assert_eq!(waiting["webhooks"][0]["webhook_id"], json!(webhook.id));
}

#[tokio::test]
async fn of_many_failing_webhooks_top_says_how_many_there_are() {
    let site = Site::new().await;
    assert_eq!(site.json(&["top"]).await["failing_count"], json!(0));
    site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    // The copies differ in their ids. One of them is switched off.
    let copies = "CREATE TEMPORARY TABLE copies AS SELECT * FROM webhooks, generate_series(1, 40);
        ALTER TABLE copies DROP COLUMN generate_series;
        UPDATE copies SET id = gen_random_uuid(), failing_since = now();
        UPDATE copies SET active = false WHERE id = (SELECT id FROM copies LIMIT 1);
        INSERT INTO webhooks SELECT * FROM copies";
    site.sql().await.batch_execute(copies).await.unwrap();
    let top = site.json(&["top"]).await;
    assert_eq!([&top["failing_count"], &json!(top["failing"].as_array().unwrap().len())], [&json!(39), &json!(20)]);
    let shown = site.cli_on_terminal(&["top"], 80, "stty rows 40", "q").await;
    assert!(text_of(&shown.stdout).contains("Failing, 20 of 39"), "{:?}", shown.stdout);
}

#[tokio::test]
async fn what_is_owed_to_webhooks_that_are_off_or_deleted_waits_and_is_not_due() {
    let site = Site::new().await;
    let mut ids = Vec::new();
    for account in ["acc_1", "acc_1", "acc_2"] {
        ids.push(site.create_webhook(account, "https://hooks.example.com/", &[TYPE]).await.id);
    }
    for (id, count) in [(&ids[0][..], 3), (&ids[1], 2), (&ids[2], 4), (NOBODY, 5)] {
        park(&site, id, count).await;
    }
    site.json(&["webhooks", "update", &ids[2], "--active", "false"]).await;
    let waiting = site.json(&["top"]).await["waiting"].clone();
    let numbers = |of: &Value| ["pending", "due", "parked", "held"].map(|name| of[name].as_u64().unwrap());
    assert_eq!(numbers(&waiting), [14, 5, 14, 0]);
    let oldest = |of: &Value| of["oldest_due_seconds"].as_f64();
    assert!((60.0..600.0).contains(&oldest(&waiting).unwrap()), "{waiting}");
    let webhooks: Vec<_> = waiting["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| (of["webhook_id"].as_str().unwrap(), numbers(of)))
        .collect();
    let expected =
        [(&ids[0][..], [3, 3, 3, 0]), (&ids[1], [2, 2, 2, 0]), (NOBODY, [5, 0, 5, 0]), (&ids[2], [4, 0, 4, 0])];
    assert_eq!(webhooks, expected);
    let accounts: Vec<_> = waiting["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| (of["account_id"].as_str().unwrap(), numbers(of)))
        .collect();
    assert_eq!(accounts, [("acc_1", [5, 5, 5, 0]), ("acc_2", [4, 0, 4, 0])]);
    assert_eq!(oldest(&waiting["accounts"][1]), None);
}

#[tokio::test]
async fn what_is_sent_again_counts_as_attempted() {
    let site = Site::new().await;
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await.id;
    park(&site, &webhook, 3).await;
    let resent =
        "UPDATE pending_deliveries SET trigger = 'resend' WHERE id = (SELECT id FROM pending_deliveries LIMIT 1)";
    site.sql().await.batch_execute(resent).await.unwrap();
    let waiting = site.json(&["top"]).await["waiting"].clone();
    for of in [&waiting, &waiting["webhooks"][0], &waiting["accounts"][0]] {
        assert_eq!([&of["pending"], &of["due"], &of["parked"]], [3, 3, 2], "{of}");
    }
}

#[tokio::test]
async fn what_is_held_is_listed_and_is_not_due() {
    let site = Site::new().await;
    let held = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await.id;
    park(&site, &held, 3).await;
    site.json(&["webhooks", "hold", "--account", ACCOUNT, "--reason", "ticket 7"]).await;
    let top = site.json(&["top"]).await;
    let waiting = &top["waiting"];
    assert_eq!(["pending", "due", "held"].map(|name| waiting[name].as_u64().unwrap()), [3, 0, 3]);
    assert_eq!(waiting["oldest_due_seconds"], Value::Null);
    assert_eq!([&top["holds"][0]["account_id"], &top["holds"][0]["reason"]], [&json!(ACCOUNT), &json!("ticket 7")]);
    let shown = site.cli_on_terminal(&["top"], 160, "stty rows 40", "q").await;
    assert!(text_of(&shown.stdout).contains("Held"), "{:?}", shown.stdout);
    assert!(text_of(&shown.stdout).contains("account acc_42"), "{:?}", shown.stdout);
    // A release frees one webhook after the other.
    let released =
        "UPDATE holds SET released_at = now(), released_through = (SELECT max(id::text)::uuid FROM webhooks)";
    site.sql().await.batch_execute(released).await.unwrap();
    let waiting = site.json(&["top"]).await["waiting"].clone();
    assert_eq!(["pending", "due", "held"].map(|name| waiting[name].as_u64().unwrap()), [3, 3, 0]);
}

#[tokio::test]
async fn many_holds_do_not_delay_top() {
    let site = Site::new().await;
    let many = "INSERT INTO holds (id, account_id) SELECT gen_random_uuid(), 'acc_' || n FROM generate_series(1, 5000) n;
        INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
        SELECT gen_random_uuid(), gen_random_uuid(), 1, current_date, gen_random_uuid(), 'event', 0, now()
        FROM generate_series(1, 20000)";
    site.sql().await.batch_execute(many).await.unwrap();
    // Each hold looked at for each webhook would take longer than a statement may.
    let waiting = site.json(&["top"]).await["waiting"].clone();
    assert_eq!([&waiting["pending"], &waiting["held"]], [20_000, 0]);
}

#[tokio::test]
async fn what_a_release_has_freed_is_not_held_any_more() {
    let site = Site::new().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await.id);
    }
    // A release takes them in this order.
    ids.sort();
    park(&site, &ids[0], 3).await;
    park(&site, &ids[1], 4).await;
    let released = "UPDATE holds SET released_at = now(), released_through = $1::text::uuid";
    for what in [&["--account", ACCOUNT][..], &["--all"]] {
        site.json(&[&["webhooks", "hold"], what].concat()).await;
        site.sql().await.execute(released, &[&ids[0]]).await.unwrap();
        let waiting = site.json(&["top"]).await["waiting"].clone();
        assert_eq!(["pending", "due", "held"].map(|name| waiting[name].as_u64().unwrap()), [7, 3, 4], "{what:?}");
        site.sql().await.execute("DELETE FROM holds", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn of_a_large_table_a_sample_is_read_and_the_numbers_are_marked_as_estimated() {
    let site = Site::new().await;
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await.id;
    let rows = 400_000;
    park(&site, &webhook, rows).await;
    let waiting = site.json(&["top"]).await["waiting"].clone();
    assert_eq!(waiting["estimated"], json!(true));
    let estimated = waiting["pending"].as_f64().unwrap() / f64::from(rows);
    assert!((0.8..1.2).contains(&estimated), "{waiting}");
}

#[tokio::test]
async fn top_shows_it_on_a_terminal_until_q_is_pressed() {
    let site = Site::new().await;
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await.id;
    site.sql()
        .await
        .execute("UPDATE webhooks SET failing_since = now() - interval '3 hours', name = E'two\\nlines'", &[])
        .await
        .unwrap();
    park(&site, &webhook, 7).await;
    for (shell, coloured) in [("stty rows 40", true), ("stty rows 40; export NO_COLOR=1", false)] {
        let shown = site.cli_on_terminal(&["top"], 160, shell, "q").await;
        assert_eq!(shown.code, 0, "{}", shown.stdout);
        let text = text_of(&shown.stdout);
        for part in
            ["no process was seen", "Failing", "3 h", "Waiting, by webhook", &webhook, ACCOUNT, "two lines", "q quits"]
        {
            assert!(text.contains(part), "no {part} in {text:?}");
        }
        // Red, as SGR has it (ECMA-48): 38;5;1.
        assert_eq!(shown.stdout.contains("\x1b[38;5;1;"), coloured, "{:?}", shown.stdout);
        // The screen that was there before is back.
        assert!(shown.stdout.contains("\x1b[?1049l"), "{:?}", shown.stdout);
    }
}

#[tokio::test]
async fn a_hangup_ends_top_and_brings_the_screen_back() {
    let site = Site::new().await;
    // The program puts the terminal into this mode when it takes the screen.
    let hang_up = "(until stty -a -F /dev/tty | grep -q -- -icanon; do sleep 0.05; done; kill -HUP $$) &";
    let shown = site.cli_on_terminal(&["top"], 160, &format!("stty rows 40; {hang_up} :"), "").await;
    assert_eq!(shown.code, 129, "{}", shown.stdout);
    assert!(shown.stdout.contains("\x1b[?1049l"), "{:?}", shown.stdout);
    assert!(shown.stdout.contains("stopped by a signal"), "{:?}", shown.stdout);
}

#[tokio::test]
async fn top_ends_when_its_terminal_is_closed() {
    let site = Site::new().await;
    site.cli_on_closed_terminal(&["top"]).await;
}

#[tokio::test]
async fn top_without_a_terminal_says_what_scripts_use() {
    let site = Site::new().await;
    assert_fails(&site.cli(&["top"]).await, 2, &["top --json"]);
    assert_fails(&site.cli(&["top", "--interval", "1ms"]).await, 2, &["500ms to 1m"]);
}

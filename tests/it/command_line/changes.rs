//! Commands that cancel deliveries ask first; a test that failed is an error; a wrong word gets the right one.

use serde_json::json;

use super::{ACCOUNT, TYPE, assert_fails};
use crate::support::*;

/// A webhook for which two deliveries wait.
async fn with_two_that_wait(site: &Site) -> Webhook {
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(503));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    for _ in 0..2 {
        site.publish(ACCOUNT, TYPE, json!({})).await;
    }
    let waiting = "SELECT count(*) FROM pending_deliveries WHERE attempts_made = 1";
    wait_until("two deliveries wait", async || site.count(waiting).await == 2).await;
    drop(worker);
    webhook
}

#[tokio::test]
async fn who_would_cancel_deliveries_is_told_how_many_and_asked() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let webhook = with_two_that_wait(&site).await;
    let off = ["webhooks", "update", &webhook.id, "--active", "false"];
    let delete = ["webhooks", "delete", &webhook.id];
    for command in [&off[..], &delete] {
        for typed in ["n\n", "\n"] {
            let refused = site.cli_on_terminal(command, 120, "true", typed).await;
            assert_eq!(refused.code, 1, "{}", refused.stdout);
            for said in ["2 deliveries", "[y/N]", "nothing was done"] {
                assert!(refused.stdout.contains(said), "no {said}: {}", refused.stdout);
            }
        }
    }
    assert_eq!(site.webhook(&webhook.id).await["active"], json!(true));
    let done = site.cli_on_terminal(&[&off[..], &["--yes"]].concat(), 120, "true", "").await;
    assert!(done.code == 0 && !done.stdout.contains("[y/N]"), "{}", done.stdout);
    // A script has no terminal and goes on, as it always did.
    let scripted = site.cli(&delete).await;
    assert!(scripted.code == 0 && scripted.stderr.contains("2 deliveries"), "{scripted:?}");
    assert_fails(&site.cli(&["webhooks", "show", &webhook.id]).await, 1, &["there is no webhook"]);
}

#[tokio::test]
async fn a_yes_on_the_terminal_deletes() {
    let site = Site::new().await;
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &[TYPE]).await;
    let deleted = site.cli_on_terminal(&["webhooks", "delete", &webhook.id], 120, "true", "y\n").await;
    assert!(deleted.code == 0 && deleted.stdout.contains("0 deliveries"), "{}", deleted.stdout);
    assert_fails(&site.cli(&["webhooks", "show", &webhook.id]).await, 1, &["there is no webhook"]);
}

#[tokio::test]
async fn a_test_that_the_receiver_did_not_take_ends_with_1() {
    let site = Site::new().await;
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let test = ["webhooks", "test", &webhook.id];
    assert_eq!(site.cli(&test).await.code, 0);
    receiver.always(Reply::body(404, "no such page"));
    let failed = site.cli(&test).await;
    assert!(failed.code == 1 && failed.stderr.contains("error: the receiver did not take the test"), "{failed:?}");
    for shown in ["404", "no such page"] {
        assert!(failed.stdout.contains(shown), "no {shown} in:\n{}", failed.stdout);
    }
    // The page's test of tests asks for the same two sentences.
    for advice in
        ["The receiver answered 404 instead of a 2xx status.", "There is nothing at this path: check the URL."]
    {
        assert!(failed.stderr.contains(advice), "{}", failed.stderr);
    }
    let failed = site.cli(&[&test[..], &["--json"]].concat()).await;
    let document: serde_json::Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!((failed.code, &document["http_status"]), (1, &json!(404)));
}

#[tokio::test]
async fn a_test_carries_the_data_that_the_operator_gives_as_it_is_written() {
    let site = Site::new().await;
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let test = ["webhooks", "test", &webhook.id, "--data"];
    let data = r#"{"price": 1.0, "name":"\u00fc"}"#;
    std::fs::write(site.folder().join("data.json"), data).unwrap();
    for argument in [data, "@data.json"] {
        assert_eq!(site.cli(&[&test[..], &[argument]].concat()).await.code, 0);
        let body = String::from_utf8(receiver.next().await.body.clone()).unwrap();
        assert!(body.contains(&format!(r#""data":{data}"#)), "{body}");
    }
    let large = format!("\"{}\"", "a".repeat(61_440));
    for (wrong, said) in [("{", "must be JSON"), ("@nowhere.json", "cannot be read"), (&large, "at most 61440 bytes")] {
        assert_fails(&site.cli(&[&test[..], &[wrong]].concat()).await, 2, &["--data", said]);
    }
    assert_eq!(receiver.count(), 2);
}

#[tokio::test]
async fn a_wrong_word_gets_the_nearest_right_one() {
    let site = Site::new().await;
    let create = ["webhooks", "create", "--account", ACCOUNT, "--name", "n", "--url", "https://hooks.example.com/"];
    let cases: [(Vec<&str>, &str); 4] = [
        ([&create[..], &["--events", "content.publish"]].concat(), "did you mean `content.published`?"),
        (vec!["publish", "--account", ACCOUNT, "--type", "site.conected"], "did you mean `site.connected`?"),
        (vec!["webhook", "list"], "did you mean `webhooks`?"),
        (vec!["webhooks", "list", "--acount", ACCOUNT], "did you mean `--account`?"),
    ];
    for (command, said) in cases {
        assert_fails(&site.cli(&command).await, 2, &[said]);
    }
}

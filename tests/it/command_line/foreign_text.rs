//! What receivers and publishers wrote is printed so that it can neither pass for a line of ours nor steer a terminal.

use serde_json::{Value, json};

use super::{ACCOUNT, TYPE};
use crate::support::*;

#[tokio::test]
async fn an_answer_of_several_lines_cannot_pass_for_lines_of_the_command() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let forged = "ok\n\nrequest headers of the last attempt:\r\nX-Webhook-Signature: FAKE\rpayload:";
    receiver.always(Reply::body(500, forged));
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the attempt is in the log", async || site.log(&webhook.id).await.len() == 1).await;
    let delivery = site.log(&webhook.id).await[0]["delivery_id"].as_str().unwrap().to_owned();
    let marked =
        "\nanswer:\n  | ok\n  | \n  | request headers of the last attempt:\n  | X-Webhook-Signature: FAKE payload:\n";
    let shown = site.cli(&["webhooks", "delivery", &webhook.id, &delivery]).await.stdout;
    assert!(shown.contains(marked), "{shown}");
    let starting = |start: &str| shown.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!([starting("request headers of"), starting("payload:")], [1, 1], "{shown}");
    let tested = site.cli(&["webhooks", "test", &webhook.id]).await;
    assert!(tested.code == 1 && tested.stdout.ends_with(marked), "{tested:?}");
}

#[tokio::test]
async fn json_holds_no_character_that_steers_a_terminal() {
    let site = Site::new().await;
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    let steering = "\u{7f}\u{9b}31m\u{85}\u{202e}\u{2066}\u{200f}\u{61c}é😀";
    site.publish(ACCOUNT, TYPE, json!({ "text": steering })).await;
    receiver.wait_for(1).await;
    wait_until("the attempt is in the log", async || site.log(&webhook.id).await.len() == 1).await;
    let delivery = site.log(&webhook.id).await[0]["delivery_id"].as_str().unwrap().to_owned();
    let dead = site.message(format!("no event: {steering}")).into_queue(site.dead_queue());
    assert_eq!(site.publish_message(&dead).await, Fate::Confirmed);
    let shown = async |arguments: &[&str]| {
        let shown = site.cli(&[arguments, &["--json"]].concat()).await.stdout;
        let line = shown.strip_suffix('\n').unwrap();
        let steers = |char: char| char.is_control() || "\u{202e}\u{2066}\u{200f}\u{61c}".contains(char);
        assert!(!line.contains(steers) && line.contains("\\u009b") && line.contains("é😀"), "{line:?}");
        serde_json::from_str::<Value>(line).unwrap()
    };
    let whole = shown(&["webhooks", "delivery", &webhook.id, &delivery]).await;
    assert_eq!(whole["payload"].as_str().unwrap().as_bytes(), receiver.requests()[0].body);
    let letters = shown(&["dead-letters", "list", "--show"]).await;
    assert_eq!(letters["data"][0]["payload"], format!("no event: {steering}"));
}

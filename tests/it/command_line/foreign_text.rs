//! What receivers and publishers wrote is printed so that it can neither pass for a line of ours nor steer a terminal.

use serde_json::json;

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

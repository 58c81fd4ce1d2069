//! Other people's tools accept the API's description, and a client that one of them makes works.

use std::path::Path;

use tokio::process::Command;

use crate::support::*;

fn script() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/openapi"));
    command.kill_on_drop(true);
    command
}

async fn succeeds(command: &mut Command) {
    let output = command.output().await.expect("the script runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn the_description_is_valid_and_its_examples_fit() {
    let description = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    succeeds(script().arg("check").arg(description)).await;
}

#[tokio::test]
async fn a_generated_client_can_use_every_operation() {
    let site = Site::new().await;
    let (receiver, webhook) = site.subscriber("acc_1", &["content.published"]).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.published", serde_json::json!({})).await;
    wait_until("it is in the log", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    let api = site.api().await;
    let folder = tempfile::tempdir().unwrap();
    let description = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let mut command = script();
    command.arg("client").arg(description).arg(folder.path());
    command.env("PENR_URL", format!("http://{}", api.address)).env("PENR_TOKEN", api.customer("acc_1").token);
    command.env("PENR_WEBHOOK", &webhook.id).env("PENR_RECEIVER", receiver.url());
    succeeds(&mut command).await;
}

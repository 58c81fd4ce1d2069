//! schemathesis makes requests from the description: every answer must be one that the description has.

use std::path::Path;

use tokio::process::Command;

use crate::support::*;

/// Runs schemathesis against a server of its own; `examples` are per operation. A run with a seed makes the same requests each
/// time.
pub async fn run(examples: u32, seed: Option<u32>) {
    let site = Site::new().await.set("api.max_webhooks", "100000").set("sender.timeout", "300ms");
    let receiver = Receiver::start().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    customer.create_at(&receiver.url()).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/schemathesis");
    let mut command = Command::new(script);
    command
        .arg(format!("http://{}/v1/openapi.json", api.address))
        .args(["--max-examples", &examples.to_string()])
        .args(seed.map(|seed| format!("--seed={seed}")))
        .env("PENR_TOKEN", &customer.token)
        .current_dir(site.folder())
        .kill_on_drop(true);
    let output = command.output().await.expect("the script runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn no_generated_request_gets_an_answer_that_is_not_described() {
    run(30, Some(1)).await;
}

//! Name servers that do not answer cost webhooks behind names their attempts, and nobody else anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

const ACCOUNT: &str = "acc_named";
const TYPE: &str = "content.created";

#[tokio::test]
async fn name_servers_that_are_down_for_a_while_delay_only_those_behind_names() {
    let down = Arc::new(AtomicBool::new(true));
    let silent = down.clone();
    let names = NameServer::start(move |_, _| match silent.load(Ordering::SeqCst) {
        true => Says::silence(),
        false => Says::addresses(&["127.0.0.1"]),
    })
    .await;
    let schedule = format!("[{}]", ["\"300ms\""; 40].join(","));
    let site = Site::new().await.set("sender.dns_servers", &format!("[\"{}\"]", names.address()));
    let site =
        site.set("sender.dns_timeout", "200ms").set("worker.max_in_flight", "5").set("retry.schedule", &schedule);
    let site = site.set("worker.probe_after", "1000");
    let ledger = Ledger::open(site).await;
    let receiver = Receiver::start().await;
    let url = format!("http://hooks.example.com:{}/hook", receiver.address().port());
    let named = ledger.site.create_webhook(ACCOUNT, &url, &[TYPE]).await;
    let worker = ledger.site.worker().await;
    ledger.site.publish_many(20, ACCOUNT, TYPE, serde_json::json!({})).await;
    let attempts = ledger.site.wait_for_attempts(&named, 20).await;
    assert!(attempts.iter().all(|attempt| attempt.verdict() == "dns"), "{attempts:?}");
    ledger.publish(50).await;
    ledger.receiver.wait_for(50).await;
    assert_eq!(receiver.count(), 0);
    down.store(false, Ordering::SeqCst);
    receiver.wait_for(20).await;
    ledger.wait_for_count("SELECT count(*) FROM pending_deliveries", 0).await;
    assert_eq!(receiver.count(), 20);
    drop(worker);
}

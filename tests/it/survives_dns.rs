//! While the name servers do not answer, deliveries to names wait, and no delivery loses an attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::*;

const ACCOUNT: &str = "acc_named";
const TYPE: &str = "content.created";

#[tokio::test]
async fn name_servers_that_are_down_for_a_while_delay_only_those_behind_names() {
    let down = Arc::new(AtomicBool::new(true));
    let silent = down.clone();
    let names = NameServer::start(move |name, _| match silent.load(Ordering::SeqCst) {
        true => Says::silence(),
        // The name servers of this zone never answer.
        false if name.starts_with("broken") => Says::silence(),
        false => Says::addresses(&["127.0.0.1"]),
    })
    .await;
    let site = Site::new().await.set("sender.dns_servers", &format!("[\"{}\"]", names.address()));
    let site = site
        .set("sender.dns_timeout", "1s")
        .set("sender.timeout", "10s")
        .set("worker.lease", "30s")
        .set("worker.max_in_flight", "5");
    let site = site.set("retry.schedule", r#"["1h"]"#).set("retry.internal_delay", "300ms");
    let ledger = Ledger::open(site).await;
    let receiver = Receiver::start().await;
    let port = receiver.address().port();
    let named = ledger.site.create_webhook(ACCOUNT, &format!("http://hooks.example.com:{port}/hook"), &[TYPE]).await;
    let mut worker = ledger.site.worker().await;
    ledger.site.publish_many(20, ACCOUNT, TYPE, serde_json::json!({})).await;
    let attempts = ledger.site.wait_for_attempts(&named, 20).await;
    assert!(attempts.iter().all(|attempt| attempt.verdict() == "internal"), "{attempts:?}");
    worker.wait_for_log("no name server answers or can be asked").await;
    ledger.publish(50).await;
    ledger.receiver.wait_for(50).await;
    assert_eq!(receiver.count(), 0);
    down.store(false, Ordering::SeqCst);
    receiver.wait_for(20).await;
    ledger.wait_for_count("SELECT count(*) FROM pending_deliveries", 0).await;
    assert_eq!(receiver.count(), 20);
    assert!(receiver.requests().iter().all(|request| request.attempt() == 1), "it cost a delivery an attempt");
    let failed = format!("SELECT count(*) FROM webhooks WHERE id = '{}' AND failing_since IS NOT NULL", named.id);
    assert_eq!(ledger.site.count(&failed).await, 0);

    let broken =
        ledger.site.create_webhook("acc_broken", &format!("http://broken.example.com:{port}/hook"), &[TYPE]).await;
    ledger.site.publish("acc_broken", TYPE, 1.into()).await;
    // Not at once: a lookup that fails just after the name servers were silent counts as our own failure.
    let blamed = format!("SELECT count(*) FROM attempts WHERE webhook_id::text = '{}' AND error = 'dns'", broken.id);
    ledger.wait_for_count(&blamed, 1).await;
    drop(worker);
}

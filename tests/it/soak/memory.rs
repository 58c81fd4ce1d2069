//! A burst of large events: the memory that it took is given back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

const EVENTS: usize = 5_000;
const BYTES: usize = 200 * 1024;
const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

const QUIET: Duration = Duration::from_secs(180);
const SAMPLE: Duration = Duration::from_secs(10);

#[tokio::test]
#[ignore = "takes minutes"]
async fn three_minutes_after_a_burst_of_large_events_a_worker_is_about_as_small_as_before() {
    // A busy machine answers late.
    let site = Site::new().await.set("sender.timeout", "60s").set("worker.lease", "10m");
    let receiver = Receiver::start().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(1).await;
    let idle = worker.memory_kib();
    let data = json!({ "text": "x".repeat(BYTES) });
    let began = Instant::now();
    site.publish_many(EVENTS, ACCOUNT, TYPE, data).await;
    let delivered = "SELECT count(DISTINCT delivery_id) FROM attempts WHERE error IS NULL";
    let drained = async || site.count(delivered).await == EVENTS as i64 + 1;
    while !drained().await {
        assert!(began.elapsed() < Duration::from_secs(600), "the burst is not drained");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (took, drained, mut sizes) = (began.elapsed(), Instant::now(), Vec::new());
    while drained.elapsed() < QUIET {
        sizes.push(worker.memory_kib() / 1024);
        tokio::time::sleep(SAMPLE).await;
    }
    let (peak, left) = (worker.peak_memory_kib(), worker.memory_kib());
    println!(
        "soak memory: {} MiB idle, {} MiB at most, drained after {took:.1?}, then every 10 s {sizes:?} MiB",
        idle / 1024,
        peak / 1024
    );
    assert!(left <= idle * 3 / 2 + 20 * 1024, "{left} KiB are left, idle it had {idle}");
}

//! What the log's newest columns cost a success in PostgreSQL's write-ahead log.

use serde_json::json;

use crate::support::*;

const EVENTS: usize = 4_000;
const TYPE: &str = "content.created";
const DELIVERED: &str = "SELECT count(*) FROM attempts WHERE error IS NULL";

#[tokio::test]
#[ignore = "takes a minute, and measures best alone"]
async fn a_success_without_a_kept_header_writes_two_percent_more_at_most_than_before_the_causes() {
    let site = Site::new().await;
    let with = per_success(&site).await;
    let site = Site::new().await;
    let before = "ALTER TABLE attempts DROP COLUMN signed_at, DROP COLUMN error_detail, DROP COLUMN response_headers,
        DROP COLUMN response_truncated";
    site.sql().await.batch_execute(before).await.unwrap();
    let without = per_success(&site).await;
    println!(
        "soak wal: {with:.1} bytes per success, {without:.1} before the causes: {:+.2} %",
        (with / without - 1.0) * 100.0
    );
    assert!(with <= without * 1.02);
}

/// Bytes of the write-ahead log for each of many successes.
async fn per_success(site: &Site) -> f64 {
    let receiver = Receiver::start().await;
    site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    // Makes the first pages of tables and indexes, whose images are written whole.
    deliver(site, EVENTS / 4).await;
    let before = written(site).await;
    deliver(site, EVENTS).await;
    (written(site).await - before) as f64 / EVENTS as f64
}

async fn deliver(site: &Site, events: usize) {
    let all = site.count(DELIVERED).await + events as i64;
    site.publish_many(events, "acc_1", TYPE, json!({ "text": "x".repeat(300) })).await;
    wait_until("all are delivered", async || site.count(DELIVERED).await == all).await;
}

async fn written(site: &Site) -> i64 {
    site.count("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").await
}

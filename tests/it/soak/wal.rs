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
    let more = with.rows - without.rows;
    let share = more / without.all * 100.0;
    println!(
        "soak wal: {:.1} bytes per success, {:.1} before the causes; of these {:.1} and {:.1} for the new rows of the log: {share:+.2} %",
        with.all, without.all, with.rows, without.rows
    );
    assert!(more > 0.0, "the columns that were dropped take no space at all");
    assert!(share <= 2.0);
}

/// Bytes of the write-ahead log for each success.
struct PerSuccess {
    /// Differs by a tenth between two runs: how many results share one transaction depends on how fast they come.
    all: f64,
    /// For the new rows of the log, without its indexes: the only part that the columns change.
    rows: f64,
}

async fn per_success(site: &Site) -> PerSuccess {
    let receiver = Receiver::start().await;
    site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    // Makes the first pages of tables and indexes, whose images are written whole.
    deliver(site, EVENTS / 4).await;
    let sql = site.sql().await;
    sql.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect SCHEMA public").await.unwrap();
    let position = async || {
        let row = sql.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
        row.get::<_, String>(0)
    };
    let start = position().await;
    deliver(site, EVENTS).await;
    let end = position().await;
    // A block's reference is like "blkref #0: rel 1663/16386/16400 blk 7".
    let written = format!(
        "WITH files AS (
            SELECT format('rel %s/%s/%s ', CASE reltablespace WHEN 0 THEN 1663 ELSE reltablespace END, d.oid,
                pg_relation_filenode(c.oid)) AS file
            FROM pg_class c CROSS JOIN pg_database d
            WHERE d.datname = current_database() AND c.relispartition AND c.relkind = 'r' AND c.relname LIKE 'attempts%'
        )
        SELECT sum(record_length)::float8, sum(record_length) FILTER (
            WHERE resource_manager LIKE 'Heap%' AND record_type LIKE '%INSERT%'
                AND EXISTS (SELECT FROM files WHERE strpos(block_ref, file) > 0)
        )::float8
        FROM public.pg_get_wal_records_info('{start}', '{end}')"
    );
    let row = sql.query_one(&written, &[]).await.unwrap();
    PerSuccess { all: row.get::<_, f64>(0) / EVENTS as f64, rows: row.get::<_, f64>(1) / EVENTS as f64 }
}

async fn deliver(site: &Site, events: usize) {
    let all = site.count(DELIVERED).await + events as i64;
    site.publish_many(events, "acc_1", TYPE, json!({ "text": "x".repeat(300) })).await;
    wait_until("all are delivered", async || site.count(DELIVERED).await == all).await;
}

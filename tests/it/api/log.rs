//! Customers see every attempt, filter and page through the log, and send deliveries again.

use serde_json::{Value, json};

use crate::support::api::assert_problem;
use crate::support::older_schema::back_to;
use crate::support::*;

/// Inserts attempts of a webhook, one for each second back in time. Every third failed, every fifth has another type.
async fn fill(site: &Site, path: &str, count: i32) {
    let id = path.rsplit('/').next().unwrap();
    let insert =
        "INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger,
            attempt, http_status, duration_ms, error, response_snippet, created_at, next_attempt_at)
        SELECT gen_random_uuid(), $1::text::uuid, gen_random_uuid(), current_date, gen_random_uuid(), 'evt_' || n,
            CASE WHEN n % 5 = 0 THEN 'site.connected' ELSE 'content.created' END, 'event', 1,
            CASE WHEN n % 3 = 0 THEN 500 ELSE 200 END, n, CASE WHEN n % 3 = 0 THEN 'http_status' END, NULL,
            now() - n * interval '1 second', NULL
        FROM generate_series(1, $2::integer) n";
    site.sql().await.execute(insert, &[&id, &count]).await.unwrap();
}

/// Has deliveries of a webhook wait.
async fn park(site: &Site, path: &str, count: i32) {
    let id = path.rsplit('/').next().unwrap();
    let insert = "INSERT INTO pending_deliveries
            (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
        SELECT gen_random_uuid(), $1::text::uuid, 1, current_date, gen_random_uuid(), 'retry', 1, now()
        FROM generate_series(1, $2::integer)";
    site.sql().await.execute(insert, &[&id, &count]).await.unwrap();
}

/// All pages of a list.
async fn all(customer: &Customer, path: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = customer.get(&format!("{path}{cursor}")).await.json();
        rows.extend(page["data"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next_cursor"].as_str() else { return rows };
        cursor = format!("&cursor={next}");
    }
}

fn numbers(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["event_id"].as_str().unwrap()[4..].parse().unwrap()).collect()
}

#[tokio::test]
async fn the_log_is_paged_and_filtered_without_losing_or_doubling_a_row() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    fill(&site, &path, 95).await;
    let log = format!("{path}/deliveries");
    let wanted = |keep: fn(i64) -> bool| (1..=95).filter(|n| keep(*n)).collect::<Vec<i64>>();
    assert_eq!(customer.get(&log).await.json()["data"].as_array().unwrap().len(), 10);
    for (query, keep) in [
        ("limit=7", (|_| true) as fn(i64) -> bool),
        ("limit=95", |_| true),
        ("limit=5&status=failed", |n| n % 3 == 0),
        ("limit=9&status=success", |n| n % 3 != 0),
        ("limit=4&event_type=site.connected", |n| n % 5 == 0),
        ("limit=2&event_type=site.connected&status=failed", |n| n % 15 == 0),
        ("limit=2&event_type=keyword.created", |_| false),
    ] {
        assert_eq!(numbers(&all(&customer, &format!("{log}?{query}")).await), wanted(keep), "{query}");
    }
    let row = customer.get(&format!("{log}?limit=1")).await.json()["data"][0].clone();
    let of_one = format!("{log}?delivery_id={}", row["delivery_id"].as_str().unwrap());
    assert_eq!(customer.get(&of_one).await.json(), json!({ "data": [row], "next_cursor": null }));
}

#[tokio::test]
async fn a_filter_that_finds_little_in_a_long_log_goes_on_page_by_page() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    fill(&site, &path, 12_000).await;
    site.sql()
        .await
        .execute("UPDATE attempts SET event_type = 'keyword.created' WHERE event_id = 'evt_11999'", &[])
        .await
        .unwrap();
    let found = all(&customer, &format!("{path}/deliveries?event_type=keyword.created")).await;
    assert_eq!(numbers(&found), [11_999]);
}

#[tokio::test]
async fn activity_and_stats_tell_what_the_log_tells() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let (busy, idle) =
        (customer.create_at("http://127.0.0.1:9999/").await, customer.create_at("http://127.0.0.1:9999/").await);
    fill(&site, &busy, 90).await;
    park(&site, &busy, 1500).await;
    let list = customer.get("/v1/webhooks?include=activity").await.json();
    let (first, second) = (&list["data"][0]["activity"], &list["data"][1]["activity"]);
    assert_eq!((&first["last_status"], &first["waiting"]), (&"success".into(), &1000.into()));
    assert!(first["last_attempt_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&second["last_status"], &second["waiting"]), (&json!(null), &json!(0)));
    assert!(customer.get("/v1/webhooks").await.json()["data"][0].get("activity").is_none());
    let one = customer.get(&format!("{busy}?include=activity")).await.json()["activity"].clone();
    assert_eq!((&one["last_attempt_at"], &one["waiting"]), (&first["last_attempt_at"], &1500.into()));
    for (window, seconds, buckets) in [("1h", 300, 12), ("24h", 3600, 24), ("7d", 21600, 28)] {
        let stats = customer.get(&format!("{busy}/stats?window={window}")).await.json();
        assert_eq!((&stats["window"], &stats["bucket_seconds"]), (&window.into(), &seconds.into()));
        let data = stats["data"].as_array().unwrap();
        assert_eq!(data.len(), buckets);
        let sum = |name: &str| data.iter().map(|bucket| bucket[name].as_i64().unwrap()).sum::<i64>();
        assert_eq!((sum("succeeded"), sum("failed")), (60, 30));
        let starts: Vec<&str> = data.iter().map(|bucket| bucket["start"].as_str().unwrap()).collect();
        assert!(starts.is_sorted());
        let newest = data.iter().rfind(|bucket| bucket["p50_ms"].is_i64()).unwrap();
        assert!(newest["p50_ms"].as_i64() <= newest["p99_ms"].as_i64() && newest["estimated"] == false);
    }
    let empty = customer.get(&format!("{idle}/stats")).await.json();
    assert!(empty["data"].as_array().unwrap().iter().all(|bucket| bucket["p50_ms"].is_null() && bucket["failed"] == 0));
}

#[tokio::test]
async fn what_waits_for_one_webhook_is_counted_by_its_index_up_to_a_bound_also_in_an_older_schema() {
    let site = Site::new().await;
    site.sql().await.batch_execute(&back_to(15)).await.unwrap();
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_plain_at("http://127.0.0.1:9999/").await;
    park(&site, &path, 120_000).await;
    site.sql().await.batch_execute("VACUUM ANALYZE pending_deliveries").await.unwrap();
    let whole = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'pending_deliveries'";
    let by_index = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'pending_deliveries_by_webhook'";
    let of_table = "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'pending_deliveries'";
    let (whole_before, of_table_before) = (site.count(whole).await, site.count(of_table).await);
    assert_eq!(customer.get(&format!("{path}?include=activity")).await.json()["activity"]["waiting"], 100_000);
    // Postgres publishes its statistics with a delay, and all of a session at once.
    wait_until("reading was counted", async || {
        customer.get(&path).await;
        site.count(by_index).await >= 100_000
    })
    .await;
    assert_eq!(site.count(by_index).await, 100_000);
    assert_eq!((site.count(whole).await, site.count(of_table).await), (whole_before, of_table_before));
}

#[tokio::test]
async fn a_busy_bucket_counts_its_newest_attempts_and_says_that_there_may_be_more() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    // Two hours of attempts: the last bucket but one, an hour, is full of them.
    fill(&site, &path, 7200).await;
    let stats = customer.get(&format!("{path}/stats")).await.json();
    let whole = &stats["data"][22];
    let attempts = whole["succeeded"].as_i64().unwrap() + whole["failed"].as_i64().unwrap();
    assert_eq!(whole["estimated"], true);
    assert_eq!(attempts, 2000, "{whole}");
}

#[tokio::test]
async fn what_failed_is_sent_again_one_by_one_or_all_since_a_time() {
    let site = Site::new().await.set("retry.schedule", "[]").set("recover.rate", "1000");
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(500));
    let api = site.api().await;
    let _worker = site.worker().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    site.json(&["publish", "--account", "acc_1", "--type", "content.created", "--count", "5"]).await;
    wait_until("all are closed", async || site.count("SELECT count(*) FROM closed_deliveries").await == 5).await;
    receiver.always(Reply::status(200));
    let row = customer.get(&format!("{path}/deliveries?limit=1")).await.json()["data"][0].clone();
    let delivery = row["delivery_id"].as_str().unwrap();
    let resent = customer.ask("POST", &format!("{path}/deliveries/{delivery}/resend"), &[], b"").await;
    assert_eq!((resent.status, resent.json()), (202, json!({ "delivery_id": delivery })));
    receiver.wait_for(6).await;
    wait_until("the delivery that was resent is done", async || {
        site.count("SELECT count(*) FROM closed_deliveries").await == 4
    })
    .await;
    let recover = async |since: &str| customer.post(&format!("{path}/recover"), &json!({ "since": since })).await;
    for later in ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2999-01-01t00:00:00.0123456789+05:30"] {
        assert_eq!(recover(later).await.json(), json!({ "recovering": 0 }), "{later}");
    }
    let recovering = recover("2026-01-01T00:00:00Z").await;
    assert_eq!((recovering.status, recovering.json()), (202, json!({ "recovering": 4 })));
    receiver.wait_for(10).await;
    wait_until("all are done", async || {
        site.count(
            "SELECT (SELECT count(*) FROM closed_deliveries) + (SELECT count(*) FROM pending_deliveries)
            + (SELECT count(*) FROM recoveries)",
        )
        .await
            == 0
    })
    .await;
    customer.patch(&path, &json!({ "active": false })).await;
    assert_problem(&recover("2026-01-01T00:00:00Z").await, 409, "inactive-webhook");
}

#[tokio::test]
async fn a_recovery_that_was_asked_for_outlives_the_process() {
    let site = Site::new().await.set("retry.schedule", "[]");
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(500));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let worker = site.worker().await;
    site.json(&["publish", "--account", "acc_1", "--type", "content.created", "--count", "3"]).await;
    wait_until("all are closed", async || site.count("SELECT count(*) FROM closed_deliveries").await == 3).await;
    drop(worker);
    // The state after a process that ended between its answer and its work.
    let ask = "INSERT INTO recoveries SELECT id, now() - interval '1 hour', now() FROM webhooks WHERE id::text = $1";
    site.sql().await.execute(ask, &[&webhook.id]).await.unwrap();
    let _api = site.api().await;
    wait_until("the closed deliveries are pending again", async || {
        site.count("SELECT count(*) FROM pending_deliveries").await == 3
    })
    .await;
    wait_until("the row of the recovery is deleted", async || site.count("SELECT count(*) FROM recoveries").await == 0)
        .await;
}

#[tokio::test]
async fn a_webhook_with_a_long_queue_is_deleted_at_once() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("http://127.0.0.1:9999/").await;
    let id = path.rsplit('/').next().unwrap();
    let park = "INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
        SELECT gen_random_uuid(), $1::text::uuid, 1, current_date, gen_random_uuid(), 'retry', 1, now() FROM generate_series(1, 10000)";
    site.sql().await.execute(park, &[&id]).await.unwrap();
    assert_eq!(customer.delete(&path).await.status, 204);
    // Closing them all would take long: that is left to the workers.
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 10_000);
}

//! Events that the broker delivers again are checked against the deliveries recorded before. No other event waits for that.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::support::*;

const TYPE: &str = "content.created";
const WEBHOOKS: i32 = 100;
const EVENTS: usize = 20;

/// A message that counts as delivered before, as one that a worker had in hand when it was killed.
fn redelivered(site: &Site, id: &str, account: &str) -> Message {
    site.event(id, account, TYPE, &json!({})).with_header("x-requeued", "true")
}

/// Adds `WEBHOOKS` webhooks to the account, at an address where nothing listens.
async fn more_webhooks(site: &Site, account: &str) {
    let more = format!(
        "INSERT INTO webhooks (id, account_id, name, url, event_types, secret)
         SELECT gen_random_uuid(), account_id, name, 'http://127.0.0.1:9999/', event_types, secret
         FROM webhooks, generate_series(1, {WEBHOOKS}) WHERE account_id = '{account}'"
    );
    site.sql().await.batch_execute(&more).await.unwrap();
}

/// Closes every delivery of these events except those to `webhook`.
async fn close_but_for(site: &Site, events: &[String], webhook: &Webhook) {
    let others = "SELECT id FROM webhooks WHERE account_id = $1 AND id <> $2";
    let own: Uuid = webhook.id.parse().unwrap();
    let rows = site.sql().await.query(others, &[&webhook.account, &own]).await.unwrap();
    let others: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let of = |event: &String| others.iter().map(|id| Uuid::new_v5(id, event.as_bytes())).collect::<Vec<_>>();
    let done: Vec<Uuid> = events.iter().flat_map(of).collect();
    let close = "INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
                 SELECT id, $2, now()::date, id, 'exhausted', 1 FROM unnest($1::uuid[]) AS id";
    site.sql().await.execute(close, &[&done, &own]).await.unwrap();
}

/// Makes each read of a closed delivery take so many seconds, as on a busy disk.
async fn slow_down(site: &Site, seconds: f64) {
    let slow = format!(
        "CREATE FUNCTION slow() RETURNS boolean COST 1000000 LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep({seconds}); RETURN true; END';
         ALTER TABLE closed_deliveries RENAME TO closed;
         CREATE VIEW closed_deliveries AS SELECT * FROM closed WHERE slow()"
    );
    site.sql().await.batch_execute(&slow).await.unwrap();
}

/// A worker that gives messages back after a second without the database, and reaches the broker through a proxy.
async fn behind_a_proxy(site: &Site) -> (Replica, Proxy) {
    let proxy = Proxy::to(site.amqp_address()).await;
    let worker = site.launch(&["worker"]).set("worker.give_back_after", "1s").set("database.statement_timeout", "1s");
    (worker.env("AMQP_URL", &site.amqp_url_through(&proxy.addr())).start_worker().await, proxy)
}

fn new_ids(count: usize) -> Vec<String> {
    (0..count).map(|_| format!("evt_{}", Uuid::new_v4().simple())).collect()
}

#[tokio::test]
async fn a_check_that_is_too_large_for_one_statement_goes_on_in_parts_and_holds_up_nobody() {
    let site = Site::new().await;
    let (many, one) = (Receiver::start().await, Receiver::start().await);
    // This worker declares the queue.
    site.worker().await.kill9();
    let webhook = site.create_webhook("acc_many", &many.url(), &[TYPE]).await;
    site.create_webhook("acc_one", &one.url(), &[TYPE]).await;
    more_webhooks(&site, "acc_many").await;
    let events = new_ids(EVENTS);
    close_but_for(&site, &events, &webhook).await;
    slow_down(&site, 0.0005).await;
    for event in &events {
        site.publish_message(&redelivered(&site, event, "acc_many")).await;
    }
    site.publish_message(&redelivered(&site, "evt_redelivered", "acc_one")).await;
    site.publish("acc_one", TYPE, json!({})).await;

    let mut worker = site.launch(&["worker"]).set("database.statement_timeout", "1s").start_worker().await;
    within("another account's events arrive", Duration::from_secs(30), one.wait_for(2)).await;
    many.wait_for(EVENTS).await;
    let all = i64::try_from(EVENTS).unwrap() + 2;
    wait_until("all is recorded", async || site.count("SELECT count(*) FROM attempts").await == all).await;
    worker.terminate();
    assert!(worker.wait().await.success());
    assert_eq!((many.count(), one.count()), (EVENTS, 2));
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 0);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
}

#[tokio::test]
async fn a_check_whose_messages_went_back_meanwhile_does_not_hold_up_the_worker() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    site.worker().await.kill9();
    let webhook = site.create_webhook("acc_many", &receiver.url(), &[TYPE]).await;
    site.create_webhook("acc_one", &receiver.url(), &[TYPE]).await;
    more_webhooks(&site, "acc_many").await;
    let events = new_ids(2);
    close_but_for(&site, &events, &webhook).await;
    slow_down(&site, 0.02).await;
    for event in &events {
        site.publish_message(&redelivered(&site, event, "acc_many")).await;
    }
    let (mut worker, proxy) = behind_a_proxy(&site).await;
    let asking = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    wait_until("the worker reads what was recorded before", async || site.count(asking).await > 0).await;
    proxy.refuse(true).await;
    proxy.cut().await;
    wait_until("the broker has them", async || site.queue_depth(site.worker_queue()).await == 2).await;
    // Takes the messages, so that no worker gets them again.
    while site.take_delivery_count().await.is_some() {}
    worker.wait_for_log("cannot check what was handed out again").await;
    worker.wait_for_log_times("lost the broker", 5).await;
    proxy.refuse(false).await;
    site.publish("acc_one", TYPE, json!({})).await;
    within("a fresh event arrives", Duration::from_secs(30), receiver.wait_for(1)).await;
    assert!(!worker.log().contains("goes back"));
}

#[tokio::test]
async fn a_message_that_cannot_be_checked_holds_up_only_itself_however_often_it_is_handed_out() {
    let site = Site::new().await.set("worker.prefetch", "2").set("worker.batch", "2");
    let receiver = Receiver::start().await;
    site.worker().await.kill9();
    site.create_webhook("acc_one", &receiver.url(), &[TYPE]).await;
    let past = "
        CREATE TABLE long_past PARTITION OF attempts
        FOR VALUES FROM (date_trunc('day', now()) - interval '9 days') TO (date_trunc('day', now()) - interval '8 days')";
    site.sql().await.batch_execute(past).await.unwrap();
    let holder = site.another_sql().await;
    holder.batch_execute("BEGIN; LOCK TABLE long_past IN ACCESS EXCLUSIVE MODE").await.unwrap();
    site.publish_message(&redelivered(&site, "evt_redelivered", "acc_one")).await;
    let (mut worker, proxy) = behind_a_proxy(&site).await;
    for lives in 1..=6 {
        worker.wait_for_log_times("consumer attached", lives).await;
        wait_until("it is in hand", async || site.queue_depth(site.worker_queue()).await == 0).await;
        proxy.cut().await;
    }
    worker.wait_for_log_times("cannot check what was handed out again", 3).await;
    site.publish_many(5, "acc_one", TYPE, json!({})).await;
    within("fresh events arrive", Duration::from_secs(30), receiver.wait_for(5)).await;
    assert!(!worker.log().contains("goes back"));
    holder.batch_execute("ROLLBACK").await.unwrap();
    receiver.wait_for(6).await;
    wait_until("all is recorded", async || site.count("SELECT count(*) FROM attempts").await == 6).await;
    worker.terminate();
    assert!(worker.wait().await.success());
    assert_eq!((receiver.count(), site.queue_depth(site.worker_queue()).await), (6, 0));
}

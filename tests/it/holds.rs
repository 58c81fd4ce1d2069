//! What an operator holds is not sent, and all of it is sent after the release, at a bounded rate.

use std::time::{Duration, Instant};

use serde_json::json;

use penr_webhooks::config::{Database, UrlSource};
use penr_webhooks::hold::Held;
use penr_webhooks::ids::{AccountId, WebhookId};
use penr_webhooks::store::{Store, StoreError};

use crate::due::{end, wait_for_the_end_of_sessions};
use crate::support::older_schema::back_to;
use crate::support::*;

const TYPE: &str = "content.created";
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";
const HOLDS: &str = "SELECT count(*) FROM holds";

fn store(site: &Site) -> Store {
    let url = site.database_url().into();
    let (connect_timeout, statement_timeout) = (Duration::from_secs(5), Duration::from_secs(10));
    Store::new(&Database { url, url_from: UrlSource::default(), pool_size: 1, connect_timeout, statement_timeout })
        .unwrap()
}

fn only(webhook: &Webhook) -> Held {
    Held::Webhook(WebhookId(webhook.id.parse().unwrap()))
}

fn account(name: &str) -> Held {
    Held::Account(AccountId::parse(name).unwrap())
}

/// Holds something, and waits until these workers know all holds.
async fn hold(site: &Site, held: &Held, workers: &mut [&mut Replica]) {
    store(site).hold(held, None).await.unwrap().expect("it is there");
    let holds = site.count(HOLDS).await as f64;
    for worker in workers {
        wait_until("the worker knows", async || worker.metric("holds").await == holds).await;
    }
}

async fn release(site: &Site, held: &Held) {
    store(site).release_hold(held).await.unwrap().expect("it is held");
}

async fn wait_for_no_hold(site: &Site) {
    wait_until("no hold is left", async || site.count(HOLDS).await == 0).await;
}

async fn wait_for_pending(site: &Site, count: i64) {
    wait_until(&format!("{count} wait"), async || site.count(PENDING).await == count).await;
}

/// Publishes an event of another account and waits for its request: the worker has taken all events before.
async fn wait_for_a_later_event(site: &Site, other: &Receiver) {
    let before = other.count();
    site.publish("acc_other", TYPE, json!({})).await;
    other.wait_for(before + 1).await;
}

#[tokio::test]
async fn nothing_goes_to_a_held_webhook_and_everything_after_the_release() {
    let (site, receiver, other) = (Site::new().await, Receiver::start().await, Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.create_webhook("acc_1", &other.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    hold(&site, &only(&webhook), &mut [&mut worker]).await;
    let ids = site.publish_many(6, "acc_1", TYPE, json!({})).await;
    other.wait_for(6).await;
    wait_for_pending(&site, 6).await;
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries WHERE attempts_made = 0").await, 6);

    // A worker that starts later knows it from the beginning.
    worker.terminate();
    assert!(worker.wait().await.success());
    let mut worker = site.worker().await;
    site.publish("acc_1", TYPE, json!({})).await;
    other.wait_for(7).await;
    wait_for_pending(&site, 7).await;
    wait_until("all are counted", async || worker.metric("held").await == 7.0).await;
    assert_eq!((worker.metric("due_lag_seconds").await, receiver.count()), (0.0, 0));
    // A second hold, so that one of the two is older.
    hold(&site, &account("acc_2"), &mut []).await;
    let older = "UPDATE holds SET since = since - interval '2 days' WHERE account_id IS NULL";
    site.sql().await.batch_execute(older).await.unwrap();
    let day = 86_400.0;
    let two_days = |age: f64| (2.0 * day..3.0 * day).contains(&age);
    wait_until("the age is shown", async || two_days(worker.metric("oldest_hold_seconds").await)).await;
    release(&site, &account("acc_2")).await;

    release(&site, &only(&webhook)).await;
    let requests = receiver.wait_for(7).await;
    assert!(ids.iter().all(|id| requests.iter().any(|request| request.event_id() == id)));
    wait_for_no_hold(&site).await;
    wait_for_pending(&site, 0).await;
    wait_until("the worker knows", async || worker.metric("holds").await == 0.0).await;
    assert_eq!(worker.metric("oldest_hold_seconds").await, 0.0);
    site.publish("acc_1", TYPE, json!({})).await;
    receiver.wait_for(8).await;
    let attempts = format!("SELECT count(*) FROM attempts WHERE webhook_id = '{}' AND attempt = 1", webhook.id);
    wait_until("each has one attempt", async || site.count(&attempts).await == 8).await;
    assert_eq!(site.count("SELECT count(*) FROM attempts WHERE attempt > 1").await, 0);
}

#[tokio::test]
async fn a_held_account_includes_webhooks_made_later_and_no_other_account() {
    let (site, receiver, other) = (Site::new().await, Receiver::start().await, Receiver::start().await);
    site.create_webhook("acc_1", &receiver.url_at("/first"), &[TYPE]).await;
    site.create_webhook("acc_other", &other.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    hold(&site, &account("acc_1"), &mut [&mut worker]).await;
    site.create_webhook("acc_1", &receiver.url_at("/later"), &[TYPE]).await;
    site.publish_many(3, "acc_1", TYPE, json!({})).await;
    wait_for_a_later_event(&site, &other).await;
    wait_for_pending(&site, 6).await;
    wait_until("all are counted", async || worker.metric("held").await == 6.0).await;
    // A worker reads once a second which webhooks a held account has: until then those of the later one seem due.
    wait_until("none counts as late", async || worker.metric("due_lag_seconds").await == 0.0).await;
    assert_eq!(receiver.count(), 0);
    release(&site, &account("acc_1")).await;
    receiver.wait_for(6).await;
    assert_eq!((receiver.requests_at("/first").len(), receiver.requests_at("/later").len()), (3, 3));
    wait_for_no_hold(&site).await;
}

#[tokio::test]
async fn retries_that_fall_due_during_a_hold_wait_and_use_up_no_attempt() {
    let site = Site::new().await.set("retry.schedule", r#"["1h", "1h"]"#);
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    receiver.script((0..4).map(|_| Reply::status(500)));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.create_webhook("acc_other", &other.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    site.publish_many(4, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(4).await;
    wait_for_pending(&site, 4).await;
    hold(&site, &only(&webhook), &mut [&mut worker]).await;
    let due = "UPDATE pending_deliveries SET due_at = now()";
    site.sql().await.batch_execute(due).await.unwrap();
    let asked = "SELECT count(*) FROM pending_deliveries WHERE due_at < now() - interval '2 s'";
    wait_until("the worker has looked for due deliveries", async || site.count(asked).await == 4).await;
    wait_for_a_later_event(&site, &other).await;
    assert_eq!((receiver.count(), worker.metric("due_lag_seconds").await), (4, 0.0));
    let unchanged = "SELECT count(*) FROM pending_deliveries WHERE attempts_made = 1";
    assert_eq!(site.count(unchanged).await, 4);
    release(&site, &only(&webhook)).await;
    let requests = receiver.wait_for(8).await;
    let second = |request: &&std::sync::Arc<Request>| request.header("x-webhook-attempt") == "2";
    assert_eq!(requests.iter().filter(second).count(), 4);
}

#[tokio::test]
async fn while_everything_is_held_events_wait_at_the_broker_and_workers_are_ready() {
    // Few requests at a time, and nothing is parked for its receiver's sake.
    let site = Site::new().await.set("worker.max_in_flight", "4").set("worker.prefetch", "4000");
    let site = site.set("worker.park_after", "60s");
    let receiver = Receiver::start().await;
    site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    // The worker has taken many events when the hold begins, and sends one after the other.
    receiver.always(Reply::status(200).after(Duration::from_millis(10)));
    let events = 2000;
    site.publish_many(events, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(10).await;
    hold(&site, &Held::All, &mut [&mut worker]).await;
    worker.wait_for_log("everything is held: what the broker handed out goes back").await;
    let queue = site.worker_queue();
    let recorded = "SELECT count(*) FROM attempts";
    // What was under way ends and is recorded or comes again; all others are in the queue.
    let all_are_kept = async || {
        let kept = i64::from(site.queue_depth(queue).await) + site.count(recorded).await;
        kept >= events as i64 && worker.metric("in_flight").await == 0.0
    };
    wait_until("every event is kept", all_are_kept).await;
    let (sent, waiting) = (receiver.count(), site.queue_depth(queue).await);
    assert_eq!(site.count(PENDING).await, 0);
    assert!(waiting > 0, "all were sent before the hold began");
    site.publish_many(5, "acc_1", TYPE, json!({})).await;
    wait_until("they wait", async || site.queue_depth(queue).await == waiting + 5).await;
    assert_eq!(worker.metric("held_all").await, 1.0);
    assert!(worker.is_ready().await);
    let address = worker.logged("operations address", "address").await;
    assert!(http::get(&address, "/readyz").await.text().contains("held: all\n"));

    worker.terminate();
    assert!(worker.wait().await.success());
    let mut worker = site.launch(&["worker"]).set("worker.max_in_flight", "200").start();
    wait_until("a worker that starts then is ready", async || worker.is_ready().await).await;
    assert_eq!((site.queue_depth(queue).await, receiver.count(), site.count(PENDING).await), (waiting + 5, sent, 0));
    assert!(!worker.log().contains("consumer attached"), "{}", worker.log());
    let counted = format!("queue_messages{{queue=\"{queue}\"}}");
    wait_until("what waits is counted", async || worker.metric(&counted).await == f64::from(waiting + 5)).await;
    release(&site, &Held::All).await;
    let ended = "SELECT count(DISTINCT delivery_id) FROM attempts WHERE error IS NULL";
    wait_until("all are delivered", async || site.count(ended).await == events as i64 + 5).await;
    wait_for_no_hold(&site).await;
    assert_eq!(worker.metric("held_all").await, 0.0);
}

#[tokio::test]
async fn a_hold_of_everything_keeps_due_deliveries_and_ends_webhook_by_webhook() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let receiver = Receiver::start().await;
    receiver.script((0..6).map(|_| Reply::status(500)));
    for name in ["acc_1", "acc_2", "acc_3"] {
        site.create_webhook(name, &receiver.url(), &[TYPE]).await;
    }
    let mut worker = site.worker().await;
    for name in ["acc_1", "acc_2", "acc_3"] {
        site.publish_many(2, name, TYPE, json!({})).await;
    }
    receiver.wait_for(6).await;
    wait_for_pending(&site, 6).await;
    hold(&site, &Held::All, &mut [&mut worker]).await;
    site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    let asked = "SELECT count(*) FROM pending_deliveries WHERE due_at < now() - interval '2 s'";
    wait_until("they are due for long", async || site.count(asked).await == 6).await;
    wait_until("all are counted", async || worker.metric("held").await == 6.0).await;
    assert_eq!((receiver.count(), worker.metric("due_lag_seconds").await), (6, 0.0));
    release(&site, &Held::All).await;
    receiver.wait_for(12).await;
    wait_for_pending(&site, 0).await;
    wait_for_no_hold(&site).await;
}

#[tokio::test]
async fn a_hold_of_everything_lasts_over_a_restart_of_the_broker() {
    let servers = PrivateServers::broker().await;
    let site = Site::on(&servers).await;
    let receiver = Receiver::start().await;
    site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    hold(&site, &Held::All, &mut [&mut worker]).await;
    site.publish_many(3, "acc_1", TYPE, json!({})).await;
    servers.restart("rabbitmq").await;
    wait_until("they wait", async || site.queue_depth(site.worker_queue()).await == 3).await;
    assert_eq!((receiver.count(), worker.metric("held_all").await), (0, 1.0));
    assert!(worker.is_ready().await);
    release(&site, &Held::All).await;
    receiver.wait_for(3).await;
}

#[tokio::test]
async fn what_was_held_is_sent_at_the_rate_of_recoveries_and_recoveries_wait_for_the_release() {
    let site = Site::new().await.set("recover.rate", "20").set("retry.schedule", "[]");
    let (receiver, api) = (Receiver::start().await, site.api().await);
    // All are on the way before the first one fails: what comes later would wait for probes.
    receiver.script((0..20).map(|_| Reply::status(500).after(Duration::from_secs(1))));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    site.publish_many(20, "acc_1", TYPE, json!({})).await;
    wait_until("all are closed", async || site.count("SELECT count(*) FROM closed_deliveries").await == 20).await;
    hold(&site, &only(&webhook), &mut [&mut worker]).await;
    let since = json!({ "since": "2020-01-01T00:00:00Z" });
    let answer = api.customer("acc_1").post(&format!("/v1/webhooks/{}/recover", webhook.id), &since).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    site.publish_many(40, "acc_1", TYPE, json!({})).await;
    wait_for_pending(&site, 60).await;
    let due = "SELECT count(*) FROM pending_deliveries WHERE due_at > now()";
    wait_until("all are due", async || site.count(due).await == 0).await;
    assert_eq!(receiver.count(), 20);
    let released = Instant::now();
    release(&site, &only(&webhook)).await;
    let last = receiver.wait_for(80).await.iter().map(|request| request.at).max().unwrap();
    // A busy worker may send any of them late, and none before its time.
    let took = last - released;
    assert!(
        took > Duration::from_millis(2900),
        "the last of 60 at 20 a second is due after 2.95 s, and came after {took:?}"
    );
    wait_for_no_hold(&site).await;
}

/// Adds pending deliveries of a webhook that has one, all due.
async fn add_pending(site: &Site, webhook: &Webhook, count: i64) {
    let add = format!(
        "INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
         SELECT gen_random_uuid(), w.id, w.activation, e.day, e.key, 'retry', 1,
             now() - interval '1 minute' + m * interval '1 ms'
         FROM webhooks w, (SELECT * FROM events LIMIT 1) e, generate_series(1, {count}) AS m WHERE w.id = '{}'",
        webhook.id
    );
    let sql = site.another_sql().await;
    sql.batch_execute(&add).await.unwrap();
    end(site, sql).await;
}

#[tokio::test]
async fn a_release_goes_on_when_a_worker_is_killed_and_is_done_once_by_two() {
    let site = Site::new().await.set("recover.rate", "5000").set("worker.lease", "30s");
    let receiver = Receiver::start().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let (mut first, mut second) = (site.worker().await, site.worker().await);
    site.publish("acc_1", TYPE, json!({})).await;
    receiver.wait_for(1).await;
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    hold(&site, &only(&webhook), &mut [&mut first, &mut second]).await;
    add_pending(&site, &webhook, 3000).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE UPDATE OF recovering_until ON webhooks FOR EACH ROW EXECUTE FUNCTION slow()";
    site.sql().await.batch_execute(slow).await.unwrap();
    release(&site, &only(&webhook)).await;
    let begun = "SELECT count(*) FROM webhooks WHERE recovering_until IS NOT NULL";
    wait_until("the release has begun", async || site.count(begun).await == 1).await;
    second.kill9();
    second.wait().await;
    assert_eq!((site.count(HOLDS).await, receiver.count()), (1, 1), "nothing is sent before all are spread");
    first.kill9();
    first.wait().await;
    assert_eq!(site.count(HOLDS).await, 1, "five transactions of 1 s were to come");
    site.sql().await.batch_execute("DROP TRIGGER slow ON webhooks").await.unwrap();
    let _workers = (site.worker().await, site.worker().await);
    wait_for_no_hold(&site).await;
    let distinct = "SELECT count(DISTINCT delivery_id) FROM attempts";
    wait_until("all are delivered", async || site.count(distinct).await == 3001).await;
    assert_eq!(receiver.count(), 3001, "each once");
    assert_eq!(site.count(PENDING).await, 0);
}

#[tokio::test]
async fn a_hold_that_is_released_can_be_held_again_before_all_is_spread() {
    let (site, receiver) = (Site::new().await.set("recover.rate", "1000"), Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    site.publish("acc_1", TYPE, json!({})).await;
    receiver.wait_for(1).await;
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    hold(&site, &account("acc_1"), &mut [&mut worker]).await;
    add_pending(&site, &webhook, 40).await;
    // The release cannot go on while somebody has locked the webhook.
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; SELECT FROM webhooks FOR UPDATE").await.unwrap();
    release(&site, &account("acc_1")).await;
    let releasing = async || worker.log().contains(r#""releasing":1"#);
    wait_until("the worker has begun", releasing).await;
    hold(&site, &account("acc_1"), &mut [&mut worker]).await;
    locker.batch_execute("COMMIT").await.unwrap();
    assert_eq!(site.count("SELECT count(*) FROM holds WHERE released_at IS NULL").await, 1);
    wait_until("all are counted", async || worker.metric("held").await == 40.0).await;
    assert_eq!(receiver.count(), 1);
    release(&site, &account("acc_1")).await;
    receiver.wait_for(41).await;
    wait_for_no_hold(&site).await;
}

#[tokio::test]
async fn a_release_that_meets_a_lock_says_which_webhook_is_locked_and_others_go_on() {
    let (site, receiver) = (Site::new().await.set("log.filter", "debug"), Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url_at("/locked"), &[TYPE]).await;
    let other = site.create_webhook("acc_1", &receiver.url_at("/other"), &[TYPE]).await;
    let mut worker = site.worker().await;
    hold(&site, &only(&webhook), &mut [&mut worker]).await;
    hold(&site, &only(&other), &mut [&mut worker]).await;
    site.publish("acc_1", TYPE, json!({})).await;
    wait_for_pending(&site, 2).await;
    let locker = site.another_sql().await;
    let lock = format!("BEGIN; SELECT FROM webhooks WHERE id = '{}' FOR UPDATE", webhook.id);
    locker.batch_execute(&lock).await.unwrap();
    release(&site, &only(&webhook)).await;
    let log = worker.log();
    let said = async || {
        let is_it = |line: &str| line.contains("cannot release what was held") && line.contains(&webhook.id);
        worker.log()[log.len()..].lines().any(is_it)
    };
    wait_until("the log names the locked webhook", said).await;
    assert_eq!(worker.metric("releases").await, 1.0);
    release(&site, &only(&other)).await;
    receiver.wait_for(1).await;
    assert_eq!(receiver.requests_at("/other").len(), 1);
    locker.batch_execute("COMMIT").await.unwrap();
    receiver.wait_for(2).await;
    wait_for_no_hold(&site).await;
    wait_until("the worker knows", async || worker.metric("releases").await == 0.0).await;
}

#[tokio::test]
async fn a_release_that_fails_does_not_stop_those_of_younger_holds() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let failing = site.create_webhook("acc_1", &receiver.url_at("/failing"), &[TYPE]).await;
    let other = site.create_webhook("acc_1", &receiver.url_at("/other"), &[TYPE]).await;
    let mut worker = site.worker().await;
    hold(&site, &only(&failing), &mut [&mut worker]).await;
    hold(&site, &only(&other), &mut [&mut worker]).await;
    site.publish("acc_1", TYPE, json!({})).await;
    wait_for_pending(&site, 2).await;
    let fail = format!(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
        CREATE TRIGGER fail BEFORE DELETE ON holds FOR EACH ROW WHEN (OLD.webhook_id = '{}') EXECUTE FUNCTION fail()",
        failing.id
    );
    site.sql().await.batch_execute(&fail).await.unwrap();
    release(&site, &only(&failing)).await;
    release(&site, &only(&other)).await;
    receiver.wait_for(1).await;
    assert_eq!((receiver.requests_at("/other").len(), site.count(HOLDS).await), (1, 1));
    site.sql().await.batch_execute("DROP TRIGGER fail ON holds").await.unwrap();
    receiver.wait_for(2).await;
}

#[tokio::test]
async fn what_came_during_a_hold_is_not_sent_after_hours_of_recovery() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    let recovery = "UPDATE webhooks SET recovering_until = now() + interval '8 hours'";
    site.sql().await.batch_execute(recovery).await.unwrap();
    hold(&site, &only(&webhook), &mut [&mut worker]).await;
    site.publish_many(3, "acc_1", TYPE, json!({})).await;
    wait_for_pending(&site, 3).await;
    release(&site, &only(&webhook)).await;
    receiver.wait_for(3).await;
    wait_for_no_hold(&site).await;
    let later = "SELECT count(*) FROM webhooks WHERE recovering_until > now() + interval '7 hours'";
    assert_eq!(site.count(later).await, 1, "a recovery that is requested now still comes after the one before");
}

#[tokio::test]
async fn what_is_parked_before_its_webhook_has_its_turn_is_spread_too() {
    let (site, receiver) = (Site::new().await.set("recover.rate", "1"), Receiver::start().await);
    let first = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    hold(&site, &account("acc_1"), &mut [&mut worker]).await;
    let locker = site.another_sql().await;
    let lock = format!("BEGIN; SELECT FROM webhooks WHERE id = '{}' FOR UPDATE", first.id);
    site.publish("acc_1", TYPE, json!({})).await;
    wait_for_pending(&site, 2).await;
    locker.batch_execute(&lock).await.unwrap();
    release(&site, &account("acc_1")).await;
    site.publish_many(60, "acc_1", TYPE, json!({})).await;
    wait_for_pending(&site, 2 * 61).await;
    locker.batch_execute("COMMIT").await.unwrap();
    wait_for_no_hold(&site).await;
    let spread = "SELECT count(DISTINCT webhook_id) FROM pending_deliveries WHERE due_at > now()";
    assert_eq!(site.count(spread).await, 2, "the last ones fall due after 61 s");
}

#[tokio::test]
async fn a_release_reads_few_rows_for_each_that_it_spreads_also_while_an_old_snapshot_keeps_dead_ones() {
    let (site, receiver) = (Site::new().await.set("recover.rate", "1"), Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    site.publish("acc_1", TYPE, json!({})).await;
    receiver.wait_for(1).await;
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    hold(&site, &account("acc_1"), &mut [&mut worker]).await;
    let rows = 20_000;
    add_pending(&site, &webhook, rows).await;
    let backup = site.another_sql().await;
    backup.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM webhooks").await.unwrap();
    worker.kill9();
    worker.wait().await;
    wait_for_the_end_of_sessions(&site).await;
    // Entries of the index that were read by sessions that have ended.
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'pending_deliveries_by_webhook'";
    let before = site.count(read).await;
    release(&site, &account("acc_1")).await;
    let mut worker = site.worker().await;
    wait_for_no_hold(&site).await;
    worker.terminate();
    assert!(worker.wait().await.success());
    wait_for_the_end_of_sessions(&site).await;
    let entries = site.count(read).await - before;
    assert!(entries < rows * 5, "{entries} entries read for {rows} rows");
    backup.batch_execute("COMMIT").await.unwrap();
    let spread = "SELECT count(DISTINCT due_at) FROM pending_deliveries";
    assert!(site.count(spread).await > rows - 200, "one a second, but for those that were sent");
}

#[tokio::test]
async fn a_hold_goes_with_its_webhook_and_with_its_account() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let first = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let second = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let other = site.create_webhook("acc_2", &receiver.url(), &[TYPE]).await;
    for held in [only(&first), only(&second), only(&other), account("acc_1"), account("acc_2")] {
        hold(&site, &held, &mut []).await;
    }
    assert_eq!(site.cli(&["webhooks", "delete", &first.id]).await.code, 0);
    assert_eq!(site.count(HOLDS).await, 4);
    let output = site.cli(&["accounts", "erase", "acc_1", "--yes"]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let left = store(&site).holds().await.unwrap();
    assert!(left.iter().map(|hold| &hold.held).eq(&[only(&other), account("acc_2")]), "{left:?}");
    assert!(store(&site).hold(&only(&first), None).await.unwrap().is_none(), "it is deleted");
}

#[tokio::test]
async fn a_webhook_that_is_deleted_while_it_is_being_held_leaves_no_hold() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let holder = site.another_sql().await;
    let hold = format!(
        "BEGIN; INSERT INTO holds (id, webhook_id)
         SELECT gen_random_uuid(), id FROM webhooks WHERE id = '{}' FOR KEY SHARE",
        webhook.id
    );
    holder.batch_execute(&hold).await.unwrap();
    let finish = async {
        // A lock of a row belongs to no database in `pg_locks`.
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_until("the deletion waits", async || site.count(waiting).await == 1).await;
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let delete = ["webhooks", "delete", &webhook.id];
    let (deleted, ()) = tokio::join!(site.cli(&delete), finish);
    assert_eq!((deleted.code, site.count(HOLDS).await), (0, 0), "{}", deleted.stderr);
}

#[tokio::test]
async fn on_the_schema_of_the_release_before_nothing_can_be_held_and_workers_work() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    site.sql().await.batch_execute(&back_to(16)).await.unwrap();
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    site.publish("acc_1", TYPE, json!({})).await;
    receiver.wait_for(1).await;
    let refused = store(&site).hold(&only(&webhook), None).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotMigrated(_)), "{refused:?}");
    assert_eq!(worker.warnings(), Vec::<String>::new());
    assert_eq!(site.cli(&["webhooks", "delete", &webhook.id]).await.code, 0);
}

#[tokio::test]
async fn a_worker_that_cannot_read_the_holds_keeps_to_what_it_read_last_and_says_so_once() {
    let (site, receiver, other) = (Site::new().await, Receiver::start().await, Receiver::start().await);
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.create_webhook("acc_other", &other.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    hold(&site, &only(&webhook), &mut [&mut worker]).await;
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE holds IN ACCESS EXCLUSIVE MODE").await.unwrap();
    site.publish_many(3, "acc_1", TYPE, json!({})).await;
    const SAID: &str = "cannot read what operators hold; what was read last stands";
    worker.wait_for_log(SAID).await;
    wait_for_a_later_event(&site, &other).await;
    assert_eq!((receiver.count(), worker.warnings()), (0, vec![SAID.to_owned()]));
    locker.batch_execute("COMMIT").await.unwrap();
    worker.wait_for_log("what is held can be read again").await;
    release(&site, &only(&webhook)).await;
    receiver.wait_for(3).await;
}

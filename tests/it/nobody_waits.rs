//! A session that has locked a webhook's row delays that webhook's health and nothing else, and no two transactions
//! deadlock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::support::*;

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";
const ATTEMPTS: &str = "SELECT count(*) FROM attempts";
const FAILURES: &str = "SELECT consecutive_failures::bigint FROM webhooks WHERE url LIKE '%/failing'";

/// A worker, and two webhooks for the same events: one fails, the other does not.
struct Stage {
    site: Site,
    receiver: Receiver,
    failing: Webhook,
    worker: Replica,
}

impl Stage {
    async fn new() -> Self {
        let site = Site::new().await.set("retry.schedule", r#"["1h"]"#).set("health.notice_attempts", "2");
        let site = site.set("health.notice_after", "0s");
        let receiver = Receiver::start().await;
        receiver.answer(|request| Reply::status(if request.path == "/failing" { 500 } else { 200 }));
        let worker = site.worker().await;
        let failing = site.create_webhook(ACCOUNT, &receiver.url_at("/failing"), &[TYPE]).await;
        site.create_webhook(ACCOUNT, &receiver.url_at("/well"), &[TYPE]).await;
        Self { site, receiver, failing, worker }
    }

    /// A session that has locked the failing webhook's row, until its transaction ends.
    async fn held_row(&self) -> Client {
        let holder = self.site.another_sql().await;
        let hold = format!("BEGIN; SELECT FROM webhooks WHERE id = '{}' FOR UPDATE", self.failing.id);
        holder.batch_execute(&hold).await.unwrap();
        holder
    }

    async fn publish_and_record(&self, count: usize) {
        let before = self.site.count(ATTEMPTS).await;
        self.site.publish_many(count, ACCOUNT, TYPE, json!({})).await;
        // A worker that needed the row would never get it: the test holds the lock meanwhile.
        wait_until("both webhooks' results are recorded, although a session has locked the row", async || {
            self.site.count(ATTEMPTS).await == before + 2 * i64::try_from(count).unwrap()
        })
        .await;
    }

    async fn wait_for_failures(&self, count: i64) {
        wait_until("the failing webhook's row counts its failures", async || self.site.count(FAILURES).await == count)
            .await;
    }
}

#[tokio::test]
async fn a_held_webhooks_row_delays_its_health_and_nothing_else() {
    let stage = Stage::new().await;
    let holder = stage.held_row().await;
    stage.publish_and_record(3).await;
    stage.publish_and_record(2).await;
    assert_eq!(stage.site.count(FAILURES).await, 0);
    assert_eq!(stage.site.count("SELECT count(*) FROM pending_deliveries").await, 5);
    holder.batch_execute("ROLLBACK").await.unwrap();
    // No further result comes that could write the health, too.
    stage.wait_for_failures(5).await;
    assert!(stage.site.webhook(&stage.failing.id).await["failing_since"].is_string());
    let mut notices = stage.site.count("SELECT count(*) FROM webhooks WHERE failing_noticed_at IS NOT NULL").await;
    assert_eq!(notices, 1);

    // A failure that was kept does not undo a success that came later.
    let holder = stage.held_row().await;
    stage.publish_and_record(1).await;
    stage.receiver.always(Reply::status(200));
    stage.publish_and_record(1).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    stage.wait_for_failures(0).await;
    let well = "SELECT count(*) FROM webhooks WHERE failing_since IS NULL AND failing_noticed_at IS NULL";
    notices = stage.site.count(well).await;
    assert_eq!(notices, 2);
}

#[tokio::test]
async fn a_worker_that_stops_has_written_the_health_it_kept() {
    let mut stage = Stage::new().await;
    let holder = stage.held_row().await;
    stage.publish_and_record(2).await;
    stage.worker.terminate();
    stage.worker.wait_for_log("stopping").await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert!(stage.worker.wait().await.success());
    assert_eq!(stage.site.count(FAILURES).await, 2);
}

#[tokio::test]
async fn a_stop_without_the_database_ends_although_health_is_kept_and_every_result_was_recorded() {
    let mut stage = Stage::new().await;
    stage.worker.kill9();
    let proxy = Proxy::to(stage.site.postgres_address()).await;
    let worker = stage.site.launch(&["worker"]).set("shutdown.grace", "3s");
    stage.worker = worker.env("DATABASE_URL", &stage.site.database_url_through(&proxy.addr())).start_worker().await;
    let _holder = stage.held_row().await;
    stage.publish_and_record(2).await;
    wait_until("it knows that all is recorded", async || stage.worker.metric("recorded_total").await == 4.0).await;
    proxy.pause();
    stage.worker.terminate();
    assert!(stage.worker.wait().await.success());
    assert!(!stage.worker.log().contains("not every result"));
}

#[tokio::test]
async fn webhooks_that_are_well_are_not_asked_about_when_results_are_recorded() {
    let stage = Stage::new().await;
    stage.receiver.always(Reply::status(200));
    // A statement that writes to a webhook, or locks its row, would have to wait.
    let holder = stage.site.another_sql().await;
    holder.batch_execute("BEGIN; LOCK TABLE webhooks IN EXCLUSIVE MODE").await.unwrap();
    stage.publish_and_record(3).await;
}

/// Makes writes of deliveries so slow that transactions overlap.
const SLOW: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(0.002); RETURN coalesce(NEW, OLD);
    END $$;
    CREATE TRIGGER slow BEFORE INSERT OR UPDATE OR DELETE ON pending_deliveries FOR EACH ROW EXECUTE FUNCTION slow();
    CREATE TRIGGER slow BEFORE INSERT OR UPDATE OR DELETE ON closed_deliveries FOR EACH ROW EXECUTE FUNCTION slow();";

/// Publishes the same events over and over, in an order of its own each time.
async fn publish_duplicates(site: &Site, ids: &[String], end: Instant) {
    let mut order: Vec<&String> = ids.iter().collect();
    for turn in 1.. {
        order.rotate_left(turn * 7 % ids.len());
        if turn % 2 == 0 {
            order.reverse();
        }
        for id in &order {
            site.publish_message(&site.event(id, ACCOUNT, TYPE, &json!({}))).await;
        }
        if Instant::now() > end {
            return;
        }
    }
}

async fn resend_and_recover(customer: &Customer, webhook: &Webhook, ids: &[String], end: Instant) {
    let space: uuid::Uuid = webhook.id.parse().unwrap();
    let path = format!("/v1/webhooks/{}", webhook.id);
    while Instant::now() < end {
        for id in ids {
            let delivery = uuid::Uuid::new_v5(&space, id.as_bytes());
            customer.post(&format!("{path}/deliveries/{delivery}/resend"), &json!({})).await;
        }
        customer.post(&format!("{path}/recover"), &json!({ "since": "2026-01-01T00:00:00Z" })).await;
    }
}

#[tokio::test]
async fn resends_recoveries_and_duplicates_with_opposite_outcomes_never_deadlock() {
    let site = Site::new().await.set("retry.schedule", r#"["1ms"]"#).set("health.disable_attempts", "1000000");
    let site = site.set("recover.rate", "1000").set("worker.probe_after", "1000000");
    let receiver = Receiver::start().await;
    let asked = AtomicUsize::new(0);
    receiver.answer(move |_| Reply::status([200, 500, 500][asked.fetch_add(1, Ordering::Relaxed) % 3]));
    let workers = [site.worker().await, site.worker().await];
    let api = site.api().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    site.sql().await.batch_execute(SLOW).await.unwrap();
    let ids: Vec<String> = (0..40).map(|number| format!("evt_{number}")).collect();
    let end = Instant::now() + Duration::from_secs(4);
    let customer = api.customer(ACCOUNT);
    tokio::join!(publish_duplicates(&site, &ids, end), resend_and_recover(&customer, &webhook, &ids, end));
    for process in workers.iter().chain([&api.replica]) {
        let log = process.log();
        let circle = log.lines().find(|line| line.contains("deadlock"));
        assert_eq!(circle, None);
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(site.count(deadlocks).await, 0);
}

//! A receiver that is slow, silent or failing costs itself time and nobody else.

use std::time::Duration;

use serde_json::json;

use crate::due::{end, wait_for_the_end_of_sessions};
use crate::support::*;

const TYPE: &str = "content.created";
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

/// Two customers, one of them with a receiver that behaves badly.
struct Neighbours {
    site: Site,
    bad: Receiver,
    good: Receiver,
}

impl Neighbours {
    async fn on(site: Site) -> Self {
        let (bad, good) = (Receiver::start().await, Receiver::start().await);
        site.create_webhook("acc_bad", &bad.url(), &[TYPE]).await;
        site.create_webhook("acc_good", &good.url(), &[TYPE]).await;
        Self { site, bad, good }
    }

    async fn publish(&self, account: &str, count: usize) -> Vec<String> {
        self.site.publish_many(count, account, TYPE, json!({})).await
    }

    /// Makes rows of `pending_deliveries` that were due an hour ago, all for the bad receiver's one event.
    async fn add_due_backlog(&self, count: i64) {
        let sql = "INSERT INTO pending_deliveries
                       (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
                   SELECT gen_random_uuid(), w.id, w.activation, e.day, e.key, 'retry', 1, now() - interval '1 hour'
                   FROM webhooks w JOIN events e USING (account_id), generate_series(1, $1::bigint)
                   WHERE w.account_id = 'acc_bad'";
        self.site.sql().await.execute(sql, &[&count]).await.unwrap();
    }
}

/// With time-outs longer than a test: an attempt that gets no answer stays in flight.
fn patient(site: Site) -> Site {
    site.set("sender.timeout", "60s").set("worker.lease", "10m").set("worker.park_after", "50ms")
}

#[tokio::test]
async fn no_event_waits_behind_a_receiver_that_never_answers() {
    let site = patient(Site::new().await).set("worker.max_in_flight", "30").set("worker.prefetch", "20");
    let neighbours = Neighbours::on(site).await;
    neighbours.bad.always(Reply::silence());
    let mut worker = neighbours.site.worker().await;
    neighbours.publish("acc_bad", 200).await;
    let events = neighbours.publish("acc_good", 20).await;
    let requests = neighbours.good.wait_for(20).await;
    assert!(requests.iter().all(|request| events.contains(&request.event_id().to_owned())));
    assert!(neighbours.bad.count() <= 15, "{} of 30 in flight to one receiver", neighbours.bad.count());
    let site = &neighbours.site;
    wait_until("what found no room is in the database", async || site.count(PENDING).await > 150).await;
    let held_back = r#"lane_held_back_total{by="share"}"#;
    wait_until("the reason is counted", async || worker.metric(held_back).await > 0.0).await;
}

#[tokio::test]
async fn an_event_behind_a_flood_arrives_although_the_receiver_of_the_flood_needs_much_longer() {
    let site = patient(Site::new().await).set("worker.max_in_flight", "6").set("worker.prefetch", "40");
    let neighbours = Neighbours::on(site.set("worker.park_after", "60s")).await;
    neighbours.bad.always(Reply::status(200).after(Duration::from_millis(800)));
    const FLOOD: usize = 300;
    let _worker = neighbours.site.worker().await;
    neighbours.publish("acc_bad", FLOOD).await;
    neighbours.publish("acc_good", 1).await;
    neighbours.good.wait_for(1).await;
    let before = neighbours.bad.count();
    assert!(before < FLOOD / 2, "{before} of {FLOOD} events came first");
}

#[tokio::test]
async fn what_was_parked_is_delivered_once_when_its_receiver_has_room_also_by_another_worker() {
    let site = patient(Site::new().await).set("worker.max_in_flight", "6").set("worker.prefetch", "20");
    let neighbours = Neighbours::on(site).await;
    let gate = Gate::default();
    neighbours.bad.always(Reply::status(200).held_by(&gate));
    let (mut first, site) = (neighbours.site.worker().await, &neighbours.site);
    let mut events = neighbours.publish("acc_bad", 100).await;
    wait_until("much is in the database", async || site.count(PENDING).await > 50).await;
    gate.open();
    first.terminate();
    assert_eq!(first.wait().await.code(), Some(0));
    let _second = site.worker().await;
    let requests = neighbours.bad.wait_for(100).await;
    wait_until("no delivery is pending", async || site.count(PENDING).await == 0).await;
    let mut received: Vec<_> = requests.iter().map(|request| request.event_id().to_owned()).collect();
    received.sort();
    events.sort();
    assert_eq!(received, events);
    assert!(requests.iter().all(|request| request.attempt() == 1), "waiting costs no attempt");
    let triggers = "SELECT count(*) FROM attempts WHERE trigger <> 'event'";
    assert_eq!(site.count(triggers).await, 0);
}

#[tokio::test]
async fn a_receiver_that_only_fails_is_asked_little_until_it_answers_and_then_gets_everything() {
    let schedule = format!("[{}]", ["\"10ms\""; 30].join(","));
    let site = Site::new().await.set("retry.schedule", &schedule).set("worker.probe_after", "3");
    let site = site.set("worker.probe_interval", "20ms").set("worker.probe_interval_max", "50ms");
    let neighbours = Neighbours::on(site.set("worker.max_in_flight", "12")).await;
    const FAILURES: usize = 12;
    neighbours.bad.script(vec![Reply::status(503); FAILURES]);
    let _worker = neighbours.site.worker().await;
    let mut events = neighbours.publish("acc_bad", 100).await;
    let requests = neighbours.bad.wait_for(100 + FAILURES).await;
    let site = &neighbours.site;
    wait_until("no delivery is pending", async || site.count(PENDING).await == 0).await;
    let asked: std::collections::HashSet<_> = requests[..FAILURES].iter().map(|request| request.event_id()).collect();
    assert!(asked.len() <= 3 + 12, "{} events were tried on a receiver that only fails", asked.len());
    let mut received: Vec<_> = requests.iter().map(|request| request.event_id().to_owned()).collect();
    received.sort();
    received.dedup();
    events.sort();
    assert_eq!(received, events);
}

#[tokio::test]
async fn a_webhook_has_no_more_requests_in_flight_than_its_cap() {
    let site = patient(Site::new().await).set("worker.max_in_flight_per_webhook", "2").set("worker.park_after", "60s");
    let neighbours = Neighbours::on(site).await;
    let gate = Gate::default();
    neighbours.bad.always(Reply::status(200).held_by(&gate));
    let _worker = neighbours.site.worker().await;
    neighbours.publish("acc_bad", 10).await;
    neighbours.publish("acc_good", 1).await;
    neighbours.good.wait_for(1).await;
    neighbours.bad.wait_for(2).await;
    assert_eq!(neighbours.bad.count(), 2);
    gate.open();
    neighbours.bad.wait_for(10).await;
}

#[tokio::test]
async fn a_backlog_of_one_webhook_hides_no_others_retry_and_is_not_read_through() {
    let site = patient(Site::new().await).set("retry.schedule", r#"["1h", "1h"]"#);
    let neighbours = Neighbours::on(site).await;
    for receiver in [&neighbours.bad, &neighbours.good] {
        receiver.script([Reply::status(503)]);
    }
    let first = neighbours.site.worker().await;
    for account in ["acc_bad", "acc_good"] {
        neighbours.publish(account, 1).await;
    }
    let site = &neighbours.site;
    // Over a session that ends: Postgres publishes only then, at the latest, what a session has read.
    let sql = site.another_sql().await;
    let waiting = async || sql.query_one(PENDING, &[]).await.unwrap().get::<_, i64>(0);
    wait_until("both have failed once", async || waiting().await == 2).await;
    drop(first);
    wait_for_the_end_of_sessions(site).await;
    neighbours.bad.always(Reply::silence());
    neighbours.add_due_backlog(BACKLOG).await;
    sql.batch_execute("ANALYZE pending_deliveries").await.unwrap();
    sql.batch_execute("UPDATE pending_deliveries SET due_at = now() WHERE due_at > now()").await.unwrap();
    end(site, sql).await;
    let before = rows_read(site).await;
    let _worker = site.worker().await;
    let requests = neighbours.good.wait_for(2).await;
    assert_eq!(requests[1].attempt(), 2);
    // Postgres publishes its statistics with a delay.
    wait_until("reading was counted", async || rows_read(site).await > before).await;
    let read = rows_read(site).await - before;
    assert!(read < BACKLOG / 2, "{read} rows read of a backlog that there was no room for");
}

/// How many deliveries wait for a receiver that does not answer.
const BACKLOG: i64 = 50_000;

/// Rows of `pending_deliveries` that statements have read so far: by an index, or with the whole table. The sweep is not counted:
/// it reads the table by the addresses of rows, a part at a time, whatever waits there.
async fn rows_read(site: &Site) -> i64 {
    let by_index = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'pending_deliveries'";
    let whole = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'pending_deliveries'";
    site.count(by_index).await + site.count(whole).await * BACKLOG
}

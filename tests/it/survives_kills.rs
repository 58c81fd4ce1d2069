//! A worker that is killed or frozen at any stage loses nothing, and only deliveries whose results it could not record are
//! sent again.

use std::time::{Duration, Instant, SystemTime};

use crate::support::*;

const ATTEMPTS: &str = "SELECT count(*) FROM attempts";
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

#[tokio::test]
async fn a_worker_killed_while_it_looks_up_webhooks_has_sent_nothing() {
    let ledger = Ledger::open(Site::new().await).await;
    let worker = ledger.site.worker().await;
    let locker = ledger.site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE webhooks").await.unwrap();
    ledger.publish(20).await;
    ledger.site.wait_for_a_blocked_session().await;
    worker.kill9();
    locker.batch_execute("ROLLBACK").await.unwrap();
    let next = ledger.site.worker().await;
    ledger.close(vec![next]).await.assert_sound(0);
}

#[tokio::test]
async fn a_worker_killed_before_the_answer_came_sends_the_same_id_again_with_a_fresh_timestamp() {
    let ledger = Ledger::open(Site::new().await).await;
    ledger.receiver.script([Reply::silence()]);
    let worker = ledger.site.worker().await;
    let event = ledger.publish(1).await.remove(0);
    let first = ledger.receiver.next().await;
    worker.kill9();
    wait_until("the next second has begun", async || unix_seconds() > first.timestamp()).await;
    let next = ledger.site.worker().await;
    let second = ledger.receiver.next().await;
    assert_eq!((first.event_id(), second.event_id()), (&*event, &*event));
    assert_eq!((first.attempt(), second.attempt(), &first.body), (1, 1, &second.body));
    assert!(first.timestamp() < second.timestamp());
    let report = ledger.close(vec![next]).await;
    report.assert_sound(1);
    assert_eq!(report.duplicated.len(), 1);
}

fn unix_seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_secs()
}

#[tokio::test]
async fn a_worker_killed_before_its_answers_are_recorded_has_acked_nothing() {
    let ledger = Ledger::open(Site::new().await).await;
    let worker = ledger.site.worker().await;
    let locker = ledger.site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE attempts").await.unwrap();
    ledger.publish(20).await;
    ledger.receiver.wait_for(20).await;
    ledger.site.wait_for_a_blocked_session().await;
    worker.kill9();
    locker.batch_execute("ROLLBACK").await.unwrap();
    let next = ledger.site.worker().await;
    ledger.receiver.wait_for(40).await;
    ledger.close(vec![next]).await.assert_sound(20);
}

#[tokio::test]
async fn a_worker_killed_after_the_commit_and_before_its_ack_arrives_sends_nothing_again() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    let ledger = Ledger::open(site).await;
    let gate = Gate::default();
    ledger.receiver.always(Reply::status(200).held_by(&gate));
    let through = ledger.site.amqp_url_through(&proxy.addr());
    let worker = ledger.site.launch(&["worker"]).env("AMQP_URL", &through).start_worker().await;
    ledger.publish(20).await;
    ledger.receiver.wait_for(20).await;
    proxy.pause_to_server();
    gate.open();
    ledger.wait_for_count(ATTEMPTS, 20).await;
    worker.kill9();
    // If the worker had written the ack before it was killed, it is lost here.
    proxy.cut().await;
    let next = ledger.site.worker().await;
    ledger.close(vec![next]).await.assert_sound(0);
}

#[tokio::test]
async fn a_retry_of_a_killed_worker_is_made_by_another() {
    let site = Site::new().await.set("retry.schedule", r#"["1s"]"#);
    let ledger = Ledger::open(site).await;
    ledger.receiver.script([Reply::status(503)]);
    let worker = ledger.site.worker().await;
    ledger.publish(1).await;
    ledger.wait_for_count(PENDING, 1).await;
    worker.kill9();
    let next = ledger.site.worker().await;
    let requests = ledger.receiver.wait_for(2).await;
    assert_eq!(requests[1].attempt(), 2);
    ledger.close(vec![next]).await.assert_sound(0);
}

#[tokio::test]
async fn a_claim_of_a_killed_worker_is_due_again_when_its_lease_ends() {
    let site = patient(Site::new().await).set("retry.schedule", r#"["10ms", "1h"]"#);
    let ledger = Ledger::open(site).await;
    ledger.receiver.script([Reply::status(503), Reply::silence()]);
    let worker = ledger.site.worker().await;
    ledger.publish(1).await;
    ledger.receiver.wait_for(2).await;
    worker.kill9();
    let next = ledger.site.worker().await;
    let requests = ledger.receiver.wait_for(3).await;
    assert_eq!(requests[2].attempt(), 2);
    ledger.close(vec![next]).await.assert_sound(1);
}

/// Attempts last at most a second, leases two.
pub fn short_leases(site: Site) -> Site {
    site.set("sender.timeout", "1s").set("sender.body_timeout", "0s").set("worker.lease", "2s")
}

/// Attempts that a test interrupts last long enough for it to do so, and their leases are the shortest that this allows.
fn patient(site: Site) -> Site {
    site.set("sender.timeout", "6s").set("sender.body_timeout", "0s").set("worker.lease", "12s")
}

/// A worker is frozen during a second attempt, which fails. When the lease has ended, another worker makes that attempt and
/// gets this status. Then the first worker goes on.
async fn a_frozen_worker_goes_on_after(status: u16) -> (Ledger, Vec<Replica>, [Option<String>; 2]) {
    let site = patient(Site::new().await).set("retry.schedule", r#"["10ms", "1h", "1h"]"#);
    let ledger = Ledger::open(site).await;
    let gate = Gate::default();
    ledger.receiver.script([Reply::status(503), Reply::status(503).held_by(&gate), Reply::status(status)]);
    let frozen = ledger.site.worker().await;
    ledger.publish(1).await;
    ledger.receiver.wait_for(2).await;
    frozen.pause();
    let other = ledger.site.worker().await;
    ledger.wait_for_count(ATTEMPTS, 2).await;
    let before = pending_row(&ledger).await;
    gate.open();
    frozen.resume();
    ledger.wait_for_count(ATTEMPTS, 3).await;
    let after = pending_row(&ledger).await;
    (ledger, vec![frozen, other], [before, after])
}

async fn pending_row(ledger: &Ledger) -> Option<String> {
    let row = ledger.site.sql().await.query_opt("SELECT p::text FROM pending_deliveries p", &[]).await;
    row.unwrap().map(|row| row.get(0))
}

#[tokio::test]
async fn a_worker_frozen_longer_than_its_lease_does_not_bring_back_what_succeeded() {
    let (ledger, workers, rows) = a_frozen_worker_goes_on_after(200).await;
    assert_eq!(rows, [None, None]);
    ledger.close(workers).await.assert_sound(1);
}

#[tokio::test]
async fn a_worker_frozen_longer_than_its_lease_does_not_overwrite_a_newer_failure() {
    let (ledger, workers, [before, after]) = a_frozen_worker_goes_on_after(500).await;
    assert!(before.is_some());
    assert_eq!(before, after);
    ledger.site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    ledger.close(workers).await.assert_sound(1);
}

#[tokio::test]
async fn four_workers_make_each_of_500_due_attempts_once() {
    let site = Site::new().await.set("retry.schedule", r#"["1h", "1h"]"#).set("worker.probe_after", "1000");
    let ledger = Ledger::open(site).await;
    ledger.receiver.script(vec![Reply::status(503); 500]);
    let mut workers = vec![ledger.site.worker().await];
    ledger.publish(500).await;
    ledger.wait_for_count(PENDING, 500).await;
    for _ in 1..4 {
        workers.push(ledger.site.worker().await);
    }
    ledger.site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    ledger.wait_until_done().await;
    assert_eq!((ledger.receiver.count(), ledger.count(ATTEMPTS).await), (1000, 1000));
    ledger.close(workers).await.assert_sound(0);
}

/// The most messages that a worker has in hand when it is killed.
pub const PREFETCH: usize = 50;
const EVENTS_PER_SECOND: usize = 100;
const LEAST_KILLS: usize = 5;

#[tokio::test]
async fn two_workers_killed_over_and_over_under_load_lose_nothing() {
    let ledger = Ledger::under_load(short_leases(Site::new().await), PREFETCH).await;
    let (kills, workers) = kill_over_and_over(&ledger, Instant::now() + Duration::from_secs(10)).await;
    ledger.close(workers).await.assert_sound(kills * PREFETCH);
}

/// Publishes until `end`, or until a slow machine has come to the least number of kills. Kills one of two workers after the
/// other, 200 to 800 ms after it has attached to the queue. Returns the number of kills, and the workers that run at the end.
pub async fn kill_over_and_over(ledger: &Ledger, end: Instant) -> (usize, Vec<Replica>) {
    kill_in_turn(ledger, end, |_| ledger.site.launch(&["worker"])).await
}

/// The same with two workers that may differ: `launch` gets 0 for the first and 1 for the second.
pub async fn kill_in_turn(ledger: &Ledger, end: Instant, launch: impl Fn(usize) -> Launch) -> (usize, Vec<Replica>) {
    let mut workers = vec![launch(0).start_worker().await, launch(1).start_worker().await];
    let kill = async {
        let mut kills = 0;
        while Instant::now() < end || kills < LEAST_KILLS {
            let worker = &mut workers[kills % 2];
            // Without this, a slow machine would only kill workers that have not begun to work.
            worker.wait_for_log(replica::ATTACHED).await;
            tokio::time::sleep(Duration::from_millis(rand::random_range(200..800))).await;
            worker.kill9();
            *worker = launch(kills % 2).start();
            kills += 1;
        }
        kills
    };
    let kills = ledger.publish_during(EVENTS_PER_SECOND, kill).await;
    for worker in &mut workers {
        worker.wait_for_log(replica::ATTACHED).await;
    }
    (kills, workers)
}

//! A worker that is stopped while Postgres or RabbitMQ is away, silent or locked ends within its grace all the same. A
//! worker of which a task panics ends, too.

use std::time::Duration;

use super::{ends_well, ids, publish, webhook_at};
use crate::support::{ClosedPort, Configure, Gate, Proxy, Receiver, Replica, Reply, Site, wait_until};

/// The grace is 10 s; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A time-out so long that a stop that waited for it would fail the test.
const LONG: &str = "300s";

async fn site() -> Site {
    Site::new().await.set("shutdown.grace", "10s")
}

async fn stops_within_its_grace(worker: &mut Replica) {
    worker.terminate();
    let took = ends_well(worker).await;
    assert!(took < SOON, "{took:?} after the signal");
}

/// `host:port` of a port that refuses connections.
fn nowhere(port: &ClosedPort) -> String {
    port.url().trim_start_matches("http://").trim_end_matches("/hook").to_owned()
}

#[tokio::test]
async fn while_the_database_is_not_there_yet() {
    let port = ClosedPort::new();
    let site = site().await.postgres_through(&nowhere(&port));
    let mut worker = site.launch(&["worker"]).start();
    worker.wait_for_log("waiting for the database").await;
    stops_within_its_grace(&mut worker).await;
    assert!(!worker.log().contains("takes what waited"), "the worker logged that the database is back");
}

#[tokio::test]
async fn while_the_database_does_not_answer() {
    let site = site().await.set("database.connect_timeout", LONG);
    let proxy = Proxy::to(site.postgres_address()).await;
    proxy.pause();
    let site = site.postgres_through(&proxy.addr());
    let mut worker = site.launch(&["worker"]).start();
    wait_until("the worker connects", async || proxy.opened() > 0).await;
    stops_within_its_grace(&mut worker).await;
}

#[tokio::test]
async fn while_the_broker_is_not_there_yet() {
    let port = ClosedPort::new();
    let site = site().await.amqp_through(&nowhere(&port));
    let mut worker = site.launch(&["worker"]).start();
    worker.wait_for_log("lost the broker").await;
    stops_within_its_grace(&mut worker).await;
}

#[tokio::test]
async fn while_the_broker_does_not_answer() {
    let site = site().await.set("amqp.connect_timeout", LONG);
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.pause();
    let site = site.amqp_through(&proxy.addr());
    let mut worker = site.launch(&["worker"]).start();
    wait_until("the worker connects", async || proxy.opened() > 0).await;
    stops_within_its_grace(&mut worker).await;
}

#[tokio::test]
async fn while_the_broker_has_gone() {
    let site = site().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    let site = site.amqp_through(&proxy.addr());
    let mut worker = site.worker().await;
    proxy.refuse(true).await;
    proxy.cut().await;
    worker.wait_for_log_times("lost the broker", 2).await;
    stops_within_its_grace(&mut worker).await;
}

#[tokio::test]
async fn while_the_broker_has_fallen_silent() {
    let site = site().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    let site = site.amqp_through(&proxy.addr());
    let mut worker = site.worker().await;
    proxy.pause();
    stops_within_its_grace(&mut worker).await;
}

#[tokio::test]
async fn while_the_lookup_of_webhooks_is_locked() {
    let site = site().await.set("database.statement_timeout", LONG);
    let receiver = Receiver::start().await;
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE webhooks").await.unwrap();
    let event = publish(&site, 1).await;
    site.wait_for_a_blocked_session().await;
    stops_within_its_grace(&mut worker).await;
    assert_eq!(receiver.count(), 0);
    locker.batch_execute("ROLLBACK").await.unwrap();
    let _next = site.worker().await;
    receiver.wait_for(1).await;
    assert_eq!(ids(&receiver), event);
}

#[tokio::test]
async fn while_nothing_can_be_recorded() {
    let site = site().await.set("database.statement_timeout", LONG);
    let receiver = Receiver::start().await;
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE attempts").await.unwrap();
    let event = publish(&site, 1).await;
    receiver.wait_for(1).await;
    site.wait_for_a_blocked_session().await;
    stops_within_its_grace(&mut worker).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    let _next = site.worker().await;
    wait_until("the event is recorded", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    assert!(ids(&receiver).iter().all(|id| *id == event[0]));
}

#[tokio::test]
async fn while_the_database_is_away_with_results_in_hand() {
    let site = site().await;
    let receiver = Receiver::start().await;
    webhook_at(&site, &receiver).await;
    let proxy = Proxy::to(site.postgres_address()).await;
    let site = site.postgres_through(&proxy.addr());
    let (held, reply) = (Gate::default(), Reply::status(200));
    receiver.always(reply.held_by(&held));
    let mut worker = site.worker().await;
    let event = publish(&site, 1).await;
    receiver.wait_for(1).await;
    proxy.refuse(true).await;
    proxy.cut().await;
    held.open();
    worker.wait_for_log("cannot record").await;
    stops_within_its_grace(&mut worker).await;
    proxy.refuse(false).await;
    let _next = site.worker().await;
    receiver.wait_for(2).await;
    assert_eq!(ids(&receiver), [event[0].clone(), event[0].clone()]);
}

#[tokio::test]
async fn while_more_results_wait_to_be_recorded_than_there_is_room_for() {
    let site = site().await.set("retry.schedule", r#"["1h", "1h"]"#).set("database.statement_timeout", LONG);
    let site = site.set("worker.max_in_flight", "4").set("worker.batch", "1").set("worker.probe_after", "1000");
    let site = site.set("sender.timeout", "5s").set("sender.body_timeout", "0s").set("worker.lease", "10s");
    let receiver = Receiver::start().await;
    receiver.script(vec![Reply::status(503); 20]);
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    publish(&site, 20).await;
    let pending = "SELECT count(*) FROM pending_deliveries";
    wait_until("all have failed once", async || site.count(pending).await == 20).await;
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE attempts").await.unwrap();
    site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    // Nine more requests: their results are one with each of two writers, five in the queue before these, and two that find
    // no room there. Two is the webhook's share of four in flight.
    receiver.wait_for(20 + 9).await;
    stops_within_its_grace(&mut worker).await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    let _next = site.worker().await;
    wait_until("nothing is pending any more", async || site.count(pending).await == 0).await;
}

#[tokio::test]
async fn a_worker_of_which_a_part_died_ends_and_says_so() {
    let (site, receiver) = (Site::new().await.set("retry.schedule", r#"["1h"]"#), Receiver::start().await);
    receiver.always(Reply::status(500));
    let mut worker = site.worker().await;
    let webhook = webhook_at(&site, &receiver).await;
    publish(&site, 1).await;
    site.wait_for_attempts(&webhook, 1).await;
    // No version of ours writes this trigger: the task that reads the row panics.
    let spoil = "UPDATE pending_deliveries SET trigger = 'nonsense', due_at = now()";
    site.sql().await.execute(spoil, &[]).await.unwrap();
    assert_eq!(worker.wait().await.code(), Some(1));
    assert!(worker.log().contains("a part of the worker panicked"), "{}", worker.log());
}

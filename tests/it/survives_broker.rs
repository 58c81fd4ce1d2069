//! Whatever happens to the broker or the way to it, the worker attaches again and loses nothing that was confirmed.

mod access;
mod alarms;
mod half_there;
mod nodes;

use serde_json::json;

use crate::support::*;

const ATTACHED: &str = "consumer attached";

/// How many events a worker has, and how many of them it attempts, while the receiver answers none: a webhook gets half of
/// `worker.max_in_flight`.
const IN_HAND: usize = 20;
const IN_FLIGHT: usize = 4;

/// A ledger and a worker that reaches the broker through a proxy, with a heartbeat of a second.
async fn behind_a_proxy() -> (Ledger, Proxy, Replica) {
    let site = Site::new().await.set("amqp.heartbeat", "1s").set("worker.max_in_flight", &(2 * IN_FLIGHT).to_string());
    // The receiver may answer only after the worker has attached again.
    let site = site.set("sender.timeout", "60s").set("worker.lease", "10m");
    let proxy = Proxy::to(site.amqp_address()).await;
    let ledger = Ledger::open(site).await;
    let through = ledger.site.amqp_url_through(&proxy.addr());
    let worker = ledger.site.launch(&["worker"]).env("AMQP_URL", &through).start_worker().await;
    (ledger, proxy, worker)
}

/// Publishes more events than the worker can have in flight. The receiver answers once the gate opens.
async fn fill_in_flight(ledger: &Ledger) -> Gate {
    let gate = Gate::default();
    ledger.receiver.always(Reply::status(200).held_by(&gate));
    let before = ledger.receiver.count();
    ledger.publish(IN_HAND).await;
    ledger.receiver.wait_for(before + IN_FLIGHT).await;
    gate
}

#[tokio::test]
async fn what_waits_behind_a_cut_connection_is_sent_once() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    let gate = fill_in_flight(&ledger).await;
    proxy.cut().await;
    worker.wait_for_log_times(ATTACHED, 2).await;
    gate.open();
    // An event in flight may be delivered again, since its first result is not recorded yet.
    ledger.close(vec![worker]).await.assert_sound(IN_FLIGHT);
}

#[tokio::test]
async fn what_waits_behind_a_reset_connection_is_sent_once() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    let gate = fill_in_flight(&ledger).await;
    proxy.reset().await;
    worker.wait_for_log_times(ATTACHED, 2).await;
    gate.open();
    ledger.close(vec![worker]).await.assert_sound(IN_FLIGHT);
}

#[tokio::test]
async fn a_broker_that_has_fallen_silent_is_given_up_after_two_heartbeats() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    let gate = fill_in_flight(&ledger).await;
    proxy.pause();
    worker.wait_for_log("lost the broker").await;
    gate.open();
    proxy.cut().await;
    proxy.resume();
    worker.wait_for_log_times(ATTACHED, 2).await;
    ledger.close(vec![worker]).await.assert_sound(IN_FLIGHT);
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_frame_delivers_no_half_event() {
    let (ledger, proxy, mut worker) = behind_a_proxy().await;
    proxy.trickle(7, std::time::Duration::from_millis(1));
    ledger.publish(50).await;
    ledger.receiver.wait_for(1).await;
    proxy.cut().await;
    proxy.trickle(16 * 1024, std::time::Duration::ZERO);
    worker.wait_for_log_times(ATTACHED, 2).await;
    let report = ledger.close(vec![worker]).await;
    report.assert_sound(50);
}

#[tokio::test]
async fn a_queue_deleted_under_the_consumer_is_declared_again() {
    let ledger = Ledger::open(Site::new().await).await;
    let mut worker = ledger.site.worker().await;
    ledger.publish(5).await;
    ledger.wait_until_done().await;
    ledger.site.delete_worker_queue().await;
    worker.wait_for_log("the broker ended the consumer: its queue was deleted").await;
    worker.wait_for_log_times(ATTACHED, 2).await;
    ledger.publish(5).await;
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_dead_queue_deleted_under_the_workers_is_declared_again() {
    let site = Site::new().await;
    let mut worker = site.worker().await;
    site.delete_dead_queue().await;
    worker.wait_for_log("declared it again").await;
    assert_eq!(site.publish_message(&site.message("no event")).await, Fate::Confirmed);
    assert_eq!(site.wait_for_dead_letters(1).await[0].body, b"no event");
    assert_eq!(worker.log().matches(ATTACHED).count(), 1);
}

#[tokio::test]
async fn exchanges_that_somebody_creates_anew_are_bound_again() {
    let site = Site::new().await;
    let worker = site.worker().await;
    site.recreate_exchanges().await;
    let event = site.event("evt_1", "acc_1", "content.created", &json!({}));
    wait_until("events are routed", async || site.publish_message(&event).await == Fate::Confirmed).await;
    assert_eq!(site.publish_message(&site.message_to_queue("no event")).await, Fate::Confirmed);
    assert_eq!(site.wait_for_dead_letters(1).await[0].body, b"no event");
    assert_eq!(worker.log().matches(ATTACHED).count(), 1);
}

/// One test for three faults, since a private broker takes ten seconds to start.
#[tokio::test]
async fn a_broker_that_closes_all_connections_restarts_or_is_killed_loses_nothing_confirmed() {
    let servers = PrivateServers::broker().await;
    let site =
        Site::on(&servers).await.set("worker.max_in_flight", &(2 * IN_FLIGHT).to_string()).set("log.filter", "info");
    // The receiver may answer only after the broker has started again.
    let ledger = Ledger::open(site.set("sender.timeout", "60s").set("worker.lease", "10m")).await;
    let mut worker = ledger.site.worker().await;
    let gate = fill_in_flight(&ledger).await;
    servers.ctl(&["close_all_connections", "a test"]).await;
    worker.wait_for_log_times(ATTACHED, 2).await;
    gate.open();
    ledger.wait_until_done().await;
    let gate = fill_in_flight(&ledger).await;
    // An orderly restart before the kill: RabbitMQ may lose a queue that was declared shortly before a kill.
    servers.restart("rabbitmq").await;
    worker.wait_for_log_times(ATTACHED, 3).await;
    gate.open();
    ledger.wait_until_done().await;
    let gate = fill_in_flight(&ledger).await;
    servers.kill("rabbitmq").await;
    servers.restart("rabbitmq").await;
    worker.wait_for_log_times(ATTACHED, 4).await;
    gate.open();
    ledger.wait_until_done().await;
    assert_eq!(worker.warnings(), ["lost the broker, connecting again"; 3]);
    ledger.close(vec![worker]).await.assert_sound(3 * IN_FLIGHT);
    assert_eq!(servers.protocol_errors().await, [""; 0]);
}

#[tokio::test]
async fn a_worker_whose_acks_were_late_attaches_again() {
    let servers = PrivateServers::broker().await;
    let short =
        "application:set_env(rabbit, consumer_timeout, 1000), application:set_env(rabbit, channel_tick_interval, 500).";
    servers.ctl(&["eval", short]).await;
    let site = Site::on(&servers).await.set("worker.max_in_flight", &(2 * IN_FLIGHT).to_string());
    let ledger = Ledger::open(site.set("sender.timeout", "60s").set("worker.lease", "10m")).await;
    let mut worker = ledger.site.worker().await;
    let gate = fill_in_flight(&ledger).await;
    // RabbitMQ closes the channel; from 4.3 on it ends only the consumer.
    let lost = worker.logged("lost the broker, connecting again", "error").await;
    assert!(["PRECONDITION_FAILED", "ended the consumer"].iter().any(|why| lost.contains(why)), "{lost}");
    worker.wait_for_log_times(ATTACHED, 2).await;
    gate.open();
    ledger.close(vec![worker]).await.assert_sound(IN_FLIGHT);
}

#[tokio::test]
async fn connections_lost_over_and_over_leave_nothing_open() {
    const TIMES: usize = 30;
    let site = Site::new().await;
    let (broker, postgres) = (Proxy::to(site.amqp_address()).await, Proxy::to(site.postgres_address()).await);
    let ledger = Ledger::open(site).await;
    let amqp_url = ledger.site.amqp_url_through(&broker.addr());
    let database_url = ledger.site.database_url_through(&postgres.addr());
    let launch = ledger.site.launch(&["worker"]).env("AMQP_URL", &amqp_url).env("DATABASE_URL", &database_url);
    let mut worker = launch.start_worker().await;
    for times in 1..=TIMES {
        ledger.publish(1).await;
        ledger.wait_until_done().await;
        tokio::join!(broker.cut(), postgres.reset());
        worker.wait_for_log_times(ATTACHED, times + 1).await;
    }
    ledger.close(vec![worker]).await.assert_sound(0);
}

//! What a worker that stops does with the events and attempts that it has in hand.

use std::time::Duration;

use super::{ends_well, ids, publish, sorted, webhook_at};
use crate::support::{Configure, Gate, Receiver, Reply, Site, wait_until};

/// What stands for "soon after a grace of 2 s" on a busy machine. A worker that waited for the receiver would take a minute.
const SOON: Duration = Duration::from_secs(30);

/// Attempts last until the test lets the receiver answer, however busy the machine is.
async fn patient_site() -> Site {
    Site::new().await.set("sender.timeout", "60s").set("worker.lease", "10m")
}

#[tokio::test]
async fn attempts_in_flight_are_finished_recorded_and_acked() {
    let site = patient_site().await;
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.always(Reply::status(200).held_by(&gate));
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    let mut events = publish(&site, 50).await;
    receiver.wait_for(50).await;
    worker.terminate();
    worker.wait_for_log("stopping").await;
    gate.open();
    ends_well(&mut worker).await;
    assert_eq!(site.count("SELECT count(*) FROM attempts WHERE http_status = 200").await, 50);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
    let _next = site.worker().await;
    events.extend(publish(&site, 1).await);
    receiver.wait_for(51).await;
    assert_eq!(ids(&receiver), sorted(events), "something was lost or sent again");
}

#[tokio::test]
async fn failures_in_flight_are_recorded_with_their_retries() {
    let site = patient_site().await.set("retry.schedule", r#"["100ms"]"#);
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.script(vec![Reply::status(503).held_by(&gate); 20]);
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    let events = publish(&site, 20).await;
    receiver.wait_for(20).await;
    worker.terminate();
    worker.wait_for_log("stopping").await;
    gate.open();
    ends_well(&mut worker).await;
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 20);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
    let _next = site.worker().await;
    let requests = receiver.wait_for(40).await;
    assert!(requests[20..].iter().all(|request| request.attempt() == 2));
    assert_eq!(ids(&receiver), sorted([events.clone(), events].concat()));
}

#[tokio::test]
async fn events_taken_but_not_started_go_back_and_are_delivered_by_the_next_worker() {
    let site = patient_site().await.set("worker.max_in_flight", "8").set("worker.park_after", "60s");
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.always(Reply::status(200).held_by(&gate));
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    let events = publish(&site, 60).await;
    receiver.wait_for(4).await;
    worker.terminate();
    worker.wait_for_log("stopping").await;
    gate.open();
    ends_well(&mut worker).await;
    let started = receiver.count();
    assert!(started < 60, "everything was started after the signal");
    let back = async || site.queue_depth(site.worker_queue()).await as usize == 60 - started;
    wait_until("the rest is back in the queue", back).await;
    let _next = site.worker().await;
    receiver.wait_for(60).await;
    assert_eq!(ids(&receiver), sorted(events), "something was lost or sent again");
}

#[tokio::test]
async fn an_event_started_for_one_webhook_only_goes_back_for_the_others() {
    let site = patient_site().await.set("worker.max_in_flight", "1");
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.always(Reply::status(200).held_by(&gate));
    for path in ["/1", "/2", "/3"] {
        site.create_webhook(super::ACCOUNT, &receiver.url_at(path), &[super::TYPE]).await;
    }
    let mut worker = site.worker().await;
    publish(&site, 1).await;
    receiver.wait_for(1).await;
    worker.terminate();
    worker.wait_for_log("stopping").await;
    gate.open();
    ends_well(&mut worker).await;
    let _next = site.worker().await;
    receiver.wait_for(3).await;
    wait_until("the event is done", async || site.count("SELECT count(*) FROM attempts").await == 3).await;
    for path in ["/1", "/2", "/3"] {
        assert_eq!(receiver.requests_at(path).len(), 1, "at {path}");
    }
}

#[tokio::test]
async fn a_receiver_slower_than_the_grace_gets_the_event_again_under_the_same_id() {
    let site = patient_site().await.set("shutdown.grace", "2s");
    let receiver = Receiver::start().await;
    receiver.script([Reply::silence()]);
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    let event = publish(&site, 1).await.remove(0);
    receiver.wait_for(1).await;
    worker.terminate();
    let took = ends_well(&mut worker).await;
    assert!(took < SOON, "{took:?} instead of 2 s");
    let _next = site.worker().await;
    let requests = receiver.wait_for(2).await;
    assert!(requests.iter().all(|request| request.event_id() == event && request.attempt() == 1));
    wait_until("the event is done", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
}

#[tokio::test]
async fn a_retry_that_cannot_be_finished_is_due_again_before_its_lease_ends() {
    let site = patient_site().await.set("retry.schedule", r#"["100ms"]"#).set("shutdown.grace", "2s");
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(503), Reply::silence()]);
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    publish(&site, 1).await;
    receiver.wait_for(2).await;
    worker.terminate();
    ends_well(&mut worker).await;
    let _next = site.worker().await;
    let requests = receiver.wait_for(3).await;
    let attempts: Vec<_> = requests.iter().map(|request| request.attempt()).collect();
    assert_eq!(attempts, [1, 2, 2], "a stop costs no attempt");
}

#[tokio::test]
async fn no_grace_at_all_abandons_everything_and_loses_nothing() {
    let site = patient_site().await.set("shutdown.grace", "0s");
    let receiver = Receiver::start().await;
    receiver.script(vec![Reply::silence(); 10]);
    webhook_at(&site, &receiver).await;
    let mut worker = site.worker().await;
    let events = publish(&site, 10).await;
    receiver.wait_for(10).await;
    worker.terminate();
    ends_well(&mut worker).await;
    let _next = site.worker().await;
    receiver.wait_for(20).await;
    assert_eq!(ids(&receiver), sorted([events.clone(), events].concat()));
}

//! Which signals stop a worker, and how fast.

use std::time::Duration;

use super::{ends_well, publish, webhook_at};
use crate::support::{Configure, Gate, Receiver, Replica, Reply, Site};

/// Attempts last until the test lets the receiver answer, however busy the machine is.
async fn patient_site() -> Site {
    Site::new().await.set("sender.timeout", "60s").set("worker.lease", "10m")
}

/// A worker with an attempt in flight, which the gate holds.
async fn busy(site: &Site) -> (Replica, Receiver, Gate) {
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.always(Reply::status(200).held_by(&gate));
    webhook_at(site, &receiver).await;
    let worker = site.worker().await;
    publish(site, 1).await;
    receiver.wait_for(1).await;
    (worker, receiver, gate)
}

#[tokio::test]
async fn an_idle_worker_stops_at_once() {
    let site = Site::new().await;
    let mut worker = site.worker().await;
    worker.terminate();
    let took = ends_well(&mut worker).await;
    assert!(took < Duration::from_secs(20), "{took:?} with nothing to do, and a grace of 25 s");
}

#[tokio::test]
async fn sigint_stops_as_sigterm_does() {
    let site = patient_site().await;
    let (mut worker, _receiver, gate) = busy(&site).await;
    worker.interrupt();
    worker.wait_for_log("stopping").await;
    gate.open();
    ends_well(&mut worker).await;
    assert_eq!(site.count("SELECT count(*) FROM attempts").await, 1);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
}

#[tokio::test]
async fn a_second_signal_exits_at_once() {
    let site = patient_site().await.set("shutdown.grace", "10m");
    let (mut worker, receiver, _held) = busy(&site).await;
    worker.terminate();
    worker.wait_for_log("stopping").await;
    worker.interrupt();
    assert_eq!(worker.wait().await.code(), Some(130));
    receiver.always(Reply::status(200));
    let _next = site.worker().await;
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].event_id(), requests[1].event_id());
}

#[tokio::test]
async fn both_roles_in_one_process_stop_as_a_worker_does() {
    let site = Site::new().await;
    let mut both = site.launch(&["run"]).start_worker().await;
    both.terminate();
    ends_well(&mut both).await;
}

//! A stopped worker ends within its grace and loses nothing: what is in flight is finished and recorded, what was not
//! started goes back, what cannot be finished is delivered again under the same id.

mod commands;
mod in_flight;
mod outages;
mod signals;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Receiver, Replica, Site, Webhook};

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

/// One webhook that takes `TYPE` events of `ACCOUNT`.
async fn webhook_at(site: &Site, receiver: &Receiver) -> Webhook {
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await
}

async fn publish(site: &Site, count: usize) -> Vec<String> {
    site.publish_many(count, ACCOUNT, TYPE, json!({})).await
}

/// Waits for an orderly end after a signal, and returns how long it took.
async fn ends_well(worker: &mut Replica) -> Duration {
    let signalled = Instant::now();
    let status = worker.wait().await;
    assert_eq!(status.code(), Some(0), "the worker did not exit with 0");
    signalled.elapsed()
}

/// The ids of the requests so far, sorted.
fn ids(receiver: &Receiver) -> Vec<String> {
    let mut ids: Vec<_> = receiver.requests().iter().map(|request| request.event_id().to_owned()).collect();
    ids.sort();
    ids
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

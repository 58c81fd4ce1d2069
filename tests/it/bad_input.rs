//! Whatever is published: events arrive, other messages become dead letters with a reason, and the worker goes on working, without
//! redelivery loops, lost connections or payloads in its log.

mod bodies;
pub mod crowds;
mod delivered;
mod each_message;
mod headers;
mod large;
mod libraries;
mod properties;
pub mod table;
mod twins;
mod unreadable;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::broker::new_event_id;
use crate::support::replica::ATTACHED;
use crate::support::{Configure, Fate, Message, RawMessage, Receiver, Replica, Site, Webhook, wait_until};

pub const ACCOUNT: &str = "acc_good";
pub const TYPE: &str = "content.created";

/// Part of every payload: it must not get into the log.
const MARKER: &str = "payload-marker-9f3b";

/// One worker and one webhook that takes `TYPE` events of `ACCOUNT`.
struct Scene {
    // Dropped before the site, whose folder has the log: fields are dropped in this order.
    worker: Replica,
    site: Site,
    receiver: Receiver,
    webhook: Webhook,
    /// The ids of the events that must arrive.
    good: Vec<String>,
}

/// A message that must become a dead letter.
struct Bad {
    message: RawMessage,
    /// What the worker must log as the reason.
    reason: &'static str,
}

impl Scene {
    async fn open() -> Self {
        Self::at(Site::new().await).await
    }

    async fn at(site: Site) -> Self {
        let site = site.set("log.filter", "trace");
        let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
        let worker = site.worker().await;
        Self { worker, site, receiver, webhook, good: Vec::new() }
    }

    /// Publishes events that must arrive.
    async fn publish_good(&mut self, count: usize) {
        self.good.extend(self.site.publish_many(count, ACCOUNT, TYPE, json!(MARKER)).await);
    }

    /// Publishes something else that reaches the worker queue.
    async fn publish(&self, message: &Message) {
        assert_eq!(self.site.publish_message(message).await, Fate::Confirmed, "no queue took the message");
    }

    /// Publishes a message that lapin may refuse to send.
    async fn publish_raw(&self, message: &RawMessage) {
        assert_eq!(self.site.publish_raw(message).await, Fate::Confirmed, "no queue took the message");
    }

    /// Publishes each bad message among good events, so that they come in one batch. Checks that each bad message becomes a
    /// dead letter, that all good events arrive, and that the worker goes on.
    async fn only_these_become_dead_letters(mut self, bad: Vec<Bad>) {
        let good = 100_usize.div_ceil(bad.len()).max(2);
        self.worker.pause();
        for Bad { message, .. } in &bad {
            self.publish_good(good).await;
            self.publish_raw(message).await;
        }
        self.publish_good(good).await;
        self.worker.resume();
        self.all_good_arrive().await;
        let letters = self.site.wait_for_dead_letters(bad.len()).await;
        let bodies: Vec<_> = letters.into_iter().map(|letter| letter.body).collect();
        same(bodies, bad.iter().map(|bad| bad.message.body.clone()).collect());
        let reasons: Vec<_> = bad.iter().map(|bad| bad.reason).collect();
        assert_eq!(reasons_logged(&self.worker), reasons);
        self.ends_unharmed().await;
    }

    /// Checks that each of these events arrived at least once, and no other.
    async fn all_good_arrive(&self) {
        let good: BTreeSet<String> = self.good.iter().cloned().collect();
        let arrived = || self.receiver.requests().iter().map(|r| r.event_id().to_owned()).collect::<BTreeSet<_>>();
        wait_until("all good events arrive", async || arrived().is_superset(&good)).await;
        self.site.wait_for_empty_queue().await;
        assert_eq!(arrived().difference(&good).collect::<Vec<_>>(), [""; 0], "events arrived that must not");
    }

    /// Checks that the worker takes the next event over its first connection, and has logged no payload.
    async fn ends_unharmed(mut self) {
        self.takes_the_next_event().await;
        assert_eq!(self.worker.log().matches(ATTACHED).count(), 1, "the channel was closed");
        self.has_kept_quiet();
    }

    async fn takes_the_next_event(&mut self) {
        self.publish_good(1).await;
        self.all_good_arrive().await;
        assert!(self.site.dead_letters().await.is_empty(), "more dead letters than bad messages");
    }

    fn has_kept_quiet(&mut self) {
        assert!(self.worker.is_running());
        let log = self.worker.log();
        assert!(!log.contains("panicked"), "a panic in the log");
        assert!(!log.contains(MARKER), "a payload in the log");
    }
}

impl Site {
    async fn wait_for_empty_queue(&self) {
        let queue = self.worker_queue();
        wait_until("the worker queue is empty", async || self.queue_depth(queue).await == 0).await;
    }
}

/// The reasons for which the worker made dead letters, in order.
fn reasons_logged(worker: &Replica) -> Vec<String> {
    let lines = worker.log_lines();
    lines.iter().filter_map(|line| Some(line.get("reason")?.as_str()?.to_owned())).collect()
}

/// Fails unless both have the same elements, in any order.
#[track_caller]
fn same<T: Ord + Clone + std::fmt::Debug>(actual: Vec<T>, expected: Vec<T>) {
    let count = |all: Vec<T>| {
        let mut counts = BTreeMap::new();
        all.into_iter().for_each(|one| *counts.entry(one).or_insert(0) += 1);
        counts
    };
    let (actual, expected) = (count(actual), count(expected));
    let differing = |a: &BTreeMap<T, i32>, b: &BTreeMap<T, i32>| -> Vec<String> {
        let only = a.iter().filter(|(one, times)| b.get(one) != Some(times));
        only.map(|(one, times)| format!("{times} × {one:?}").chars().take(200).collect()).collect()
    };
    let (unexpected, missing) = (differing(&actual, &expected), differing(&expected, &actual));
    assert!(unexpected.is_empty() && missing.is_empty(), "unexpected: {unexpected:#?}\nmissing: {missing:#?}");
}

/// An event with one field replaced, or removed by `None`.
fn event_with(field: &str, value: Option<Value>) -> Vec<u8> {
    let mut event = valid(&new_event_id());
    let fields = event.as_object_mut().expect("an event is an object");
    match value {
        Some(value) => fields.insert(field.to_owned(), value),
        None => fields.remove(field),
    };
    event.to_string().into_bytes()
}

fn valid(id: &str) -> Value {
    let occurred_at = "2026-11-23T10:00:00Z";
    json!({"id": id, "type": TYPE, "account_id": ACCOUNT, "occurred_at": occurred_at, "data": {"note": MARKER}})
}

/// An event whose `data` is written exactly so.
fn event_with_data(id: &str, data: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"{TYPE}","account_id":"{ACCOUNT}","occurred_at":"2026-11-23T10:00:00Z","data":{data}}}"#
    )
}

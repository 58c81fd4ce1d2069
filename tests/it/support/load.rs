//! A ledger under load: events at a steady rate, a receiver that fails for one request in ten, quick retries.

use std::cell::Cell;
use std::future::Future;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::reply::Reply;
use super::settings::Configure;
use super::site::Site;

const EVENTS_PER_SECOND: u32 = 100;
const BURSTS_PER_SECOND: u32 = 20;

impl Ledger {
    /// One request in ten fails. No worker has more than `prefetch` messages in hand.
    pub async fn under_load(site: Site, prefetch: usize) -> Self {
        let schedule = format!("[{}]", ["\"200ms\""; 30].join(","));
        let site = site.set("retry.schedule", &schedule).set("worker.prefetch", &prefetch.to_string());
        let ledger = Self::open(site).await;
        ledger.receiver.answer(|_| Reply::status(if rand::random_ratio(1, 10) { 503 } else { 200 }));
        ledger
    }

    /// Publishes until that time, and repeats each event until the broker confirms it.
    pub async fn publish_until(&self, end: Instant) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
        while Instant::now() < end {
            ticks.tick().await;
            self.publish_until_confirmed().await;
        }
    }

    /// Publishes `events_per_second`, in bursts, until `what` has ended. The broker must be running.
    pub async fn publish_during<T>(&self, events_per_second: usize, what: impl Future<Output = T>) -> T {
        let over = Cell::new(false);
        let what = async {
            let result = what.await;
            over.set(true);
            result
        };
        let publish = async {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / BURSTS_PER_SECOND);
            while !over.get() {
                ticks.tick().await;
                self.publish(events_per_second / BURSTS_PER_SECOND as usize).await;
            }
        };
        tokio::join!(what, publish).0
    }
}

//! One webhook's books over a fault: all events published for it, compared at the end with what its receiver got and what the
//! database has.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;

use super::amqp::{Fate, Message};
use super::broker::new_event_id;
use super::checker::{Books, Published, Report, check};
use super::cli::Webhook;
use super::receiver::Receiver;
use super::replica::Replica;
use super::settings::Configure;
use super::site::Site;
use super::wait::{eventually, wait_until};

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

pub struct Ledger {
    pub site: Site,
    pub receiver: Receiver,
    pub webhook: Webhook,
    published: Mutex<Vec<Published>>,
    sql: tokio::sync::Mutex<Option<Client>>,
}

impl Ledger {
    /// A webhook at a receiver that answers 200 until told otherwise.
    pub async fn open(site: Site) -> Self {
        Self::open_at(site, Receiver::start().await).await
    }

    /// A webhook at this receiver.
    pub async fn open_at(site: Site, receiver: Receiver) -> Self {
        // Idle connections close soon, so that what is still open at the end is a leak.
        let site = site.set("sender.idle_timeout", "500ms");
        let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
        Self { site, receiver, webhook, published: Mutex::default(), sql: tokio::sync::Mutex::default() }
    }

    /// How many events were published and confirmed so far.
    pub fn published(&self) -> usize {
        self.published.lock().unwrap().len()
    }

    /// The ids of the events that were published after the first `first`.
    pub fn published_since(&self, first: usize) -> Vec<String> {
        let published = self.published.lock().unwrap();
        published.iter().skip(first).map(|event| event.event_id.clone()).collect()
    }

    /// Publishes this many events, confirmed, and returns their ids.
    pub async fn publish(&self, count: usize) -> Vec<String> {
        let ids = self.site.publish_many(count, ACCOUNT, TYPE, json!({})).await;
        ids.iter().for_each(|id| self.note(id));
        ids
    }

    /// As `publish`, with this many bytes of data in each event.
    pub async fn publish_large(&self, count: usize, bytes: usize) {
        let ids = self.site.publish_many(count, ACCOUNT, TYPE, "x".repeat(bytes).into()).await;
        ids.iter().for_each(|id| self.note(id));
    }

    /// Publishes an event under this id, confirmed.
    pub async fn publish_as(&self, id: &str) {
        self.site.publish_message(&self.event(id)).await;
        self.note(id);
    }

    /// Publishes an event, once more under the same id whenever the broker does not confirm it.
    pub async fn publish_until_confirmed(&self) {
        let id = new_event_id();
        while !matches!(self.site.try_publish(&self.event(&id)).await, Ok(Fate::Confirmed)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.note(&id);
    }

    pub(super) fn event(&self, id: &str) -> Message {
        self.site.event(id, ACCOUNT, TYPE, &json!({}))
    }

    pub(super) fn note(&self, id: &str) {
        let (account, event_type) = (ACCOUNT.to_owned(), TYPE.to_owned());
        self.published.lock().unwrap().push(Published { event_id: id.to_owned(), account, event_type });
    }

    /// One number from the database, on a new connection if a fault took the last.
    pub async fn count(&self, query: &str) -> i64 {
        let mut sql = self.sql.lock().await;
        if sql.as_ref().is_none_or(Client::is_closed) {
            *sql = Some(self.site.another_sql().await);
        }
        let client = sql.as_ref().expect("it is there now");
        client.query_one(query, &[]).await.expect("the query is right").get(0)
    }

    pub async fn wait_for_count(&self, query: &str, count: i64) {
        wait_until(&format!("{query:?} gives {count}"), async || self.count(query).await == count).await;
    }

    /// Waits until the number has grown to this one: the time-out begins anew with every step.
    pub async fn wait_for_growth(&self, query: &str, count: usize) {
        let (count, mut seen) = (i64::try_from(count).unwrap(), -1);
        while seen < count {
            let more = async || Some(self.count(query).await).filter(|now| *now > seen);
            seen = eventually(&format!("{query:?} gives more than {seen} of {count}"), more).await;
        }
    }

    /// Waits until every event has ended: with a success, or closed where an operator sees it.
    pub async fn wait_until_done(&self) {
        let published = self.published();
        let done = format!(
            "SELECT count(*) FROM (SELECT delivery_id FROM attempts WHERE error IS NULL AND webhook_id = '{id}'
             UNION SELECT id FROM closed_deliveries WHERE webhook_id = '{id}') d",
            id = self.webhook.id
        );
        self.wait_for_growth(&done, published).await;
        self.wait_for_count("SELECT count(*) FROM pending_deliveries", 0).await;
    }

    /// Lets a fresh worker take whatever the others left, stops all workers, and reads the books: the queue must be
    /// empty, nothing may have become a dead letter, and no worker may have more files open or use more memory than after
    /// its start.
    pub async fn close(self, workers: Vec<Replica>) -> Report {
        self.wait_until_done().await;
        for worker in &workers {
            worker.wait_for_its_level().await;
        }
        stop(workers).await;
        let last = self.site.worker().await;
        // Messages that the stopped workers returned are taken before this one.
        self.publish(1).await;
        self.wait_until_done().await;
        stop(vec![last]).await;
        let site = &self.site;
        wait_until("the queue is empty", async || site.queue_depth(site.worker_queue()).await == 0).await;
        assert_eq!(site.queue_depth(site.dead_queue()).await, 0, "dead letters");
        let books = Books::read(site, &self.webhook, self.receiver.requests()).await;
        check(&self.published.lock().unwrap(), &[books])
    }
}

async fn stop(workers: Vec<Replica>) {
    for mut worker in workers {
        worker.terminate();
        assert_eq!(worker.wait().await.code(), Some(0), "the worker did not exit with 0");
        assert!(!worker.log().contains("panicked"), "{}", worker.log());
    }
}

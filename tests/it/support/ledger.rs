//! One webhook's books over a fault: everything published for it, held at the end against everything that came of it.

use std::sync::Mutex;

use serde_json::json;
use tokio_postgres::Client;

use super::checker::{Books, Published, Report, check};
use super::cli::Webhook;
use super::receiver::Receiver;
use super::replica::Replica;
use super::site::Site;
use super::wait::wait_until;

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
        let receiver = Receiver::start().await;
        let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
        Self { site, receiver, webhook, published: Mutex::default(), sql: tokio::sync::Mutex::default() }
    }

    /// Publishes so many events, confirmed, and returns their ids.
    pub async fn publish(&self, count: usize) -> Vec<String> {
        let ids = self.site.publish_many(count, ACCOUNT, TYPE, json!({})).await;
        ids.iter().for_each(|id| self.note(id));
        ids
    }

    /// Publishes an event under this id, confirmed.
    pub async fn publish_as(&self, id: &str) {
        let event = self.site.event(id, ACCOUNT, TYPE, &json!({}));
        self.site.publish_raw(&event).await;
        self.note(id);
    }

    fn note(&self, id: &str) {
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

    /// Waits until every event has ended: with a success, or closed where an operator sees it.
    pub async fn wait_until_done(&self) {
        let owed = self.published.lock().unwrap().len();
        let done = "SELECT count(*) FROM (SELECT delivery_id FROM attempts WHERE error IS NULL
                    UNION SELECT id FROM closed_deliveries) d";
        self.wait_for_count(done, i64::try_from(owed).unwrap()).await;
        self.wait_for_count("SELECT count(*) FROM pending_deliveries", 0).await;
    }

    /// Lets a fresh worker take whatever the others left, stops everybody, and reads the books: the queue must be
    /// empty, and nothing may have become a dead letter.
    pub async fn close(self, workers: Vec<Replica>) -> Report {
        self.wait_until_done().await;
        stop(workers).await;
        let last = self.site.worker().await;
        // What is returned stands before it in the queue.
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
        assert_eq!(worker.wait().await.code(), Some(0), "it did not end well");
        assert!(!worker.log().contains("panicked"), "{}", worker.log());
    }
}

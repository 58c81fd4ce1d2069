//! Due deliveries are found and claimed at the same cost whatever else is in the table, and deliveries that their webhooks will
//! never get are removed from it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;

use penr_webhooks::config::{Database, UrlSource};
use penr_webhooks::ids::WebhookId;
use penr_webhooks::store::{PaceAsk, ReadUntil, Store};

use crate::support::*;

const TYPE: &str = "content.created";
/// How far `find_due` reads back in time, for rows that are committed late.
const OVERLAP: Duration = Duration::from_secs(1);
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

/// The webhooks of two customers: one with deliveries that wait, and one whose receiver fails again and again.
struct Queue {
    site: Site,
    receiver: Receiver,
    waiting: Webhook,
}

impl Queue {
    async fn on(site: Site) -> Self {
        let receiver = Receiver::start().await;
        let waiting = site.create_webhook("acc_waiting", &receiver.url_at("/waiting"), &[TYPE]).await;
        site.create_webhook("acc_other", &receiver.url_at("/other"), &[TYPE]).await;
        Self { site, receiver, waiting }
    }

    /// Starts a worker and delivers an event of the waiting webhook. Added deliveries are of this event, which stays stored.
    async fn begin(&self) -> Replica {
        let worker = self.site.worker().await;
        self.site.publish("acc_waiting", TYPE, json!({})).await;
        self.receiver.wait_for(1).await;
        wait_until("it is recorded", async || self.site.count("SELECT count(*) FROM attempts").await == 1).await;
        worker
    }

    /// Starts a worker, publishes this many events of the waiting webhook, and waits until all wait for a retry: the
    /// receiver must refuse each once.
    async fn begin_with(&self, events: usize) -> Replica {
        let worker = self.site.worker().await;
        self.site.publish_many(events, "acc_waiting", TYPE, json!({})).await;
        let refused = async || self.site.count(PENDING).await == i64::try_from(events).unwrap();
        wait_until("all wait for their retries", refused).await;
        worker
    }

    /// Adds pending deliveries, in a session whose statistics are counted afterwards.
    async fn add_pending(&self, webhooks: i64, each: i64, due: &str) {
        let sql = self.site.another_sql().await;
        sql.batch_execute(&insert_pending(webhooks, each, due)).await.unwrap();
        end(&self.site, sql).await;
    }

    /// Has the other webhook's receiver fail this often before it accepts an event.
    async fn retry(&self, times: usize) {
        let before = self.receiver.requests_at("/other").len();
        self.receiver.script((0..times).map(|_| Reply::status(500)));
        self.site.publish("acc_other", TYPE, json!({})).await;
        wait_until("all retries are made", async || self.receiver.requests_at("/other").len() > before + times).await;
    }
}

/// The SQL that adds `each` pending deliveries, due in `due`, for the waiting webhook and for new ones of another account.
fn insert_pending(webhooks: i64, each: i64, due: &str) -> String {
    format!(
        "INSERT INTO webhooks (id, account_id, name, url, event_types, secret)
         SELECT gen_random_uuid(), 'acc_more', name, url, event_types, secret
         FROM webhooks, generate_series(2, {webhooks}) WHERE account_id = 'acc_waiting';
         INSERT INTO pending_deliveries
             (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
         SELECT gen_random_uuid(), w.id, w.activation, e.day, e.key, 'retry', 1,
             now() + interval '{due}' + m * interval '1 microsecond'
         FROM webhooks w, events e, generate_series(1, {each}) AS m
         WHERE w.account_id IN ('acc_waiting', 'acc_more') AND e.account_id = 'acc_waiting'"
    )
}

/// Ends a session: its statistics are counted when it has ended.
pub async fn end(site: &Site, sql: Client) {
    let pid: i32 = sql.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    drop(sql);
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    wait_until("the session has ended", async || site.count(&there).await == 0).await;
}

/// Waits until no process of ours has a session: what a session has read is counted when it has ended.
pub async fn wait_for_the_end_of_sessions(site: &Site) {
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'penr-webhooks'";
    wait_until("their sessions have ended", async || site.count(sessions).await == 0).await;
}

/// Settings with which retries follow at once.
fn quick(site: Site) -> Site {
    site.set("retry.schedule", r#"["20ms","20ms","20ms","20ms","20ms","20ms","20ms","20ms","20ms"]"#)
}

/// The pages of `pending_deliveries` and its indexes that were read so far by sessions that have ended.
async fn pages_read(sql: &Client) -> i64 {
    let read = "SELECT (heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
                FROM pg_statio_user_tables WHERE relname = 'pending_deliveries'";
    sql.query_one(read, &[]).await.unwrap().get(0)
}

async fn stop(mut worker: Replica) {
    worker.terminate();
    assert!(worker.wait().await.success());
}

/// The pages that the worker reads for eight retries. Stops the worker.
async fn cost_of_retries(queue: &Queue, worker: Replica) -> i64 {
    let before = pages_read(queue.site.sql().await).await;
    queue.retry(8).await;
    stop(worker).await;
    wait_for_the_end_of_sessions(&queue.site).await;
    pages_read(queue.site.sql().await).await - before
}

#[tokio::test]
async fn dead_rows_that_an_old_snapshot_keeps_make_no_claim_read_more() {
    let queue = Queue::on(quick(Site::new().await)).await;
    stop(queue.begin().await).await;
    let backup = queue.site.another_sql().await;
    backup.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM webhooks").await.unwrap();
    let dead = queue.site.another_sql().await;
    dead.batch_execute(&insert_pending(1, 20_000, "-1 minute")).await.unwrap();
    for due in ["-50 seconds", "-40 seconds", "1 hour"] {
        let moved = format!("UPDATE pending_deliveries SET due_at = now() + interval '{due}'");
        dead.batch_execute(&moved).await.unwrap();
    }
    end(&queue.site, dead).await;
    let pages = cost_of_retries(&queue, queue.site.worker().await).await;
    assert!(pages < 10_000, "{pages} pages looked at, 60,000 dead rows");
    backup.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn deliveries_that_wait_for_their_pace_make_no_claim_read_more() {
    let queue = Queue::on(quick(Site::new().await)).await;
    let worker = queue.begin().await;
    let pace = format!("UPDATE webhooks SET max_per_second = 5 WHERE id = '{}'", queue.waiting.id);
    queue.site.sql().await.batch_execute(&pace).await.unwrap();
    // Plans are made while nothing waits.
    queue.retry(8).await;
    queue.add_pending(1, 60_000, "-1 minute").await;
    let pages = cost_of_retries(&queue, worker).await;
    assert!(pages < 10_000, "{pages} pages looked at, 60,000 rows wait for their pace");
    assert!(queue.receiver.requests_at("/waiting").len() < 1000);

    // Most are due still, and the statement that takes grants counts only what it may grant.
    let (sql, since) = (queue.site.sql().await, Some(jiff::Timestamp::UNIX_EPOCH));
    let before = pages_read(sql).await;
    {
        let store = store(&queue.site);
        let ask = PaceAsk { webhook: WebhookId(queue.waiting.id.parse().unwrap()), wanted: 1000, due_since: since };
        for _ in 0..50 {
            store.take_pace(None, &[ask]).await.unwrap();
        }
    }
    wait_for_the_end_of_sessions(&queue.site).await;
    let pages = pages_read(sql).await - before;
    assert!(pages < 50 * 20, "{pages} pages looked at by 50 statements");
}

#[tokio::test]
async fn plans_made_while_nothing_waited_serve_a_queue_that_has_grown() {
    let queue = Queue::on(quick(Site::new().await)).await;
    let sql = queue.site.sql().await;
    sql.batch_execute("ALTER TABLE pending_deliveries SET (autovacuum_enabled = off); ANALYZE pending_deliveries")
        .await
        .unwrap();
    let worker = queue.begin().await;
    // Each statement runs often enough for Postgres to choose a plan for all values and keep it.
    queue.retry(8).await;
    queue.retry(8).await;
    queue.add_pending(100, 200, "1 hour").await;
    let pages = cost_of_retries(&queue, worker).await;
    assert!(pages < 10_000, "{pages} pages looked at, 20,000 rows wait");
}

#[tokio::test]
async fn deliveries_whose_events_are_gone_are_closed_and_hold_up_no_other() {
    let queue = Queue::on(quick(Site::new().await).set("worker.batch", "50")).await;
    stop(queue.begin().await).await;
    queue.add_pending(1, 2000, "-1 minute").await;
    queue.site.sql().await.batch_execute("DELETE FROM events").await.unwrap();
    let mut worker = queue.site.worker().await;
    queue.retry(3).await;
    wait_until("nothing waits", async || queue.site.count(PENDING).await == 0).await;
    let cancelled = "SELECT count(*) FROM closed_deliveries WHERE reason = 'cancelled'";
    assert_eq!(queue.site.count(cancelled).await, 2000);
    worker.wait_for_log("closed deliveries whose events are gone").await;
    // Counted after the commit, one batch after the other.
    let counted = async || worker.metric(r#"closed_total{reason="cancelled"}"#).await == 2000.0;
    wait_until("each closed delivery is counted", counted).await;
    assert_eq!(queue.receiver.requests_at("/waiting").len(), 1);
}

#[tokio::test]
async fn pending_deliveries_are_closed_when_their_webhook_is_switched_off_or_deleted() {
    let queue = Queue::on(Site::new().await).await;
    let mut worker = queue.begin().await;
    queue.add_pending(1, 300, "1 hour").await;
    let switch = async |active| queue.site.json(&["webhooks", "update", &queue.waiting.id, "--active", active]).await;
    switch("false").await;
    switch("true").await;
    let closed = "SELECT count(*) FROM closed_deliveries WHERE reason = 'cancelled'";
    wait_until("all is closed", async || queue.site.count(closed).await == 300).await;
    assert_eq!(queue.site.count(PENDING).await, 0);
    // Deliveries of the current activation wait until the webhook is deleted.
    queue.add_pending(1, 5, "1 hour").await;
    queue.site.json(&["webhooks", "delete", &queue.waiting.id]).await;
    wait_until("those of the deleted webhook are closed", async || queue.site.count(closed).await == 305).await;
    // Logged after the commit.
    let line = "closed deliveries of a webhook that is off or gone";
    worker.wait_for_log_times(line, 2).await;
    assert_eq!(worker.log().matches(line).count(), 2);
}

#[tokio::test]
async fn a_row_that_is_committed_long_after_it_was_due_is_found() {
    let queue = Queue::on(Site::new().await).await;
    let worker = queue.begin().await;
    // As after a transaction that took long to commit.
    queue.add_pending(1, 3, "-10 minutes").await;
    queue.receiver.wait_for(4).await;
    wait_until("all is delivered", async || queue.site.count(PENDING).await == 0).await;
    stop(worker).await;
}

/// The number of requests for each attempt of each event; here an event is one delivery. An attempt that failed is followed by
/// one of another number, so that an answer that came too late for the time-out is no second request.
fn requests_per_attempt(receiver: &Receiver) -> HashMap<(String, u32), usize> {
    let mut counts = HashMap::new();
    for request in receiver.requests_at("/waiting") {
        *counts.entry((request.event_id().to_owned(), request.attempt())).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_claim_whose_lease_would_end_during_the_attempt_is_given_back() {
    let site = Site::new().await.set("sender.timeout", "3s").set("sender.body_timeout", "0s").set("worker.lease", "6s");
    let site = site.set("retry.schedule", r#"["1h", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"]"#);
    let queue = Queue::on(site.set("worker.max_in_flight", "24")).await;
    // All are on the way before the first one fails: what comes later would be parked without an attempt.
    queue.receiver.script((0..20).map(|_| Reply::status(500).after(Duration::from_secs(1))));
    let worker = queue.begin_with(20).await;
    stop(worker).await;
    // The receiver is fast when the deliveries are claimed and slow from then on. There is less room too, because other webhooks
    // wait for answers that never come.
    queue.receiver.always(Reply::status(200).after(Duration::from_millis(1500)));
    let silent = Receiver::start().await;
    silent.always(Reply::silence());
    for account in 0..30 {
        queue.site.create_webhook(&format!("acc_{account}"), &silent.url(), &[TYPE]).await;
    }
    queue.site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    let _worker = queue.site.worker().await;
    for account in 0..30 {
        queue.site.publish(&format!("acc_{account}"), TYPE, json!({})).await;
    }
    wait_until("all is delivered", async || {
        let waiting = format!("{PENDING} WHERE webhook_id = '{}'", queue.waiting.id);
        queue.site.count(&waiting).await == 0
    })
    .await;
    let twice: Vec<_> = requests_per_attempt(&queue.receiver).into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "made more than once without a crash: {twice:?}");
}

#[tokio::test]
async fn due_rows_beyond_what_one_query_reads_are_read_by_the_next_queries() {
    let queue = Queue::on(Site::new().await).await;
    stop(queue.begin().await).await;
    let store = store(&queue.site);
    let begun = store.find_due(ReadUntil::default(), OVERLAP).await.unwrap();
    assert!(!begun.more && begun.webhooks.is_empty());
    queue.add_pending(4, 600, "0 s").await;
    wait_until("all are due", async || queue.site.count(&format!("{PENDING} WHERE due_at > now()")).await == 0).await;
    let (mut found, mut read) = (BTreeSet::new(), begun.until);
    for _ in 0..2 {
        let more = store.find_due(read, OVERLAP).await.unwrap();
        assert!(more.more, "2,400 are due, 1,000 are read at once");
        found.extend(more.webhooks.iter().map(|due| due.id));
        read = more.until;
    }
    let last = store.find_due(read, OVERLAP).await.unwrap();
    found.extend(last.webhooks.iter().map(|due| due.id));
    assert_eq!((last.more, found.len()), (false, 4));
}

/// A store with a worker's settings.
fn store(site: &Site) -> Store {
    let url = site.database_url().into();
    let (connect_timeout, statement_timeout) = (Duration::from_secs(5), Duration::from_secs(10));
    Store::new(&Database { url, url_from: UrlSource::default(), pool_size: 1, connect_timeout, statement_timeout })
        .unwrap()
}

//! Receivers that misbehave once, and checks of the worker afterwards.
//!
//! A row is a receiver that answers its first request as the row says and every later one with 200. All rows of a table get
//! the same event from the same worker: each also shows that the others do not affect it.

use futures_util::StreamExt;
use futures_util::stream;

use crate::support::{Configure, LoggedAttempt, Receiver, Replica, Reply, Site, Webhook, eventually, wait_until};

/// Receivers put this text wherever they can. It must never get into the operator's log.
pub const MARK: &str = "receiver-was-here";

/// What `Reply` writes into its status lines.
const SCRIPTED: &str = "Scripted";

const ACCOUNT: &str = "acc_hostile";
const RETRIES_AT_ONCE: &str = r#"["50ms", "50ms", "50ms", "50ms", "50ms", "1h"]"#;
const MEMORY_SLACK_KIB: u64 = 96 * 1024;
const PEAK_SLACK_KIB: u64 = 256 * 1024;
const FILES_SLACK: usize = 16;

/// A receiver's first answer, and what the log says of it: `ok 200`, `http_status 503`, `timeout`, `tls or protocol` …
pub struct Row {
    name: String,
    verdict: String,
    url: String,
    receiver: Option<Receiver>,
}

impl Row {
    pub async fn new(name: impl ToString, reply: Reply, verdict: impl Into<String>) -> Self {
        let receiver = Receiver::start().await;
        receiver.script([reply]);
        Self::at(name, receiver, verdict)
    }

    pub fn at(name: impl ToString, receiver: Receiver, verdict: impl Into<String>) -> Self {
        Self { name: name.to_string(), verdict: verdict.into(), url: receiver.url(), receiver: Some(receiver) }
    }

    /// A receiver at this URL. If its first answer is a failure, the row ends with the first retry, whatever comes of it.
    pub fn at_url(name: impl ToString, url: String, verdict: impl Into<String>) -> Self {
        Self { name: name.to_string(), verdict: verdict.into(), url, receiver: None }
    }
}

/// A row with a receiver for each first answer.
pub async fn rows<N: ToString, V: Into<String>>(table: impl IntoIterator<Item = (N, Reply, V)>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, reply, verdict) in table {
        rows.push(Row::new(name, reply, verdict).await);
    }
    rows
}

/// A row after its event was delivered or given up.
pub struct Played {
    pub name: String,
    pub webhook: Webhook,
    pub receiver: Option<Receiver>,
    pub attempts: Vec<LoggedAttempt>,
    verdict: String,
}

impl Played {
    pub fn snippet(&self) -> &str {
        self.attempts[0].snippet.as_deref().unwrap_or_default()
    }

    fn complaint(&self) -> Option<String> {
        let (got, cause) = (self.attempts[0].verdict(), self.attempts[0].cause());
        let as_expected = self.verdict.split(" or ").any(|verdict| verdict == got || verdict == cause);
        (!as_expected).then(|| format!("{}: {cause}, not {}", self.name, self.verdict))
    }
}

/// A worker that has made its first delivery, and the resources it used for that.
pub struct Stage {
    // Dropped before the site, whose folder has the log.
    pub worker: Replica,
    pub site: Site,
    memory_kib: u64,
    files: usize,
    has_headers: bool,
}

impl Stage {
    pub async fn open(site: Site) -> Self {
        let site = site.set("retry.schedule", RETRIES_AT_ONCE).set("sender.idle_timeout", "500ms");
        let worker = site.worker().await;
        let receiver = Receiver::start().await;
        let webhook = site.create_webhook("acc_warm_up", &receiver.url(), &["content.created"]).await;
        site.publish("acc_warm_up", "content.created", "first".into()).await;
        site.wait_for_attempts(&webhook, 1).await;
        let (memory_kib, files) = (worker.memory_kib(), worker.open_files());
        Self { site, worker, memory_kib, files, has_headers: true }
    }

    /// Webhooks without headers: less is shown of an answer to one that has some.
    pub fn without_headers(self) -> Self {
        Self { has_headers: false, ..self }
    }

    /// Sends one event to all rows and compares the log with them. A receiver that failed must be called again.
    pub async fn play(&self, rows: Vec<Row>) -> Vec<Played> {
        let ready = stream::iter(rows.into_iter().map(|row| self.with_webhook(row))).buffered(4);
        let ready: Vec<(Row, Webhook)> = ready.collect().await;
        self.site.publish(ACCOUNT, "content.created", MARK.into()).await;
        let mut played = Vec::new();
        for (row, webhook) in ready {
            let attempts = self.settled(&row, &webhook).await;
            played.push(Played { name: row.name, verdict: row.verdict, webhook, receiver: row.receiver, attempts });
        }
        let complaints: Vec<String> = played.iter().filter_map(Played::complaint).collect();
        assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
        played
    }

    async fn with_webhook(&self, row: Row) -> (Row, Webhook) {
        let webhook = match self.has_headers {
            true => self.site.create_webhook(ACCOUNT, &row.url, &["content.created"]).await,
            false => self.site.create_plain_webhook(ACCOUNT, &row.url, &["content.created"]).await,
        };
        (row, webhook)
    }

    async fn settled(&self, row: &Row, webhook: &Webhook) -> Vec<LoggedAttempt> {
        eventually(&format!("the row {:?} is delivered or has failed twice", row.name), async || {
            let attempts = self.site.attempts(webhook).await;
            let last = attempts.last()?;
            let retried = row.receiver.is_none() && attempts.len() > 1;
            (last.error.is_none() || retried).then_some(attempts)
        })
        .await
    }

    /// Checks that the worker is alive, uses no more resources than before, and has logged nothing that a receiver sent.
    pub async fn close(mut self) {
        assert!(self.worker.is_running());
        let files = self.files + FILES_SLACK;
        wait_until("open files are back at their level", async || self.worker.open_files() <= files).await;
        let memory = self.memory_kib + MEMORY_SLACK_KIB;
        wait_until("memory is back at its level", async || self.worker.memory_kib() <= memory).await;
        let peak = self.worker.peak_memory_kib();
        assert!(peak <= self.memory_kib + PEAK_SLACK_KIB, "{peak} KiB at its peak, {} before", self.memory_kib);
        let log = self.worker.log();
        for line in log.lines() {
            // A line that is not JSON, such as that of a panic, fails here.
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
            assert!(!line.contains(MARK) && !line.contains(SCRIPTED), "{line}");
        }
    }
}

//! The page Settings > Webhooks, used in a real browser as a customer uses it.

use serde_json::json;

use crate::support::replica::ATTACHED;
use crate::support::*;

use hosts::Host;

mod advanced;
mod ageing;
mod bad_text;
mod chart;
mod deliveries;
mod documentation;
mod edits;
mod embedded;
mod files;
mod forced_colours;
mod holds;
mod hosts;
mod journeys;
mod list;
mod log;
mod outages;
mod proxied;
mod screenshots;
mod secrets;
mod states;
mod tokens;
mod trouble;

const ACCOUNT: &str = "acc_1";
const TYPES: [&str; 7] = [
    "content.created",
    "content.updated",
    "content.published",
    "content.scheduled",
    "keyword.created",
    "keyword.approved",
    "site.connected",
];

/// A browser for the page. The process that serves the page delivers, too.
struct Stage {
    site: Site,
    process: Replica,
    address: String,
    /// The page that frames ours, if one does.
    host: Option<Host>,
    browser: Browser,
}

impl Stage {
    async fn set() -> Self {
        Self::on(Site::new().await).await
    }

    async fn on(site: Site) -> Self {
        let mut process = site.launch(&["run"]).set("api.database_timeout", "5s").start();
        process.wait_for_log(ATTACHED).await;
        let address = process.logged("API address", "address").await;
        Self { site, process, address, host: None, browser: Browser::start().await }
    }

    fn page(&self) -> String {
        match &self.host {
            Some(host) => host.framed(),
            None => format!("http://{}/settings/webhooks", self.address),
        }
    }

    async fn token(&self) -> String {
        self.token_of(ACCOUNT).await
    }

    async fn token_of(&self, account: &str) -> String {
        let token = self.site.json(&["token", "--account", account]).await;
        token["token"].as_str().expect("a token is text").to_owned()
    }

    /// The page as penr.ai opens it. In a host's page the browser is in the frame afterwards.
    async fn open(&self) {
        if let Some(host) = &self.host {
            return host.open(&self.browser, "").await;
        }
        self.browser.goto(&format!("{}#token={}", self.page(), self.token().await)).await;
        self.browser.until("document.querySelector('h1') !== null").await;
    }

    /// Opens the page and goes to a view of it.
    async fn open_at(&self, view: &str) {
        self.open().await;
        self.go(view).await;
    }

    async fn go(&self, view: &str) {
        self.browser.js(&format!("location.hash = '#/webhooks{view}'")).await;
        self.browser.until(&format!("location.hash === '#/webhooks{view}'")).await;
    }

    async fn webhook(&self, url: &str, types: &[&str]) -> Webhook {
        self.site.create_webhook(ACCOUNT, url, types).await
    }

    async fn named(&self, name: &str, url: &str, types: &[&str]) -> Webhook {
        let webhook = self.webhook(url, types).await;
        self.site.json(&["webhooks", "update", &webhook.id, "--name", name]).await;
        webhook
    }

    async fn execute(&self, sql: &str) {
        self.site.sql().await.batch_execute(sql).await.unwrap();
    }

    /// Log rows of the last hours, as deliveries leave them.
    async fn write_log(&self, webhook: &Webhook, rows: i64, columns: &str) {
        let sql = format!(
            "INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
                 http_status, duration_ms, error, response_snippet, created_at, next_attempt_at)
             SELECT gen_random_uuid(), '{}', gen_random_uuid(), current_date, gen_random_uuid(), 'evt_' || n, {columns}
             FROM generate_series(1, {rows}) AS n",
            webhook.id
        );
        self.execute(&sql).await;
    }

    /// Deliveries of which one attempt was made, and the next one is due in half an hour.
    async fn write_waiting(&self, webhook: &Webhook, rows: i64) {
        let sql = format!(
            "INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
             SELECT gen_random_uuid(), id, activation, current_date, gen_random_uuid(), 'event', 1, now() + interval '30 minutes'
             FROM webhooks, generate_series(1, {rows}) WHERE id = '{}'",
            webhook.id
        );
        self.execute(&sql).await;
    }

    /// What the page has copied.
    async fn clipboard(&self) -> String {
        let read = json!({ "expression": "navigator.clipboard.readText()", "awaitPromise": true, "userGesture": true });
        let text = self.browser.devtools("Runtime.evaluate", read).await;
        text["result"]["value"].as_str().expect("the clipboard has text").to_owned()
    }

    async fn publish(&self, event_type: &str) -> String {
        self.site.publish(ACCOUNT, event_type, json!({ "title": "Hello" })).await
    }
}

//! A failed delivery is attempted again on the schedule, with the webhook as it is by then, until it succeeds or is closed
//! for a reason that its owner can see.

use serde_json::{Value, json};

use crate::support::settings::encryption_key;
use crate::support::*;

const ACCOUNT: &str = "acc_42";
const TYPE: &str = "content.published";

#[tokio::test]
async fn three_failures_and_a_success_make_four_attempts_with_two_workers() {
    let schedule = r#"["1100ms","20ms","20ms"]"#;
    let site = Site::new().await.set("retry.schedule", schedule).set("retry.jitter", "0");
    let receiver = Receiver::start().await;
    receiver.script([500, 301, 404].map(Reply::status));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let workers = [site.worker().await, site.worker().await];
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(4).await;
    for worker in workers {
        stop(worker).await;
    }
    let requests = receiver.requests();
    let attempts: Vec<u32> = requests.iter().map(|request| request.attempt()).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert!(requests.iter().all(|request| request.event_id() == event && request.body == requests[0].body));
    assert!(requests.iter().all(|request| request.verify(&webhook.secret).is_genuine()));
    // The schedule puts more than a second between the first two.
    assert!(requests[0].timestamp() < requests[1].timestamp());
    assert_ne!(requests[0].header("webhook-signature"), requests[1].header("webhook-signature"));
    assert_log_of_four_attempts(&site.log(&webhook.id).await);
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 0);
}

fn assert_log_of_four_attempts(newest_first: &[Value]) {
    let told: Vec<Value> = newest_first
        .iter()
        .rev()
        .map(|row| json!([row["attempt"], row["trigger"], row["status"], row["http_status"], row["error"]]))
        .collect();
    let expected = [
        json!([1, "event", "failed", 500, "http_status"]),
        json!([2, "retry", "failed", 301, "http_status"]),
        json!([3, "retry", "failed", 404, "http_status"]),
        json!([4, "retry", "success", 200, null]),
    ];
    assert_eq!(told, expected);
    let next: Vec<bool> = newest_first.iter().map(|row| row["next_attempt_at"].is_string()).collect();
    assert_eq!(next, [false, true, true, true]);
    assert!(newest_first.iter().all(|row| row["delivery_id"] == newest_first[0]["delivery_id"]));
}

#[tokio::test]
async fn the_last_failure_of_the_schedule_exhausts_the_delivery() {
    let site = Site::new().await.set("retry.schedule", r#"["10ms","10ms"]"#);
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(503));
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    assert_eq!(wait_for_closed(&site, 1).await, [("exhausted".to_owned(), 3)]);
    stop(worker).await;
    assert_eq!(receiver.count(), 3);
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 0);
    let log = site.log(&webhook.id).await;
    assert_eq!((log.len(), &log[0]["status"], &log[0]["next_attempt_at"]), (3, &json!("failed"), &Value::Null));
}

#[tokio::test]
async fn a_webhook_switched_off_while_a_retry_waits_is_not_called_again() {
    let waiting = Waiting::new().await;
    waiting.update(&["--active", "false"]).await;
    waiting.comes_due().await;
    assert_eq!(wait_for_closed(&waiting.site, 1).await, [("cancelled".to_owned(), 1)]);
    waiting.ends_with_requests(1).await;
}

#[tokio::test]
async fn what_waited_is_cancelled_even_if_its_webhook_is_on_again() {
    let waiting = Waiting::new().await;
    waiting.update(&["--active", "false"]).await;
    waiting.update(&["--active", "true"]).await;
    waiting.comes_due().await;
    assert_eq!(wait_for_closed(&waiting.site, 1).await, [("cancelled".to_owned(), 1)]);
    let fresh = waiting.site.publish(ACCOUNT, TYPE, json!({})).await;
    assert_eq!(waiting.receiver.wait_for(2).await[1].event_id(), fresh);
    waiting.ends_with_requests(2).await;
}

#[tokio::test]
async fn a_webhook_deleted_while_a_retry_waits_is_not_called_again() {
    let waiting = Waiting::new().await;
    waiting.site.json(&["webhooks", "delete", &waiting.webhook.id]).await;
    waiting.comes_due().await;
    assert_eq!(wait_for_closed(&waiting.site, 1).await, [("cancelled".to_owned(), 1)]);
    waiting.ends_with_requests(1).await;
}

#[tokio::test]
async fn a_retry_goes_to_the_url_that_the_webhook_has_by_then() {
    let waiting = Waiting::new().await;
    waiting.update(&["--url", &waiting.receiver.url_at("/moved")]).await;
    waiting.comes_due().await;
    let requests = waiting.receiver.wait_for(2).await;
    let told = requests.iter().map(|request| (&request.path[..], request.attempt()));
    assert_eq!(told.collect::<Vec<_>>(), [("/hook", 1), ("/moved", 2)]);
    assert_eq!(requests[1].event_id(), waiting.event);
    assert!(requests[1].verify(&waiting.webhook.secret).is_genuine());
    waiting.ends_with_requests(2).await;
}

#[tokio::test]
async fn a_webhook_that_no_longer_subscribes_still_gets_the_retries_of_earlier_events() {
    let waiting = Waiting::new().await;
    waiting.update(&["--events", "site.connected"]).await;
    waiting.comes_due().await;
    assert_eq!(waiting.receiver.wait_for(2).await[1].event_id(), waiting.event);
    waiting.ends_with_requests(2).await;
}

#[tokio::test]
async fn retry_after_can_only_push_a_retry_later_and_by_a_day_at_most() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#).set("retry.jitter", "0");
    let receiver = Receiver::start().await;
    receiver.answer(|request| {
        let seconds = request.path.trim_start_matches('/');
        Reply::with_headers(503, &[&format!("Retry-After: {seconds}")])
    });
    let mut webhooks = Vec::new();
    for asked in ["5", "7200", "8640000"] {
        webhooks.push(site.create_webhook(ACCOUNT, &receiver.url_at(&format!("/{asked}")), &[TYPE]).await);
    }
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("three retries wait", async || site.count("SELECT count(*) FROM pending_deliveries").await == 3).await;
    for (webhook, wait) in webhooks.iter().zip([3600, 7200, 86_400]) {
        let seconds = "SELECT extract(epoch FROM due_at - created_at)::bigint FROM pending_deliveries";
        let stored = site.count(&format!("{seconds} WHERE webhook_id = '{}'", webhook.id)).await;
        assert_eq!(stored, wait);
    }
}

#[tokio::test]
async fn a_webhook_that_answers_gone_is_disabled_and_never_called_again() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(410)]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    assert_eq!(wait_for_closed(&site, 1).await, [("disabled".to_owned(), 1)]);
    let shown = site.webhook(&webhook.id).await;
    assert_eq!((&shown["active"], &shown["disabled_reason"]), (&json!(false), &json!("gone")));
    // An event for a disabled webhook is closed, so that the webhook's owner can recover it.
    site.publish(ACCOUNT, TYPE, json!({})).await;
    let closed = wait_for_closed(&site, 2).await;
    assert!(closed.contains(&("disabled".to_owned(), 0)), "{closed:?}");
    let log = site.log(&webhook.id).await;
    assert_eq!((log.len(), &log[0]["next_attempt_at"]), (1, &Value::Null));
    stop(worker).await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_webhook_that_was_gone_is_called_again_once_its_owner_switches_it_on() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(410)]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_for_closed(&site, 1).await;
    let on = site.json(&["webhooks", "update", &webhook.id, "--active", "true"]).await;
    assert_eq!((&on["active"], &on["disabled_reason"]), (&json!(true), &Value::Null));
    let fresh = site.publish(ACCOUNT, TYPE, json!({})).await;
    assert_eq!(receiver.wait_for(2).await[1].event_id(), fresh);
}

#[tokio::test]
async fn what_waited_when_its_webhook_was_gone_is_closed_as_disabled() {
    let waiting = Waiting::new().await;
    waiting.receiver.script([Reply::status(410)]);
    waiting.site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_for_closed(&waiting.site, 1).await;
    waiting.comes_due().await;
    let disabled = || ("disabled".to_owned(), 1);
    assert_eq!(wait_for_closed(&waiting.site, 2).await, [disabled(), disabled()]);
    waiting.ends_with_requests(2).await;
}

#[tokio::test]
async fn a_retry_whose_worker_is_killed_is_made_by_another_when_the_lease_ends() {
    // The attempt must last until its worker is killed. This is the shortest lease that such a timeout allows.
    let site =
        Site::new().await.set("sender.timeout", "6s").set("sender.body_timeout", "0s").set("worker.lease", "12s");
    let site = site.set("retry.schedule", r#"["10ms"]"#);
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(500), Reply::silence()]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut doomed = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(2).await;
    doomed.kill9();
    doomed.wait().await;
    let successor = site.worker().await;
    let requests = receiver.wait_for(3).await;
    stop(successor).await;
    let attempts: Vec<u32> = requests.iter().map(|request| request.attempt()).collect();
    assert_eq!(attempts, [1, 2, 2]);
    assert_eq!(requests[2].event_id(), requests[0].event_id());
    assert!(requests[2].at - requests[1].at > std::time::Duration::from_secs(2), "the lease was not respected");
    let log = site.log(&webhook.id).await;
    assert_eq!((log.len(), &log[0]["status"], &log[0]["attempt"]), (2, &json!("success"), &json!(2)));
}

#[tokio::test]
async fn deliveries_whose_secret_cannot_be_decrypted_wait_for_the_key_without_a_request_or_a_log_row() {
    const EVENTS: usize = 50;
    let site = Site::new().await.set("worker.probe_interval", "50ms").set("worker.probe_interval_max", "100ms");
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let without_key = site.launch(&["worker"]).set("security.encryption_keys", &encryption_key("k2"));
    let mut worker = without_key.start_worker().await;
    let events = site.publish_many(EVENTS, ACCOUNT, TYPE, json!({})).await;
    let waiting = "SELECT count(*) FROM pending_deliveries WHERE attempts_made = 0";
    wait_until("all wait", async || site.count(waiting).await == EVENTS as i64).await;
    // Meanwhile the worker claims one of the deliveries from time to time, as a probe.
    let probed = "SELECT max(claim) FROM pending_deliveries";
    wait_until("the worker has claimed more than three times", async || site.count(probed).await > 3).await;
    assert_eq!(worker.metric("secrets_unopened").await, 1.0);
    stop(worker).await;
    assert_eq!(receiver.connections(), 0);
    assert_eq!(site.log(&webhook.id).await, Vec::<serde_json::Value>::new());
    let worker = site.worker().await;
    let requests = receiver.wait_for(EVENTS).await;
    assert!(requests.iter().all(|request| request.attempt() == 1 && request.verify(&webhook.secret).is_genuine()));
    let delivered: std::collections::BTreeSet<&str> = requests.iter().map(|request| request.event_id()).collect();
    assert_eq!(delivered, events.iter().map(String::as_str).collect());
    stop(worker).await;
}

#[tokio::test]
async fn a_missing_key_is_one_line_however_many_webhooks_and_deliveries_need_it() {
    let site = Site::new().await.set("worker.probe_interval", "50ms").set("worker.probe_interval_max", "100ms");
    let receiver = Receiver::start().await;
    for account in ["acc_1", "acc_2", "acc_3"] {
        site.create_plain_webhook(account, &receiver.url(), &[TYPE]).await;
    }
    let site = site.set("security.encryption_keys", &encryption_key("k2"));
    let mut worker = site.worker().await;
    for account in ["acc_1", "acc_2", "acc_3"] {
        site.publish_many(10, account, TYPE, json!({})).await;
    }
    wait_until("all wait", async || site.count("SELECT count(*) FROM pending_deliveries").await == 30).await;
    assert_eq!(worker.metric("secrets_unopened").await, 3.0);
    assert_eq!(worker.log().matches("a secret or a header cannot be decrypted").count(), 1, "{}", worker.log());
    // New secrets are encrypted with the key that the worker has.
    let ids = site.sql().await.query("SELECT id::text FROM webhooks", &[]).await.unwrap();
    for row in &ids {
        let id: &str = row.get(0);
        assert_eq!(site.cli(&["webhooks", "secret", id, "--regenerate"]).await.code, 0);
        let forget = "UPDATE webhooks SET previous_secret = NULL, previous_secret_until = NULL";
        site.sql().await.batch_execute(forget).await.unwrap();
    }
    receiver.wait_for(30).await;
    worker.wait_for_log("no delivery waits for this any more").await;
    assert_eq!(worker.metric("secrets_unopened").await, 0.0);
}

/// A delivery whose first attempt failed and whose second is an hour away.
struct Waiting {
    // Declared, and so dropped, before the site, which deletes the worker's log.
    worker: Replica,
    site: Site,
    receiver: Receiver,
    webhook: Webhook,
    event: String,
}

impl Waiting {
    async fn new() -> Self {
        let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
        let receiver = Receiver::start().await;
        receiver.script([Reply::status(500)]);
        let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
        let worker = site.worker().await;
        let event = site.publish(ACCOUNT, TYPE, json!({})).await;
        wait_for_retry(&site, 1).await;
        Self { worker, site, receiver, webhook, event }
    }

    async fn update(&self, change: &[&str]) {
        self.site.json(&[&["webhooks", "update", &self.webhook.id], change].concat()).await;
    }

    async fn comes_due(&self) {
        make_due(&self.site).await;
    }

    /// Stops the worker, which finishes what it has in hand; the receiver has then had this many requests.
    async fn ends_with_requests(self, count: usize) {
        stop(self.worker).await;
        assert_eq!(self.receiver.count(), count);
        assert_eq!(self.site.count("SELECT count(*) FROM pending_deliveries").await, 0);
    }
}

async fn wait_for_retry(site: &Site, attempts_made: i32) {
    let query = format!("SELECT count(*) FROM pending_deliveries WHERE attempts_made = {attempts_made}");
    wait_until("a retry waits", async || site.count(&query).await == 1).await;
}

/// Makes the one pending delivery due now. If its webhook is off, the worker's sweep may have closed it a moment before.
async fn make_due(site: &Site) {
    let due = site.sql().await.execute("UPDATE pending_deliveries SET due_at = now()", &[]).await.unwrap();
    let closed = site.count("SELECT count(*) FROM closed_deliveries").await;
    assert!(due == 1 || due == 0 && closed > 0, "{due} deliveries wait, {closed} are closed");
}

/// The reason and the number of attempts of each closed delivery, once this many are closed.
async fn wait_for_closed(site: &Site, count: usize) -> Vec<(String, i32)> {
    eventually(&format!("{count} deliveries are closed"), async || {
        let query = "SELECT reason, attempts_made FROM closed_deliveries ORDER BY closed_at";
        let rows = site.sql().await.query(query, &[]).await.unwrap();
        (rows.len() >= count).then(|| rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    })
    .await
}

/// Stops a worker, which finishes what it has in hand.
async fn stop(mut worker: Replica) {
    worker.terminate();
    assert!(worker.wait().await.success());
}

//! Deliveries that were not delivered can be sent again, one or all of them; none is doubled or lost.

use serde_json::json;
use uuid::Uuid;

use crate::support::*;

mod erased;
mod interrupted;
mod many;

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";
const CLOSED: &str = "SELECT count(*) FROM closed_deliveries";

/// One webhook, its receiver and a worker.
struct Stage {
    site: Site,
    receiver: Receiver,
    webhook: Webhook,
    worker: Replica,
}

impl Stage {
    async fn set(schedule: &str) -> Self {
        Self::on(Site::new().await.set("retry.schedule", schedule)).await
    }

    async fn on(site: Site) -> Self {
        let worker = site.worker().await;
        let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
        Self { site, receiver, webhook, worker }
    }

    async fn publish(&self) -> String {
        self.site.publish(ACCOUNT, TYPE, json!({})).await
    }

    /// Publishes the same event again, as a message that a worker may have had before.
    async fn publish_again(&self, event_id: &str) {
        let event = self.site.event(event_id, ACCOUNT, TYPE, &json!({})).with_header("x-requeued", "true");
        assert_eq!(self.site.publish_message(&event).await, Fate::Confirmed);
    }

    fn delivery_id(&self, event_id: &str) -> String {
        delivery_id(&self.webhook, event_id)
    }

    async fn resend(&self, event_id: &str) -> Output {
        self.site.cli(&["webhooks", "resend", &self.webhook.id, &self.delivery_id(event_id)]).await
    }

    async fn resent(&self, event_id: &str) {
        let id = self.delivery_id(event_id);
        let said = self.site.json(&["webhooks", "resend", &self.webhook.id, &id]).await;
        assert_eq!(said, json!({ "resent": id }));
    }

    async fn switch(&self, active: &str) {
        self.site.json(&["webhooks", "update", &self.webhook.id, "--active", active]).await;
    }

    async fn wait_for(&self, rows: &str, count: i64) {
        wait_until(&format!("{count} for {rows}"), async || self.site.count(rows).await == count).await;
    }

    async fn execute(&self, sql: &str) {
        self.site.sql().await.batch_execute(sql).await.unwrap();
    }

    /// The trigger and the number of each attempt.
    async fn triggers(&self) -> Vec<(String, i32)> {
        self.site.attempts(&self.webhook).await.into_iter().map(|made| (made.trigger, made.attempt)).collect()
    }

    /// Stops the worker, which finishes its turns. Checks that the receiver got this many requests, and that nothing is pending
    /// or closed.
    async fn ends_with_requests(mut self, count: usize) {
        self.worker.terminate();
        assert!(self.worker.wait().await.success());
        assert_eq!(self.receiver.count(), count);
        assert_eq!((self.site.count(PENDING).await, self.site.count(CLOSED).await), (0, 0));
    }
}

/// Settings with which a request may take long, and the second attempt is the last.
async fn patient_site() -> Site {
    let site = Site::new().await.set("retry.schedule", r#"["20ms"]"#);
    site.set("sender.timeout", "30s").set("worker.lease", "70s")
}

fn delivery_id(webhook: &Webhook, event_id: &str) -> String {
    Uuid::new_v5(&webhook.id.parse().unwrap(), event_id.as_bytes()).to_string()
}

fn made(attempts: &[(&str, i32)]) -> Vec<(String, i32)> {
    attempts.iter().map(|(trigger, attempt)| ((*trigger).to_owned(), *attempt)).collect()
}

/// Checks that stderr has exactly one line that is no log line (those are JSON here), and that it says this.
#[track_caller]
fn assert_refused(output: &Output, said: &[&str]) {
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    let [line] = &lines[..] else { panic!("not one line on stderr: {output:?}") };
    assert!(said.iter().all(|said| line.contains(said)), "no {said:?} in {line}");
    assert_eq!((output.code, &*output.stdout), (1, ""), "{line}");
}

#[tokio::test]
async fn a_closed_delivery_that_is_resent_goes_through_its_whole_schedule_again() {
    let stage = Stage::set(r#"["20ms"]"#).await;
    stage.receiver.always(Reply::status(500));
    let event = stage.publish().await;
    stage.wait_for(CLOSED, 1).await;
    stage.execute("UPDATE closed_deliveries SET closed_at = '2020-01-01', reason = 'cancelled'").await;

    stage.resent(&event).await;
    stage.site.wait_for_attempts(&stage.webhook, 4).await;
    stage
        .wait_for(&format!("{CLOSED} WHERE reason = 'exhausted' AND attempts_made = 2 AND closed_at > '2021-01-01'"), 1)
        .await;
    assert_eq!(stage.triggers().await, made(&[("event", 1), ("retry", 2), ("resend", 1), ("retry", 2)]));

    stage.receiver.always(Reply::status(200));
    stage.resent(&event).await;
    stage.site.wait_for_attempts(&stage.webhook, 5).await;
    stage.ends_with_requests(5).await;
}

#[tokio::test]
async fn a_delivery_that_succeeded_is_sent_once_more() {
    let stage = Stage::set("[]").await;
    let event = stage.publish().await;
    stage.site.wait_for_attempts(&stage.webhook, 1).await;
    stage.resent(&event).await;
    let requests = stage.receiver.wait_for(2).await;
    assert_eq!([requests[0].event_id(), requests[1].event_id()], [&event, &event]);
    assert_eq!(requests[0].body, requests[1].body);
    stage.site.wait_for_attempts(&stage.webhook, 2).await;
    assert_eq!(stage.triggers().await, made(&[("event", 1), ("resend", 1)]));
    stage.ends_with_requests(2).await;
}

#[tokio::test]
async fn a_pending_delivery_that_is_resent_is_due_now() {
    let stage = Stage::set(r#"["1h", "1h"]"#).await;
    stage.receiver.script([Reply::status(500), Reply::status(500)]);
    let event = stage.publish().await;
    stage.site.wait_for_attempts(&stage.webhook, 1).await;
    stage.resent(&event).await;
    stage.site.wait_for_attempts(&stage.webhook, 2).await;
    stage.wait_for(&format!("{PENDING} WHERE attempts_made = 1 AND trigger = 'retry'"), 1).await;
    stage.resent(&event).await;
    stage.site.wait_for_attempts(&stage.webhook, 3).await;
    assert_eq!(stage.triggers().await, made(&[("event", 1), ("resend", 1), ("resend", 1)]));
    stage.ends_with_requests(3).await;
}

#[tokio::test]
async fn a_result_in_flight_no_longer_decides_about_a_delivery_that_is_resent() {
    let site = patient_site().await.set("worker.max_in_flight", "1");
    let mut stage = Stage::on(site).await;
    let gate = Gate::default();
    stage.receiver.script([Reply::status(500), Reply::status(500).held_by(&gate)]);
    let event = stage.publish().await;
    stage.receiver.wait_for(2).await;
    stage.resent(&event).await;
    stage.worker.terminate();
    stage.worker.wait_for_log("stopping").await;
    // This is the last attempt of the schedule: its failure would close the delivery.
    gate.open();
    stage.worker.wait().await;
    assert_eq!(stage.triggers().await, made(&[("event", 1), ("retry", 2)]));
    assert_eq!(stage.site.count(&format!("{PENDING} WHERE trigger = 'resend' AND attempts_made = 0")).await, 1);
    stage.worker = stage.site.worker().await;
    stage.site.wait_for_attempts(&stage.webhook, 3).await;
    assert_eq!(stage.triggers().await, made(&[("event", 1), ("retry", 2), ("resend", 1)]));
    stage.ends_with_requests(3).await;
}

#[tokio::test]
async fn an_old_result_is_not_taken_for_that_of_a_delivery_that_was_closed_and_resent() {
    let site = patient_site().await.set("worker.max_in_flight", "1");
    let stage = Stage::on(site).await;
    let (old, new) = (Gate::default(), Gate::default());
    stage.receiver.script([Reply::status(500), Reply::status(500).held_by(&old), Reply::status(200).held_by(&new)]);
    let event = stage.publish().await;
    stage.receiver.wait_for(2).await;
    let close = "WITH d AS (DELETE FROM pending_deliveries RETURNING *)
        INSERT INTO closed_deliveries SELECT id, webhook_id, event_day, event_key, 'exhausted', 2, now() FROM d";
    stage.execute(close).await;
    stage.resent(&event).await;
    let second = stage.site.worker().await;
    stage.receiver.wait_for(3).await;
    old.open();
    stage.site.wait_for_attempts(&stage.webhook, 2).await;
    assert_eq!((stage.site.count(PENDING).await, stage.site.count(CLOSED).await), (1, 0));
    new.open();
    stage.site.wait_for_attempts(&stage.webhook, 3).await;
    drop(second);
    stage.ends_with_requests(3).await;
}

#[tokio::test]
async fn what_cannot_be_resent_is_refused_in_one_line() {
    let stage = Stage::set("[]").await;
    let event = stage.publish().await;
    stage.site.wait_for_attempts(&stage.webhook, 1).await;
    let delivery = stage.delivery_id(&event);
    let nobody = Uuid::new_v4().to_string();
    let other = stage.site.create_webhook("acc_2", &stage.receiver.url(), &[TYPE]).await;
    let resend = async |webhook: &str, delivery: &str| stage.site.cli(&["webhooks", "resend", webhook, delivery]).await;

    assert_refused(&resend(&nobody, &delivery).await, &["there is no webhook", &nobody]);
    assert_refused(&resend(&stage.webhook.id, &nobody).await, &[&stage.webhook.id, "has no such delivery"]);
    assert_refused(&resend(&other.id, &delivery).await, &[&other.id, "has no such delivery"]);
    assert_eq!(resend(&stage.webhook.id, "delivery").await.code, 2);

    let switch_on = format!("webhooks update {} --active true", stage.webhook.id);
    stage.switch("false").await;
    assert_refused(&stage.resend(&event).await, &["is switched off", &switch_on]);
    stage.execute("UPDATE webhooks SET disabled_reason = 'gone' WHERE NOT active").await;
    assert_refused(&stage.resend(&event).await, &["was disabled (gone)", &switch_on]);
    stage.switch("true").await;

    stage.execute("UPDATE attempts SET event_day = '2020-01-01'").await;
    assert_refused(&stage.resend(&event).await, &["event is no longer kept"]);
    stage.execute("UPDATE attempts SET event_day = created_at::date, trigger = 'test'").await;
    assert_refused(&stage.resend(&event).await, &["has no such delivery"]);
    stage.ends_with_requests(1).await;
}

#[tokio::test]
async fn a_delivery_that_succeeds_is_no_longer_closed() {
    let stage = Stage::set("[]").await;
    stage.receiver.script([Reply::status(500)]);
    let event = stage.publish().await;
    stage.wait_for(CLOSED, 1).await;
    // An event that is published twice is not resent: the worker does not look for closed deliveries.
    let twin = stage.site.event(&event, ACCOUNT, TYPE, &json!({}));
    stage.site.publish_message(&twin).await;
    stage.site.wait_for_attempts(&stage.webhook, 2).await;
    assert_eq!(stage.triggers().await, made(&[("event", 1), ("event", 1)]));
    stage.ends_with_requests(2).await;
}

#[tokio::test]
async fn the_latest_closing_of_a_delivery_stands() {
    let stage = Stage::set("[]").await;
    stage.receiver.always(Reply::status(500));
    let event = stage.publish().await;
    stage.wait_for(CLOSED, 1).await;
    stage
        .execute("UPDATE closed_deliveries SET closed_at = '2020-01-01', reason = 'cancelled', attempts_made = 0")
        .await;
    let twin = stage.site.event(&event, ACCOUNT, TYPE, &json!({}));
    stage.site.publish_message(&twin).await;
    stage
        .wait_for(&format!("{CLOSED} WHERE reason = 'exhausted' AND attempts_made = 1 AND closed_at > '2021-01-01'"), 1)
        .await;
}

#[tokio::test]
async fn a_message_redelivered_after_its_delivery_was_only_resent_is_not_sent_again() {
    let stage = Stage::set("[]").await;
    stage.execute("UPDATE webhooks SET active = false, disabled_reason = 'failing'").await;
    let event = stage.publish().await;
    stage.wait_for(&format!("{CLOSED} WHERE reason = 'disabled' AND attempts_made = 0"), 1).await;
    stage.switch("true").await;
    stage.resent(&event).await;
    stage.site.wait_for_attempts(&stage.webhook, 1).await;
    assert_eq!(stage.triggers().await, made(&[("resend", 1)]));

    stage.publish_again(&event).await;
    let later = stage.publish().await;
    stage.receiver.wait_for(2).await;
    assert_eq!(stage.receiver.requests()[1].event_id(), later);
    stage.ends_with_requests(2).await;
}

//! A webhook whose receiver fails for long, or answers 410, is disabled; notices tell the customer. A webhook that works
//! again, or is switched on again, counts as healthy.

use serde_json::{Value, json};

use crate::support::*;

const TYPE: &str = "content.published";

/// Retries after 50 ms. A webhook counts as failing after 2 failed attempts and is disabled after 4, however quickly.
pub async fn impatient_site() -> Site {
    let schedule = serde_json::to_string(&["50ms"; 20]).unwrap();
    Site::new()
        .await
        .set("retry.schedule", &schedule)
        .set("health.notice_attempts", "2")
        .set("health.notice_after", "0s")
        .set("health.disable_attempts", "4")
        .set("health.disable_after", "0s")
}

async fn failing_receiver() -> Receiver {
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(500));
    receiver
}

fn assert_tells_of(notice: &Value, webhook: &Webhook, kind: &str, reason: &str) {
    assert_eq!(notice["type"], kind);
    assert_eq!(notice["account_id"], webhook.account);
    assert_eq!(notice["webhook_id"], webhook.id);
    assert_eq!(notice["reason"], reason);
    assert!(notice["name"].is_string() && notice["id"].is_string(), "{notice}");
    assert!(notice["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{notice}");
}

#[tokio::test]
async fn a_webhook_that_only_fails_causes_one_notice_and_is_then_disabled() {
    let (site, receiver) = (impatient_site().await, failing_receiver().await);
    let _worker = site.worker().await;
    let mut notices = site.notices().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.publish("acc_1", TYPE, json!({})).await;

    let (kind, notice) = notices.next().await;
    assert_eq!(kind, "webhook.failing");
    assert_tells_of(&notice, &webhook, "webhook.failing", "failing");
    assert_eq!(notice["last_error"], "http_status");
    let (kind, notice) = notices.next().await;
    assert_eq!(kind, "webhook.disabled");
    assert_tells_of(&notice, &webhook, "webhook.disabled", "failing");

    wait_until("its pending delivery is closed", async || {
        site.count("SELECT count(*) FROM closed_deliveries WHERE reason = 'disabled'").await == 1
    })
    .await;
    assert_eq!(receiver.count(), 4);
    let shown = site.webhook(&webhook.id).await;
    assert_eq!((&shown["active"], &shown["disabled_reason"]), (&json!(false), &json!("failing")));
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 0);
}

#[tokio::test]
async fn a_webhook_that_works_again_causes_a_notice_and_counts_as_healthy() {
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    receiver.script([500, 500, 500, 200].map(Reply::status));
    let _worker = site.worker().await;
    let mut notices = site.notices().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.publish("acc_1", TYPE, json!({})).await;

    assert_eq!(notices.next().await.0, "webhook.failing");
    let (kind, notice) = notices.next().await;
    assert_eq!(kind, "webhook.recovered");
    assert_tells_of(&notice, &webhook, "webhook.recovered", "recovered");
    assert_eq!(site.webhook(&webhook.id).await["failing_since"], Value::Null);
    assert_eq!(site.count("SELECT consecutive_failures::bigint FROM webhooks").await, 0);
}

#[tokio::test]
async fn two_failures_between_successes_are_no_reason_for_a_notice() {
    let (site, receiver) = (impatient_site().await.set("health.notice_attempts", "3"), Receiver::start().await);
    receiver.script([500, 500, 200, 500, 500, 200].map(Reply::status));
    let _worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    for round in 1..=2 {
        site.publish("acc_1", TYPE, json!({})).await;
        receiver.wait_for(3 * round).await;
        wait_until("it is delivered", async || {
            site.count("SELECT count(*) FROM pending_deliveries").await == 0
                && site.attempts(&webhook).await.last().is_some_and(|attempt| attempt.error.is_none())
        })
        .await;
    }
    assert_eq!(receiver.count(), 6);
    assert_eq!(site.count("SELECT count(*) FROM webhooks WHERE failing_noticed_at IS NULL AND active").await, 1);
    assert_eq!(site.count("SELECT count(*) FROM notices").await, 0);
}

#[tokio::test]
async fn many_failed_attempts_in_a_short_time_neither_cause_a_notice_nor_disable_a_webhook() {
    let (site, receiver, gate) = (impatient_site().await, Receiver::start().await, Gate::default());
    receiver.script(vec![Reply::status(500); 6]);
    receiver.always(Reply::status(500).held_by(&gate));
    let site = site.set("health.notice_after", "15m").set("health.disable_after", "5d");
    let _worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.publish("acc_1", TYPE, json!({})).await;
    receiver.wait_for(7).await;
    let shown = site.webhook(&webhook.id).await;
    assert_eq!(shown["active"], true);
    assert!(shown["failing_since"].is_string());
    assert_eq!(site.count("SELECT count(*) FROM webhooks WHERE failing_noticed_at IS NOT NULL").await, 0);

    site.sql().await.execute("UPDATE webhooks SET failing_since = now() - interval '5 days'", &[]).await.unwrap();
    gate.open();
    wait_until("five days of failures disable it", async || {
        !site.webhook(&webhook.id).await["active"].as_bool().unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_never_called_again_and_its_owner_is_told() {
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    receiver.always(Reply::status(410));
    let _worker = site.worker().await;
    let mut notices = site.notices().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.publish("acc_1", TYPE, json!({})).await;
    let (kind, notice) = notices.next().await;
    assert_eq!(kind, "webhook.disabled");
    assert_tells_of(&notice, &webhook, "webhook.disabled", "gone");

    site.publish("acc_1", TYPE, json!({})).await;
    wait_until("the second event is closed for it", async || {
        site.count("SELECT count(*) FROM closed_deliveries WHERE reason = 'disabled'").await == 2
    })
    .await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn switching_on_again_forgets_why_it_was_off() {
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    receiver.script([Reply::status(410)]);
    let _worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.publish("acc_1", TYPE, json!({})).await;
    wait_until("it is disabled", async || site.webhook(&webhook.id).await["disabled_reason"] == "gone").await;
    assert!(site.webhook(&webhook.id).await["inactive_since"].is_string());

    let shown = site.json(&["webhooks", "update", &webhook.id, "--active", "true"]).await;
    assert_eq!(
        [&shown["active"], &shown["disabled_reason"], &shown["failing_since"], &shown["inactive_since"]],
        [&json!(true), &Value::Null, &Value::Null, &Value::Null]
    );
    let id = site.publish("acc_1", TYPE, json!({})).await;
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[1].event_id(), id);
}

#[tokio::test]
async fn a_webhook_switched_off_by_its_owner_misses_what_happens_meanwhile() {
    let (site, receiver, witness) = (impatient_site().await, Receiver::start().await, Receiver::start().await);
    let _worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.create_webhook("acc_1", &witness.url(), &[TYPE]).await;
    site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    site.publish("acc_1", TYPE, json!({})).await;
    witness.wait_for(1).await;
    site.json(&["webhooks", "update", &webhook.id, "--active", "true"]).await;
    let id = site.publish("acc_1", TYPE, json!({})).await;
    assert_eq!(receiver.next().await.event_id(), id);
    assert_eq!(site.count("SELECT count(*) FROM closed_deliveries").await, 0);
}

#[tokio::test]
async fn a_notice_survives_the_worker_that_wrote_it() {
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    receiver.always(Reply::status(410));
    let mut worker = site.worker().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    let mut amqp = site.own_amqp().await;
    amqp.delete_exchange(site.notices_exchange()).await.unwrap();
    site.publish("acc_1", TYPE, json!({})).await;
    worker.wait_for_log("cannot send notices").await;
    worker.kill9();
    worker.wait().await;

    amqp.declare_exchange(site.notices_exchange(), lapin::ExchangeKind::Topic).await.unwrap();
    let mut notices = site.notices().await;
    // Ends the dead worker's lease of the notices at once.
    site.sql().await.execute("UPDATE notices SET due_at = now()", &[]).await.unwrap();
    let _next = site.worker().await;
    let (kind, notice) = notices.next().await;
    assert_eq!(kind, "webhook.disabled");
    assert_tells_of(&notice, &webhook, "webhook.disabled", "gone");
}

#[tokio::test]
async fn a_notice_that_nobody_listens_for_counts_as_sent_and_one_without_its_exchange_waits() {
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    receiver.always(Reply::status(410));
    let mut worker = site.worker().await;
    site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    site.publish("acc_1", TYPE, json!({})).await;
    worker.wait_for_log("sent a notice").await;
    wait_until("the row of the notice is deleted", async || site.count("SELECT count(*) FROM notices").await == 0)
        .await;

    let mut amqp = site.own_amqp().await;
    amqp.delete_exchange(site.notices_exchange()).await.unwrap();
    site.create_webhook("acc_2", &receiver.url(), &[TYPE]).await;
    site.publish("acc_2", TYPE, json!({})).await;
    worker.wait_for_log("cannot send notices").await;
    assert_eq!(site.count("SELECT count(*) FROM notices").await, 1);
    let healthy = Receiver::start().await;
    site.create_webhook("acc_3", &healthy.url(), &[TYPE]).await;
    site.publish("acc_3", TYPE, json!({})).await;
    healthy.wait_for(1).await;
}

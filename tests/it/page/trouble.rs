//! Webhooks in trouble: why, in words, and the way out.

use super::*;

#[tokio::test]
async fn a_webhook_that_was_disabled_is_re_enabled_and_gets_what_it_missed_by_one_button() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    let webhook = stage.named("Blog", &receiver.url(), &TYPES).await;
    receiver.always(Reply::status(410));
    stage.publish("content.created").await;
    let page = &stage.browser;
    stage.open().await;
    page.sees("Disabled: the receiver answered 410 Gone").await;
    page.is_sound().await;
    let missed = stage.publish("content.updated").await;
    // The delivery that got 410, and the one that was missed.
    wait_until("both are closed", async || stage.site.count("SELECT count(*) FROM closed_deliveries").await == 2).await;
    let before = receiver.count();
    receiver.always(Reply::status(200));
    page.click("Re-enable and recover what was missed: Blog").await;
    page.sees("will be sent.").await;
    wait_until("what was missed arrives", async || {
        receiver.requests()[before..].iter().any(|request| request.event_id() == missed)
    })
    .await;
    page.no_longer_sees("Disabled:").await;
    assert_eq!(stage.site.webhook(&webhook.id).await["active"], true);
}

#[tokio::test]
async fn one_failed_request_is_no_alarm_and_what_its_owner_is_notified_of_is_one() {
    let (stage, receiver) =
        (Stage::on(Site::new().await.set("retry.schedule", r#"["1h"]"#)).await, Receiver::start().await);
    let webhook = stage.named("Blog", &receiver.url(), &TYPES).await;
    receiver.script([Reply::status(503)]);
    let page = &stage.browser;
    let calm = async || assert!(!page.text().await.contains("Deliveries are failing"));
    stage.open().await;
    page.sees("Blog").await;
    stage.publish("content.created").await;
    page.sees("Retrying").await;
    calm().await;
    stage.go(&format!("/{}/logs", webhook.id)).await;
    page.sees("The last attempt failed: The receiver answered 503 instead of a 2xx status.").await;
    page.sees("Retrying, next at").await;
    page.until("document.querySelector('.state').innerText === 'Active'").await;
    calm().await;
    // A test tells nothing of the events.
    stage
        .write_log(
            &webhook,
            1,
            "'content.created', 'test', 1, 404, 10, 'http_status', NULL, now() + interval '1 s', NULL",
        )
        .await;
    page.until("document.querySelectorAll('.log > li').length === 2").await;
    page.until("performance.clearResourceTimings() === undefined").await;
    page.until("performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('limit=20')).length > 1")
        .await;
    page.sees("The last attempt failed: The receiver answered 503 instead of a 2xx status.").await;
    // The list has only the newest attempt, whatever it was.
    stage.execute("DELETE FROM attempts WHERE trigger = 'test'").await;
    stage.execute("UPDATE webhooks SET failing_noticed_at = now()").await;
    page.sees("Deliveries are failing").await;
    page.no_longer_sees("Retrying").await;
    stage.go("").await;
    page.sees("Deliveries are failing").await;
    page.sees("The receiver failed: look at its own log for this time.").await;
    page.until(&format!(
        "document.querySelector('.notice a').getAttribute('href') === '#/webhooks/{}/logs?view=deliveries&state=undelivered'",
        webhook.id
    ))
    .await;
    let asked =
        "return performance.getEntriesByType('resource').filter(({ name }) => name.includes('/deliveries')).length";
    let before = page.js(asked).await;
    page.js("performance.clearResourceTimings()").await;
    page.until("performance.getEntriesByType('resource').length > 2").await;
    assert_eq!(page.js(asked).await, json!(0), "the list asks nothing about each webhook; the log before: {before}");
    stage.execute("UPDATE pending_deliveries SET due_at = now()").await;
    page.no_longer_sees("Deliveries are failing").await;
    page.sees("Success").await;
}

#[tokio::test]
async fn a_webhook_re_enabled_by_its_switch_can_have_what_it_missed_afterwards() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    stage.named("Blog", &receiver.url(), &TYPES).await;
    receiver.always(Reply::status(410));
    let missed = stage.publish("content.created").await;
    let page = &stage.browser;
    stage.open().await;
    page.sees("Disabled: the receiver answered 410 Gone").await;
    receiver.next().await;
    receiver.always(Reply::status(200));
    page.click("Active: Blog").await;
    page.sees("1 delivery was missed while it was off").await;
    page.click_on(".name").await;
    page.sees("Last 24 hours").await;
    page.until("document.querySelector('.notice button') !== null").await;
    page.js("document.querySelector('.notice button').focus()").await;
    page.press("\u{e007}").await;
    page.sees("1 missed delivery will be sent.").await;
    assert_eq!(receiver.next().await.event_id(), missed);
    page.until("document.activeElement.tagName === 'H1'").await;
    page.no_longer_sees("was missed while it was off").await;
}

#[tokio::test]
async fn switching_off_asks_if_deliveries_wait_and_they_can_be_had_after_switching_on_also_after_a_reload() {
    let (stage, receiver) =
        (Stage::on(Site::new().await.set("retry.schedule", r#"["1h"]"#)).await, Receiver::start().await);
    let webhook = stage.named("Blog", &receiver.url(), &TYPES).await;
    receiver.always(Reply::status(503));
    let events = [stage.publish("content.created").await, stage.publish("content.updated").await];
    let page = &stage.browser;
    stage.open().await;
    page.until("document.querySelector('a.waiting')?.innerText.startsWith('2')").await;
    page.js("document.querySelector('.switch').focus()").await;
    page.press(" ").await;
    page.sees("2 deliveries wait and will be cancelled.").await;
    // The row is drawn again behind the question.
    stage.site.json(&["webhooks", "update", &webhook.id, "--name", "Shop"]).await;
    page.sees("Shop").await;
    page.click("Keep it on").await;
    page.until("document.activeElement.getAttribute('role') === 'switch'").await;
    assert_eq!(stage.site.webhook(&webhook.id).await["active"], true);
    page.click("Active: Shop").await;
    page.click("Switch off").await;
    page.sees("is inactive: nothing is sent, and events are not kept for it.").await;
    let cancelled = "SELECT count(*) FROM closed_deliveries WHERE reason = 'cancelled'";
    wait_until("both are cancelled", async || stage.site.count(cancelled).await == 2).await;
    // A later change does not move the time since when it is off.
    stage.site.json(&["webhooks", "update", &webhook.id, "--name", "Store"]).await;
    stage.open().await;
    receiver.always(Reply::status(200));
    page.click("Active: Store").await;
    page.sees("2 cancelled deliveries can be sent").await;
    page.is_sound().await;
    let before = receiver.count();
    page.click("Recover what was missed: Store").await;
    page.sees("2 missed deliveries will be sent.").await;
    for event in events {
        wait_until("what was cancelled arrives", async || {
            receiver.requests()[before..].iter().any(|request| request.event_id() == event)
        })
        .await;
    }
    page.no_longer_sees("can be sent").await;
    let waiting = async || stage.site.count("SELECT count(*) FROM pending_deliveries").await;
    wait_until("nothing waits", async || waiting().await == 0).await;
    // So there is no question.
    page.click("Active: Store").await;
    page.sees("is inactive: nothing is sent").await;
}

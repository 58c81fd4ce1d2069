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
    page.click("Re-enable and recover what was missed").await;
    page.sees("will be sent.").await;
    wait_until("what was missed arrives", async || {
        receiver.requests()[before..].iter().any(|request| request.event_id() == missed)
    })
    .await;
    page.no_longer_sees("Disabled:").await;
    assert_eq!(stage.site.webhook(&webhook.id).await["active"], true);
}

#[tokio::test]
async fn a_webhook_that_fails_says_why_and_a_recovered_one_no_more() {
    let (stage, receiver) =
        (Stage::on(Site::new().await.set("retry.schedule", r#"["1h"]"#)).await, Receiver::start().await);
    stage.named("Blog", &receiver.url(), &TYPES).await;
    receiver.script([Reply::status(503)]);
    let page = &stage.browser;
    stage.open().await;
    page.sees("Blog").await;
    stage.publish("content.created").await;
    page.sees("Deliveries are failing").await;
    page.sees("The receiver answered 503 instead of a 2xx status.").await;
    page.is_sound().await;
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
    page.sees("What was missed is not recovered yet").await;
    page.click_on(".name").await;
    page.sees("Last 24 hours").await;
    page.js("document.querySelector('.notice button').focus()").await;
    page.press("\u{e007}").await;
    page.sees("1 missed delivery will be sent.").await;
    assert_eq!(receiver.next().await.event_id(), missed);
    page.until("document.activeElement.tagName === 'H1'").await;
    page.no_longer_sees("What was missed").await;
}

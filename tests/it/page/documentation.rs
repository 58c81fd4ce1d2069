//! What the customer documentation promises, from the first click to the last.

use super::*;

/// Begins at the empty list of webhooks.
pub(super) async fn journey(stage: &Stage) {
    let (page, receiver) = (&stage.browser, Receiver::start().await);
    page.sees("No webhooks yet").await;

    let old = create(stage, &receiver).await;
    let event = stage.publish("content.published").await;
    let request = receiver.next().await;
    assert_eq!(request.event_id(), event);
    assert!(request.verify(&old).is_genuine());

    page.click("Go to the webhook").await;
    page.until("document.querySelectorAll('.log li .outcome.success').length === 1").await;
    switch_off_and_on(stage, &receiver).await;
    test(stage, &receiver, &old).await;

    let new = regenerate(stage).await;
    assert_ne!(new, old);
    stage.publish("content.published").await;
    let request = receiver.next().await;
    assert!(request.verify(&new).is_genuine());
    assert!(request.verify(&old).standard, "the old secret is valid for a day");

    page.click("Webhook Logs").await;
    receiver.script([Reply::body(503, "not now")]);
    stage.publish("content.created").await;
    page.until("document.querySelector('.log li')?.innerText.includes('503')").await;
    resend(stage, &receiver, &new).await;
    page.is_sound().await;
}

/// Creates a webhook for all events and gives its secret, as the customer copies it.
async fn create(stage: &Stage, receiver: &Receiver) -> String {
    let page = &stage.browser;
    page.click("Create your first webhook").await;
    page.fill("#name", "Blog").await;
    page.fill("#url", &receiver.url()).await;
    page.sees("Not encrypted").await;
    page.click("Select all").await;
    page.click("Save").await;
    page.sees("Webhook created").await;
    copied(stage).await
}

async fn copied(stage: &Stage) -> String {
    let page = &stage.browser;
    page.click("Copy secret").await;
    page.sees("Copied to the clipboard.").await;
    stage.clipboard().await
}

async fn switch_off_and_on(stage: &Stage, receiver: &Receiver) {
    let page = &stage.browser;
    let before = receiver.count();
    let witness = Receiver::start().await;
    stage.site.create_webhook("acc_2", &witness.url(), &["content.created"]).await;
    page.click("Active").await;
    page.sees("is inactive: nothing is sent").await;
    stage.publish("content.published").await;
    // The queue keeps its order: when this later event has arrived, the worker has looked up the first one, too.
    stage.site.publish("acc_2", "content.created", json!({})).await;
    witness.next().await;
    assert_eq!(receiver.count(), before, "an inactive webhook is sent nothing");
    page.click("Test").await;
    page.sees("An inactive webhook cannot be tested").await;
    page.until("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Send').disabled").await;
    page.click("Activate").await;
    page.no_longer_sees("An inactive webhook cannot be tested").await;
}

async fn test(stage: &Stage, receiver: &Receiver, secret: &str) {
    let page = &stage.browser;
    receiver.script([Reply::body(200, "thank you")]);
    page.choose("#test-type", "keyword.approved").await;
    page.click("Send").await;
    let request = receiver.next().await;
    assert_eq!(request.header("x-webhook-event"), "keyword.approved");
    assert!(request.verify(secret).is_genuine());
    page.sees("thank you").await;
    let body = String::from_utf8(request.body.clone()).unwrap();
    page.sees(&body).await;
    page.sees(&format!("{}.{}.{body}", request.event_id(), request.timestamp())).await;
    page.sees(&format!("X-Webhook-Signature: {}", request.header("x-webhook-signature"))).await;

    receiver.script([Reply::body(404, "no such route")]);
    page.click("Send").await;
    page.sees("The receiver answered 404 instead of a 2xx status.").await;
    page.sees("There is nothing at this path: check the URL.").await;
    receiver.next().await;
}

async fn regenerate(stage: &Stage) -> String {
    let page = &stage.browser;
    page.click("Settings").await;
    page.click("Regenerate").await;
    page.sees("the old one stays valid in Webhook-Signature").await;
    page.click_on("dialog .danger").await;
    page.sees("Regenerated.").await;
    // The page sends a key with both, so that neither is done twice if an answer is lost.
    let kept = stage.site.count("SELECT count(*) FROM kept_answers").await;
    assert_eq!(kept, 2, "registered and regenerated");
    copied(stage).await
}

async fn resend(stage: &Stage, receiver: &Receiver, secret: &str) {
    let page = &stage.browser;
    let failed = receiver.next().await;
    page.click_on(".log li:first-child summary").await;
    page.sees("The receiver answered 503 instead of a 2xx status.").await;
    page.sees("not now").await;
    page.click("Resend").await;
    page.sees("It is being sent again").await;
    let again = receiver.next().await;
    assert_eq!(again.event_id(), failed.event_id());
    assert!(again.verify(secret).is_genuine());
    page.until("document.querySelector('.log li').innerText.includes('Resent')").await;
    page.until("document.querySelector('.log li .outcome').classList.contains('success')").await;
}

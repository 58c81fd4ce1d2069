//! Saving: errors stand beside their fields, and nobody's change is lost.

use super::*;

#[tokio::test]
async fn a_stale_edit_in_a_second_tab_is_shown_as_such_and_changes_nothing() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &["content.created"]).await;
    let view = format!("/{}/settings", webhook.id);
    let page = &stage.browser;
    stage.open_at(&view).await;
    page.until("document.querySelector('#name')?.value === 'Blog'").await;
    let first = page.new_tab().await;
    stage.open_at(&view).await;
    page.fill("#name", "Theirs").await;
    page.click("Save").await;
    page.sees("Saved.").await;

    page.switch_to(first).await;
    page.fill("#name", "Mine").await;
    page.click("Save").await;
    page.sees("Not saved: this webhook was changed meanwhile").await;
    page.sees("Name is now: Theirs").await;
    assert_eq!(stage.site.webhook(&webhook.id).await["name"], "Theirs");
    assert_eq!(page.js("return document.querySelector('#name').value").await, json!("Mine"));
    page.is_sound().await;
    page.click("Save mine anyway").await;
    page.sees("Saved.").await;
    assert_eq!(stage.site.webhook(&webhook.id).await["name"], "Mine");
}

#[tokio::test]
async fn a_stale_edit_can_be_given_up_for_what_was_saved() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &["content.created"]).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    page.fill("#name", "Mine").await;
    stage.site.json(&["webhooks", "update", &webhook.id, "--name", "Theirs"]).await;
    page.click("Save").await;
    page.click("Discard mine, load theirs").await;
    page.until("document.querySelector('#name').value === 'Theirs'").await;
    page.fill("#name", "Both").await;
    page.click("Save").await;
    page.sees("Saved.").await;
    assert_eq!(stage.site.webhook(&webhook.id).await["name"], "Both");
}

#[tokio::test]
async fn edits_that_are_not_saved_are_left_only_after_a_question() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &["content.created"]).await;
    let view = format!("/{}/settings", webhook.id);
    let page = &stage.browser;
    let asks_before_closing = "(() => { const event = new Event('beforeunload', { cancelable: true }); dispatchEvent(event); return event.defaultPrevented })()";
    stage.open().await;
    page.sees("Blog").await;
    stage.go(&view).await;
    page.until("document.querySelector('#name')?.value === 'Blog'").await;
    page.until(&format!("!{asks_before_closing}")).await;
    page.fill("#name", "Mine").await;
    page.until(asks_before_closing).await;
    page.click("Test").await;
    page.sees("Leave without saving?").await;
    page.is_sound().await;
    page.click("Stay").await;
    page.until(&format!("location.hash === '#/webhooks{view}' && document.querySelector('#name').value === 'Mine'"))
        .await;
    // No entry of the history is left of the view that was not opened: the way back leads to the list.
    page.back().await;
    page.sees("Leave without saving?").await;
    page.until("location.hash === '#/webhooks'").await;
    page.click("Stay").await;
    page.until(&format!("location.hash === '#/webhooks{view}' && document.querySelector('#name').value === 'Mine'"))
        .await;

    page.click("Save").await;
    page.sees("Saved.").await;
    page.click("Test").await;
    page.sees("Event type to send").await;
    stage.go(&view).await;
    page.fill("#name", "Lost").await;
    page.click("Webhooks").await;
    page.click("Leave").await;
    page.sees("Create Webhook").await;
    page.until(&format!("location.hash === '#/webhooks' && !{asks_before_closing}")).await;
    assert_eq!(stage.site.webhook(&webhook.id).await["name"], "Mine");
    // What belongs to a webhook that somebody has deleted meanwhile cannot be lost.
    stage.go(&view).await;
    page.fill("#name", "Lost").await;
    stage.site.json(&["webhooks", "delete", &webhook.id]).await;
    page.sees("This webhook does not exist").await;
    page.until(&format!("!{asks_before_closing}")).await;
    page.click("All webhooks").await;
    page.sees("No webhooks yet").await;
}

#[tokio::test]
async fn what_is_wrong_stands_beside_its_field_and_takes_the_focus() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    stage.open_at("/new").await;
    page.fill("#name", "Blog").await;
    page.fill("#url", "https://localhost/hook").await;
    page.click("Save").await;
    page.until("document.querySelector('#url').getAttribute('aria-invalid') === 'true'").await;
    page.until("document.activeElement.id === 'url'").await;
    page.until("document.querySelector('#url-error').checkVisibility() && document.querySelector('#events-error').checkVisibility() && !document.querySelector('#name-error').checkVisibility()").await;
    page.sees("behind a tunnel").await;
    page.is_sound().await;
    page.fill("#url", "https://localhosting.example.com/hook").await;
    page.no_longer_sees("behind a tunnel").await;
    page.fill("#url", "localhost:3000/hook").await;
    page.sees("behind a tunnel").await;
    page.click("Save").await;
    page.sees("The URL must begin with https:// (or http://)").await;
    page.fill("#url", "https://hooks.slack.com/services/T0/B0/x").await;
    page.no_longer_sees("behind a tunnel").await;
    page.click("Site Connected").await;
    page.click("Save").await;
    page.sees("Webhook created").await;
    page.sees("This is an address of Slack").await;
}

#[tokio::test]
async fn a_webhook_is_deleted_after_a_question_and_its_address_says_so() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    page.click("Delete webhook").await;
    page.click("Keep it").await;
    page.click("Delete webhook").await;
    page.sees("Delete “Blog”?").await;
    page.is_sound().await;
    page.click("Delete").await;
    page.sees("No webhooks yet").await;
    page.back().await;
    page.sees("This webhook does not exist").await;
}

#[tokio::test]
async fn all_of_it_works_by_keyboard() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    stage.open().await;
    page.sees("No webhooks yet").await;
    let tab = "\u{e004}";
    page.press(tab).await;
    page.until("document.activeElement.innerText === 'Create Webhook'").await;
    // Here and below U+E007 is the Enter key, as WebDriver numbers keys.
    page.press("\u{e007}").await;
    page.until("document.activeElement.tagName === 'H1' && document.querySelector('#name') !== null").await;
    page.press(tab).await;
    page.until("document.activeElement.id === 'name'").await;
    page.press("Blog").await;
    page.press(tab).await;
    page.press("https://hooks.example.com/a").await;
    page.press(tab).await;
    page.until("document.activeElement.id === 'all-events'").await;
    page.press(" ").await;
    page.press("\u{e007}").await;
    page.sees("Webhook created").await;
    page.until("document.activeElement.tagName === 'H1'").await;
}

#[tokio::test]
async fn a_save_after_ones_own_switch_is_no_conflict() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    page.fill("#name", "Mine").await;
    page.click("Active").await;
    page.sees("is inactive: nothing is sent").await;
    page.click("Save").await;
    page.sees("Saved.").await;
    let saved = stage.site.webhook(&webhook.id).await;
    assert_eq!((&saved["name"], &saved["active"]), (&"Mine".into(), &false.into()));
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_test_sends_the_example_or_what_it_was_changed_to() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    let webhook = stage.webhook(&receiver.url(), &TYPES).await;
    let page = &stage.browser;
    let data = async || {
        let mut body: serde_json::Value = serde_json::from_slice(&receiver.next().await.body).unwrap();
        body["data"].take()
    };
    stage.open_at(&format!("/{}/test", webhook.id)).await;
    page.choose("#test-type", "keyword.created").await;
    let shown = page.js("return JSON.parse(document.querySelector('#test-data').value)").await;
    page.click("Send").await;
    assert_eq!(data().await, shown);
    page.sees("Body sent").await;
    page.until(
        "[...document.querySelectorAll('[role=status]')].some((e) => /^Success, HTTP 200, .* ms$/.test(e.textContent))",
    )
    .await;
    page.is_sound().await;

    page.fill("#test-data", "{\"number\": 12345678901234567890").await;
    page.click("Send").await;
    page.sees("This is not JSON").await;
    page.until("document.activeElement.id === 'test-data'").await;
    page.is_sound().await;
    // What was typed stays while the reader looks at another tab.
    page.click("Settings").await;
    page.sees("Delete webhook").await;
    page.click("Test").await;
    page.choose("#test-type", "keyword.created").await;
    page.until("document.querySelector('#test-data').value === '{\"number\": 12345678901234567890'").await;
    page.click("Send").await;
    page.sees("This is not JSON").await;
    page.press("}").await;
    page.no_longer_sees("This is not JSON").await;
    page.click("Send").await;
    assert_eq!(data().await, json!({ "number": 12_345_678_901_234_567_890_u64 }));

    // Each type keeps what was typed for it.
    page.choose("#test-type", "keyword.approved").await;
    page.until("!document.querySelector('#test-data').value.includes('number')").await;
    page.choose("#test-type", "keyword.created").await;
    page.until("document.querySelector('#test-data').value.includes('number')").await;
    page.click("Back to the example").await;
    page.click("Send").await;
    assert_eq!(data().await, shown);
    assert_eq!(receiver.count(), 3);
}

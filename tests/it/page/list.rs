//! The list of webhooks keeps up to date, and keeps the reader's place meanwhile.

use super::*;

const URL: &str = "https://hooks.example.com/a";

#[tokio::test]
async fn the_focus_stays_on_its_control_while_webhooks_come_change_and_go() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    let first = stage.named("First", URL, &TYPES).await;
    let second = stage.named("Second", URL, &TYPES).await;
    stage.open().await;
    page.sees("Second").await;
    page.js("document.querySelector('[aria-label=\"Active: Second\"]').focus()").await;
    let stays = async || {
        assert_eq!(page.js("return document.activeElement.ariaLabel").await, json!("Active: Second"));
    };
    stage.named("Third", URL, &TYPES).await;
    page.sees("Third").await;
    stays().await;
    stage.site.json(&["webhooks", "update", &second.id, "--events", "site.connected"]).await;
    page.sees("site.connected").await;
    stays().await;
    stage.site.json(&["webhooks", "delete", &first.id]).await;
    page.no_longer_sees("First").await;
    stays().await;
    stage.site.json(&["webhooks", "delete", &second.id]).await;
    page.no_longer_sees("Second").await;
    assert_eq!(page.js("return document.activeElement.tagName").await, json!("H1"));
}

#[tokio::test]
async fn the_focus_stays_where_there_are_no_webhooks() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    stage.open().await;
    page.sees("No webhooks yet").await;
    page.js("window.first = document.querySelector('.empty a'); first.focus()").await;
    page.until(
        "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/v1/webhooks')).length > 2",
    )
    .await;
    assert_eq!(page.js("return document.activeElement === first").await, json!(true));
}

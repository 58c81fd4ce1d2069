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
    page.until(
        "[...document.querySelectorAll('[role=status]')].some((e) => e.textContent === 'New in the list: Third.')",
    )
    .await;
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

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_row_leads_to_what_waits_warns_by_an_icon_and_shows_utc_to_the_keyboard() {
    let stage = Stage::set().await;
    let webhook = stage.named("Plain", "http://hooks.example.com/a", &TYPES).await;
    let row = "'content.created', 'event', 1, 503, 10, 'http_status', NULL, now(), NULL";
    stage.write_log(&webhook, 1, row).await;
    stage.write_waiting(&webhook, 1).await;
    let page = &stage.browser;
    stage.open().await;
    page.until("document.querySelector('.address .warn')?.title.startsWith('The URL uses http')").await;
    assert_eq!(page.js("return document.querySelector('.address .warn').offsetWidth < 30").await, json!(true));
    page.js("document.querySelector('a.button').focus()").await;
    page.press("\u{e004}").await;
    page.until("document.activeElement.className === 'name'").await;
    page.until("getComputedStyle(document.querySelector('.webhook time'), '::after').content.includes(' UTC')").await;
    page.click_on("a.waiting").await;
    let place = format!("#/webhooks/{}/logs?view=deliveries&state=pending", webhook.id);
    page.until(&format!("location.hash === '{place}'")).await;
    page.sees("The URL uses http").await;
    page.click("Copy URL").await;
    page.sees("Copied to the clipboard.").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_toast_does_not_cover_the_row_that_it_speaks_of() {
    let stage = Stage::set().await;
    for _ in 0..6 {
        stage.webhook(URL, &TYPES).await;
    }
    let page = &stage.browser;
    page.look("light", 360).await;
    stage.open().await;
    page.until("document.querySelectorAll('.webhooks > li').length === 6").await;
    let covered = "(() => {
        const [row, toast] = ['.webhooks > li:nth-child(4)', '.toast'].map((e) => document.querySelector(e).getBoundingClientRect());
        return toast.bottom > row.top && toast.top < row.bottom;
    })()";
    for block in ["start", "end"] {
        page.js(&format!(
            "document.querySelector('.webhooks > li:nth-child(4)').scrollIntoView({{ block: '{block}' }})"
        ))
        .await;
        page.click_on(".webhooks > li:nth-child(4) .switch").await;
        page.until("document.querySelector('.toast') !== null").await;
        assert_eq!(page.js(&format!("return {covered}")).await, json!(false), "the row is at the {block}");
        page.js("document.querySelector('.toast').remove()").await;
    }
}

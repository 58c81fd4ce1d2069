//! The webhook's log as its page shows it.

use super::*;

const GOOD: &str = "'content.created', 'event', 1, 200, n, NULL, 'ok', now() - n * interval '1 minute', NULL";

#[tokio::test]
async fn the_log_begins_with_ten_and_loads_more() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    stage.write_log(&webhook, 25, GOOD).await;
    let page = &stage.browser;
    page.look("light", 1280).await;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.until("document.querySelector('.log > li')?.getBoundingClientRect().bottom < 600").await;
    for count in [10, 20] {
        page.until(&format!("document.querySelectorAll('.log > li').length === {count}")).await;
        page.click("Load more").await;
    }
    page.until("document.querySelectorAll('.log > li').length === 25").await;
    page.until("new Set([...document.querySelectorAll('.log > li')].map((e) => e.dataset.id)).size === 25").await;
    page.no_longer_sees("Load more").await;
    page.until("/UTC$/.test(document.querySelector('.log time').title)").await;
}

#[tokio::test]
async fn the_log_is_filtered_by_status_and_type_and_says_when_nothing_matches() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    stage.write_log(&webhook, 12, GOOD).await;
    let failed = "'site.connected', 'retry', 2, NULL, 5000, 'timeout', NULL, now() - n * interval '1 hour', now() + interval '1 hour'";
    stage.write_log(&webhook, 2, failed).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.choose("[aria-label=Status]", "failed").await;
    page.until("document.querySelectorAll('.log > li').length === 2").await;
    page.click_on(".log summary").await;
    page.sees("No answer came in time.").await;
    page.sees("Next attempt").await;
    page.choose("[aria-label='Event type']", "content.created").await;
    page.sees("Nothing matches these filters").await;
    page.is_sound().await;
    page.click("Show all").await;
    page.until("document.querySelectorAll('.log > li').length === 10").await;
}

#[tokio::test]
async fn an_open_log_grows_by_itself_and_keeps_what_is_open() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    let webhook = stage.webhook(&receiver.url(), &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.sees("Nothing was sent yet").await;
    stage.publish("content.created").await;
    page.click_on(".log summary").await;
    page.until("document.querySelector('.attempts') !== null").await;
    receiver.always(Reply::status(500));
    stage.publish("content.updated").await;
    page.until("document.querySelectorAll('.log > li').length === 2").await;
    page.until("document.querySelector('.log > li .outcome').innerText === 'Failed'").await;
    page.until("document.querySelector('.log > li:last-child details').open").await;
    page.until("document.querySelector('.chart rect.bad') !== null").await;
}

#[tokio::test]
async fn the_chart_shows_the_last_day_in_bars_lines_and_numbers() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    stage.write_log(&webhook, 7, &GOOD.replace("n * interval '1 minute'", "interval '2 hours'")).await;
    let failed = "'content.created', 'event', 1, 500, 40, 'http_status', NULL, now() - interval '2 hours', NULL";
    stage.write_log(&webhook, 3, failed).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.sees("7 succeeded").await;
    page.sees("3 failed").await;
    page.until("document.querySelectorAll('.chart g').length === 24").await;
    page.click("Numbers").await;
    page.until("document.querySelectorAll('.chart tbody tr').length === 24").await;
    page.is_sound().await;
}

#[tokio::test]
async fn many_new_deliveries_wait_until_the_reader_asks_for_them() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    stage.write_log(&webhook, 12, GOOD).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.click_on(".log > li:nth-child(3) summary").await;
    page.until("document.querySelector('.log > li:nth-child(3) .attempts') !== null").await;
    let read = "return [...document.querySelectorAll('.log > li')].map((e) => [e.dataset.id, e.querySelector('[open]') !== null])";
    let before = page.js(read).await;
    stage.write_log(&webhook, 15, &GOOD.replace("content.created", "site.connected").replace("1 minute", "1 ms")).await;
    page.sees("New attempts: show").await;
    assert_eq!(page.js(read).await, before);
    page.is_sound().await;
    page.click("New attempts: show").await;
    page.until("document.querySelector('.log > li code')?.innerText === 'site.connected'").await;
    page.until("document.activeElement.innerText === 'Webhook Logs'").await;
    page.no_longer_sees("New attempts: show").await;
}

//! The chart of a webhook's last day.

use super::*;

const ROW: &str = "'content.created', 'event', 1, 200, n * 1000, NULL, 'ok', now() - interval '2 hours', NULL";
const FAILED: &str = "'content.created', 'event', 1, 500, 40, 'http_status', NULL, now() - interval '2 hours', NULL";

/// Opens the log without the timer that has the chart drawn again every 30 s.
async fn open_without_timer(stage: &Stage, webhook: &Webhook) {
    stage.open().await;
    let block = "const later = window.setTimeout;
        window.setTimeout = (run, ms, ...rest) => (ms > 20_000 ? 0 : later(run, ms, ...rest))";
    stage.browser.js(block).await;
    stage.go(&format!("/{}/logs", webhook.id)).await;
}

#[tokio::test]
async fn each_hour_is_read_by_keyboard_and_the_chart_fits_its_window() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    stage.write_log(&webhook, 5, ROW).await;
    stage.write_log(&webhook, 3, FAILED).await;
    let page = &stage.browser;
    page.look("light", 1280).await;
    open_without_timer(&stage, &webhook).await;
    page.sees("Half of the requests took at most p50").await;
    page.sees("Tests are not counted.").await;
    page.js("document.querySelector('.reader input').focus()").await;
    // Two hours back: U+E012 is the left arrow, as WebDriver numbers keys.
    page.press("\u{e012}\u{e012}").await;
    let read = "document.querySelector('.reader input').getAttribute('aria-valuetext')";
    page.until(&format!("{read}.includes(': 5 succeeded, 3 failed, p50 1 s, p99 5 s')")).await;
    page.until(&format!("document.querySelector('.reader p').innerText === {read}")).await;
    for width in [360, 1280] {
        page.look("light", width).await;
        page.until("document.documentElement.scrollWidth <= document.documentElement.clientWidth").await;
        page.until(
            "document.querySelector('svg.drawing').viewBox.baseVal.width === document.querySelector('svg.drawing').clientWidth",
        )
        .await;
    }
    page.until("document.activeElement.type === 'range'").await;
    page.is_sound().await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn the_chart_counts_what_the_log_beneath_it_shows() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    let webhook = stage.webhook(&receiver.url(), &TYPES).await;
    let page = &stage.browser;
    open_without_timer(&stage, &webhook).await;
    page.sees("0 succeeded").await;
    page.sees("Nothing was sent yet").await;
    for count in 1..3 {
        stage.publish("content.created").await;
        page.sees(&format!("{count} succeeded")).await;
    }
}

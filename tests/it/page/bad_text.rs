//! Whatever a customer or a receiver writes is shown as text, and the page keeps its layout.

use super::*;

const HOSTILE: [&str; 6] = [
    "<img src=x onerror=\"window.hit=1\">",
    "</script><script>window.hit=1</script>",
    "<svg/onload=window.hit=1>",
    "{{constructor.constructor('window.hit=1')()}} ${window.hit=1}",
    "\u{202e}txt.exe\u{200f}\u{2028}\u{2029}\"'`&lt;&#x3c;",
    "=cmd|' /C calc'!A0",
];

/// As the page shows it: what would turn the text around is written out.
fn shown(text: &str) -> String {
    text.replace('\u{202e}', "⟨U+202E⟩").replace('\u{200f}', "⟨U+200F⟩")
}

fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Checks that no hostile text was run as code or became an element.
async fn is_inert(stage: &Stage) {
    let hit = "return window.hit === undefined && document.querySelector('main :is(img, script, iframe, object), main svg[onload], [onerror], a[href^=javascript], a[href^=data]') === null";
    assert_eq!(stage.browser.js(hit).await, json!(true), "hostile text was run as code or became an element");
    stage.browser.is_sound().await;
}

#[tokio::test]
async fn hostile_names_urls_types_and_answers_are_shown_as_text() {
    let stage = Stage::set().await;
    for text in HOSTILE {
        let webhook = stage.webhook("https://hooks.example.com/a", &["content.created"]).await;
        let text = sql_text(text);
        stage
            .execute(&format!(
                "UPDATE webhooks SET name = {text}, url = 'https://e.example/' || {text}, event_types = ARRAY[{text}], failing_since = now()
                 WHERE id = '{}'",
                webhook.id
            ))
            .await;
        stage
            .write_log(
                &webhook,
                2,
                &format!("{text}, 'retry', 1, 500, 10, 'http_status', {text}, now() - n * interval '1 s', NULL"),
            )
            .await;
    }
    stage.open().await;
    for text in HOSTILE {
        let text = browser::quoted(&shown(text));
        let is_shown = format!("[...document.querySelectorAll('.name')].some((e) => e.textContent === {text})");
        stage.browser.until(&is_shown).await;
    }
    is_inert(&stage).await;
    for n in 0..HOSTILE.len() {
        stage.open().await;
        stage.browser.until(&format!("document.querySelectorAll('.name').length === {}", HOSTILE.len())).await;
        let name = stage
            .browser
            .js(&format!("const a = document.querySelectorAll('.name')[{n}]; a.click(); return a.textContent"))
            .await;
        stage.browser.click_on(".log summary").await;
        stage.browser.until(&format!("document.querySelector('.attempts pre')?.textContent === {name}")).await;
        is_inert(&stage).await;
        stage.browser.click("Settings").await;
        stage
            .browser
            .until(&format!("document.querySelector('#name')?.value === {name}.replace(/[\\r\\n]/g, '').replace('⟨U+202E⟩', '\\u202e').replace('⟨U+200F⟩', '\\u200f')"))
            .await;
        is_inert(&stage).await;
    }
}

#[tokio::test]
async fn a_url_that_would_run_code_is_no_link() {
    let stage = Stage::set().await;
    for url in ["javascript:window.hit=1", "data:text/html,<script>window.hit=1</script>"] {
        let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
        stage.execute(&format!("UPDATE webhooks SET url = {} WHERE id = '{}'", sql_text(url), webhook.id)).await;
    }
    stage.open().await;
    stage.browser.sees("javascript:window.hit=1").await;
    is_inert(&stage).await;
    stage.browser.click_on(".name").await;
    stage.browser.sees("Nothing was sent yet").await;
    is_inert(&stage).await;
}

#[tokio::test]
async fn long_lines_and_many_emoji_do_not_break_the_layout() {
    let stage = Stage::set().await;
    for text in ["a".repeat(4096), "👩‍👩‍👧‍👦".repeat(2500), "Z̵̡̢̛̗͍".repeat(300)] {
        let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
        let text = sql_text(&text);
        stage
            .execute(&format!(
                "UPDATE webhooks SET name = {text}, url = 'https://e.example/' || {text} WHERE id = '{}'",
                webhook.id
            ))
            .await;
        stage
            .write_log(&webhook, 1, &format!("'content.created', 'event', 1, 200, 10, NULL, {text}, now(), NULL"))
            .await;
        for width in [360, 1280] {
            stage.browser.look("light", width).await;
            stage.open().await;
            stage.browser.until("document.querySelector('.name') !== null").await;
            stage.browser.is_sound().await;
            stage.go(&format!("/{}/logs", webhook.id)).await;
            stage.browser.click_on(".log summary").await;
            stage.browser.until("document.querySelector('.attempts pre') !== null").await;
            stage.browser.is_sound().await;
        }
    }
}

#[tokio::test]
async fn an_error_of_the_api_with_html_in_it_is_shown_as_text() {
    let stage = Stage::set().await;
    stage.open_at("/new").await;
    stage.browser.until("document.querySelector('#name') !== null").await;
    // Answered by the page's own fetch, since the API never repeats what it was given.
    stage
        .browser
        .js("window.fetch = async () => new Response(JSON.stringify({ title: '<img src=x onerror=window.hit=1>', errors: [{ field: 'url', reason: '<b>no</b>' }, { field: 'x', reason: '<svg onload=window.hit=1>' }] }), { status: 422 })")
        .await;
    stage.browser.click("Save").await;
    stage.browser.sees("<b>no</b>").await;
    stage.browser.sees("<svg onload=window.hit=1>").await;
    is_inert(&stage).await;
}

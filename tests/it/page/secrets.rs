//! A secret is in the page only between Reveal and Hide.

use super::*;

async fn is_in_the_page(stage: &Stage, secret: &str) -> bool {
    let html = stage
        .browser
        .js("return document.documentElement.outerHTML + [...document.querySelectorAll('input')].map((e) => e.value)")
        .await;
    html.as_str().unwrap().contains(secret)
}

#[tokio::test]
async fn a_secret_is_masked_until_it_is_revealed_and_gone_when_hidden_or_left() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    page.sees("whsec_••••").await;
    assert!(!is_in_the_page(&stage, &webhook.secret).await);
    page.click("Reveal").await;
    page.sees(&webhook.secret).await;
    page.is_sound().await;
    page.click("Hide").await;
    page.sees("whsec_••••").await;
    assert!(!is_in_the_page(&stage, &webhook.secret).await);
    page.click("Reveal").await;
    page.sees(&webhook.secret).await;
    page.click("Webhook Logs").await;
    page.sees("Nothing was sent yet").await;
    assert!(!is_in_the_page(&stage, &webhook.secret).await);
    page.back().await;
    page.sees("whsec_••••").await;
    assert!(!is_in_the_page(&stage, &webhook.secret).await);
}

#[tokio::test]
async fn a_new_secret_is_not_in_the_page_before_it_is_revealed() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    stage.open_at("/new").await;
    page.fill("#name", "Blog").await;
    page.fill("#url", "https://hooks.example.com/a").await;
    page.click("Select all").await;
    page.click("Save").await;
    page.sees("whsec_••••").await;
    for language in ["Python", "Go", "PHP", "Ruby", "Node.js"] {
        page.choose("[aria-label=Language]", language).await;
        page.sees(&format!("{language} code")).await;
    }
    page.is_sound().await;
    let id: String = stage.site.sql().await.query_one("SELECT id::text FROM webhooks", &[]).await.unwrap().get(0);
    let secret = stage.site.json(&["webhooks", "secret", &id]).await["secret"].as_str().unwrap().to_owned();
    assert!(!is_in_the_page(&stage, &secret).await);
    page.click("Reveal").await;
    page.sees(&secret).await;
}

#[tokio::test]
async fn a_secret_is_copied_in_a_frame_that_may_not_use_the_clipboard() {
    let (stage, host_page) = tokens::framed().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    tokens::open_in_frame(&stage, &host_page).await;
    let page = &stage.browser;
    page.click_on(".name").await;
    page.click("Settings").await;
    page.until("document.querySelector('[aria-label=\"Copy secret\"]')?.focus() === undefined && document.activeElement.innerText === 'Copy'").await;
    // The Enter key (U+E007) and no script: a browser copies only after an act of the user.
    page.press("\u{e007}").await;
    page.sees("Copied to the clipboard.").await;
    assert!(!is_in_the_page(&stage, &webhook.secret).await);
    let read = json!({ "expression": "navigator.clipboard.readText()", "awaitPromise": true, "userGesture": true });
    assert_eq!(page.devtools("Runtime.evaluate", read).await["result"]["value"], json!(webhook.secret));
}

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
        page.click(language).await;
        page.sees(&format!("{language} code")).await;
    }
    page.is_sound().await;
    let id: String = stage.site.sql().await.query_one("SELECT id::text FROM webhooks", &[]).await.unwrap().get(0);
    let secret = stage.site.json(&["webhooks", "secret", &id]).await["secret"].as_str().unwrap().to_owned();
    assert!(!is_in_the_page(&stage, &secret).await);
    page.click("Reveal").await;
    page.sees(&secret).await;
}

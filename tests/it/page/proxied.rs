//! Saving behind a proxy that changes or drops the ETag of what the page has read.

use super::*;

async fn saves_what_is_fresh_and_asks_about_what_is_stale(stage: &Stage) {
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &["content.created"]).await;
    let page = &stage.browser;
    let name = async || stage.site.webhook(&webhook.id).await["name"].clone();
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    page.fill("#name", "First").await;
    page.click("Save").await;
    page.sees("Saved.").await;
    assert_eq!(name().await, "First");
    stage.site.json(&["webhooks", "update", &webhook.id, "--name", "Theirs"]).await;
    page.fill("#name", "Mine").await;
    page.click("Save").await;
    page.sees("Name is now: Theirs").await;
    assert_eq!(name().await, "Theirs");
    page.click("Save mine anyway").await;
    page.no_longer_sees("Name is now: Theirs").await;
    page.sees("Saved.").await;
    wait_until("mine is saved", async || name().await == "Mine").await;
}

#[tokio::test]
async fn the_page_saves_behind_proxies_that_compress_or_drop_etags() {
    let mut stage = Stage::set().await;
    let api = stage.address.clone();
    for proxy in [Nginx::that_compresses(&api).await, Nginx::that_drops_etags(&api).await] {
        stage.address = proxy.addr();
        saves_what_is_fresh_and_asks_about_what_is_stale(&stage).await;
    }
}

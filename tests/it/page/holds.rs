//! A webhook that the operators hold: said quietly, and it cannot be tested.

use super::*;

#[tokio::test]
async fn a_held_webhook_says_since_when_and_is_not_tested() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/penr", &TYPES).await;
    let page = &stage.browser;
    stage.open().await;
    page.sees("Blog").await;
    stage.site.json(&["webhooks", "hold", &webhook.id, "--reason", "for operators"]).await;
    page.sees("On hold").await;
    page.is_sound().await;
    stage.go(&format!("/{}/test", webhook.id)).await;
    page.sees("On hold since ").await;
    page.sees(": deliveries wait and nothing is lost.").await;
    page.sees("A webhook on hold cannot be tested").await;
    page.until("document.querySelector('form [type=submit]').disabled").await;
    page.is_sound().await;
    assert!(!page.text().await.contains("for operators"));
    stage.execute("DELETE FROM holds").await;
    page.no_longer_sees("On hold").await;
    page.until("!document.querySelector('form [type=submit]').disabled").await;
}

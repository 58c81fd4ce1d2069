//! Readers who choose their own few colours, as Windows' contrast themes do, can use the page as well.

use super::*;

/// A colour that the browser paints.
fn colour(selector: &str, part: &str, property: &str) -> String {
    format!("getComputedStyle(document.querySelector('{selector}'), '{part}').{property}")
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn switches_tabs_and_keys_of_the_chart_can_be_told_apart_in_forced_colours() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    page.look("forced", 1280).await;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.until("document.querySelector('.key.bad') !== null").await;
    let differ = async |one: String, other: String| {
        assert_eq!(page.js(&format!("return {one} !== {other}")).await, json!(true), "{one} and {other}");
    };
    let switch_is_seen = async |state: &str| {
        let switch = format!("[role=switch][aria-checked={state}]");
        page.until(&format!("document.querySelector('{switch}') !== null")).await;
        differ(colour(&switch, "::after", "backgroundColor"), colour(&switch, "", "backgroundColor")).await;
        page.js(&format!("return {}", colour(&switch, "", "backgroundColor"))).await
    };
    let on = switch_is_seen("true").await;
    stage.site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    assert_ne!(switch_is_seen("false").await, on);
    differ(
        colour(".tabs [aria-current]", "", "borderBottomColor"),
        colour(".tabs a:not([aria-current])", "", "borderBottomColor"),
    )
    .await;
    for key in [".key.good", ".key.bad"] {
        differ(colour(key, "::before", "backgroundColor"), colour(".card", "", "backgroundColor")).await;
    }
    differ(colour(".key.good", "::before", "backgroundColor"), colour(".key.bad", "::before", "backgroundColor")).await;
}

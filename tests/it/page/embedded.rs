//! The page in the frame of another product, which is the host page of docs/embedding.md.

use super::*;

/// The route that the host page shows in its own address.
async fn host_has(page: &Browser, route: &str) {
    page.until(&format!("location.hash === '#{route}'")).await;
}

/// Neither too low, so that it would scroll, nor higher than its content.
async fn frame_fits(page: &Browser) {
    page.until("Math.abs(innerHeight - document.documentElement.getBoundingClientRect().height) <= 1").await;
}

/// Lists, creates, and shows the log, as any of the page's other tests could.
#[tokio::test]
async fn the_documented_host_page_frames_ours_below_a_path_through_a_proxy_that_compresses() {
    let (stage, receiver) = (Stage::framed().await, Receiver::start().await);
    let page = &stage.browser;
    stage.open().await;
    page.sees("No webhooks yet").await;
    frame_fits(page).await;
    page.click("Create your first webhook").await;
    page.fill("#name", "Blog").await;
    page.fill("#url", &receiver.url()).await;
    page.click("Select all").await;
    page.click("Save").await;
    page.sees("Webhook created").await;
    page.click("Go to the webhook").await;
    stage.publish("content.published").await;
    receiver.next().await;
    page.until("document.querySelectorAll('.log li .outcome.success').length === 1").await;
    frame_fits(page).await;
    page.is_sound().await;

    let id: String = stage.site.sql().await.query_one("SELECT id::text FROM webhooks", &[]).await.unwrap().get(0);
    let logs = format!("/webhooks/{id}/logs");
    page.leave_frame().await;
    host_has(page, &logs).await;
    assert_eq!(page.console().await, Vec::<String>::new());
    // The reader reloads the host page, and is where they were: our page asks its host again.
    page.reload().await;
    stage.host().enter(page).await;
    page.sees("Blog").await;
    page.until(&format!("location.hash === '#{logs}'")).await;
    // The way back right after that leads to the view before, which the frame loads anew.
    page.leave_frame().await;
    page.back().await;
    host_has(page, "/webhooks/new").await;
    stage.host().enter(page).await;
    page.sees("Select all").await;
    page.leave_frame().await;
    page.js(&format!("location.hash = '{logs}'")).await;
    page.enter_frame().await;
    page.sees("Blog").await;
    // Links for others lead to the host page.
    let link = "return import(new URL('webhooks/embed.js', location.href)).then((it) => it.permalink('/webhooks/x'))";
    assert_eq!(page.js(link).await, json!(format!("{}#/webhooks/x", stage.host().url())));
    // The way back leads to the view before, a link in the host page to the one that it names.
    page.click("Settings").await;
    page.leave_frame().await;
    host_has(page, &format!("/webhooks/{id}/settings")).await;
    page.back().await;
    host_has(page, &logs).await;
    page.js(&format!("location.hash = '/webhooks/{id}/test'")).await;
    page.enter_frame().await;
    page.sees("Sends one signed request").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_new_view_in_a_tall_frame_begins_where_the_reader_looks() {
    let (stage, receiver) = (Stage::framed().await, Receiver::start().await);
    let page = &stage.browser;
    page.look("light", 1000).await;
    page.devtools(
        "Emulation.setDeviceMetricsOverride",
        json!({ "width": 1000, "height": 500, "deviceScaleFactor": 1, "mobile": false }),
    )
    .await;
    stage.open_at("/new").await;
    page.fill("#name", "Blog").await;
    page.fill("#url", &receiver.url()).await;
    page.click("Select all").await;
    frame_fits(page).await;
    let scrolled_down = async || {
        page.leave_frame().await;
        page.js("scrollTo(0, 1e6)").await;
        page.until("scrollY > 200").await;
        page.enter_frame().await;
    };
    let begins_in_sight = async |selector: &str| {
        // How much of the element the reader sees, also outside of this frame.
        let seen = format!(
            "new Promise((done) => new IntersectionObserver(([{{ intersectionRatio }}]) => done(intersectionRatio)).observe(document.querySelector('{selector}'))).then((ratio) => {{ window.ratio = ratio }})"
        );
        page.until(&format!("({seen}, window.ratio === 1)")).await;
        page.js("delete window.ratio").await;
    };
    scrolled_down().await;
    page.click("Save").await;
    page.sees("Webhook created").await;
    begins_in_sight("h1").await;
    scrolled_down().await;
    page.click("Go to the webhook").await;
    page.sees("Nothing was sent yet").await;
    begins_in_sight("h1").await;
    page.click("Settings").await;
    page.sees("Delete webhook").await;
    frame_fits(page).await;
    scrolled_down().await;
    page.leave_frame().await;
    page.back().await;
    page.enter_frame().await;
    page.sees("Nothing was sent yet").await;
    begins_in_sight(".tabs").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn dialogs_and_messages_in_a_tall_frame_appear_where_the_reader_looks() {
    let stage = Stage::framed().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    page.look("light", 1000).await;
    stage.host().open(page, &format!("/webhooks/{}/settings", webhook.id)).await;
    page.sees("Delete webhook").await;
    // A host that wants another view learns that the reader stayed.
    page.fill("#name", "Shop").await;
    page.leave_frame().await;
    page.js("location.hash = '/webhooks'").await;
    page.enter_frame().await;
    page.click("Stay").await;
    page.leave_frame().await;
    host_has(page, &format!("/webhooks/{}/settings", webhook.id)).await;
    page.enter_frame().await;
    page.until("document.querySelector('#name').value === 'Shop'").await;
    frame_fits(page).await;
    // A dialog that is higher than the page gets the room that it needs.
    page.js("document.body.append(Object.assign(document.createElement('dialog'), { id: 'high', textContent: ' word'.repeat(3000) })); document.querySelector('#high').showModal()").await;
    page.until("innerHeight > 1500 && document.querySelector('#high').scrollHeight < innerHeight").await;
    page.js("document.querySelector('#high').remove()").await;
    frame_fits(page).await;
    page.js("document.querySelector('main').append(document.createElement('section')); document.querySelector('section:last-child').style.height = '3000px'").await;
    frame_fits(page).await;
    page.leave_frame().await;
    page.js("scrollTo(0, 1500)").await;
    page.until("scrollY === 1500").await;
    let seen = async |selector: &str| {
        page.enter_frame().await;
        let top = format!("return document.querySelector('{selector}').getBoundingClientRect().top");
        page.until(&format!("document.querySelector('{selector}')?.getBoundingClientRect().top > 1400")).await;
        let top = page.js(&top).await.as_f64().unwrap();
        page.leave_frame().await;
        assert!((1400.0..2300.0).contains(&top), "{selector} is at {top}");
    };
    page.enter_frame().await;
    page.js("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Save').click()").await;
    page.sees("Saved.").await;
    page.leave_frame().await;
    seen(".toast").await;
    page.enter_frame().await;
    page.js("[...document.querySelectorAll('button')].find((b) => b.textContent === 'Delete webhook').click()").await;
    page.sees("Delete “Shop”?").await;
    page.leave_frame().await;
    seen("dialog").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_host_dresses_the_page_in_its_own_theme_and_accent_if_they_can_be_read() {
    let stage = Stage::framed().await;
    stage.webhook("https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    page.look("light", 1280).await;
    stage.open().await;
    page.sees("Create Webhook").await;
    // Sends the token that the page has again, with another look, and tells how the page looks then.
    let dressed = async |look: &str| {
        page.leave_frame().await;
        let token = stage.token().await;
        page.js(&format!(
            "document.querySelector('iframe').contentWindow.postMessage({{ type: 'penr-webhooks:token', token: '{token}', {look} }}, '*')"
        ))
        .await;
        page.enter_frame().await;
    };
    let has = async |accent: &str, back: &str| {
        page.until(&format!("getComputedStyle(document.querySelector('.primary')).backgroundColor === 'rgb({accent})' && getComputedStyle(document.body).backgroundColor === 'rgb({back})'")).await;
    };
    let (light, dark) = ("246, 247, 249", "14, 16, 21");
    // The accent of the document's host page.
    has("29, 78, 216", light).await;
    dressed("theme: 'dark', accent: '#7dd3fc'").await;
    has("125, 211, 252", dark).await;
    page.is_sound().await;
    // What is not given stays.
    dressed("accent: '#bae6fd'").await;
    has("186, 230, 253", dark).await;
    dressed("theme: 'light', accent: '#7dd3fc'").await;
    has("67, 56, 202", light).await;
    let said = page.console().await.join("\n");
    assert!(said.contains("accent #7dd3fc is not used"), "{said}");
    dressed("accent: 'red'").await;
    wait_until("the colour is refused", async || page.console().await.join("\n").contains("accent red is not used"))
        .await;
    let warned = async |text: &str| {
        wait_until(text, async || page.console().await.join("\n").contains(text)).await;
    };
    dressed("theme: 'constructor'").await;
    warned("The theme constructor is not used").await;
    dressed("link: 'https://elsewhere.example/#'").await;
    warned("The link https://elsewhere.example/# is not used").await;
    dressed(&format!("link: '{}?at={{route}}'", stage.host().url())).await;
    let link =
        "return import(new URL('webhooks/embed.js', location.href)).then((it) => it.permalink('/webhooks/x?a=b'))";
    let encoded = json!(format!("{}?at=%2Fwebhooks%2Fx%3Fa%3Db", stage.host().url()));
    eventually("links are made with the new address", async || (page.js(link).await == encoded).then_some(())).await;
    dressed("theme: 'auto', accent: '#7dd3fc'").await;
    has("67, 56, 202", light).await;
    page.look("dark", 1280).await;
    has("125, 211, 252", dark).await;
    page.is_sound().await;
}

/// Pages that isolate themselves, so that they may use shared memory.
#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_host_that_isolates_itself_can_frame_the_page() {
    for policy in ["require-corp", "credentialless"] {
        let isolated = format!("Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Embedder-Policy: {policy}\r\n");
        let stage = Stage::framed_by(&isolated, Site::new().await).await;
        stage.open_at("/new").await;
        stage.browser.sees("Select all").await;
        stage.browser.leave_frame().await;
        assert_eq!(stage.browser.js("return crossOriginIsolated").await, json!(true), "{policy}");
    }
}

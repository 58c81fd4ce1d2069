//! While the service or its database is away, the page says so, keeps what it shows, and recovers by itself.

use super::*;

#[tokio::test]
async fn an_outage_of_the_database_is_said_and_ends_by_itself() {
    let servers = PrivateServers::postgres().await;
    let stage = Stage::on(Site::on(&servers).await).await;
    stage.named("Blog", "https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open().await;
    page.sees("Blog").await;
    servers.graceful_stop("postgres").await;
    page.sees("The service is not available right now.").await;
    page.sees("Blog").await;
    page.is_sound().await;
    page.click("Active: Blog").await;
    page.until(
        "document.querySelector('.toast .failed') !== null || document.querySelector('.toast .icon.failed') !== null",
    )
    .await;
    assert_eq!(page.js("return document.querySelector('[role=switch]').ariaChecked").await, json!("true"));
    servers.restart("postgres").await;
    page.no_longer_sees("The service is not available right now.").await;
    page.click("Active: Blog").await;
    page.sees("is inactive: nothing is sent").await;
}

#[tokio::test]
async fn a_page_opened_while_the_database_is_away_appears_when_it_is_back() {
    let servers = PrivateServers::postgres().await;
    let stage = Stage::on(Site::on(&servers).await).await;
    servers.graceful_stop("postgres").await;
    stage.open().await;
    stage.browser.sees("The service is not available right now.").await;
    servers.restart("postgres").await;
    stage.browser.sees("No webhooks yet").await;
    stage.browser.no_longer_sees("The service is not available right now.").await;
}

#[tokio::test]
async fn a_webhook_whose_creation_was_not_answered_is_created_once_when_it_is_saved_again() {
    let mut stage = Stage::set().await;
    let proxy = Proxy::to(&stage.address).await;
    stage.address = proxy.addr();
    let page = &stage.browser;
    stage.open_at("/new").await;
    page.fill("#name", "Blog").await;
    page.fill("#url", "https://hooks.example.com/a").await;
    page.click("Select all").await;
    let webhooks = async || stage.site.count("SELECT count(*) FROM webhooks").await;
    proxy.pause_to_client();
    page.click("Save").await;
    wait_until("the webhook is created", async || webhooks().await == 1).await;
    // A browser may repeat a request on a fresh connection if the answer did not begin.
    proxy.refuse(true).await;
    proxy.reset().await;
    page.sees("Try again: it is done only once.").await;
    proxy.resume();
    proxy.refuse(false).await;
    page.click("Save").await;
    page.sees("Webhook created").await;
    assert_eq!(webhooks().await, 1);
    let id: String = stage.site.sql().await.query_one("SELECT id::text FROM webhooks", &[]).await.unwrap().get(0);
    let secret = stage.site.json(&["webhooks", "secret", &id]).await["secret"].as_str().unwrap().to_owned();
    page.click("Reveal").await;
    page.sees(&secret).await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn an_answer_that_breaks_off_is_asked_for_again_and_said_at_the_second_in_a_row() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    stage.open().await;
    page.sees("No webhooks yet").await;
    page.js("window.told = []; window.real = fetch; new MutationObserver(() => told.push(document.body.innerText)).observe(document.body, { childList: true, subtree: true, attributes: true })").await;
    for (times, name) in [(1, "Blog"), (2, "Shop")] {
        // The last one is a proxy's page, which is no answer of ours.
        let script = format!(
            "window.told = [];
             let left = {times};
             window.fetch = async (...given) => {{
                 left -= 1;
                 if (left < 0) return real(...given);
                 if (left === 0) return new Response('<h1>Not here</h1>', {{ status: 404 }});
                 return new Response(new ReadableStream({{ start: (body) => body.error(new Error('cut')) }}));
             }};"
        );
        page.js(&script).await;
        stage.named(name, "https://hooks.example.com/a", &TYPES).await;
        page.sees(name).await;
        let said = async |text: &str| page.js(&format!("return told.some((seen) => seen.includes('{text}'))")).await;
        assert_eq!(said("The service is not available").await, json!(times > 1), "{times} failures");
        for text in ["could not be loaded", "does not exist"] {
            assert_eq!(said(text).await, json!(false));
        }
    }
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_switch_stays_as_it_was_set_when_an_older_answer_comes_late() {
    let stage = Stage::set().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/test", webhook.id)).await;
    page.sees("Sends one signed request").await;
    // Keeps the next answer about the webhook back until `release` is called.
    page.js("const real = fetch, late = new Promise((done) => { window.release = done; });
         window.answers = 0;
         window.states = [];
         window.fetch = async (url, options) => {
             const answer = await real(url, options);
             if (options.method !== 'GET' || !url.split('?')[0].endsWith(arguments[0])) return answer;
             window.answers += 1;
             if (answers === 1) await late;
             return answer;
         };"
    .replace("arguments[0]", &format!("'{}'", webhook.id))
    .as_str())
        .await;
    page.until("answers === 1").await;
    page.click("Active").await;
    page.sees("is inactive: nothing is sent").await;
    page.js("new MutationObserver(() => states.push(document.querySelector('.state').innerText))
             .observe(document.querySelector('.top'), { childList: true, subtree: true });
         answers = 2;
         release();")
        .await;
    page.until("answers >= 4").await;
    assert_eq!(page.js("return states.includes('Active')").await, json!(false));
    page.until("document.querySelector('.state').innerText === 'Inactive'").await;
}

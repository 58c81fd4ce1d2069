//! Deliveries on the page: found by what a customer knows of them, read whole, and sent again.

use std::process::Command;

use super::*;

const SHOWN: &str = "document.querySelectorAll('.log > li').length";
const CLOSED: &str = "SELECT count(*) FROM closed_deliveries";
/// Every delivery fails for good at its first attempt.
const NO_RETRIES: &str = "[]";
const ONE_IN_AN_HOUR: &str = r#"["1h"]"#;

async fn without_retries() -> (Stage, Receiver, Webhook) {
    with_schedule(NO_RETRIES).await
}

/// A webhook for all event types, and its receiver. `waits` are those between the attempts of a delivery.
async fn with_schedule(waits: &str) -> (Stage, Receiver, Webhook) {
    let stage = Stage::on(Site::new().await.set("retry.schedule", waits)).await;
    let receiver = Receiver::start().await;
    let webhook = stage.webhook(&receiver.url(), &TYPES).await;
    (stage, receiver, webhook)
}

pub(super) fn state_is(words: &str) -> String {
    format!("document.querySelector('.story dd, section dd')?.textContent === '{words}'")
}

async fn wait_for_closed(stage: &Stage, count: i64) {
    wait_until("deliveries are closed", async || stage.site.count(CLOSED).await == count).await;
}

#[tokio::test]
async fn a_delivery_is_found_by_its_ids_and_filters_and_has_an_address() {
    let (stage, receiver, webhook) = with_schedule(ONE_IN_AN_HOUR).await;
    let page = &stage.browser;
    receiver.script([Reply::status(200), Reply::status(503)]);
    let good = stage.publish("content.created").await;
    receiver.next().await;
    let bad = stage.publish("content.updated").await;
    receiver.next().await;
    wait_until("both are recorded", async || stage.site.count("SELECT count(*) FROM attempts").await == 2).await;
    stage.open_at(&format!("/{}/logs?view=deliveries", webhook.id)).await;
    page.until(&format!("{SHOWN} === 2")).await;

    page.fill("[type=search]", &good).await;
    page.press("\u{e007}").await;
    page.until(&format!("{SHOWN} === 1 && location.hash.includes('id={good}')")).await;
    page.sees("Delivered").await;
    let id = page.js("return document.querySelector('.log > li').dataset.id").await;
    page.fill("[type=search]", id.as_str().unwrap()).await;
    page.click("Find").await;
    page.until(&format!("{SHOWN} === 1 && location.hash.includes({id})")).await;
    page.sees("Last HTTP status").await;
    page.js("document.querySelector('.filters .clears').focus()").await;
    page.click("Clear").await;
    page.until(&format!("{SHOWN} === 2 && document.activeElement.type === 'search'")).await;
    page.until("document.querySelector('body > .hidden[role=status]').innerText === '2 deliveries.'").await;
    page.choose("[aria-label=State]", "undelivered").await;
    page.until(&format!("{SHOWN} === 1 && document.querySelector('.log code').innerText === 'content.updated'")).await;
    page.sees("Retrying").await;
    page.back().await;
    page.until(&format!("{SHOWN} === 2 && document.querySelector('[aria-label=State]').value === ''")).await;

    // An address is enough to find it, and to see it alone.
    stage.go(&format!("/{}/logs?view=deliveries&state=pending&http_status=503", webhook.id)).await;
    page.until(&format!("{SHOWN} === 1 && document.querySelector('details [inputmode=numeric]').value === '503'"))
        .await;
    page.click_on(".log summary").await;
    page.sees(&bad).await;
    page.click("Open alone").await;
    page.until("document.activeElement.innerText === 'Delivery'").await;
    page.until("/ · .* UTC$/.test([...document.querySelectorAll('dt')].find((e) => e.innerText === 'Created').nextSibling.innerText)").await;
    page.click_on("section .crumb").await;
    page.until("document.activeElement.matches('.log > li > details > summary')").await;
    page.back().await;
    page.until(&state_is("Retrying after a failed attempt")).await;
    page.sees(&bad).await;

    stage.site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    wait_for_closed(&stage, 1).await;
    page.until(&state_is("Cancelled when the webhook was switched off")).await;
    page.until("[...document.querySelectorAll('dt')].find((e) => e.innerText === 'Next attempt').nextSibling.innerText === 'None'").await;
    page.is_sound().await;
    page.click_on("section .crumb").await;
    page.sees("Nothing matches these filters").await;
    stage.go(&format!("/{}/logs/00000000-0000-4000-8000-000000000000", webhook.id)).await;
    page.sees("This delivery does not exist, or is no longer kept.").await;
}

#[tokio::test]
async fn an_address_made_by_somebody_else_reaches_nothing_but_its_webhook() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.sees("Nothing was sent yet").await;
    page.js("const ask = window.fetch;
         window.asked = [];
         window.fetch = (url, options) => { window.asked.push(new URL(url).href); return ask(url, options); };")
        .await;
    let other = "../../00000000-0000-4000-8000-000000000000/deliveries/00000000-0000-4000-8000-000000000001";
    for hostile in ["../secret", "..", "%2e%2e/secret", other, "?x=1", "a%23", "%5c..%5csecret"] {
        page.js(&format!("location.hash = '#/webhooks/{}/logs/{hostile}'", webhook.id)).await;
        page.until(&format!("location.hash.endsWith('{hostile}')")).await;
        if hostile.starts_with("..") && hostile.len() == 2 || hostile.starts_with('?') {
            page.sees("Nothing was sent yet").await;
        } else {
            page.sees("This delivery does not exist, or is no longer kept.").await;
        }
    }
    stage.go("/../../event-types").await;
    page.sees("Create Webhook").await;
    let asked = page.js("return window.asked").await;
    let own = ["", "/stats", "/deliveries"].map(|path| format!("/v1/webhooks/{}{path}", webhook.id));
    for url in asked.as_array().unwrap().iter().map(|url| url.as_str().unwrap()) {
        let path = url.split_once("/v1").unwrap().1.split('?').next().unwrap();
        let known = own.contains(&format!("/v1{path}")) || ["/webhooks", "/event-types"].contains(&path);
        assert!(known, "{url}");
    }
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_delivery_copied_as_curl_runs_nothing_else_and_has_no_signature() {
    let (stage, receiver, webhook) = without_retries().await;
    let url = format!("{}?token=s3cret&x='", receiver.url());
    stage.site.json(&["webhooks", "update", &webhook.id, "--url", &url]).await;
    let title = "it's '; touch HACKED; ' $(touch HACKED) `touch HACKED` \" \\ \n ! 'ä'";
    stage.site.publish(ACCOUNT, "content.created", json!({ "title": title })).await;
    let request = receiver.next().await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.click_on(".log summary").await;
    page.sees("Headers sent").await;
    page.click("Copy as curl (bash)").await;
    page.sees("First set $WEBHOOK_SIGNATURE and $X_WEBHOOK_SIGNATURE").await;
    page.sees("and $QUERY if the URL has").await;
    let command = stage.clipboard().await;

    let folder = tempfile::tempdir().unwrap();
    let script = format!("curl() {{ for one; do printf '%s\\0' \"$one\"; done; }}\n{command}");
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&folder)
        .env("WEBHOOK_SIGNATURE", "v1,given")
        .env("QUERY", "token=given $(touch HACKED)")
        .env("X_WEBHOOK_SIGNATURE", "given, too")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let arguments: Vec<_> = said.split_terminator('\0').collect();
    assert_eq!(arguments.last().unwrap().as_bytes(), request.body, "the same body");
    assert!(arguments.contains(&format!("{}?token=given $(touch HACKED)", receiver.url()).as_str()));
    assert!(!command.contains("s3cret"), "a URL's query may have a token");
    assert!(arguments.contains(&format!("Webhook-Id: {}", request.event_id()).as_str()));
    assert!(
        arguments.contains(&"Webhook-Signature: v1,given") && arguments.contains(&"X-Webhook-Signature: given, too")
    );
    for name in ["webhook-signature", "x-webhook-signature"] {
        assert!(!command.contains(request.header(name)), "{name}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing else ran");
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn chosen_deliveries_are_sent_again_with_patience_and_those_that_cannot_be_are_named() {
    let (stage, receiver, webhook) = without_retries().await;
    receiver.always(Reply::status(500));
    for _ in 0..3 {
        stage.publish("content.created").await;
    }
    wait_for_closed(&stage, 3).await;
    let before = receiver.count();
    receiver.always(Reply::status(200));
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs?view=deliveries&state=exhausted", webhook.id)).await;
    page.until(&format!("{SHOWN} === 3")).await;
    // The first request is refused for a moment, as one of an account that asks too often, and that of the last delivery for good.
    page.js(
        "const ask = window.fetch, last = [...document.querySelectorAll('.pick')].at(-1).dataset.id, seen = new Set();
         window.refusing = false;
         window.fetch = async (url, options) => {
             if (!url.includes('/resend')) return ask(url, options);
             const problem = (status, title, headers) => new Response(JSON.stringify({ title }), { status, headers });
             if (window.refusing) return problem(429, 'Too many requests', { 'Retry-After': '60' });
             if (url.includes(last)) return problem(409, 'The event is no longer kept');
             if (!seen.has(url)) { seen.add(url); return problem(429, 'Too many requests', { 'Retry-After': '1' }); }
             return ask(url, options);
         };",
    )
    .await;
    page.js("window.refusing = true").await;
    page.click_on(".every input").await;
    page.click("Resend 3").await;
    page.sees("0 of 3").await;
    page.is_sound().await;
    page.click("Stop").await;
    page.sees("0 of 3 deliveries will be sent again.").await;
    page.sees("3 chosen").await;

    page.js("window.refusing = false").await;
    page.click("Resend 3").await;
    page.sees("1 delivery could not be sent again").await;
    page.sees("The event is no longer kept").await;
    page.sees("2 of 3 deliveries will be sent again.").await;
    page.sees("1 chosen").await;
    receiver.wait_for(before + 2).await;
    page.until(&format!("{SHOWN} === 1 && document.activeElement.innerText === 'Webhook Logs'")).await;
    page.is_sound().await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_row_that_came_after_all_were_chosen_is_not_shown_as_chosen() {
    let (stage, receiver, webhook) = without_retries().await;
    receiver.always(Reply::status(500));
    stage.publish("content.created").await;
    wait_for_closed(&stage, 1).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs?view=deliveries", webhook.id)).await;
    page.until(&format!("{SHOWN} === 1")).await;
    page.click_on(".every input").await;
    page.sees("1 chosen").await;
    stage.publish("content.updated").await;
    page.until(&format!("{SHOWN} === 2 && document.querySelector('.every input').indeterminate")).await;
    page.sees("1 chosen").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_row_that_is_opened_again_shows_what_becomes_of_its_delivery() {
    let (stage, receiver, webhook) = with_schedule(ONE_IN_AN_HOUR).await;
    receiver.always(Reply::status(503));
    stage.publish("content.created").await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    for open in [true, false, true] {
        page.click_on(".log summary").await;
        page.until(&format!("document.querySelector('.log details').open === {open}")).await;
        page.until(&state_is("Retrying after a failed attempt")).await;
    }
    stage.site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    page.until(&state_is("Cancelled when the webhook was switched off")).await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn new_rows_are_told_to_screen_readers_in_one_sentence() {
    let (stage, receiver, webhook) = without_retries().await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.sees("Nothing was sent yet").await;
    page.js("window.told = [];
         const place = document.querySelector('body > .hidden[role=status]');
         new MutationObserver(() => window.told.push(place.innerText)).observe(place, { childList: true });")
        .await;
    receiver.always(Reply::status(500));
    stage.publish("content.created").await;
    page.until("window.told.join() === '1 new attempt, 1 failed.'").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn recovering_says_what_still_waits_and_that_an_inactive_webhook_gets_nothing() {
    let (stage, receiver, webhook) = with_schedule(ONE_IN_AN_HOUR).await;
    receiver.always(Reply::status(503));
    stage.publish("content.created").await;
    let failed = "SELECT count(*) FROM attempts WHERE next_attempt_at IS NOT NULL";
    wait_until("it waits for its next attempt", async || stage.site.count(failed).await == 1).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.click("Recover what was missed").await;
    page.click("Count").await;
    page.sees("Nothing ended without a success in this time.").await;
    page.sees("Not counted, because still to be sent anyway: 1 delivery.").await;
    page.click("See what waits").await;
    page.until(&format!("{SHOWN} === 1 && document.querySelector('[aria-label=State]').value === 'pending'")).await;
    stage.site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    wait_for_closed(&stage, 1).await;
    page.sees("Inactive").await;
    page.click("Count").await;
    page.sees("1 delivery ended without a success in this time.").await;
    page.sees("Switch the webhook on to send them again.").await;

    // An answer that comes after the times were changed is not shown as theirs.
    page.js("const ask = window.fetch;
         window.fetch = async (url, options) => {
             if (url.includes('/recover?')) await new Promise((go) => { window.go = go; });
             return ask(url, options);
         };")
        .await;
    page.click("Count").await;
    page.until("window.go !== undefined").await;
    page.js("document.querySelector('.recovery input').dispatchEvent(new Event('input')); window.go()").await;
    page.until("document.querySelector('.recovery button').getAttribute('aria-disabled') === null").await;
    assert!(!page.text().await.contains("ended without a success in this time."));
    // A time that was typed by half is asked for.
    page.js("const [from] = document.querySelectorAll('.recovery input'); from.value = ''; window.go = undefined")
        .await;
    page.click("Count").await;
    page.until("document.activeElement === document.querySelector('.recovery input')").await;
    assert_eq!(page.js("return window.go === undefined").await, true);
}

#[tokio::test]
async fn filters_that_no_list_has_are_shown_and_those_that_the_api_refuses_are_explained() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs?event_type=gone.type&status=failed", webhook.id)).await;
    page.sees("Nothing matches these filters").await;
    page.until("document.querySelector('[aria-label=\"Event type\"]').value === 'gone.type'").await;
    page.until(
        "document.querySelectorAll('[aria-label=\"Event type\"] option[value=\"content.created\"]').length === 1",
    )
    .await;
    page.fill("[type=search]", "  evt_unknown ").await;
    page.press("\u{e007}").await;
    page.until("/id=evt_unknown(&|$)/.test(location.hash)").await;
    page.sees("No delivery of this webhook has this ID. Enter the whole ID.").await;
    stage.go(&format!("/{}/logs?from=2026-02-02T00:00:00Z&to=2026-01-01T00:00:00Z", webhook.id)).await;
    page.sees("“From” must be before “To”").await;
    for refused in ["http_status=10", "from=x", "view=deliveries&state=bogus"] {
        stage.go(&format!("/{}/logs?{refused}", webhook.id)).await;
        page.sees("These filters are not possible").await;
        page.js("document.querySelector('.notice .clears').focus()").await;
        page.is_sound().await;
        page.click("Clear filters").await;
        page.sees("Nothing was sent yet").await;
        page.until("document.activeElement.type === 'search'").await;
    }
}

#[tokio::test]
async fn what_is_late_is_never_said_to_come_now() {
    let stage = Stage::set().await;
    stage.open().await;
    let said = stage
        .browser
        .js("return import(`${location.pathname}/delivery.js`).then(({ nextAttempt, stateOf }) => {
                 const late = { state: 'pending', next_attempt_at: new Date(Date.now() - 60_000).toISOString() };
                 return [
                     nextAttempt(late, { active: true, failing_since: '2026-01-01T00:00:00Z' }),
                     nextAttempt(late, { active: true }),
                     nextAttempt(late, { active: true, max_per_second: 1 }),
                     nextAttempt(late, { active: true, max_per_second: 5, failing_since: '2026-01-01T00:00:00Z' }),
                     nextAttempt(late, { active: false }),
                     stateOf({ state: 'pending', attempts_made: 0, attempts: [{ status: 'failed' }] }).slice(1).join(''),
                 ];
             })")
        .await;
    let expected = json!([
        "When your receiver answers again: until then one delivery is tried at a time.",
        "After others that were due before it",
        "When it is its turn: at most 1 request a second",
        "When your receiver answers again: until then one delivery is tried at a time.",
        "None: the webhook is inactive",
        "Waiting, to be sent again",
    ]);
    assert_eq!(said, expected);
}

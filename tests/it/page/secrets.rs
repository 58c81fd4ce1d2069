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
    // A name that every object of JavaScript has is no tab.
    stage.go(&format!("/{}/constructor", webhook.id)).await;
    page.sees("Nothing was sent yet").await;
    page.is_sound().await;
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
    page.until("document.querySelector('pre').textContent.includes('webhook-timestamp')").await;
    page.choose("[aria-label=Form]", "simple").await;
    page.until("document.querySelector('pre').textContent.includes('X-Webhook-Signature')").await;
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

#[tokio::test]
async fn the_old_secrets_time_stays_in_sight_and_can_be_ended() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    let previous = async || stage.site.webhook(&webhook.id).await["previous_valid_until"].clone();
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    // A question does not outlast its view.
    page.click("Regenerate").await;
    stage.go(&format!("/{}/logs", webhook.id)).await;
    page.sees("Nothing was sent yet").await;
    page.until("document.querySelector('dialog') === null").await;
    page.click("Settings").await;
    page.click("Regenerate").await;
    page.sees(
        "Simple: X-Webhook-Signature: After you regenerate the secret, this refuses requests until it has the new one.",
    )
    .await;
    page.choose("#grace", "6h").await;
    page.click("Regenerate").await;
    page.sees("The old secret stays valid in Webhook-Signature until").await;
    page.sees("(6 hours)").await;
    assert!(previous().await.is_string());
    page.is_sound().await;

    page.click("Webhook Logs").await;
    page.sees("Nothing was sent yet").await;
    page.back().await;
    page.sees("The old secret stays valid in Webhook-Signature until").await;
    page.click("End now").await;
    page.sees("End the old secret now?").await;
    page.click("Keep it").await;
    page.click("End now").await;
    page.click("End now").await;
    page.no_longer_sees("The old secret stays valid").await;
    assert!(previous().await.is_null());
    page.until("document.activeElement.innerText === 'Regenerate'").await;

    page.click("Regenerate").await;
    page.choose("#grace", "0s").await;
    page.click("Regenerate").await;
    page.sees("Regenerated.").await;
    page.no_longer_sees("The old secret stays valid").await;
    assert_ne!(stage.site.json(&["webhooks", "secret", &webhook.id]).await["secret"], json!(webhook.secret));
}

/// Pastes a request into the form that checks signatures.
async fn check(page: &Browser, headers: &str, body: &str, secret: &str) {
    let script = format!(
        "document.querySelector('[aria-label=\"Check a signature\"] > [role=status]').replaceChildren();
         for (const [name, text] of Object.entries({})) document.querySelector(`#check-${{name}}`).value = text;",
        json!({ "headers": headers, "body": body, "secret": secret })
    );
    page.until("document.querySelector('#check-body') !== null").await;
    page.js(&script).await;
    page.click("Check").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_pasted_request_is_checked_and_the_usual_mistakes_are_named() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    let webhook = stage.webhook(&receiver.url(), &TYPES).await;
    let page = &stage.browser;
    stage.publish("content.created").await;
    let request = receiver.next().await;
    let body = String::from_utf8(request.body.clone()).unwrap();
    let simple = request.header("x-webhook-signature");
    let named = format!("X-Webhook-Signature: {simple}\n");
    let rotation = format!(
        "Webhook-Id: {}\nWebhook-Timestamp: {}\nWebhook-Signature: {}",
        request.event_id(),
        request.timestamp(),
        request.header("webhook-signature")
    );
    let formatted = body.replacen('{', "{\n  ", 1);
    let sorted = serde_json::from_str::<serde_json::Value>(&body).unwrap().to_string();
    assert_ne!(sorted, body, "an object of serde_json has its keys in alphabetical order");
    let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    stage.open_at(&format!("/{}/settings", webhook.id)).await;

    check(page, &format!("{named}\n{rotation}"), &body, &webhook.secret).await;
    page.sees("X-Webhook-Signature is right").await;
    page.sees("Webhook-Signature is right").await;
    page.is_sound().await;
    // Without its name, and with the webhook's own secret.
    check(page, simple, &body, "").await;
    page.sees("X-Webhook-Signature is right").await;
    for (headers, body, secret, said) in [
        (&named, format!("{body}\n"), "", "a blank or a line break at its beginning or end that we did not send"),
        (&named, formatted, "", "The body was parsed and written again."),
        (&named, sorted, "", "ours begins with {\"id\":\" without blanks"),
        (&named, body.replace("Hello", "Hullo"), "", "The body is not what we sent"),
        (&named, body.clone(), other, "signed with the one that the webhook has now"),
        (&named, body.clone(), "secret", "Each begins with whsec_"),
        (&rotation, body.clone(), other, "signed with the one that the webhook has now"),
        (
            &format!("POST /hook HTTP/1.1\n\n{{'X-Webhook-Signature': '{simple}', 'Host': 'example.com'}}"),
            body.clone(),
            "",
            "X-Webhook-Signature is right",
        ),
        (
            &format!("curl -H 'X-Webhook-Signature: {simple}' \\\n -H 'Accept: */*'"),
            body.clone(),
            "",
            "X-Webhook-Signature is right",
        ),
        (&format!("HTTP_X_WEBHOOK_SIGNATURE={simple}"), body.clone(), "", "X-Webhook-Signature is right"),
        (&"HTTP/1.1 200 OK\n\nv1".to_owned(), body.clone(), "", "There is no signature in this text"),
        (&rotation.replace("Webhook-Id", "Id"), body.clone(), "", "paste both"),
        (&"Content-Type: application/json".to_owned(), body.clone(), "", "There is no signature in this text"),
    ] {
        check(page, headers, &body, secret).await;
        page.sees(said).await;
    }
    assert!(!is_in_the_page(&stage, &webhook.secret).await);
    page.is_sound().await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_request_that_is_right_but_old_is_told_from_a_forged_one() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    // Made by the PyPI package standardwebhooks, as in src/signature.rs.
    let secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let body = r#"{"id":"evt_1","type":"content.published","timestamp":"2026-11-23T10:00:00Z","data":{"b":1e400,"a":"é\u0000"}}"#;
    let headers = "webhook-id: evt_1\nwebhook-timestamp: 1795428000\nv1,AdIb+oF5QYHpVObxkjEXv27XTxEAzlg8OMGrSdCIIys=";
    check(page, headers, body, secret).await;
    page.sees("Webhook-Signature is right").await;
    page.sees(" ago): code that checks the time refuses it now").await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn a_browser_that_cannot_check_signatures_says_so() {
    let stage = Stage::set().await;
    let webhook = stage.webhook("https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    // As on a page without TLS.
    let without = json!({ "source": "Object.defineProperty(Crypto.prototype, 'subtle', { value: undefined })" });
    page.devtools("Page.addScriptToEvaluateOnNewDocument", without).await;
    stage.open_at(&format!("/{}/settings", webhook.id)).await;
    page.sees("A browser can do this only on a page that was opened over https.").await;
    page.is_sound().await;
}

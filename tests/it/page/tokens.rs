//! How the page gets its token, keeps it, and renews it.

use super::*;

/// A page that frames ours, as one of penr.ai does. It runs `answer` whenever our page asks it for a token.
fn host(page: &str, answer: &str) -> Reply {
    let html = format!(
        "<!doctype html><title>host</title><script>window.asked = 0;
         addEventListener('message', (e) => {{
           if (e.data.type !== 'penr-webhooks:token-needed') return;
           window.asked += 1;
           {answer}
         }});</script><iframe src='{page}' width='1000' height='700'></iframe>"
    );
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", html.len());
    Reply::raw(head + &html)
}

/// A host whose frame is allowed, and the stage it frames.
pub(super) async fn framed() -> (Stage, Receiver) {
    let host = Receiver::start().await;
    let origins = format!("[\"http://{}\"]", host.address());
    (Stage::on(Site::new().await.set("api.frame_ancestors", &origins)).await, host)
}

/// The page in its host's frame, with the token that its host gives it.
pub(super) async fn open_in_frame(stage: &Stage, host_page: &Receiver) {
    let give =
        format!("e.source.postMessage({{ type: 'penr-webhooks:token', token: '{}' }}, e.origin);", stage.token().await);
    host_page.always(host(&stage.page(), &give));
    stage.browser.goto(&host_page.url()).await;
    stage.browser.enter_frame().await;
}

#[tokio::test]
async fn the_token_leaves_the_address_at_once_and_is_stored_nowhere() {
    let stage = Stage::set().await;
    let token = stage.token().await;
    stage.browser.goto(&format!("{}#token={token}", stage.page())).await;
    stage.browser.sees("No webhooks yet").await;
    assert_eq!(stage.browser.url().await, format!("{}#/webhooks", stage.page()));
    let kept = "return JSON.stringify([history.state, {...localStorage}, {...sessionStorage}, document.cookie, document.documentElement.outerHTML])";
    assert!(!stage.browser.js(kept).await.to_string().contains(&token));
    stage.browser.is_sound().await;
}

#[tokio::test]
async fn without_a_token_the_page_says_how_to_get_one() {
    let stage = Stage::set().await;
    stage.browser.goto(&stage.page()).await;
    stage.browser.sees("Open this page from your settings").await;
    stage.browser.is_sound().await;
    // A token that is pasted into the address of the open page is used.
    let address = format!("location.hash = '#token={}'", stage.token().await);
    stage.browser.js(&address).await;
    stage.browser.sees("No webhooks yet").await;
    assert!(!stage.browser.url().await.contains("token"));
}

#[tokio::test]
async fn a_reader_without_a_frame_comes_to_a_view_with_a_token_and_after_a_reload_is_led_back() {
    let (stage, host_page) = framed().await;
    let webhook = stage.named("Blog", "https://hooks.example.com/a", &TYPES).await;
    let page = &stage.browser;
    let view = format!("/webhooks/{}/settings", webhook.id);
    let link = format!("<a href='{}#token={}&route={view}'>Webhooks</a>", stage.page(), stage.token().await);
    host_page.always(Reply::raw(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{link}",
        link.len()
    )));
    page.goto(&host_page.url()).await;
    page.click("Webhooks").await;
    page.sees("Delete webhook").await;
    assert_eq!(page.url().await, format!("{}#{view}", stage.page()));
    page.reload().await;
    page.sees("Open this page from your settings").await;
    page.is_sound().await;
    page.click(&format!("Go to {}", host_page.address())).await;
    page.until(&format!("location.host === '{}' && location.hash === '#{view}'", host_page.address())).await;
    let encoded = view.replace('/', "%2F");
    page.goto(&format!("{}#token={}&route={encoded}%3Fa%3Db", stage.page(), stage.token().await)).await;
    page.sees("Delete webhook").await;
    assert_eq!(page.url().await, format!("{}#{view}?a=b", stage.page()));
}

#[tokio::test]
async fn a_reload_shows_nothing_of_the_account() {
    let stage = Stage::set().await;
    stage.named("Hidden one", "https://hooks.example.com/a", &TYPES).await;
    stage.open().await;
    stage.browser.sees("Hidden one").await;
    stage.browser.reload().await;
    stage.browser.sees("Open this page from your settings").await;
    stage.browser.goto("about:blank").await;
    stage.browser.back().await;
    stage.browser.sees("Open this page from your settings").await;
    stage.browser.no_longer_sees("Hidden one").await;
}

#[tokio::test]
async fn a_session_that_has_ended_is_said_once_and_asks_for_nothing_more() {
    let mut stage = Stage::set().await;
    stage.browser.goto(&format!("{}#token=a.b.c", stage.page())).await;
    stage.browser.sees("Your session has ended").await;
    let refusals = |log: &str| log.matches("\"status\":401").count();
    stage.process.wait_for_log("\"status\":401").await;
    let before = refusals(&stage.process.log());
    // A page that asked in a loop would log more refusals before it gets its new token.
    stage.browser.js(&format!("location.hash = '#token={}'", stage.token().await)).await;
    stage.browser.sees("No webhooks yet").await;
    assert_eq!(refusals(&stage.process.log()), before);
    assert!(before <= 2, "asked {before} times with a token that was refused");
}

#[tokio::test]
async fn the_framing_page_is_asked_for_a_token_and_gives_one() {
    let (stage, host_page) = framed().await;
    open_in_frame(&stage, &host_page).await;
    stage.browser.sees("No webhooks yet").await;
    stage.browser.leave_frame().await;
    assert_eq!(stage.browser.js("return window.asked").await, json!(1));
}

#[tokio::test]
async fn a_token_that_expires_in_an_open_page_is_replaced_by_the_framing_page() {
    let (stage, host_page) = framed().await;
    let give = format!(
        "e.source.postMessage({{ type: 'penr-webhooks:token', token: window.asked === 1 ? 'a.b.c' : '{}' }}, e.origin);",
        stage.token().await
    );
    host_page.always(host(&stage.page(), &give));
    stage.browser.goto(&host_page.url()).await;
    stage.browser.enter_frame().await;
    stage.browser.sees("No webhooks yet").await;
    stage.browser.leave_frame().await;
    assert_eq!(stage.browser.js("return window.asked").await, json!(2));
}

#[tokio::test]
async fn a_framing_page_that_gives_only_bad_tokens_is_not_asked_for_ever() {
    let (stage, host_page) = framed().await;
    host_page.always(host(
        &stage.page(),
        "e.source.postMessage({ type: 'penr-webhooks:token', token: 'a.b.c' }, e.origin);",
    ));
    stage.browser.goto(&host_page.url()).await;
    stage.browser.enter_frame().await;
    stage.browser.sees("Your session has ended").await;
    stage.browser.leave_frame().await;
    let asked = stage.browser.js("return window.asked").await.as_u64().unwrap();
    assert!(asked <= 3, "asked {asked} times");
}

#[tokio::test]
async fn a_token_from_anybody_but_the_framing_page_is_ignored() {
    let (stage, host_page) = framed().await;
    host_page.always(host(&stage.page(), ""));
    stage.browser.goto(&host_page.url()).await;
    stage.browser.enter_frame().await;
    stage.browser.until("document.querySelector('main').children.length > 0").await;
    let token = stage.token().await;
    // From the page itself: the right origin would be the host's, the right source its window.
    stage.browser.js(&format!("window.postMessage({{ type: 'penr-webhooks:token', token: '{token}' }}, '*'); dispatchEvent(new MessageEvent('message', {{ data: {{ type: 'penr-webhooks:token', token: '{token}' }}, origin: 'https://evil.example', source: parent }}))")).await;
    stage.browser.sees("Open this page from your settings").await;
}

#[tokio::test]
async fn no_other_origin_can_frame_the_page() {
    let stage = Stage::set().await;
    let stranger = Receiver::start().await;
    stranger.always(host(&stage.page(), ""));
    stage.browser.goto(&stranger.url()).await;
    stage.browser.enter_frame().await;
    stage.browser.until("document.querySelector('#main') === null && document.body.innerText !== ''").await;
}

#[tokio::test]
async fn a_token_is_replaced_before_it_expires() {
    let (stage, host_page) = framed().await;
    // The host's first token lives for seconds only, the others for an hour. The page replaces a token at half its life at the
    // latest: here that is after 4 to 5 s, which the browser of the tests makes a fifth.
    let secret = stage.site.settings().get("api.jwt_secret").to_owned();
    let give = "fetch('/token' + window.asked).then((r) => r.text()).then((token) =>
         e.source.postMessage({ type: 'penr-webhooks:token', token }, e.origin));";
    let page = stage.page();
    host_page.answer(move |request| match request.path.as_str() {
        "/token1" => Reply::body(200, token_for(&secret, 9)),
        path if path.starts_with("/token") => Reply::body(200, token_for(&secret, 3600)),
        _ => host(&page, give),
    });
    stage.browser.goto(&host_page.url()).await;
    stage.browser.until("window.asked === 2").await;
    stage.browser.enter_frame().await;
    stage.browser.sees("No webhooks yet").await;
    assert!(!stage.process.log().contains("\"status\":401"), "{}", stage.process.log());
}

pub(super) fn token_for(secret: &str, seconds: u64) -> String {
    let claims = json!({ "sub": ACCOUNT, "exp": api::now() + seconds }).to_string();
    api::sign(secret, r#"{"alg":"HS256"}"#, &claims)
}

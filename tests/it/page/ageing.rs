//! The page in browsers of the last three years, and in older ones. The tests take away what such browsers do not have.

use super::*;

/// What Chrome 119, Firefox 120 or Safari 17.1, of November 2023, do not have.
const NEWER: &str = "
    const remove = (owner, ...names) => names.forEach((name) => delete owner?.[name]);
    remove(AbortSignal, 'any');
    remove(Map, 'groupBy');
    remove(Object, 'groupBy');
    remove(Array, 'fromAsync');
    remove(Promise, 'withResolvers', 'try');
    remove(URL, 'canParse', 'parse');
    remove(RegExp, 'escape');
    remove(Error, 'isError');
    remove(Math, 'sumPrecise', 'f16round');
    remove(JSON, 'rawJSON', 'isRawJSON');
    remove(Intl, 'Segmenter', 'DurationFormat');
    remove(Uint8Array, 'fromBase64', 'fromHex');
    remove(Uint8Array.prototype, 'toBase64', 'toHex', 'setFromBase64', 'setFromHex');
    remove(Map.prototype, 'getOrInsert', 'getOrInsertComputed');
    remove(Set.prototype, 'union', 'intersection', 'difference', 'symmetricDifference', 'isSubsetOf', 'isSupersetOf', 'isDisjointFrom');
    const methods = Object.getOwnPropertyNames(Iterator.prototype).filter((name) => name !== 'constructor');
    remove(Iterator.prototype, ...methods);
    remove(Array.prototype, 'groupBy', 'groupByToMap');
    remove(Promise.prototype, 'groupBy');
    remove(Element.prototype, 'setHTML', 'setHTMLUnsafe', 'getHTML', 'moveBefore', 'ariaNotify', 'currentCSSZoom');
    remove(Node.prototype, 'moveBefore');
    remove(HTMLElement.prototype, 'showPopover', 'hidePopover', 'togglePopover', 'popover', 'writingSuggestions');
    remove(HTMLDialogElement.prototype, 'requestClose', 'closedBy');
    remove(HTMLButtonElement.prototype, 'commandForElement', 'command', 'popoverTargetElement');
    remove(Document.prototype, 'startViewTransition', 'caretPositionFromPoint');
    remove(Document, 'parseHTMLUnsafe');
    remove(ReadableStream.prototype, Symbol.asyncIterator, 'values');
    remove(ReadableStream, 'from');
    remove(window, 'Iterator', 'Temporal', 'navigation', 'scheduler', 'CloseWatcher', 'DisposableStack', 'AsyncDisposableStack',
        'requestIdleCallback', 'cookieStore', 'documentPictureInPicture', 'TaskController');
    remove(Navigator.prototype, 'userAgentData');";

async fn without(stage: &Stage, removal: &str) {
    let source = format!("{{ {removal} }}");
    stage.browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await;
}

/// Most of what the page can do, in one go.
#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn browsers_of_the_last_three_years_show_every_state() {
    let shown = states::Shown::set().await;
    without(&shown.stage, NEWER).await;
    shown
        .visit(async |state| {
            eprintln!("{state}");
            let page = &shown.stage.browser;
            assert_eq!(
                page.js("return typeof AbortSignal.any + typeof Map.groupBy").await,
                json!("undefinedundefined")
            );
            assert_eq!(page.console().await, Vec::<String>::new(), "{state}");
        })
        .await;
}

#[tokio::test]
async fn an_old_browser_and_a_page_that_is_not_whole_say_so_in_a_sentence_and_hide_the_token() {
    let mut stage = Stage::set().await;
    let address = format!("{}#token={}", stage.page(), stage.token().await);
    without(&stage, "if (location.search !== '?new') delete String.prototype.isWellFormed").await;
    stage.browser.goto(&address).await;
    stage.browser.sees("Your browser is too old for this page: please update it.").await;
    stage.browser.is_sound().await;
    assert!(!stage.browser.url().await.contains("token"));

    // The first script that the page loads is refused, as by a proxy that knows only some files.
    let proxy = Receiver::start().await;
    let html = http::get(&stage.address, "/settings/webhooks").await;
    let policy = html.header("content-security-policy").unwrap().to_owned();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Security-Policy: {policy}\r\nContent-Length: {}\r\n\r\n",
        html.body.len()
    );
    let page = [head.as_bytes(), &html.body].concat();
    proxy.answer(move |request| match request.path.starts_with("/settings/webhooks/") {
        true => Reply::status(404),
        false => Reply::raw(page.clone()),
    });
    stage.address = proxy.address().to_string();
    let address = format!("{}?new#token={}", stage.page(), stage.token().await);
    stage.browser.goto(&address).await;
    stage.browser.sees("A part of this page could not be loaded: please open it again.").await;
    assert_eq!(stage.browser.url().await, format!("{}?new", stage.page()));
}

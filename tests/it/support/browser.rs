//! A browser that uses the page as a customer does: headless Chromium, driven over WebDriver. Every wait is for something
//! in the page.

mod driver;

use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fantoccini::{Client, ClientBuilder};
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::search;
use super::wait::{PATIENCE, eventually, within};
use driver::{Command, Driver};

/// How many browsers may run at a time: one less than `make test` runs tests at a time on two processors.
static ROOM: Semaphore = Semaphore::const_new(3);

/// Runs in every page before the page's own scripts: notes what violates the policy, and lets timers of 1 to 5 s end after a
/// fifth of their time. The page polls with such timers, and tests wait for what it shows next.
const FIRST: &str = "
    window.violations = [];
    addEventListener('securitypolicyviolation', (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
    const putOff = window.setTimeout;
    window.setTimeout = (run, ms, ...rest) => putOff(run, ms >= 1000 && ms <= 5000 ? ms / 5 : ms, ...rest);";

/// A session with a profile of its own.
pub struct Browser {
    client: Client,
    session: String,
    _room: SemaphorePermit<'static>,
}

impl Browser {
    pub async fn start() -> Self {
        let room = ROOM.acquire().await.expect("the semaphore is never closed");
        let mut arguments = vec!["--headless=new", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-GB"];
        if driver::is_root() {
            arguments.push("--no-sandbox");
        }
        let options = json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let Value::Object(options) = options else { unreachable!("it is written as an object") };
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        let starting = async { builder.capabilities(Map::from_iter(options)).connect(&Driver::shared().url()).await };
        let client = within("Chromium starts", 3 * PATIENCE, starting).await.expect("chromedriver takes the session");
        let session = client.session_id().await.ok().flatten().expect("a session has an id");
        let browser = Self { client, session, _room: room };
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": FIRST })).await;
        let grant = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
        browser.devtools("Browser.grantPermissions", grant).await;
        browser
    }

    pub async fn goto(&self, url: &str) {
        // Without it, going to the same page with another fragment would not load the page.
        within("about:blank loads", PATIENCE, self.client.goto("about:blank")).await.expect("the browser answers");
        within("the page loads", PATIENCE, self.client.goto(url)).await.expect("the browser answers");
    }

    /// Opens another tab, which becomes the current one, and returns the tab that was.
    pub async fn new_tab(&self) -> fantoccini::wd::WindowHandle {
        let here = self.client.window().await.expect("the browser answers");
        let tab = self.client.new_window(true).await.expect("the browser opens tabs");
        self.client.switch_to_window(tab.handle).await.expect("it is open");
        here
    }

    pub async fn switch_to(&self, window: fantoccini::wd::WindowHandle) {
        self.client.switch_to_window(window).await.expect("it is open");
    }

    /// From here on, scripts and clicks go to the page in the first frame.
    pub async fn enter_frame(&self) {
        self.until("document.querySelector('iframe') !== null").await;
        self.client.enter_frame(0).await.expect("there is a frame");
    }

    pub async fn leave_frame(&self) {
        self.client.enter_parent_frame().await.expect("we are in a frame");
    }

    /// A script's result; `return` gives it.
    pub async fn js(&self, script: &str) -> Value {
        self.try_js(script).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    async fn try_js(&self, script: &str) -> Result<Value, fantoccini::error::CmdError> {
        within("a script ends", PATIENCE, self.client.execute(script, Vec::new())).await
    }

    /// Waits until a JavaScript expression is true. A page that is just loading is asked again.
    pub async fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.try_js(&script).await.ok() != Some(true.into()) {
            if tokio::time::Instant::now() > deadline {
                panic!("waited in vain until {expression}; the page says: {}", self.text().await);
            }
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
    }

    /// The text that a reader sees.
    pub async fn text(&self) -> String {
        let text = self.try_js("return document.body.innerText").await.ok();
        text.and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub async fn sees(&self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", quoted(text))).await;
    }

    pub async fn no_longer_sees(&self, text: &str) {
        self.until(&format!("!document.body.innerText.includes({})", quoted(text))).await;
    }

    /// Clicks the button, link, switch or label of this name; in an open dialog if there is one.
    pub async fn click(&self, name: &str) {
        let script = format!(
            "const root = document.querySelector('dialog[open]') ?? document;
             const named = (e) => (e.getAttribute('aria-label') ?? e.innerText).trim() === {name};
             const found = [...root.querySelectorAll('button, a, label, summary')].find((e) => named(e) && e.checkVisibility() && !e.disabled && !e.ariaDisabled);
             found?.click();
             return Boolean(found);",
            name = quoted(name)
        );
        let what = format!("there is something named {name:?} to click");
        eventually(&what, async || (self.try_js(&script).await.ok()? == true).then_some(())).await;
    }

    /// Clicks the first element that matches.
    pub async fn click_on(&self, selector: &str) {
        let script = format!("const e = document.querySelector({}); e?.click(); return Boolean(e)", quoted(selector));
        eventually(&format!("there is {selector}"), async || (self.try_js(&script).await.ok()? == true).then_some(()))
            .await;
    }

    /// Types into a field as a person does, replacing its text.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.until(&format!("document.querySelector({}) !== null", quoted(selector))).await;
        let field = self.client.find(fantoccini::Locator::Css(selector)).await.expect("it is there");
        field.clear().await.expect("it can be typed into");
        field.send_keys(text).await.expect("it can be typed into");
    }

    /// Types keys into the element that has the focus.
    pub async fn press(&self, keys: &str) {
        let focused = self.client.active_element().await.expect("something has the focus");
        focused.send_keys(keys).await.expect("it takes keys");
    }

    /// Chooses in a list as a person does.
    pub async fn choose(&self, selector: &str, value: &str) {
        let option = format!("{selector} option[value=\"{value}\"]");
        self.until(&format!("document.querySelector({}) !== null", quoted(&option))).await;
        let option = self.client.find(fantoccini::Locator::Css(&option)).await.expect("it is there");
        option.click().await.expect("it can be chosen");
    }

    pub async fn back(&self) {
        self.client.back().await.expect("the browser goes back");
    }

    pub async fn reload(&self) {
        self.client.refresh().await.expect("the browser loads again");
    }

    pub async fn url(&self) -> String {
        self.client.current_url().await.expect("the browser answers").into()
    }

    /// Sets the theme, `light`, `dark` or `forced` (dark forced colours), and the width in CSS pixels.
    pub async fn look(&self, theme: &str, width: u32) {
        let screen = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        let (scheme, forced) = if theme == "forced" { ("dark", "active") } else { (theme, "none") };
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        let forced = json!({ "name": "forced-colors", "value": forced });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [scheme, forced] })).await;
    }

    /// The whole page as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        // The page's size is measured only when the last change was drawn.
        let drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))";
        self.devtools("Runtime.evaluate", json!({ "expression": drawn, "awaitPromise": true })).await;
        let taken = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        BASE64_STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("base64")
    }

    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        let asked = self.client.issue_cmd(Command { path: "goog/cdp/execute", body });
        within(command, PATIENCE, asked).await.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// What the console said since it was last asked, without failed requests, which the page handles.
    pub async fn console(&self) -> Vec<String> {
        let asked = Command { path: "se/log", body: json!({ "type": "browser" }) };
        let lines = self.client.issue_cmd(asked).await.expect("the browser keeps a log");
        let lines = lines.as_array().expect("a log is a list").iter();
        let ours = lines.filter(|line| line["source"] != "network").map(|line| line["message"].to_string());
        ours.collect()
    }

    /// Asserts what must hold in every state: no violation of the policy, nothing on the console, no accessibility problem, no
    /// sideways scrolling.
    pub async fn is_sound(&self) {
        let page = self.js("return document.documentElement.outerHTML").await;
        search::no_value_in_output("the page", page.as_str().unwrap_or_default(), "");
        let violations = self.js("return window.violations").await;
        assert_eq!(violations, json!([]), "the content security policy was violated");
        assert_eq!(self.console().await, Vec::<String>::new(), "the console says something");
        let sideways = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
        assert_eq!(self.js(sideways).await, json!(false), "the page scrolls sideways");
        self.is_accessible().await;
    }

    async fn is_accessible(&self) {
        // The page's policy does not bind scripts of the driver.
        self.js(driver::axe()).await;
        let run = "axe.run().then((r) => arguments[0](r.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html)])), (error) => arguments[0](String(error)))";
        let running = self.client.execute_async(run, Vec::new());
        let found = within("axe runs", PATIENCE, running).await.expect("the browser answers");
        let found = found.as_array().unwrap_or_else(|| panic!("axe did not run: {found}"));
        let mut said = String::new();
        for violation in found {
            writeln!(said, "{violation:#}").expect("text takes text");
        }
        assert!(found.is_empty(), "axe found:\n{said}\nin: {}", self.text().await);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        Driver::shared().end(&self.session);
    }
}

/// As a JavaScript string.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

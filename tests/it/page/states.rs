//! Every state of the page is sound: accessible, within its policy, quiet on the console, not wider than its window.

use super::*;

/// One webhook in each condition.
pub(super) struct Shown {
    pub stage: Stage,
    blog: Webhook,
    failing: Webhook,
    retrying: Webhook,
    off: Webhook,
    _receiver: Receiver,
}

impl Shown {
    pub(super) async fn set() -> Self {
        let (stage, receiver) = (Stage::set().await, Receiver::start().await);
        receiver.answer(|_| Reply::body(503, "{\"error\":\"maintenance\"}"));
        let blog = stage.named("Blog", "https://hooks.example.com/penr", &TYPES).await;
        let failing = stage.named("Keyword pipeline", &receiver.url(), &TYPES[4..6]).await;
        let disabled = stage.named("CRM", "https://crm.example.com/in", &TYPES[6..]).await;
        let retrying = stage.named("Newsletter", "https://news.example.com/hook", &TYPES[3..5]).await;
        let gone = stage.named("Old shop", "https://shop.example.com/webhooks", &TYPES[..3]).await;
        let off = stage.named("Staging", "http://staging.example.com/hook", &TYPES[2..4]).await;
        let good = "'content.published', 'event', 1, 200, 38 + (n * 37) % 90, NULL, '{\"ok\":true}', now() - n * n * interval '11 s', NULL";
        stage.write_log(&blog, 84, good).await;
        stage
            .write_log(
                &failing,
                70,
                &good.replace("content.published", "keyword.created").replace("n * n", "interval '26 minutes' - n * n"),
            )
            .await;
        let bad = "'keyword.approved', CASE n WHEN 1 THEN 'retry' ELSE 'event' END, 2 - (n > 1)::int, 503, 120 + n * 13, 'http_status',
            '{\"error\":\"maintenance\"}', now() - n * n * interval '90 s', now() + interval '28 minutes'";
        stage.write_log(&failing, 9, bad).await;
        stage.write_log(&retrying, 1, &bad.replace("interval '90 s'", "interval '20 s'")).await;
        stage.write_waiting(&retrying, 5).await;
        let late = "'site.connected', 'retry', 8, NULL, 5000, 'timeout', NULL, now() - n * interval '30 minutes', NULL";
        stage.write_log(&disabled, 3, late).await;
        stage
            .write_log(
                &gone,
                1,
                "'content.created', 'event', 1, 410, 61, 'http_status', NULL, now() - interval '1 hour', NULL",
            )
            .await;
        stage
            .execute(&format!(
                "UPDATE webhooks SET failing_since = now() - interval '24 minutes', failing_noticed_at = now() WHERE id = '{}';
                 UPDATE webhooks SET failing_since = now() - interval '20 seconds' WHERE id = '{}';
                 UPDATE webhooks SET active = false, disabled_reason = 'failing', failing_since = now() - interval '5 days' WHERE id = '{}';
                 UPDATE webhooks SET active = false, disabled_reason = 'gone', failing_since = now() - interval '1 hour' WHERE id = '{}';
                 UPDATE webhooks SET active = false WHERE id = '{}';
                 UPDATE webhooks SET max_per_second = 5, header_names = '{{Authorization,X-Api-Key}}', headers = '\\x00', headers_set_at = now()
                 WHERE id IN ('{}', '{}')",
                failing.id, retrying.id, disabled.id, gone.id, off.id, blog.id, retrying.id
            ))
            .await;
        Self { stage, blog, failing, retrying, off, _receiver: receiver }
    }

    /// Goes through all states, and stops in each.
    pub(super) async fn visit(&self, mut stop: impl AsyncFnMut(&str)) {
        let (stage, page) = (&self.stage, &self.stage.browser);
        page.goto(&stage.page()).await;
        page.sees("Open this page from your settings").await;
        stop("no-token").await;
        page.goto(&format!("{}#token=a.b.c", stage.page())).await;
        page.sees("Your session has ended").await;
        stop("session-ended").await;
        page.goto(&format!("{}#token={}", stage.page(), stage.token_of("acc_new").await)).await;
        page.sees("No webhooks yet").await;
        stop("list-empty").await;
        self.visit_list(&mut stop).await;
        self.visit_create(&mut stop).await;
        self.visit_logs(&mut stop).await;
        self.visit_test(&mut stop).await;
        self.visit_settings(&mut stop).await;
        stage.go("/00000000-0000-4000-8000-000000000000/logs").await;
        page.sees("This webhook does not exist").await;
        stop("not-found").await;
    }

    async fn visit_list(&self, stop: &mut impl AsyncFnMut(&str)) {
        let page = &self.stage.browser;
        self.stage.open().await;
        page.sees("No answer came in time.").await;
        page.sees("The receiver answered 503").await;
        stop("list").await;
        page.click("Active: Newsletter").await;
        page.sees("5 deliveries wait and will be cancelled.").await;
        stop("list-switch-off").await;
        page.click("Keep it on").await;
        self.stage.go(&format!("/{}/logs", self.retrying.id)).await;
        page.sees("Retrying, next at").await;
        page.sees("5 waiting, at 5 a second").await;
        stop("retrying").await;
    }

    async fn visit_create(&self, stop: &mut impl AsyncFnMut(&str)) {
        let page = &self.stage.browser;
        self.stage.go("/new").await;
        page.fill("#url", "http://hooks.example.com/new").await;
        page.sees("Not encrypted").await;
        stop("create").await;
        page.click("Advanced").await;
        page.click("Add header").await;
        page.press("Host").await;
        page.fill("#max_per_second", "0").await;
        stop("create-advanced").await;
        page.fill("#url", "ftp://localhost").await;
        page.click("Save").await;
        page.until("document.querySelectorAll('.error:not([hidden])').length === 5").await;
        stop("create-errors").await;
        page.fill("#name", "Passing").await;
        page.click("Remove Host").await;
        page.fill("#max_per_second", "7").await;
        page.fill("#url", "https://hooks.example.com/new").await;
        page.click("Select all").await;
        page.click("Save").await;
        page.sees("Webhook created").await;
        stop("created").await;
        self.stage.execute("DELETE FROM webhooks WHERE name = 'Passing'").await;
    }

    async fn visit_logs(&self, stop: &mut impl AsyncFnMut(&str)) {
        let page = &self.stage.browser;
        self.stage.go(&format!("/{}/logs", self.failing.id)).await;
        page.until("document.querySelectorAll('.log > li').length === 10 && document.querySelectorAll('.chart g').length === 24").await;
        stop("logs").await;
        page.choose("[aria-label=Status]", "failed").await;
        page.until("document.querySelectorAll('.log .outcome.success').length === 0 && document.querySelector('.log .outcome.failed') !== null").await;
        page.click_on(".log summary").await;
        page.until("document.querySelector('.attempts') !== null").await;
        stop("logs-open").await;
        page.choose("[aria-label='Event type']", "site.connected").await;
        page.sees("Nothing matches these filters").await;
        page.click("Numbers").await;
        stop("logs-nothing-matches").await;
        self.stage.go(&format!("/{}/logs?view=deliveries", self.failing.id)).await;
        page.click_on(".pick input").await;
        page.sees("Resend 1").await;
        page.click("More filters").await;
        page.click("Recover what was missed").await;
        page.click("Count").await;
        page.sees("ended without a success in this time.").await;
        stop("logs-deliveries").await;
        page.click_on(".pick summary").await;
        page.click("Open alone").await;
        page.sees("attempt").await;
        stop("logs-delivery").await;
        self.stage.go(&format!("/{}/logs", self.off.id)).await;
        page.sees("Nothing was sent yet").await;
        stop("logs-empty").await;
    }

    async fn visit_test(&self, stop: &mut impl AsyncFnMut(&str)) {
        let page = &self.stage.browser;
        self.stage.go(&format!("/{}/test", self.off.id)).await;
        page.sees("An inactive webhook cannot be tested").await;
        stop("test-inactive").await;
        self.stage.go(&format!("/{}/test", self.failing.id)).await;
        page.click("Send").await;
        page.sees("Signed string").await;
        stop("test-failed").await;
    }

    async fn visit_settings(&self, stop: &mut impl AsyncFnMut(&str)) {
        let (stage, page) = (&self.stage, &self.stage.browser);
        stage.go(&format!("/{}/settings", self.blog.id)).await;
        page.until("document.querySelector('#name')?.value === 'Blog'").await;
        stop("settings").await;
        page.fill("#url", "https://another.example.com/penr").await;
        page.sees("Give this value again.").await;
        stop("settings-another-receiver").await;
        page.fill("#url", "https://hooks.example.com/penr").await;
        page.click("Reveal").await;
        page.sees(&self.blog.secret).await;
        stop("settings-revealed").await;
        page.click("Hide").await;
        page.click("Regenerate").await;
        page.sees("Regenerate the signing secret?").await;
        stop("settings-regenerate").await;
        page.click("Keep it").await;
        page.click("Delete webhook").await;
        page.sees("Delete “Blog”?").await;
        stop("settings-delete").await;
        page.click("Keep it").await;
        stage
            .execute(&format!(
                "UPDATE webhooks SET url = 'https://hooks.example.com/other', updated_at = now() WHERE id = '{}'",
                self.blog.id
            ))
            .await;
        page.click("Save").await;
        page.sees("Not saved: this webhook was changed meanwhile").await;
        stop("settings-stale").await;
        stage
            .execute(&format!(
                "UPDATE webhooks SET url = 'https://hooks.example.com/penr', updated_at = now() WHERE id = '{}'",
                self.blog.id
            ))
            .await;
    }
}

async fn all_are_sound(theme: &str, width: u32) {
    let shown = Shown::set().await;
    let page = &shown.stage.browser;
    page.look(theme, width).await;
    shown
        .visit(async |state| {
            eprintln!("{state}");
            page.is_sound().await;
        })
        .await;
}

#[tokio::test]
async fn every_state_is_sound_on_a_wide_light_screen() {
    all_are_sound("light", 1280).await;
}

#[tokio::test]
async fn every_state_is_sound_on_a_narrow_dark_screen() {
    all_are_sound("dark", 360).await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn every_state_is_sound_with_forced_colours_on_a_wide_screen() {
    all_are_sound("forced", 1280).await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn every_state_is_sound_with_forced_colours_on_a_narrow_screen() {
    all_are_sound("forced", 360).await;
}

/// Shows that the tests above can fail.
#[tokio::test]
#[should_panic(expected = "axe found")]
async fn the_checker_sees_a_field_without_a_label() {
    let stage = Stage::set().await;
    stage.open_at("/new").await;
    stage.browser.until("document.querySelector('label[for=name]') !== null").await;
    stage.browser.js("document.querySelector('label[for=name]').remove()").await;
    stage.browser.is_sound().await;
}

#[tokio::test]
#[should_panic(expected = "the content security policy was violated")]
async fn the_checker_sees_a_style_in_the_page() {
    let stage = Stage::set().await;
    stage.open().await;
    stage.browser.js("document.body.setAttribute('style', 'color: red')").await;
    stage.browser.is_sound().await;
}

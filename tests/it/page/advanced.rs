//! Advanced: the headers that a customer adds to requests, whose values the page never shows again, and the pace.

use std::process::Command;

use super::*;

const FIRST: &str = "Bearer first-v4lue";
const SECOND: &str = "second-v4lue";
const THIRD: &str = "third-v4lue";

/// The fold, and the fields of the header in this place, beginning with 1.
const FOLD: &str = "document.querySelector('form details')";
fn name(place: usize) -> String {
    format!("[role=group]:nth-child({place}) label:nth-child(1) input")
}

fn value(place: usize) -> String {
    format!("[role=group]:nth-child({place}) label:nth-child(2) input")
}

/// Adds a header in the form that is open. Its name is typed where the focus is.
async fn add(page: &Browser, place: usize, title: &str, secret: &str) {
    page.click("Add header").await;
    page.until(&format!("document.activeElement === document.querySelector('{}')", name(place))).await;
    page.press(title).await;
    page.fill(&value(place), secret).await;
}

/// Creates a webhook with two headers and a pace through the page, as a customer does, and gives its id.
async fn create(stage: &Stage, url: &str) -> String {
    let page = &stage.browser;
    stage.open_at("/new").await;
    page.fill("#name", "Gateway").await;
    page.fill("#url", url).await;
    page.click("Select all").await;
    page.until(&format!("!{FOLD}.open")).await;
    page.click("Advanced").await;
    add(page, 1, "Authorization", FIRST).await;
    add(page, 2, "x-api-key", SECOND).await;
    page.fill("#max_per_second", "5").await;
    page.is_sound().await;
    page.click("Save").await;
    page.sees("Webhook created").await;
    no_value_is_left(stage).await;
    stage.site.sql().await.query_one("SELECT id::text FROM webhooks", &[]).await.unwrap().get(0)
}

/// Whether no value is anywhere where it could be found: in the page, its fields, its address, its history or what a browser keeps.
async fn no_value_is_left(stage: &Stage) {
    let all = "return [document.documentElement.outerHTML, [...document.querySelectorAll('input, textarea')].map((e) => e.value),
        location.href, JSON.stringify(history.state), JSON.stringify({ ...window['local' + 'Storage'] }), JSON.stringify({ ...window['session' + 'Storage'] }),
        document.cookie, performance.getEntries().map((e) => e.name)].flat().join('\\n')";
    let all = stage.browser.js(all).await;
    for secret in ["first-v4lue", SECOND, THIRD] {
        assert!(!all.as_str().unwrap().contains(secret), "{secret} is in the page");
    }
}

/// The headers of the next request, after an event.
async fn next_request(stage: &Stage, receiver: &Receiver) -> std::sync::Arc<Request> {
    stage.publish("content.created").await;
    receiver.next().await
}

async fn save(page: &Browser) {
    page.js("document.querySelector('#status').replaceChildren()").await;
    page.click("Save").await;
    page.sees("Saved.").await;
}

#[tokio::test]
async fn headers_and_a_pace_are_given_changed_and_taken_away_and_no_value_is_shown_again() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    let page = &stage.browser;
    let id = create(&stage, &receiver.url()).await;
    let request = next_request(&stage, &receiver).await;
    assert_eq!((request.header("authorization"), request.header("x-api-key")), (FIRST, SECOND));

    page.click("Go to the webhook").await;
    page.sees("Authorization: [hidden]").await;
    page.sees("x-api-key: [hidden]").await;
    page.sees("At most 5 requests a second").await;
    page.is_sound().await;
    page.click("Settings").await;
    page.until(&format!("{FOLD}?.open && document.querySelector('#max_per_second').value === '5'")).await;
    page.until(&format!("document.querySelector('{}').placeholder === '[hidden]: stays, if empty'", value(1))).await;

    // One stays, the other is replaced.
    page.fill(&value(2), THIRD).await;
    page.is_sound().await;
    save(page).await;
    page.until(&format!("document.querySelector('{}').value === ''", value(2))).await;
    no_value_is_left(&stage).await;
    let request = next_request(&stage, &receiver).await;
    assert_eq!((request.header("authorization"), request.header("x-api-key")), (FIRST, THIRD));

    page.click("Remove x-api-key").await;
    page.until("document.querySelector('body > .hidden[role=status]').innerText === 'x-api-key was removed.'").await;
    page.until("document.activeElement.innerText === 'Add header'").await;
    page.click("Remove Authorization").await;
    page.fill("#max_per_second", "").await;
    save(page).await;
    page.no_longer_sees("[hidden]").await;
    page.no_longer_sees("At most 5 requests a second").await;
    let saved = stage.site.webhook(&id).await;
    assert_eq!((&saved["headers"], &saved["max_per_second"]), (&json!({}), &json!(null)));
    page.is_sound().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_header_or_the_pace_stands_beside_it() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    stage.open_at("/new").await;
    page.fill("#name", "Gateway").await;
    page.fill("#url", "https://hooks.example.com/a").await;
    page.click("Select all").await;
    page.click("Advanced").await;
    add(page, 1, "Authorization", FIRST).await;
    add(page, 2, "X-Forwarded-For", SECOND).await;
    page.fill("#max_per_second", "1001").await;
    // An error opens the fold.
    page.click("Advanced").await;
    page.until(&format!("!{FOLD}.open")).await;
    page.click("Save").await;
    page.sees("The header X-Forwarded-For cannot be set").await;
    page.sees("from 1 to 1000").await;
    let is_marked = |field: &str| format!("document.querySelector('{field}').getAttribute('aria-invalid') === 'true'");
    page.until(&format!(
        "{} && {} && !({}) && document.activeElement === document.querySelector('{}')",
        is_marked(&name(2)),
        is_marked("#max_per_second"),
        is_marked(&name(1)),
        name(2)
    ))
    .await;
    page.is_sound().await;
    // A row that nobody has filled in is not sent, and is not wrong.
    page.click("Add header").await;
    page.fill(&name(2), "Authorization").await;
    page.click("Save").await;
    page.sees("The header Authorization is given twice").await;
    page.until(&format!("{} && !({})", is_marked(&name(1)), is_marked(&name(3)))).await;
    page.click("Remove header").await;
    page.fill(&name(2), "X-Api-Key").await;
    page.fill(&value(2), " ").await;
    page.fill("#max_per_second", "1000").await;
    page.click("Save").await;
    page.sees("The value of X-Api-Key must have").await;
    page.until(&format!("document.activeElement === document.querySelector('{}')", value(2))).await;
    assert_eq!(stage.site.count("SELECT count(*) FROM webhooks").await, 0);
    // At most ten.
    for place in 3..=10 {
        page.click("Add header").await;
        page.until(&format!("document.activeElement === document.querySelector('{}')", name(place))).await;
    }
    page.until("[...document.querySelectorAll('button')].find((b) => b.innerText === 'Add header').disabled").await;
    page.is_sound().await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn values_are_never_taken_along_to_another_receiver() {
    let (stage, old, new) = (Stage::set().await, Receiver::start().await, Receiver::start().await);
    let page = &stage.browser;
    let id = create(&stage, &old.url()).await;
    stage.go(&format!("/{id}/settings")).await;
    page.fill("#url", &format!("{}/another/path", old.url())).await;
    page.no_longer_sees("This is another receiver").await;
    page.fill("#url", "https://another.example.com/hook").await;
    page.sees("This is another receiver: under Advanced, give the values of all request headers again").await;
    let told = "[...document.querySelectorAll('[role=status]')].some((e) => e.innerText.startsWith('This is another receiver'))";
    page.until(told).await;
    page.fill("#url", &new.url()).await;
    let marks = "[...document.querySelectorAll('[role=group] .warn')].filter((e) => e.checkVisibility()).length";
    page.until(&format!("{marks} === 2")).await;
    page.is_sound().await;
    page.fill(&value(1), FIRST).await;
    page.until(&format!("{marks} === 1")).await;
    page.click("Save").await;
    page.sees("x-api-key has no value").await;
    page.until(&format!("document.activeElement === document.querySelector('{}')", value(2))).await;
    page.is_sound().await;
    assert_eq!(stage.site.webhook(&id).await["url"], json!(old.url()));

    page.fill(&value(2), THIRD).await;
    save(page).await;
    page.no_longer_sees("This is another receiver").await;
    no_value_is_left(&stage).await;
    let request = next_request(&stage, &new).await;
    assert_eq!((request.header("authorization"), request.header("x-api-key")), (FIRST, THIRD));
    assert_eq!(old.count(), 0);
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn edits_of_headers_and_the_pace_are_not_lost_and_overwrite_nobodys() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    let id = create(&stage, "https://hooks.example.com/a").await;
    let view = format!("/{id}/settings");
    stage.go(&view).await;
    page.fill(&value(1), THIRD).await;
    page.click("Test").await;
    page.sees("Leave without saving?").await;
    page.click("Leave").await;
    page.sees("Event type to send").await;
    no_value_is_left(&stage).await;

    // Somebody else replaces a value, which nobody sees, while this reader replaces it, too.
    page.click("Settings").await;
    page.until(&format!("document.querySelector('{}') !== null", value(1))).await;
    let first = page.new_tab().await;
    stage.open_at(&view).await;
    page.fill(&value(1), SECOND).await;
    page.fill("#max_per_second", "7").await;
    save(page).await;
    page.fill(&value(1), FIRST).await;
    page.fill("#max_per_second", "5").await;
    save(page).await;
    page.switch_to(first).await;
    page.fill(&value(1), THIRD).await;
    page.click("Save").await;
    page.sees("Not saved: this webhook was changed meanwhile").await;
    page.sees("Request headers is now: Authorization, x-api-key").await;
    page.is_sound().await;
    page.click("Discard mine, load theirs").await;
    page.until(&format!("document.querySelector('{}').value === ''", value(1))).await;
    no_value_is_left(&stage).await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn what_waits_for_its_turn_is_shown_with_the_pace() {
    let stage = Stage::set().await;
    let page = &stage.browser;
    let id = create(&stage, "https://hooks.example.com/a").await;
    stage
        .execute(&format!(
            "UPDATE webhooks SET max_per_second = 1 WHERE id = '{id}';
             INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
             SELECT gen_random_uuid(), id, activation, current_date, gen_random_uuid(), 'event', 0, now() + interval '30 minutes'
             FROM webhooks, generate_series(1, 1234) WHERE id = '{id}'"
        ))
        .await;
    page.click("Go to the webhook").await;
    page.sees("1,234 waiting, at 1 a second").await;
    page.sees("At most 1 request a second").await;
    page.click("1,234 waiting, at 1 a second").await;
    page.until("location.hash.endsWith('view=deliveries&state=pending') && document.querySelector('.pick') !== null")
        .await;
    page.is_sound().await;
    // Their time has come, and they wait all the same. No worker looks for them before the next half minute.
    let rows = "[...document.querySelectorAll('.pick')]";
    page.js("const ask = window.fetch; window.fetch = async (...asked) => {
            const answer = await ask(...asked);
            if (!String(asked[0]).includes('/deliveries')) return answer;
            const text = (await answer.text()).replace(/(\"next_attempt_at\":\")[^\"]*/g, '$12026-01-01T00:00:00.000Z');
            return new Response(text, answer);
        };")
        .await;
    page.until(&format!("{rows}.every((e) => e.innerText.includes('for its turn'))")).await;
    page.click_on(".pick summary").await;
    page.sees("When it is its turn: at most 1 request a second").await;
    page.is_sound().await;
}

#[tokio::test]
#[ignore = "a longer visit: make journeys"]
async fn hidden_headers_are_variables_in_a_copied_command_whatever_their_names() {
    let (stage, receiver) = (Stage::set().await, Receiver::start().await);
    let webhook = stage.webhook(&receiver.url(), &TYPES).await;
    stage.publish("content.created").await;
    receiver.next().await;
    let names = ["Authorization", "Path", "X-A", "X_A", "1", "!#$%&'*+.^_`|~", "$(touch`HACKED`)'"];
    let page = &stage.browser;
    stage.open_at(&format!("/{}/logs", webhook.id)).await;
    page.until("document.querySelector('.log summary') !== null").await;
    page.js(&format!(
        "const ask = window.fetch; window.fetch = async (...asked) => {{
            const answer = await ask(...asked);
            if (!/\\/deliveries\\/[^?]+$/.test(asked[0])) return answer;
            const body = await answer.json();
            for (const name of {}) body.request_headers[name] = '[hidden]';
            return new Response(JSON.stringify(body), answer);
        }};",
        json!(names)
    ))
    .await;
    page.click_on(".log summary").await;
    page.sees("Authorization: [hidden]").await;
    page.click("Copy as curl (bash)").await;
    page.sees("$HEADER_… for each hidden header").await;
    let command = stage.clipboard().await;
    assert!(!command.contains("[hidden]"), "{command}");

    let folder = tempfile::tempdir().unwrap();
    let script = format!("curl() {{ for one; do printf '%s\\0' \"$one\"; done; }}\n{command}");
    let variables = ["AUTHORIZATION", "PATH", "X_A", "X_A_", "1", "______________", "__TOUCH_HACKED___"];
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&folder)
        .envs(variables.map(|variable| (format!("HEADER_{variable}"), format!("it's {variable} $(touch HACKED)"))))
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let arguments: Vec<_> = said.split_terminator('\0').collect();
    for (name, variable) in names.iter().zip(variables) {
        let header = format!("{name}: it's {variable} $(touch HACKED)");
        assert!(arguments.contains(&header.as_str()), "{header} in {arguments:?}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing else ran");
}

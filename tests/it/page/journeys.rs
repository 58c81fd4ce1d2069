//! Journeys of a customer through the page, from what brings them there to what they leave with. They begin at the list of
//! webhooks, in whatever page or frame shows it.

use super::*;

#[tokio::test]
async fn a_customer_can_do_all_that_the_documentation_says() {
    let stage = Stage::set().await;
    stage.open().await;
    documentation::journey(&stage).await;
}

#[tokio::test]
async fn a_customer_whose_receiver_broke_finds_out_what_it_missed_and_gets_it() {
    let stage = Stage::on(Site::new().await.set("retry.schedule", "[]")).await;
    stage.open().await;
    broken_receiver(&stage).await;
}

/// Where customers are: in a page of penr.ai, through a proxy that compresses, below a path.
#[tokio::test]
async fn a_customer_can_do_all_of_it_in_a_host_page_behind_a_proxy() {
    let stage = Stage::framed().await;
    stage.open().await;
    documentation::journey(&stage).await;
}

#[tokio::test]
async fn a_customer_whose_receiver_broke_gets_what_it_missed_in_a_host_page_behind_a_proxy() {
    let stage = Stage::framed_on(Site::new().await.set("retry.schedule", "[]")).await;
    stage.open().await;
    broken_receiver(&stage).await;
}

const SHOWN: &str = "document.querySelectorAll('.log > li').length";

/// "My receiver broke last night." The stage has no retries, so that each delivery fails for good at once.
pub(super) async fn broken_receiver(stage: &Stage) {
    let (page, receiver) = (&stage.browser, Receiver::start().await);
    let webhook = stage.named("Blog", &receiver.url(), &TYPES).await;
    let earlier =
        "'site.connected', 'event', 1, 500, 12, 'http_status', NULL, now() - n * interval '3 hours', NULL::timestamptz";
    stage.write_log(&webhook, 2, earlier).await;
    receiver.always(Reply::body(500, "database is down"));
    let mut missed = Vec::new();
    for event_type in &TYPES[..4] {
        missed.push(stage.publish(event_type).await);
    }
    let closed = "SELECT count(*) FROM closed_deliveries";
    wait_until("all have failed", async || stage.site.count(closed).await == 4).await;

    page.click("Blog").await;
    find_the_failed_of_the_last_hour(page).await;
    read_one(page).await;

    let before = receiver.count();
    receiver.always(Reply::status(200));
    page.click("Resend").await;
    page.sees("It is being sent again.").await;
    receiver.wait_for(before + 1).await;
    page.until("document.querySelector('.story .outcome.success') !== null").await;

    recover_the_rest(page).await;
    receiver.wait_for(before + 4).await;
    let mut arrived: Vec<_> =
        receiver.requests()[before..].iter().map(|request| request.event_id().to_owned()).collect();
    arrived.sort_unstable();
    missed.sort_unstable();
    assert_eq!(arrived, missed, "each arrives once");

    page.choose("[aria-label=State]", "delivered").await;
    page.until(&format!("{SHOWN} === 4 && document.querySelectorAll('.log summary .outcome.success').length === 4"))
        .await;
    page.choose("[aria-label=State]", "undelivered").await;
    page.sees("Nothing matches these filters").await;
}

async fn find_the_failed_of_the_last_hour(page: &Browser) {
    page.until(&format!("{SHOWN} === 6")).await;
    page.choose("[aria-label=Status]", "failed").await;
    page.click("More filters").await;
    page.js("const [from] = document.querySelectorAll('form.filters [type=datetime-local]'), now = new Date();
         from.value = new Date(now - 3_600_000 - now.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);")
        .await;
    page.click("Find").await;
    page.until(&format!("{SHOWN} === 4")).await;
    page.until("/status=failed.*from=/.test(location.hash)").await;
    page.click("Deliveries").await;
    page.until(&format!("{SHOWN} === 4 && document.querySelector('.pick') !== null")).await;
    page.sees("no attempt is left").await;
    page.is_sound().await;
}

async fn read_one(page: &Browser) {
    page.click_on(".log summary").await;
    page.until(&deliveries::state_is("Failed: no attempt is left")).await;
    page.sees("\"title\": \"Hello\"").await;
    page.click("Raw").await;
    page.sees("\"data\":{\"title\":\"Hello\"}").await;
    page.sees("Webhook-Signature: v1,").await;
    page.sees("database is down").await;
    page.is_sound().await;
}

async fn recover_the_rest(page: &Browser) {
    page.click("Recover what was missed").await;
    page.click("Count").await;
    page.sees("3 deliveries ended without a success in this time.").await;
    page.is_sound().await;
    page.click("Send 3 again").await;
    page.sees("3 deliveries will be sent again, a few at a time.").await;
    page.until("document.activeElement.innerText === 'Count'").await;
}

//! A receiver that asks for time, with 429 or 503 and `Retry-After`, gets it from every worker.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::older_schema::back_to;
use crate::support::*;

const TYPE: &str = "content.published";
const ACCOUNT: &str = "acc_1";
const PAUSED: &str = "SELECT count(*) FROM webhooks WHERE paused_until > now()";
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

fn asks_for(status: u16, seconds: u32) -> Reply {
    Reply::with_headers(status, &[&format!("Retry-After: {seconds}")])
}

async fn impatient_site() -> Site {
    let schedule = serde_json::to_string(&["100ms"; 9]).unwrap();
    Site::new().await.set("retry.schedule", &schedule).set("worker.lookup_lifetime", "100ms")
}

/// Publishes an event, and returns when its first attempt, whose answer has `Retry-After`, is recorded. On a busy machine the
/// second may be recorded, too, before this is seen.
async fn first_attempt(site: &Site) {
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM attempts").await >= 1).await;
}

#[tokio::test]
async fn a_pause_that_one_worker_was_asked_for_holds_for_all_workers_and_costs_no_attempt() {
    const EVENTS: usize = 40;
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    receiver.script([asks_for(429, 2)]);
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _workers = [site.worker().await, site.worker().await];
    first_attempt(&site).await;
    site.publish_many(EVENTS, ACCOUNT, TYPE, json!({})).await;
    let requests = receiver.wait_for(EVENTS + 2).await;
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= Duration::from_millis(1900), "asked again after {pause:?}");
    let again = requests.iter().filter(|request| request.attempt() > 1).count();
    assert_eq!(again, 1, "only the delivery that was answered 429 has used up an attempt");
    wait_until("all is delivered", async || site.count(PENDING).await == 0).await;
    assert_eq!(receiver.count(), EVENTS + 2);
    let troubled = "SELECT count(*) FROM webhooks WHERE paused_until > now() OR consecutive_failures > 0";
    wait_until("the webhook has neither a pause nor failures", async || site.count(troubled).await == 0).await;
}

#[tokio::test]
async fn a_pause_lasts_an_hour_at_most_and_another_url_ends_it_but_a_test_begins_none() {
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    receiver.answer(|request| match request.path.as_str() {
        "/moved" => Reply::status(200),
        _ => asks_for(503, 7200),
    });
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    site.cli(&["webhooks", "test", &webhook.id]).await;
    assert_eq!((receiver.count(), site.count(PAUSED).await), (1, 0));
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("its webhook is paused", async || site.count(PAUSED).await == 1).await;
    let minutes = "SELECT (extract(epoch FROM paused_until - now()) / 60)::bigint FROM webhooks";
    assert_eq!(site.count(minutes).await, 60);
    let own_wait = "SELECT (extract(epoch FROM due_at - now()) / 60)::bigint FROM pending_deliveries";
    assert_eq!(site.count(own_wait).await, 120);
    let parked = site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("a fresh event waits, too", async || site.count(PENDING).await == 2).await;
    assert_eq!(receiver.count(), 2);

    site.json(&["webhooks", "update", &webhook.id, "--url", &receiver.url_at("/moved")]).await;
    assert_eq!(site.count("SELECT count(*) FROM webhooks WHERE paused_until IS NULL").await, 1);
    let fresh = site.publish(ACCOUNT, TYPE, json!({})).await;
    let requests = receiver.wait_for(4).await;
    let mut delivered: Vec<_> = requests[2..].iter().map(|request| (&request.path[..], request.event_id())).collect();
    delivered.sort_by_key(|(_, event)| *event != parked);
    assert_eq!(delivered, [("/moved", &parked[..]), ("/moved", &fresh[..])]);
}

#[tokio::test]
async fn on_the_schema_of_the_release_before_a_worker_keeps_pauses_in_its_memory() {
    let (site, receiver) = (impatient_site().await, Receiver::start().await);
    site.sql().await.batch_execute(&back_to(9)).await.unwrap();
    receiver.script([asks_for(429, 1)]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    first_attempt(&site).await;
    let change = site.json(&["webhooks", "update", &webhook.id, "--name", "Other"]).await;
    assert_eq!(change["name"], "Other");
    site.publish_many(3, ACCOUNT, TYPE, json!({})).await;
    let requests = receiver.wait_for(5).await;
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= Duration::from_millis(900), "asked again after {pause:?}");

    let applied: Value = site.json(&["migrate"]).await;
    assert!(applied["applied"].to_string().contains("pauses"), "{applied}");
    receiver.script([asks_for(429, 3600)]);
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the same worker stores a pause", async || site.count(PAUSED).await == 1).await;
}

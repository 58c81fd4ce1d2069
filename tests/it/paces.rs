//! A webhook with a pace gets no more requests than that from all workers together, whatever the requests are for, and what
//! waits for its turn waits in the database.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use penr_webhooks::config::{Database, UrlSource};
use penr_webhooks::ids::WebhookId;
use penr_webhooks::store::{Pace, PaceAsk, Store};

use crate::support::api::assert_problem;
use crate::support::older_schema::back_to;
use crate::support::*;

const TYPE: &str = "content.created";
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

/// Sets a webhook's pace. `null`: none.
async fn set_pace(site: &Site, webhook: &Webhook, pace: &str) {
    let sql = format!("UPDATE webhooks SET max_per_second = {pace} WHERE id = '{}'", webhook.id);
    site.sql().await.batch_execute(&sql).await.unwrap();
}

async fn paced(site: &Site, receiver: &Receiver, pace: &str) -> Webhook {
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    set_pace(site, &webhook, pace).await;
    webhook
}

fn times(receiver: &Receiver) -> Vec<Instant> {
    let mut times: Vec<Instant> = receiver.requests().iter().map(|request| request.at).collect();
    times.sort();
    times
}

/// Checks what is promised for any 10 s (11 times the pace), and the like for any 2 s. A busy machine may hold requests up on
/// their way, so that more come at once: one second's worth is allowed for that.
fn assert_keeps(times: &[Instant], pace: usize) {
    for (window, most) in [(2, 3 * pace), (10, 11 * pace)] {
        for (first, begin) in times.iter().enumerate() {
            let end = *begin + Duration::from_secs(window);
            let count = times[first..].iter().take_while(|at| **at < end).count();
            assert!(count <= most + pace, "{count} requests within {window} s at a pace of {pace}");
        }
    }
}

/// Checks that the requests took no longer than at half the pace.
fn assert_is_used(times: &[Instant], pace: u32) {
    let (took, requests) = (*times.last().unwrap() - times[0], u32::try_from(times.len()).unwrap());
    assert!(took <= Duration::from_secs(1) * requests * 2 / pace, "{requests} at a pace of {pace} took {took:?}");
}

#[tokio::test]
async fn two_workers_keep_the_pace_together_and_one_that_is_killed_takes_nothing_with_it() {
    let site = Site::new().await.set("sender.timeout", "3s").set("sender.body_timeout", "0s").set("worker.lease", "6s");
    let ledger = Ledger::open(site).await;
    set_pace(&ledger.site, &ledger.webhook, "20").await;
    let (first, second) = (ledger.site.worker().await, ledger.site.worker().await);
    ledger.publish(260).await;
    ledger.receiver.wait_for(80).await;
    assert!(ledger.site.count(PENDING).await > 0, "what waits for its turn is pending");
    second.kill9();
    ledger.receiver.wait_for(260).await;
    let times = times(&ledger.receiver);
    assert_keeps(&times, 20);
    assert_is_used(&times, 20);
    // What the killed worker had in flight may be sent twice.
    ledger.close(vec![first]).await.assert_sound(40);
}

#[tokio::test]
async fn retries_probes_resends_recoveries_and_tests_keep_the_pace() {
    let site = Site::new().await.set("retry.schedule", r#"["100ms"]"#).set("worker.probe_interval", "100ms");
    let receiver = Receiver::start().await;
    receiver.script((0..12).map(|_| Reply::status(503)));
    let webhook = paced(&site, &receiver, "4").await;
    let _workers = (site.worker().await, site.worker().await);
    site.publish_many(6, "acc_1", TYPE, json!({})).await;
    // Each is attempted twice, probes among them, and then closed.
    let closed = async || site.count("SELECT count(*) FROM closed_deliveries").await == 6;
    wait_until("all are exhausted", closed).await;
    assert_eq!(receiver.count(), 12);
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = format!("/v1/webhooks/{}", webhook.id);
    let rows = customer.get(&format!("{path}/deliveries?limit=12")).await.json();
    let resent = rows["data"][0]["delivery_id"].as_str().unwrap().to_owned();
    let answer = customer.post(&format!("{path}/deliveries/{resent}/resend"), &json!({})).await;
    assert!(answer.status < 300, "{}", answer.text());
    let answer = customer.post(&format!("{path}/recover"), &json!({ "since": "2020-01-01T00:00:00Z" })).await;
    assert!(answer.status < 300, "{}", answer.text());
    site.publish_many(10, "acc_1", TYPE, json!({})).await;
    for _ in 0..3 {
        let answer = customer.post(&format!("{path}/test"), &json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let requests = receiver.wait_for(12 + 6 + 10 + 3).await;
    wait_until("nothing waits", async || site.count(PENDING).await == 0).await;
    assert_eq!(receiver.count(), requests.len());
    assert_keeps(&times(&receiver), 4);
}

#[tokio::test]
async fn a_test_goes_before_all_that_waits_and_is_refused_when_its_turn_is_far() {
    let site = Site::new().await;
    let (receiver, api) = (Receiver::start().await, site.api().await);
    let webhook = paced(&site, &receiver, "1").await;
    let mut worker = site.worker().await;
    site.publish_many(60, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(2).await;
    let customer = api.customer("acc_1");
    let path = format!("/v1/webhooks/{}/test", webhook.id);
    assert_eq!(customer.post(&path, &json!({})).await.json()["status"], "success");
    assert!(site.count(PENDING).await > 30, "the test came before most deliveries");
    // Its deliveries wait for their pace: that is not late.
    wait_until("it is seen to wait", async || worker.metric("pace_waiting").await == 1.0).await;
    assert_eq!(worker.metric("due_lag_seconds").await, 0.0);

    let at_once = (0..8).map(|_| customer.ask("POST", &path, &[], b""));
    let answers = futures_util::future::join_all(at_once).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty() && refused.len() < 8, "{:?}", answers.iter().map(|it| it.status).collect::<Vec<_>>());
    assert_keeps(&times(&receiver), 1);
    assert!(receiver.requests().iter().filter(|request| request.event_id().starts_with("evt_test_")).count() >= 2);
}

#[tokio::test]
async fn a_test_that_its_pace_has_no_room_for_is_refused_with_the_time_to_wait() {
    let site = Site::new().await;
    let (receiver, api) = (Receiver::start().await, site.api().await);
    let webhook = paced(&site, &receiver, "1").await;
    let ahead = format!("INSERT INTO paces VALUES ('{}', now() + interval '9 s')", webhook.id);
    site.sql().await.batch_execute(&ahead).await.unwrap();
    let answer = api.customer("acc_1").post(&format!("/v1/webhooks/{}/test", webhook.id), &json!({})).await;
    assert_problem(&answer, 429, "rate-limited");
    assert!(answer.text().contains("max_per_second leaves no room"), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1"));
    let output = site.cli(&["webhooks", "test", &webhook.id]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("pace leaves no room for a test within 5 s; try again in"), "{}", output.stderr);
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn the_operators_ceiling_holds_for_each_webhook_unless_its_own_pace_is_lower() {
    let site = Site::new().await.set("sender.max_per_second", "5");
    let receivers = [Receiver::start().await, Receiver::start().await, Receiver::start().await];
    for (receiver, pace) in receivers.iter().zip(["null", "2", "1000"]) {
        paced(&site, receiver, pace).await;
    }
    let _workers = (site.worker().await, site.worker().await);
    site.publish_many(15, "acc_1", TYPE, json!({})).await;
    for (receiver, pace) in receivers.iter().zip([5, 2, 5]) {
        receiver.wait_for(15).await;
        let times = times(receiver);
        assert_keeps(&times, pace);
        let least = Duration::from_secs(13) / u32::try_from(pace).unwrap() - Duration::from_secs(1);
        assert!(times[14] - times[0] >= least, "{pace}: {:?}", times[14] - times[0]);
    }
}

#[tokio::test]
async fn when_the_pace_is_removed_the_rest_goes_out_at_once() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = paced(&site, &receiver, "1").await;
    let _worker = site.worker().await;
    site.publish_many(80, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(2).await;
    set_pace(&site, &webhook, "null").await;
    let removed = Instant::now();
    receiver.wait_for(80).await;
    assert!(removed.elapsed() < Duration::from_secs(30), "at 1 a second it takes 78 s");
}

#[tokio::test]
async fn a_pace_that_changes_holds_for_what_waits_already() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = paced(&site, &receiver, "1").await;
    let _workers = (site.worker().await, site.worker().await);
    site.publish_many(100, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(2).await;
    set_pace(&site, &webhook, "1000").await;
    let raised = Instant::now();
    receiver.wait_for(100).await;
    assert!(raised.elapsed() < Duration::from_secs(30), "at 1 a second it takes 98 s");

    set_pace(&site, &webhook, "1").await;
    let lowered = Instant::now();
    site.publish_many(100, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(104).await;
    let after: Vec<Instant> = times(&receiver).into_iter().filter(|at| *at > lowered).collect();
    assert_keeps(&after, 1);
}

#[tokio::test]
async fn what_waits_for_its_turn_is_pending_and_shown_and_closed_when_its_webhook_is_deleted() {
    let site = Site::new().await;
    let (receiver, api) = (Receiver::start().await, site.api().await);
    let webhook = paced(&site, &receiver, "1").await;
    let _worker = site.worker().await;
    site.publish_many(50, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(2).await;
    let customer = api.customer("acc_1");
    let path = format!("/v1/webhooks/{}", webhook.id);
    wait_until("all the others wait", async || site.count(PENDING).await >= 40).await;
    let shown = customer.get(&format!("{path}/deliveries?view=deliveries&limit=50")).await.json();
    let pending = |row: &&Value| row["state"] == "pending" && row["attempts_made"] == 0;
    assert!(shown["data"].as_array().unwrap().iter().filter(pending).count() >= 40, "{shown}");

    assert_eq!(site.count("SELECT count(*) FROM paces").await, 1);
    assert_eq!(customer.delete(&path).await.status, 204);
    assert_eq!(site.count("SELECT count(*) FROM paces").await, 0);
    wait_until("nothing waits", async || site.count(PENDING).await == 0).await;
    let closed = "SELECT count(*) FROM closed_deliveries WHERE reason = 'cancelled'";
    assert!(site.count(closed).await >= 40);
}

#[tokio::test]
async fn erasing_an_account_erases_what_was_granted_to_its_webhooks() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    paced(&site, &receiver, "5").await;
    let other = site.create_webhook("acc_2", &receiver.url(), &[TYPE]).await;
    set_pace(&site, &other, "5").await;
    let _worker = site.worker().await;
    site.publish("acc_1", TYPE, json!({})).await;
    site.publish("acc_2", TYPE, json!({})).await;
    receiver.wait_for(2).await;
    wait_until("both have a row", async || site.count("SELECT count(*) FROM paces").await == 2).await;
    let output = site.cli(&["accounts", "erase", "acc_1", "--yes"]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(site.count("SELECT count(*) FROM paces").await, 1);
}

#[tokio::test]
async fn fresh_deliveries_do_not_go_before_those_that_wait() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    paced(&site, &receiver, "4").await;
    let _worker = site.worker().await;
    let first = site.publish_many(12, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(2).await;
    wait_until("the others wait", async || site.count(PENDING).await >= 8).await;
    // There is a fresh one at any time when a request may be granted.
    while receiver.count() < 14 {
        site.publish("acc_1", TYPE, json!({})).await;
    }
    let fresh =
        receiver.requests()[..14].iter().filter(|request| first.iter().all(|id| id != request.event_id())).count();
    assert!(fresh <= 2, "{fresh} of the first 14 requests are of events that came when 12 waited");
}

/// Has every statement that takes grants run this first.
async fn before_grants(site: &Site, run: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION before_grants() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN {run}; RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER before_grants BEFORE INSERT OR UPDATE ON paces FOR EACH ROW
         EXECUTE FUNCTION before_grants()"
    );
    site.sql().await.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_database_that_grants_nothing_is_told_once_and_stops_no_webhook_without_a_pace() {
    let (site, receiver, other) = (Site::new().await, Receiver::start().await, Receiver::start().await);
    paced(&site, &receiver, "20").await;
    site.create_webhook("acc_2", &other.url(), &[TYPE]).await;
    before_grants(&site, "RAISE EXCEPTION 'no grants today'").await;
    let mut worker = site.worker().await;
    site.publish_many(10, "acc_1", TYPE, json!({})).await;
    let error = worker.logged("waiting for the database", "error").await;
    assert!(error.contains("no grants today"), "{error}");
    wait_until("they are late", async || worker.metric("due_lag_seconds").await > 2.0).await;
    assert_eq!(worker.metric("pace_waiting").await, 0.0);
    site.publish("acc_2", TYPE, json!({})).await;
    other.next().await;
    assert_eq!((receiver.count(), worker.warnings()), (0, vec!["waiting for the database".to_owned()]));
    before_grants(&site, "NULL").await;
    receiver.wait_for(10).await;
    worker.wait_for_log("the database takes what waited").await;
}

#[tokio::test]
async fn a_database_that_takes_half_a_second_for_a_grant_delays_requests_and_stops_none() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    paced(&site, &receiver, "8").await;
    before_grants(&site, "PERFORM pg_sleep(0.52)").await;
    let _worker = site.worker().await;
    site.publish_many(8, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(4).await;
}

#[tokio::test]
async fn fresh_deliveries_of_a_webhook_that_was_just_switched_off_are_not_sent() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = paced(&site, &receiver, "1").await;
    let _worker = site.worker().await;
    site.publish("acc_1", TYPE, json!({})).await;
    receiver.wait_for(1).await;
    wait_until("nothing waits", async || site.count(PENDING).await == 0).await;
    // The worker has read the webhook, and asks for grants when it is switched off.
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE paces IN ACCESS EXCLUSIVE MODE").await.unwrap();
    site.publish_many(20, "acc_1", TYPE, json!({})).await;
    let asks = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'paces'::regclass";
    wait_until("the worker asks", async || site.count(asks).await > 0).await;
    let off = format!("UPDATE webhooks SET active = false WHERE id = '{}'; COMMIT", webhook.id);
    locker.batch_execute(&off).await.unwrap();
    let closed = async || site.count("SELECT count(*) FROM closed_deliveries").await > 0;
    wait_until("what was parked is closed", closed).await;
    // What comes later is taken later: what was asked for has begun by then, if it does.
    let other = Receiver::start().await;
    site.create_webhook("acc_2", &other.url(), &[TYPE]).await;
    site.publish("acc_2", TYPE, json!({})).await;
    other.next().await;
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn on_the_schema_of_the_release_before_there_is_no_pace_and_no_ceiling() {
    let (site, receiver) = (Site::new().await.set("sender.max_per_second", "1"), Receiver::start().await);
    site.sql().await.batch_execute(&back_to(15)).await.unwrap();
    let webhook = site.create_webhook("acc_1", &receiver.url(), &[TYPE]).await;
    receiver.script([Reply::status(503)]);
    let _worker = site.worker().await;
    let begun = Instant::now();
    site.publish_many(60, "acc_1", TYPE, json!({})).await;
    receiver.wait_for(60).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "at 1 a second it takes a minute");
    let output = site.cli(&["webhooks", "test", &webhook.id]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(site.cli(&["webhooks", "delete", &webhook.id]).await.code, 0);
}

/// The requests of a pace, asked for as fast as the database answers by two callers at a time.
#[tokio::test]
async fn the_database_grants_a_pace_and_no_more_and_at_first_a_quarter_of_a_second() {
    let (site, receiver) = (Site::new().await, Receiver::start().await);
    let webhook = paced(&site, &receiver, "null").await;
    let store = store(&site);
    let ask = PaceAsk { webhook: WebhookId(webhook.id.parse().unwrap()), wanted: 1000, due_since: None };
    let take = async |ceiling: Option<NonZeroU32>| store.take_pace(ceiling, &[ask]).await.unwrap()[&ask.webhook];
    assert_eq!(take(None).await, Pace::Unpaced);
    for (pace, first) in [(1, 1), (3, 1), (40, 10), (1000, 250)] {
        set_pace(&site, &webhook, &pace.to_string()).await;
        site.sql().await.batch_execute("DELETE FROM paces").await.unwrap();
        let begun = Instant::now();
        let Pace::Paced(granted) = take(None).await else { panic!("it has a pace") };
        assert_eq!((granted.rate.get(), granted.granted), (pace, first));
        let grant = async || match take(None).await {
            Pace::Paced(granted) => granted.granted,
            Pace::Unpaced | Pace::Unknown => 0,
        };
        let (mut sum, span) = (granted.granted, Duration::from_millis(1500));
        while begun.elapsed() < span {
            let (one, other) = tokio::join!(grant(), grant());
            sum += one + other;
        }
        let worth = |time: Duration| time.as_secs_f64() * f64::from(pace);
        let most = worth(begun.elapsed()) + f64::from(u32::try_from(first).unwrap());
        let sum = f64::from(u32::try_from(sum).unwrap());
        assert!(sum <= most && sum >= worth(span) * 0.9 - 1.0, "{sum} of {most} at a pace of {pace}");
    }
    let Pace::Paced(lower) = take(NonZeroU32::new(7)).await else { panic!("it has a pace") };
    assert_eq!(lower.rate.get(), 7);
    set_pace(&site, &webhook, "null").await;
    assert!(matches!(take(NonZeroU32::new(7)).await, Pace::Paced(granted) if granted.rate.get() == 7));
    // A clock that was set back is caught up with.
    site.sql().await.batch_execute("UPDATE paces SET granted_until = now() + interval '1 day'").await.unwrap();
    let Pace::Paced(late) = take(NonZeroU32::new(1)).await else { panic!("it has a pace") };
    assert!(late.granted == 0 && late.again_in <= Duration::from_secs(6), "{late:?}");
    let is_granted = async || matches!(take(NonZeroU32::new(1)).await, Pace::Paced(granted) if granted.granted > 0);
    wait_until("requests are granted again", is_granted).await;
    site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    assert_eq!(take(NonZeroU32::new(7)).await, Pace::Unpaced, "what is off is closed without waiting");
}

fn store(site: &Site) -> Store {
    let url = site.database_url().into();
    let (connect_timeout, statement_timeout) = (Duration::from_secs(5), Duration::from_secs(10));
    Store::new(&Database { url, url_from: UrlSource::default(), pool_size: 2, connect_timeout, statement_timeout })
        .unwrap()
}

//! Without PostgreSQL every route that needs it answers 503 soon, and works again by itself. A stop
//! waits for requests that are being answered. The statement of a caller who has gone is ended.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::api::assert_problem;
use crate::support::*;

/// Every route that asks the database, with a body that it accepts.
fn routes(webhook: &str) -> Vec<(&'static str, String, serde_json::Value)> {
    let at = |rest: &str| format!("{webhook}{rest}");
    vec![
        ("GET", "/v1/webhooks".into(), json!({})),
        ("GET", "/v1/webhooks?include=activity".into(), json!({})),
        (
            "POST",
            "/v1/webhooks".into(),
            json!({ "name": "x", "url": "http://127.0.0.1:9999/", "events": ["content.created"] }),
        ),
        ("GET", at(""), json!({})),
        ("PATCH", at(""), json!({ "name": "y" })),
        ("GET", at("/secret"), json!({})),
        ("POST", at("/secret/regenerate"), json!({})),
        ("DELETE", at("/secret/previous"), json!({})),
        ("POST", at("/test"), json!({})),
        ("GET", at("/deliveries"), json!({})),
        ("POST", at("/deliveries/01a20a1a-16ef-7628-85cf-6985fbc9f4bf/resend"), json!({})),
        ("POST", at("/recover"), json!({ "since": "2026-01-01T00:00:00Z" })),
        ("GET", at("/stats"), json!({})),
        ("DELETE", at(""), json!({})),
    ]
}

async fn assert_all_unavailable(customer: &Customer, webhook: &str) {
    let ask = async |(method, path, body): (&str, String, serde_json::Value)| {
        let asked = Instant::now();
        let answer = customer.send(method, &path, &body).await;
        // A change may have been sent to the database on a connection that fell silent at that moment.
        let is_unknown = method != "GET" && answer.text().contains("outcome-unknown");
        assert_problem(&answer, 503, if is_unknown { "outcome-unknown" } else { "unavailable" });
        assert!(is_unknown || answer.header("retry-after").is_some());
        // Much more than promised, for a busy machine: every other limit is a minute.
        assert!(asked.elapsed() < Duration::from_secs(20), "{method} {path} took {:?}", asked.elapsed());
    };
    join_all(routes(webhook).into_iter().map(ask)).await;
    assert_eq!(customer.get("/v1/event-types").await.status, 200);
}

#[tokio::test]
async fn routes_answer_503_soon_while_the_database_is_gone_or_silent() {
    let site = Site::new().await;
    let postgres = Proxy::to(site.postgres_address()).await;
    let site = site.postgres_through(&postgres.addr());
    let path = site.api().await.customer("acc_1").create_at("http://127.0.0.1:9999/").await;
    // With the default of `api.database_timeout`, which alone makes the answers come soon.
    let launch = site.launch(&["api"]).set("api.request_timeout", "60s").set("database.connect_timeout", "60s");
    let mut api = site.api_of(launch.set("database.statement_timeout", "60s")).await;
    let customer = api.customer("acc_1");
    wait_until("it works", async || customer.get(&path).await.status == 200).await;
    postgres.refuse(true).await;
    postgres.cut().await;
    assert_all_unavailable(&customer, &path).await;
    wait_until("it is not ready", async || !api.replica.is_ready().await).await;
    postgres.refuse(false).await;
    wait_until("it works again", async || customer.get(&path).await.status == 200).await;
    // Readiness asks over a connection of its own.
    wait_until("it is ready again", async || api.replica.is_ready().await).await;
    postgres.pause();
    assert_all_unavailable(&customer, &path).await;
    postgres.resume();
    wait_until("it works again", async || customer.get(&path).await.status == 200).await;
}

#[tokio::test]
async fn a_request_that_is_being_answered_at_a_stop_gets_its_answer() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.always(Reply::status(204).held_by(&gate));
    for role in ["api", "run"] {
        gate.close();
        let launch = site.launch(&[role]).set("api.database_timeout", "15s").set("api.request_timeout", "60s");
        let launch = launch.set("sender.timeout", "60s").set("worker.lease", "10m");
        let mut api = site.api_of(launch).await;
        let customer = api.customer("acc_1");
        let path = customer.create_at(&receiver.url()).await;
        let count = receiver.count();
        let testing = tokio::spawn({
            let (customer, path) = (customer.clone(), path.clone());
            async move { customer.post(&format!("{path}/test"), &json!({})).await }
        });
        receiver.wait_for(count + 1).await;
        api.replica.terminate();
        api.replica.wait_for_log("stopping, a second signal exits at once").await;
        gate.open();
        let answer = testing.await.unwrap();
        assert_eq!((answer.status, answer.json()["http_status"].clone()), (200, 204.into()));
        assert!(api.replica.wait().await.success());
    }
}

#[tokio::test]
async fn a_login_slower_than_a_request_delays_only_the_first_answer() {
    let site = Site::new().await;
    let postgres = Proxy::to(site.postgres_address()).await;
    postgres.delay_greetings(Duration::from_secs(5));
    let site = site.postgres_through(&postgres.addr());
    // No limit but this one is shorter than a login.
    let launch = site.launch(&["api"]).set("api.database_timeout", "4s").set("api.request_timeout", "20s");
    let api = site.api_of(launch.set("database.connect_timeout", "30s")).await;
    let customer = api.customer("acc_1");
    wait_until("the login is through", async || customer.get("/v1/webhooks").await.status == 200).await;
    for _ in 0..10 {
        assert_eq!(customer.get("/v1/webhooks").await.status, 200);
    }
    // Sessions: one each for requests, recoveries and the operations address, one that was ready too late for the first
    // request, and two that were compared at the start.
    assert!(postgres.opened() <= 6, "{} connections", postgres.opened());
}

/// Every query of the table `webhooks` takes 40 s after this.
pub(super) const SLOW: &str = "
    ALTER TABLE webhooks RENAME TO kept;
    CREATE VIEW webhooks AS SELECT kept.* FROM kept, pg_sleep(40)";

/// Counts these queries.
pub(super) const RUNNING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";

#[tokio::test]
async fn a_statement_whose_caller_has_gone_is_ended() {
    let site = Site::new().await;
    let launch = site.launch(&["api"]).set("api.database_timeout", "60s").set("api.request_timeout", "60s");
    let api = site.api_of(launch).await;
    let customer = api.customer("acc_1");
    customer.create_at("http://127.0.0.1:9999/").await;
    site.sql().await.batch_execute(SLOW).await.unwrap();
    let asking = tokio::spawn({
        let customer = customer.clone();
        async move { customer.get("/v1/webhooks").await }
    });
    wait_until("the statement runs", async || site.count(RUNNING).await == 1).await;
    asking.abort();
    let gone = Instant::now();
    wait_until("the statement is ended", async || site.count(RUNNING).await == 0).await;
    // Left alone, it would run for 40 s.
    assert!(gone.elapsed() < Duration::from_secs(20), "{:?}", gone.elapsed());
    site.sql().await.batch_execute("DROP VIEW webhooks; ALTER TABLE kept RENAME TO webhooks").await.unwrap();
    assert_eq!(customer.get("/v1/webhooks").await.status, 200);
}

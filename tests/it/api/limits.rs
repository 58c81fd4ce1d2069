//! One account's requests are limited, and do not use up what others may use.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::unavailable::{RUNNING, SLOW};
use crate::support::api::assert_problem;
use crate::support::*;

const URL: &str = "http://127.0.0.1:9999/";

#[tokio::test]
async fn of_a_hundred_registrations_at_once_no_more_succeed_than_there_is_room_for() {
    let site = Site::new().await.set("api.max_webhooks", "10");
    let api = site.api().await;
    let customer = api.customer("acc_1");
    for _ in 0..9 {
        customer.create_at(URL).await;
    }
    let body = json!({ "name": "x", "url": URL, "events": ["content.created"] });
    let creating = (0..100).map(|_| {
        let (customer, body) = (customer.clone(), body.clone());
        tokio::spawn(async move { customer.post("/v1/webhooks", &body).await })
    });
    let mut created = 0;
    for answer in creating.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        if answer.status == 201 {
            created += 1;
        } else {
            assert_problem(&answer, 409, "too-many-webhooks");
        }
    }
    assert_eq!(created, 1);
    assert_eq!(site.count("SELECT count(*) FROM webhooks").await, 10);
    api.customer("acc_2").create_at(URL).await;
    // The command line has no such limit.
    site.create_webhook("acc_1", URL, &["content.created"]).await;
}

#[tokio::test]
async fn an_account_that_asks_too_often_waits_and_others_do_not() {
    let site = Site::new().await;
    let launch = site.launch(&["api"]).set("api.requests_per_second", "1").set("api.requests_burst", "20");
    let api = site.api_of(launch).await;
    let (hasty, calm) = (api.customer("acc_1"), api.customer("acc_2"));
    for _ in 0..20 {
        assert_eq!(hasty.get("/v1/event-types").await.status, 200);
    }
    let refused = eventually("it is too much", async || {
        let answer = hasty.get("/v1/event-types").await;
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.await;
    assert_problem(&refused, 429, "rate-limited");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds));
    assert_eq!(calm.get("/v1/event-types").await.status, 200);
}

#[tokio::test]
async fn test_sends_have_a_limit_of_their_own() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let launch = site.launch(&["api"]).set("api.tests_per_minute", "2").set("api.database_timeout", "15s");
    let api = site.api_of(launch.set("api.request_timeout", "20s")).await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(&receiver.url()).await;
    let test = async || customer.post(&format!("{path}/test"), &json!({})).await;
    assert_eq!((test().await.status, test().await.status), (200, 200));
    let refused = test().await;
    assert_problem(&refused, 429, "rate-limited");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(receiver.count(), 2);
    assert_eq!(customer.get(&path).await.status, 200);
}

/// Counts the queries that PostgreSQL has begun and that wait for a table that the test has locked. One that began a moment ago does
/// not count: at the end of `database_timeout` the API gives the turn to the next caller, while PostgreSQL still ends the query before.
const UNDER_WAY: &str = "
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND wait_event_type = 'Lock'
        AND query_start < clock_timestamp() - interval '1 second'";

#[tokio::test]
async fn an_account_asks_two_long_questions_at_a_time_and_leaves_the_database_to_others() {
    let site = Site::new().await.set("api.database_timeout", "6s").set("api.request_timeout", "20s");
    let api = site.api_of(site.launch(&["api"]).set("api.requests_burst", "100000")).await;
    let (greedy, modest) = (api.customer("acc_1"), api.customer("acc_2"));
    let path = greedy.create_at(URL).await;
    let span = json!({ "since": "2026-01-01T00:00:00Z" });
    let log = format!("{path}/deliveries?event_type=content.created");
    assert_eq!(greedy.get(&log).await.status, 200);
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE attempts, closed_deliveries").await.unwrap();
    let asking = (0..24).map(async |number| match number % 6 {
        0 => greedy.get(&format!("{path}/stats")).await,
        1 => greedy.post(&format!("{path}/recover"), &span).await,
        _ => greedy.get(&log).await,
    });
    let mut asking = std::pin::pin!(join_all(asking));
    let (mut most, mut answers) = (0, None);
    while answers.is_none() {
        tokio::select! {
            all = &mut asking => answers = Some(all),
            under_way = site.count(UNDER_WAY) => most = most.max(under_way),
        }
        assert_eq!(modest.get("/v1/webhooks").await.status, 200);
    }
    assert!((1..=2).contains(&most), "{most} at a time");
    // Those that had a turn found the tables locked and were answered 503.
    let refused: Vec<_> = answers.unwrap().into_iter().filter(|answer| answer.status != 503).collect();
    assert!(refused.len() >= 8, "{}", refused.len());
    for answer in refused {
        assert_problem(&answer, 429, "rate-limited");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    locker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(greedy.get(&log).await.status, 200);
    assert_eq!(greedy.post(&format!("{path}/recover"), &span).await.status, 202);
}

#[tokio::test]
async fn long_questions_of_many_accounts_leave_connections_to_short_ones() {
    let site = Site::new().await.set("api.database_timeout", "30s").set("api.request_timeout", "40s");
    let api =
        site.api_of(site.launch(&["api"]).set("api.requests_burst", "100000").set("database.pool_size", "8")).await;
    let mut asking = Vec::new();
    for number in 0..6 {
        let greedy = api.customer(&format!("acc_{number}"));
        let log = format!("{}/deliveries?event_type=content.created", greedy.create_at(URL).await);
        assert_eq!(greedy.get(&log).await.status, 200);
        asking.push((greedy, log));
    }
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE attempts").await.unwrap();
    let mut callers = Vec::new();
    for (greedy, log) in asking.iter().chain(&asking) {
        callers.push(hang_on(&api, greedy, log).await);
    }
    wait_until("six questions have begun", async || site.count(UNDER_WAY).await >= 6).await;
    let modest = api.customer("modest");
    for _ in 0..20 {
        assert_eq!(modest.get("/v1/webhooks").await.status, 200);
        let under_way = site.count(UNDER_WAY).await;
        assert!(under_way <= 6, "{under_way} at a time");
    }
    drop(callers);
    locker.batch_execute("ROLLBACK").await.unwrap();
    let (greedy, log) = &asking[0];
    wait_until("there are turns again", async || greedy.get(log).await.status == 200).await;
}

#[tokio::test]
async fn the_wait_for_a_turn_is_a_part_of_the_time_for_the_database_and_the_account_s_own_doing() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    /// The turns become free after this time.
    const BUSY: Duration = Duration::from_secs(8);
    let site = Site::new().await;
    let launch = site.launch(&["api"]).set("api.database_timeout", "10s").set("api.request_timeout", "60s");
    let api = site.api_of(launch).await;
    let customer = api.customer("acc_1");
    let path = customer.create_at(URL).await;
    let log = format!("{path}/deliveries?event_type=content.created");
    assert_eq!(customer.get(&log).await.status, 200);
    site.sql().await.batch_execute(SLOW).await.unwrap();
    let callers = [hang_on(&api, &customer, &log).await, hang_on(&api, &customer, &log).await];
    wait_until("both turns are taken", async || site.count(RUNNING).await == 2).await;
    let asked = Instant::now();
    let free_the_turns = async {
        tokio::time::sleep(BUSY).await;
        drop(callers);
    };
    let (answer, ()) = tokio::join!(customer.get(&log), free_the_turns);
    // With a time-out of its own, the query would end only 18 s after the request.
    assert!(asked.elapsed() < BUSY + TIMEOUT - Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_problem(&answer, 429, "rate-limited");
}

/// Sends a request and does not read the answer.
async fn hang_on(api: &Api, customer: &Customer, path: &str) -> TcpStream {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", customer.token);
    let mut caller = TcpStream::connect(&api.address).await.unwrap();
    caller.write_all(head.as_bytes()).await.unwrap();
    caller
}

#[tokio::test]
async fn requests_whose_callers_hang_up_count_in_full() {
    let site = Site::new().await;
    let launch = site.launch(&["api"]).set("api.requests_per_second", "1").set("api.requests_burst", "100");
    let api = site.api_of(launch.set("api.database_timeout", "30s").set("api.request_timeout", "30s")).await;
    let (hasty, calm) = (api.customer("acc_1"), api.customer("acc_2"));
    let path = hasty.create_at(URL).await;
    assert_eq!(hasty.get(&format!("{path}/deliveries")).await.status, 200);
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE attempts").await.unwrap();
    let mut callers = Vec::new();
    for _ in 0..24 {
        callers.push(hang_on(&api, &hasty, &format!("{path}/deliveries?status=success")).await);
    }
    let mut asked = 0;
    while hasty.get("/v1/event-types").await.status == 200 {
        asked += 1;
    }
    assert!(asked < 24, "24 queries of the log count as 96 of 100 requests, but {asked} more were accepted");
    wait_until("two queries of the log have begun", async || site.count(UNDER_WAY).await == 2).await;
    while callers.pop().is_some() {
        assert!(site.count(UNDER_WAY).await <= 2);
    }
    wait_until("no query of the log is left", async || site.count(UNDER_WAY).await == 0).await;
    assert_eq!(calm.get("/v1/webhooks").await.status, 200);
}

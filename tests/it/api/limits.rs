//! What one account may use is bounded, and does not shorten what others have.

use serde_json::json;

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
    // Operators may.
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
async fn tests_have_a_limit_of_their_own() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let api = site.api_of(site.launch(&["api"]).set("api.tests_per_minute", "2")).await;
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

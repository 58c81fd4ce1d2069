//! Events that share an id: each account gets its own, and two of one account are one delivery.

use serde_json::json;

use super::{ACCOUNT, MARKER, Scene, TYPE};
use crate::support::{Configure, Site};

#[tokio::test]
async fn another_accounts_event_of_the_same_id_goes_to_that_account_only() {
    let mut scene = Scene::open().await;
    let other = scene.site.create_webhook("acc_other", &scene.receiver.url_at("/other"), &[TYPE]).await;
    for account in [ACCOUNT, "acc_other"] {
        scene.publish(&scene.site.event("evt_twin", account, TYPE, &json!(account))).await;
    }
    scene.receiver.wait_for(2).await;
    for (path, webhook) in [("/hook", &scene.webhook), ("/other", &other)] {
        let requests = scene.receiver.requests_at(path);
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].json()["data"], json!(webhook.account));
        assert!(requests[0].verify(&webhook.secret).is_genuine());
    }
    scene.good.push("evt_twin".to_owned());
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn an_event_published_twice_arrives_under_one_id() {
    let mut scene = Scene::open().await;
    let event = scene.site.event("evt_twice", ACCOUNT, TYPE, &json!(MARKER));
    for _ in 0..2 {
        scene.publish(&event).await;
    }
    scene.good.push("evt_twice".to_owned());
    scene.publish_good(100).await;
    scene.all_good_arrive().await;
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn two_events_of_one_id_are_not_mixed_up() {
    let mut scene = Scene::open().await;
    scene.worker.pause();
    for note in ["first", "second"] {
        scene.publish(&scene.site.event("evt_same", ACCOUNT, TYPE, &json!({"note": note}))).await;
    }
    scene.worker.resume();
    scene.good.push("evt_same".to_owned());
    scene.publish_good(100).await;
    scene.all_good_arrive().await;
    for request in scene.receiver.requests().iter().filter(|request| request.event_id() == "evt_same") {
        assert!(request.verify(&scene.webhook.secret).is_genuine());
        let note = request.json()["data"]["note"].clone();
        assert!(note == "first" || note == "second", "{note}");
    }
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn two_failing_events_of_one_id_end_as_one_delivery() {
    let mut scene = Scene::at(Site::new().await.set("retry.schedule", r#"["50ms"]"#)).await;
    let failures = [crate::support::Reply::status(503), crate::support::Reply::status(503)];
    scene.receiver.script(failures);
    scene.worker.pause();
    for note in ["first", "second"] {
        scene.publish(&scene.site.event("evt_same", ACCOUNT, TYPE, &json!({"note": note}))).await;
    }
    scene.worker.resume();
    scene.receiver.wait_for(3).await;
    let pending = "SELECT count(*) FROM pending_deliveries";
    crate::support::wait_until("no delivery is pending", async || scene.site.count(pending).await == 0).await;
    assert!(scene.receiver.requests().iter().all(|request| request.verify(&scene.webhook.secret).is_genuine()));
    scene.good.push("evt_same".to_owned());
    scene.ends_unharmed().await;
}

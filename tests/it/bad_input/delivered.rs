//! Unusual but valid events arrive, byte for byte.

use serde_json::json;

use super::{ACCOUNT, MARKER, Scene, TYPE, event_with, event_with_data, valid};
use crate::support::wait_until;

const NOTE: &str = r#"{"note":"payload-marker-9f3b"}"#;

#[tokio::test]
async fn data_arrives_byte_for_byte_whatever_json_it_is() {
    let mut scene = Scene::open().await;
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let rows = [
        "1e400".to_owned(),
        "9223372036854775808".to_owned(),
        "123456789012345678901234567890".to_owned(),
        "-0".to_owned(),
        "0.30000000000000004".to_owned(),
        "null".to_owned(),
        r#""\u0000""#.to_owned(),
        r#""\ud800 \/ \u00e9 é \u2028""#.to_owned(),
        r#"{"b" : 1,"a":2, "b":3}"#.to_owned(),
        nested(126),
        nested(127),
    ];
    scene.publish_good(50).await;
    for (index, data) in rows.iter().enumerate() {
        let id = format!("evt_{index}");
        scene.publish(&scene.site.message(event_with_data(&id, data))).await;
        scene.good.push(id);
    }
    scene.publish_good(50).await;
    scene.all_good_arrive().await;
    for (index, data) in rows.iter().enumerate() {
        let id = format!("evt_{index}");
        let request = scene.request(&id);
        let body = format!(r#"{{"id":"{id}","type":"{TYPE}","timestamp":"2026-11-23T10:00:00Z","data":{data}}}"#);
        assert_eq!(String::from_utf8_lossy(&request.body), body);
        assert!(request.verify(&scene.webhook.secret).is_genuine(), "{id} is not signed");
    }
    let logged = async || scene.site.count("SELECT count(*) FROM attempts").await == scene.good.len() as i64;
    wait_until("each has its row in the log", logged).await;
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn times_arrive_in_one_form_however_they_were_written() {
    let mut scene = Scene::open().await;
    let times = [
        ("2026-11-23T10:00:00.120Z", "2026-11-23T10:00:00.120Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("1969-12-31T23:59:59-00:00", "1969-12-31T23:59:59Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
        ("2026-11-23t10:00:00.123456789z", "2026-11-23T10:00:00.123456Z"),
        ("2026-11-23 10:00:00+14:00", "2026-11-22T20:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    ];
    for (written, _) in times {
        let body = event_with("occurred_at", Some(json!(written)));
        scene.publish(&scene.site.message(body)).await;
    }
    let requests = scene.receiver.wait_for(times.len()).await;
    let arrived = requests.iter().map(|request| request.json()["timestamp"].as_str().unwrap().to_owned()).collect();
    super::same(arrived, times.map(|(_, sent)| sent.to_owned()).into());
    scene.good.extend(requests.iter().map(|request| request.event_id().to_owned()));
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn an_event_without_an_id_takes_that_of_its_message() {
    let mut scene = Scene::open().await;
    for (id, own) in [("msg_1", None), ("msg_2", Some(json!(""))), ("msg_4", Some(json!(null)))] {
        let message = scene.site.message(event_with("id", own));
        scene.publish(&message.with_id(id)).await;
        scene.good.push(id.to_owned());
    }
    let message = scene.site.message(valid("evt_own").to_string());
    scene.publish(&message.with_id("msg_3")).await;
    scene.good.push("evt_own".to_owned());
    scene.all_good_arrive().await;
    assert_eq!(scene.request("msg_1").json()["id"], "msg_1");
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn an_event_without_a_time_takes_that_of_its_message() {
    let mut scene = Scene::open().await;
    let message = scene.site.message(event_with("occurred_at", None));
    scene.publish(&message.with(|properties| properties.with_timestamp(1_700_000_000))).await;
    let request = scene.receiver.next().await;
    assert_eq!(request.json()["timestamp"], "2023-11-14T22:13:20Z");
    scene.good.push(request.event_id().to_owned());
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let mut scene = Scene::open().await;
    let more = format!(r#"{{"trace":{{"id":[1,2]}},"version":2,"":null,{}"#, &valid("evt_more").to_string()[1..]);
    scene.publish(&scene.site.message(more)).await;
    scene.good.push("evt_more".to_owned());
    scene.all_good_arrive().await;
    let body = format!(r#"{{"id":"evt_more","type":"{TYPE}","timestamp":"2026-11-23T10:00:00Z","data":{NOTE}}}"#);
    assert_eq!(scene.request("evt_more").body, body.as_bytes());
    assert!(NOTE.contains(MARKER));
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn an_account_that_looks_like_sql_gets_its_own_events_only() {
    let mut scene = Scene::open().await;
    let odd = ["' OR 1=1--", "%", "_", "acc_good ", "ACC_GOOD", "\\", "\"; DROP TABLE webhooks"];
    for (index, account) in odd.iter().enumerate() {
        let url = scene.receiver.url_at(&format!("/odd/{index}"));
        scene.site.create_webhook(account, &url, &[TYPE]).await;
    }
    scene.publish_good(1).await;
    for (index, account) in odd.iter().enumerate() {
        let id = format!("evt_odd_{index}");
        scene.publish(&scene.site.event(&id, account, TYPE, &json!(MARKER))).await;
        scene.good.push(id);
    }
    scene.all_good_arrive().await;
    for index in 0..odd.len() {
        let requests = scene.receiver.requests_at(&format!("/odd/{index}"));
        let ids: Vec<_> = requests.iter().map(|request| request.event_id()).collect();
        assert_eq!(ids, [format!("evt_odd_{index}")]);
    }
    assert_eq!(scene.receiver.requests_at("/hook").len(), 1, "{ACCOUNT} got another account's events");
    scene.ends_unharmed().await;
}

impl Scene {
    fn request(&self, event_id: &str) -> std::sync::Arc<crate::support::Request> {
        let requests = self.receiver.requests();
        requests.iter().find(|request| request.event_id() == event_id).expect("it arrived").clone()
    }
}

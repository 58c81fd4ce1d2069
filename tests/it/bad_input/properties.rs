//! Message properties that this service does not need never stop an event.

use serde_json::Value;

use super::{MARKER, Scene, TYPE, valid};
use crate::support::{Fate, RawMessage, Table, wait_until};

/// Messages whose body is a valid event, each with one unusual property.
async fn all_arrive(mut scene: Scene, unusual: impl IntoIterator<Item = Box<dyn Fn(RawMessage) -> RawMessage>>) {
    for (index, change) in unusual.into_iter().enumerate() {
        let id = format!("evt_{index}");
        scene.publish_good(10).await;
        scene.publish_raw(&change(scene.site.message(valid(&id).to_string()).into())).await;
        scene.good.push(id);
    }
    scene.publish_good(100).await;
    scene.all_good_arrive().await;
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let named = |name: &'static [u8]| -> Box<dyn Fn(RawMessage) -> RawMessage> {
        Box::new(move |message| RawMessage { content_type: Some(name.to_vec()), ..message })
    };
    let names: [&[u8]; 5] =
        [b"text/plain", b"application/msgpack", b"", b"application/json; charset=utf-16", "é".as_bytes()];
    all_arrive(Scene::open().await, names.map(named)).await;
}

#[tokio::test]
async fn a_content_encoding_that_changes_no_byte_does_not_matter() {
    let encoded = |name: &'static [u8]| -> Box<dyn Fn(RawMessage) -> RawMessage> {
        Box::new(move |message| RawMessage { content_encoding: Some(name.to_vec()), ..message })
    };
    let names: [&[u8]; 8] = [b"", b"identity", b"utf-8", b"utf8", b"UTF8", b"Utf-8", b"us-ascii", b"binary"];
    all_arrive(Scene::open().await, names.map(encoded)).await;
}

#[tokio::test]
async fn priority_time_expiration_and_delivery_mode_do_not_matter() {
    let changes: [Box<dyn Fn(RawMessage) -> RawMessage>; 7] = [
        Box::new(|message| RawMessage { priority: Some(255), ..message }),
        Box::new(|message| RawMessage { expiration: Some(b"600000".to_vec()), ..message }),
        Box::new(|message| RawMessage { timestamp: Some(1 << 40), ..message }),
        Box::new(|message| RawMessage { timestamp: Some(u64::MAX), ..message }),
        Box::new(|message| RawMessage { delivery_mode: Some(1), ..message }),
        Box::new(|message| RawMessage { delivery_mode: None, ..message }),
        Box::new(|message| RawMessage { correlation_id: Some("a\0b\u{2028}c".into()), ..message }),
    ];
    all_arrive(Scene::open().await, changes).await;
}

#[tokio::test]
async fn an_event_without_a_usable_time_gets_the_time_of_its_arrival() {
    let mut scene = Scene::open().await;
    let message = scene.site.message(super::event_with("occurred_at", None));
    scene.publish(&message.with(|properties| properties.with_timestamp(1 << 40))).await;
    let request = scene.receiver.next().await;
    let timestamp = request.json()["timestamp"].as_str().expect("a text").to_owned();
    assert!(timestamp.starts_with("20"), "{timestamp} is not of this century");
    scene.good.push(request.event_id().to_owned());
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_message_that_asks_for_a_reply_gets_none() {
    let mut scene = Scene::open().await;
    let mut asker = scene.site.own_amqp().await;
    let queue = asker.declare_own_queue().await.unwrap();
    let message = scene.site.message(valid("evt_asks").to_string());
    let asks =
        message.with(|properties| properties.with_reply_to(queue.as_str().into()).with_correlation_id("7".into()));
    scene.publish(&asks).await;
    scene.good.push("evt_asks".to_owned());
    scene.publish_good(100).await;
    scene.all_good_arrive().await;
    assert_eq!(asker.depth(&queue).await.unwrap(), 0);
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn headers_of_every_kind_do_not_matter() {
    let entry = |kind: u8, value: &[u8]| Table([&[1, kind, kind], value].concat());
    let kinds: [(u8, &[u8]); 17] = [
        (b't', &[7]),
        (b'b', &[0xFF]),
        (b'B', &[0xFF]),
        (b's', &[0xFF; 2]),
        (b'u', &[0xFF; 2]),
        (b'I', &[0xFF; 4]),
        (b'i', &[0xFF; 4]),
        (b'l', &[0xFF; 8]),
        (b'f', &[0x40; 4]),
        (b'd', &[0x40; 8]),
        (b'D', &[0xFF; 5]),
        (b'T', &[0xFF; 8]),
        (b'S', &[0, 0, 0, 1, 0xFF]),
        (b'x', &[0, 0, 0, 1, 0xFF]),
        (b'A', &[0, 0, 0, 2, b't', 1]),
        (b'F', &[0, 0, 0, 0]),
        (b'V', &[]),
    ];
    let changes = kinds.map(|(kind, value)| -> Box<dyn Fn(RawMessage) -> RawMessage> {
        let table = entry(kind, value);
        Box::new(move |message| RawMessage { headers: Some(table.clone()), ..message })
    });
    all_arrive(Scene::open().await, changes).await;
}

#[tokio::test]
async fn the_log_line_of_a_dead_letter_tells_its_message_id_and_routing_key_safe_to_print() {
    let scene = Scene::open().await;
    let id = format!("msg_\u{202e}{}", "x".repeat(200));
    for message in [scene.site.message(MARKER).with_id(&id), scene.site.message(MARKER)] {
        assert_eq!(scene.site.publish_message(&message).await, Fate::Confirmed);
    }
    let field = |line: &Value, name: &str| line.get(name).or_else(|| line["fields"].get(name)).cloned();
    let told =
        |line: &Value| field(line, "message").is_some_and(|text| text.to_string().contains("becomes a dead letter"));
    let lines = || scene.worker.log_lines().into_iter().filter(told).collect::<Vec<Value>>();
    wait_until("both have a line", async || lines().len() == 2).await;
    let lines = lines();
    let shown = field(&lines[0], "message_id").expect("it has one");
    let shown = shown.as_str().unwrap();
    assert!(shown.starts_with(r"msg_\u{202e}xxx") && shown.len() == 128, "{shown}");
    assert_eq!(field(&lines[1], "message_id"), None, "it has none");
    for line in &lines {
        assert_eq!(field(line, "routing_key").unwrap(), TYPE);
        assert!(!line.to_string().contains(MARKER), "{line}");
    }
}

//! Messages that the AMQP library cannot read: each ends the connection on which it comes. By the delivery limit such a message,
//! and no other, becomes a dead letter.

use std::time::{Duration, Instant};

use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use super::{Scene, TYPE, valid};
use crate::support::replica::ATTACHED;
use crate::support::{Configure, Message, RawMessage, Receiver, Reply, Site, Table, http, wait_until};

/// A scene in which the broker makes a dead letter of a message after this many deliveries.
async fn scene(delivery_limit: usize) -> Scene {
    Scene::at(Site::new().await.set("queue.delivery_limit", &delivery_limit.to_string())).await
}

/// Publishes the poison, an unreadable message, among good events, so that one prefetch holds them all.
async fn only_the_poison_becomes_a_dead_letter(mut scene: Scene, limit: usize, poison: RawMessage) {
    scene.worker.pause();
    scene.publish_good(50).await;
    scene.publish_raw(&poison).await;
    scene.publish_good(50).await;
    scene.worker.resume();
    assert_only_the_poison_died(scene, limit, &poison).await;
}

/// Checks that the poison alone becomes a dead letter, that the good events arrive and that the worker goes on.
async fn assert_only_the_poison_died(mut scene: Scene, limit: usize, poison: &RawMessage) {
    // Each step has a time limit of its own: together they take long.
    for attached in (5..limit).step_by(5) {
        scene.worker.wait_for_log_times(ATTACHED, attached).await;
    }
    let letters = scene.site.wait_for_dead_letters(1).await;
    assert_eq!(letters.len(), 1, "readable messages became dead letters, too: {letters:?}");
    assert_eq!(letters[0].body, poison.body);
    assert_eq!(letters[0].reason().as_deref(), Some("delivery_limit"));
    scene.all_good_arrive().await;
    scene.takes_the_next_event().await;
    scene.has_kept_quiet();
    assert!(scene.worker.log().contains(r#""isolated":true"#), "it was never isolated");
    assert_eq!(super::reasons_logged(&scene.worker), [""; 0]);
}

fn event(scene: &Scene) -> Message {
    scene.site.message(valid("evt_poison").to_string())
}

#[tokio::test]
async fn a_message_id_that_is_not_utf_8_kills_its_message_only() {
    let scene = scene(30).await;
    let poison = RawMessage { message_id: Some(b"evt\xff".to_vec()), ..event(&scene).into() };
    only_the_poison_becomes_a_dead_letter(scene, 30, poison).await;
}

#[tokio::test]
async fn the_usual_delivery_limit_spares_the_neighbours_too() {
    let scene = Scene::open().await;
    let poison = RawMessage { message_id: Some(b"evt\xff".to_vec()), ..event(&scene).into() };
    only_the_poison_becomes_a_dead_letter(scene, 100, poison).await;
}

#[tokio::test]
async fn one_unreadable_message_among_a_thousand_good_ones_is_the_only_dead_letter() {
    let mut scene = scene(30).await;
    let poison = RawMessage { message_id: Some(b"evt\xff".to_vec()), ..event(&scene).into() };
    scene.worker.pause();
    scene.publish_good(500).await;
    scene.publish_raw(&poison).await;
    scene.publish_good(500).await;
    scene.worker.resume();
    assert_only_the_poison_died(scene, 30, &poison).await;
}

#[tokio::test]
async fn a_content_type_that_is_not_utf_8_kills_its_message_only() {
    let scene = scene(30).await;
    let poison = RawMessage { content_type: Some(b"\xc3\x28".to_vec()), ..event(&scene).into() };
    only_the_poison_becomes_a_dead_letter(scene, 30, poison).await;
}

#[tokio::test]
async fn a_header_key_that_is_not_utf_8_kills_its_message_only() {
    let scene = scene(30).await;
    let headers = Some(Table::default().long_string(b"key\xff", "value"));
    let poison = RawMessage { headers, ..event(&scene).into() };
    only_the_poison_becomes_a_dead_letter(scene, 30, poison).await;
}

#[tokio::test]
async fn a_routing_key_that_is_not_utf_8_kills_its_message_only() {
    let scene = scene(30).await;
    // Such a message reaches the queue only by a binding that somebody else made.
    let mut amqp = scene.site.own_amqp().await;
    amqp.bind(scene.site.worker_queue(), scene.site.events_exchange(), "#").await.unwrap();
    let poison = RawMessage { routing_key: b"content.\xff".to_vec(), ..event(&scene).into() };
    only_the_poison_becomes_a_dead_letter(scene, 30, poison).await;
}

/// The broker counts deliveries in a header of its own, which must fit into the same frame.
#[tokio::test]
async fn headers_that_outgrow_a_frame_when_redelivered_kill_their_message_only() {
    const FRAME: usize = 131_072;
    let site = Site::new().await.set("queue.delivery_limit", "30");
    let mut scene = Scene::at(site.set("sender.timeout", "60s").set("worker.lease", "10m")).await;
    // With this value, the key and the rest of the content header, a few bytes of the frame are free.
    let headers = Some(Table::default().long_string("large", vec![b'x'; FRAME - 60]));
    let large = RawMessage { headers, ..event(&scene).into() };
    scene.receiver.always(Reply::silence());
    scene.publish_raw(&large).await;
    scene.receiver.next().await;
    scene.worker.kill9();
    scene.worker.wait().await;
    scene.receiver = Receiver::start().await;
    scene.site.remove_headers(&scene.webhook).await;
    scene.site.json(&["webhooks", "update", &scene.webhook.id, "--url", &scene.receiver.url()]).await;
    scene.publish_good(100).await;
    scene.worker = scene.site.launch(&["worker"]).start();
    assert_only_the_poison_died(scene, 30, &large).await;
}

/// The message with the header by which the broker says that it has delivered it this many times before.
fn redelivered(message: Message, times: i64) -> Message {
    let mut headers = FieldTable::default();
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(times));
    message.with(|properties| properties.with_headers(headers))
}

#[tokio::test]
async fn isolating_a_message_leaves_none_of_those_taken_with_it_unsettled() {
    let mut scene = Scene::open().await;
    scene.worker.terminate();
    scene.worker.wait().await;
    scene.publish(&event(&scene)).await;
    scene.good.push("evt_poison".to_owned());
    let mut amqp = scene.site.own_amqp().await;
    for _ in 0..21 {
        amqp.give_back(scene.site.worker_queue()).await.unwrap();
    }
    drop(amqp);
    // More than fit between the consumer and the intake.
    scene.publish_good(490).await;
    scene.worker = scene.site.worker().await;
    assert!(scene.worker.log().contains(r#""isolated":true"#), "it was never isolated");
    scene.all_good_arrive().await;
    scene.worker.wait_for_log("messages are not taken one at a time any more").await;
    scene.worker.terminate();
    scene.worker.wait().await;
    // Messages that were never settled would have gone back.
    let worker_queue = scene.site.worker_queue().to_owned();
    assert_eq!(scene.site.queue_depth(&worker_queue).await, 0);
}

#[tokio::test]
async fn while_messages_are_taken_one_at_a_time_a_silent_receiver_delays_no_other() {
    let site = Site::new().await.set("queue.delivery_limit", "10");
    let mut scene = Scene::at(site.set("sender.timeout", "60s").set("worker.lease", "10m")).await;
    let never = Receiver::start().await;
    never.always(Reply::silence());
    scene.site.create_webhook("acc_slow", &never.url(), &[TYPE]).await;
    let poison = RawMessage { message_id: Some(b"evt\xff".to_vec()), ..event(&scene).into() };
    scene.worker.pause();
    scene.publish_raw(&poison).await;
    for _ in 0..10 {
        scene.site.publish("acc_slow", TYPE, json!({})).await;
        scene.publish_good(1).await;
    }
    scene.worker.resume();
    let address = scene.worker.logged("operations address", "address").await;
    let isolated = async || {
        let answer = http::get(&address, "/readyz").await;
        // Whether the database answers soon enough is another question.
        assert!(answer.text().contains("consumer: ready\n"), "{}", answer.text());
        let told = answer.text().contains("isolated: yes");
        (told, http::metric(&address, "isolated").await == 1.0)
    };
    wait_until("it says that it is isolated", async || isolated().await == (true, true)).await;
    scene.all_good_arrive().await;
    wait_until("isolation ends", async || isolated().await == (false, false)).await;
    assert_eq!(scene.site.wait_for_dead_letters(1).await[0].body, poison.body);
    scene.takes_the_next_event().await;
}

#[tokio::test]
async fn after_a_flapping_broker_messages_are_not_taken_one_at_a_time() {
    const TAKES: Duration = Duration::from_millis(250);
    let mut scene = Scene::at(Site::new().await.set("worker.prefetch", "30")).await;
    scene.receiver.always(Reply::status(200).after(TAKES));
    scene.worker.pause();
    let ids: Vec<String> = (0..300).map(|number| format!("evt_{number}")).collect();
    let messages = ids.iter().map(|id| redelivered(scene.site.message(valid(id).to_string()), 21));
    scene.site.own_amqp().await.publish_burst(messages).await.unwrap();
    scene.good.extend(ids);
    scene.worker.resume();
    let resumed = Instant::now();
    scene.all_good_arrive().await;
    assert!(resumed.elapsed() < 300 * TAKES * 2 / 3, "one after the other: {:?}", resumed.elapsed());
    assert!(!scene.worker.log().contains(r#""isolated":true"#), "it was isolated");
}

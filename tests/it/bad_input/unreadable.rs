//! Messages that the AMQP library cannot read: each kills the connection it comes on. The delivery limit makes a dead
//! letter of the culprit and of nothing else.

use super::{Scene, valid};
use crate::support::raw_amqp::RawAmqp;
use crate::support::replica::ATTACHED;
use crate::support::{Message, Receiver, Reply, Site, Table};

/// A scene whose worker gives a message up after so many deliveries.
async fn scene(delivery_limit: usize) -> Scene {
    Scene::at(Site::new().await.set("queue.delivery_limit", &delivery_limit.to_string())).await
}

/// Puts the poison among good events in one prefetch.
async fn only_the_culprit_dies(mut scene: Scene, limit: usize, poison: Message) {
    scene.worker.pause();
    scene.publish_good(50).await;
    scene.publish(&poison).await;
    scene.publish_good(50).await;
    scene.worker.resume();
    only_it_died(scene, limit, &poison).await;
}

/// Waits until the poison is gone and the good events have arrived.
async fn only_it_died(mut scene: Scene, limit: usize, poison: &Message) {
    for attached in (5..limit).step_by(5) {
        scene.worker.wait_for_log_times(ATTACHED, attached).await;
    }
    let letters = scene.site.wait_for_dead_letters(1).await;
    assert_eq!(letters.len(), 1, "neighbours died too: {letters:?}");
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
    let poison = Message { message_id: Some(b"evt\xff".to_vec()), ..event(&scene) };
    only_the_culprit_dies(scene, 30, poison).await;
}

#[tokio::test]
async fn the_usual_delivery_limit_spares_the_neighbours_too() {
    let scene = Scene::open().await;
    let poison = Message { message_id: Some(b"evt\xff".to_vec()), ..event(&scene) };
    only_the_culprit_dies(scene, 100, poison).await;
}

#[tokio::test]
async fn one_unreadable_message_among_a_thousand_good_ones_is_the_only_dead_letter() {
    let mut scene = scene(30).await;
    let poison = Message { message_id: Some(b"evt\xff".to_vec()), ..event(&scene) };
    scene.worker.pause();
    scene.publish_good(500).await;
    scene.publish(&poison).await;
    scene.publish_good(500).await;
    scene.worker.resume();
    only_it_died(scene, 30, &poison).await;
}

#[tokio::test]
async fn a_content_type_that_is_not_utf_8_kills_its_message_only() {
    let scene = scene(30).await;
    let poison = Message { content_type: Some(b"\xc3\x28".to_vec()), ..event(&scene) };
    only_the_culprit_dies(scene, 30, poison).await;
}

#[tokio::test]
async fn a_header_key_that_is_not_utf_8_kills_its_message_only() {
    let scene = scene(30).await;
    let headers = Some(Table::default().long_string(b"key\xff", "value"));
    let poison = Message { headers, ..event(&scene) };
    only_the_culprit_dies(scene, 30, poison).await;
}

#[tokio::test]
async fn a_routing_key_that_is_not_utf_8_kills_its_message_only() {
    let scene = scene(30).await;
    // Only with somebody else's binding does such a message reach us.
    let mut amqp = RawAmqp::connect(scene.site.amqp_url()).await.unwrap();
    amqp.bind(scene.site.worker_queue(), scene.site.events_exchange(), "#").await.unwrap();
    let poison = Message { routing_key: b"content.\xff".to_vec(), ..event(&scene) };
    only_the_culprit_dies(scene, 30, poison).await;
}

/// The broker counts deliveries in a header of its own, which must fit into the same frame.
#[tokio::test]
async fn headers_that_outgrow_a_frame_when_redelivered_kill_their_message_only() {
    const FRAME: usize = 131_072;
    let mut scene = scene(30).await;
    // With its frame, the content header around and the key, it leaves a few bytes.
    let headers = Some(Table::default().long_string("large", vec![b'x'; FRAME - 60]));
    let large = Message { headers, ..event(&scene) };
    scene.receiver.always(Reply::silence());
    scene.publish(&large).await;
    scene.receiver.next().await;
    scene.worker.kill9();
    scene.worker.wait().await;
    scene.receiver = Receiver::start().await;
    scene.site.json(&["webhooks", "update", &scene.webhook.id, "--url", &scene.receiver.url()]).await;
    scene.publish_good(100).await;
    scene.worker = scene.site.launch(&["worker"]).start();
    only_it_died(scene, 30, &large).await;
}

#[tokio::test]
async fn a_suspicious_message_strands_none_of_those_taken_with_it() {
    let mut scene = Scene::open().await;
    scene.worker.pause();
    let suspicious = Table::default().long_long("x-delivery-count", 21);
    scene.publish(&Message { headers: Some(suspicious), ..event(&scene) }).await;
    scene.good.push("evt_poison".to_owned());
    // More than fit between the consumer and the intake.
    scene.publish_good(490).await;
    scene.worker.resume();
    scene.all_good_arrive().await;
    scene.worker.wait_for_log("changing how many messages are taken at a time").await;
    scene.worker.terminate();
    scene.worker.wait().await;
    // What was stranded would have gone back.
    let worker_queue = scene.site.worker_queue().to_owned();
    assert_eq!(scene.site.queue_depth(&worker_queue).await, 0);
}

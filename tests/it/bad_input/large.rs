//! A body at the size limit arrives; one over it becomes a dead letter, and its memory is given back.

use super::{Bad, MARKER, Scene, event_with_data};
use crate::support::raw_amqp::RawAmqp;
use crate::support::{Fate, PATIENCE, wait_until, within};

const LIMIT: usize = 256 * 1024;
const MIB: usize = 1024 * 1024;

/// An event of exactly this many bytes, valid but for its size.
fn event_of(bytes: usize) -> String {
    let around = event_with_data("evt_large", "\"\"").len();
    let text = MARKER.repeat(bytes / MARKER.len() + 1);
    event_with_data("evt_large", &format!("\"{}\"", &text[..bytes - around]))
}

/// Publishes the largest body that the broker accepts by default: 128 MiB, since RabbitMQ 4.0 16 MiB.
/// The raw client publishes it, since an unoptimised lapin takes seconds to cut so many bytes into frames.
async fn publish_the_largest(scene: &Scene) -> String {
    for size in [128 * MIB, 16 * MIB] {
        let body = event_of(size);
        let mut amqp = RawAmqp::connect(scene.site.amqp_url()).await.unwrap();
        let message = scene.site.message(&body).into();
        match within("the broker confirms", PATIENCE, amqp.publish(&message)).await {
            Ok(fate) => {
                assert_eq!(fate, Fate::Confirmed, "no queue took the message");
                return body;
            }
            Err(refusal) => assert!(refusal.to_string().contains("larger than configured max size"), "{refusal}"),
        }
    }
    panic!("the broker takes neither");
}

#[tokio::test]
async fn an_event_as_large_as_allowed_arrives() {
    let mut scene = Scene::open().await;
    let largest = event_of(LIMIT);
    scene.publish(&scene.site.message(&largest)).await;
    scene.good.push("evt_large".to_owned());
    scene.all_good_arrive().await;
    assert!(scene.receiver.requests()[0].verify(&scene.webhook.secret).is_genuine());
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_body_over_the_limit_becomes_a_dead_letter() {
    let scene = Scene::open().await;
    let bodies = [event_of(LIMIT + 1), event_of(MIB), event_of(8 * MIB), " ".repeat(LIMIT + 1)];
    let bad = bodies.map(|body| Bad { message: scene.site.message(body).into(), reason: "too_large" });
    scene.only_these_become_dead_letters(bad.into()).await;
}

#[tokio::test]
async fn memory_is_back_at_its_level_after_the_largest_body_that_a_broker_takes() {
    let mut scene = Scene::open().await;
    scene.publish_good(100).await;
    scene.all_good_arrive().await;
    let before = scene.worker.memory_kib();
    let body = publish_the_largest(&scene).await;
    scene.publish_good(100).await;
    scene.all_good_arrive().await;
    let letters = scene.site.wait_for_dead_letters(1).await;
    assert!(letters.iter().map(|letter| &letter.body).eq([body.as_bytes()]), "not the dead letter");
    wait_until("memory is back at its level", async || scene.worker.memory_kib() < before + 48 * 1024).await;
    scene.ends_unharmed().await;
}

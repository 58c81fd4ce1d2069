//! What Python's libraries publish with their ordinary options arrives, or becomes a dead letter whose reason says what to change.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use super::Scene;
use crate::support::wait_until;

/// Where the events go.
const PATH: &str = "/libraries";

/// A message that the script published.
#[derive(Debug, Deserialize)]
struct Published {
    id: String,
    /// `sent`, or the reason of a dead letter.
    fate: String,
    data: Value,
}

#[tokio::test]
async fn what_python_libraries_publish_arrives_or_is_listed_with_its_reason() {
    let mut scene = Scene::open().await;
    scene.site.create_webhook("acc_42", &scene.receiver.url_at(PATH), &["content.published"]).await;
    scene.publish_good(50).await;
    let published = publish(&scene).await;
    scene.publish_good(50).await;
    let (sent, dead): (Vec<_>, Vec<_>) = published.iter().partition(|message| message.fate == "sent");
    assert!(sent.len() > 5 && dead.len() > 5, "{published:?}");
    scene.good.extend(sent.iter().map(|message| message.id.clone()));
    scene.all_good_arrive().await;
    let requests = scene.receiver.requests_at(PATH);
    for message in sent {
        let request = requests.iter().find(|request| request.event_id() == message.id).expect("it arrived");
        assert_eq!(request.json()["data"], message.data, "{}", message.id);
        let time = request.json()["timestamp"].as_str().expect("it is a text").to_owned();
        assert!(time.starts_with("20") && time.ends_with('Z') && time.contains('T'), "{}: {time}", message.id);
    }
    let queue = scene.site.dead_queue();
    wait_until("all dead letters are there", async || scene.site.queue_depth(queue).await as usize == dead.len()).await;
    let list = scene.site.json(&["dead-letters", "list"]).await;
    let listed = list["data"].as_array().expect("it is a list");
    for message in &dead {
        let letter = listed.iter().find(|letter| letter["id"] == message.id.as_str());
        let letter = letter.unwrap_or_else(|| panic!("{} is not listed: {list}", message.id));
        assert_eq!(letter["reason"], message.fate.as_str(), "{letter}");
    }
    scene.site.wait_for_dead_letters(dead.len()).await;
    scene.ends_unharmed().await;
}

async fn publish(scene: &Scene) -> Vec<Published> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python-publishers");
    let mut command = Command::new(script);
    command.arg(scene.site.events_exchange()).env("AMQP_URL", scene.site.amqp_url()).kill_on_drop(true);
    let output = command.output().await.expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("it is text");
    lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

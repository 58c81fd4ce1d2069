//! Events that no queue took are listed, requeued and discarded like dead letters; their queue is bounded, and nobody has to
//! have it. How they come there is shown by `doctor::unrouted`, with a policy of the broker.

use std::collections::BTreeSet;

use serde_json::json;

use super::{ACCOUNT, MARKER, NEW_TYPE, TYPE, assert_fails, end, extended, site};
use crate::support::*;

impl Site {
    /// Publishes a message as the broker does when no queue takes its routing key and a policy names our exchange.
    async fn publish_unrouted(&self, message: Message) {
        let message = Message { exchange: self.unrouted_exchange().to_owned(), ..message };
        assert_eq!(self.publish_message(&message).await, Fate::Confirmed);
    }

    async fn unrouted(&self) -> u32 {
        self.queue_depth(self.unrouted_queue()).await
    }
}

#[tokio::test]
async fn unrouted_events_are_listed_with_the_dead_letters_and_say_what_to_do() {
    let site = site().await;
    site.bury_unknown("evt_dead").await;
    site.publish_unrouted(site.event("evt_new", ACCOUNT, NEW_TYPE, &json!(MARKER))).await;
    let misrouted = Message { routing_key: "events".into(), ..site.event("evt_key", ACCOUNT, TYPE, &json!(MARKER)) };
    site.publish_unrouted(misrouted.with(|properties| properties.with_timestamp(1_790_000_000))).await;
    site.publish_unrouted(site.event("evt_late", ACCOUNT, TYPE, &json!(MARKER))).await;
    site.publish_unrouted(site.message("no").with_id("msg_1")).await;
    let rows = site.listed().await;
    let row = |id: &str| rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no {id} in {rows:?}"));
    let expected = [
        ("evt_dead", site.dead_queue(), "unknown_type", "not in the catalogue"),
        ("evt_new", site.unrouted_queue(), "unknown_type", "no queue takes its routing key \"content.archived\": "),
        (
            "evt_key",
            site.unrouted_queue(),
            "unknown_type",
            "routing key \"events\", which is not its type content.published",
        ),
        ("evt_late", site.unrouted_queue(), "unknown_type", "its type is in the catalogue now: requeue it"),
        ("msg_1", site.unrouted_queue(), "not_json", "not valid JSON"),
    ];
    assert_eq!(rows.len(), expected.len(), "{rows:?}");
    for (id, queue, reason, words) in expected {
        let row = row(id);
        assert_eq!([&row["queue"], &row["reason"]], [queue, reason], "{row}");
        assert!(row["detail"].as_str().unwrap().contains(words), "{row}");
    }
    // The time at which its publisher says that it was published, and which the others do not tell.
    assert_eq!([&rows[0]["id"], &rows[0]["time"]], ["evt_key", "2026-09-21T14:13:20Z"]);
    assert!(rows[1..].iter().all(|row| row["time"].is_null()), "{rows:?}");
    let table = site.dead(&["list"]).await.stdout;
    assert!(
        table.contains(site.unrouted_queue()) && table.ends_with("\n5 dead letters and unrouted events\n"),
        "{table}"
    );
    // Looking has lost none.
    assert_eq!(site.listed().await, rows);
    assert_eq!(site.unrouted().await, 4);
}

/// Most publishers do not say when they published: such events would come last, behind all dead letters.
#[tokio::test]
async fn many_dead_letters_hide_no_unrouted_event() {
    let site = site().await;
    for number in 0..3 {
        site.bury_unknown(&format!("evt_dead_{number}")).await;
    }
    site.publish_unrouted(site.event("evt_new", ACCOUNT, NEW_TYPE, &json!(MARKER))).await;
    let listed = site.json(&["dead-letters", "list", "--limit", "1"]).await;
    let ids: Vec<_> = listed["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert!(ids.len() == 2 && ids[0].starts_with("evt_dead_") && ids[1] == "evt_new", "{listed}");
    assert_eq!([&listed["total"], &listed["hidden"]], [4, 2]);
}

#[tokio::test]
async fn an_unrouted_event_whose_type_was_added_to_the_catalogue_is_delivered_after_a_requeue() {
    let site = site().await;
    let event = site.event("evt_new", ACCOUNT, NEW_TYPE, &json!(MARKER));
    site.publish_unrouted(event.with_header("traceparent", "00-1")).await;
    let receiver = Receiver::start().await;
    let worker = extended(&site).start_worker().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let subscribe = format!("UPDATE webhooks SET event_types = ARRAY['{NEW_TYPE}'] WHERE id::text = '{}'", webhook.id);
    site.sql().await.batch_execute(&subscribe).await.unwrap();
    assert_eq!(site.json(&["dead-letters", "requeue", "--reason", "unknown_type"]).await, json!({"requeued": 1}));
    let request = receiver.next().await;
    assert_eq!((request.event_id(), &request.json()["data"]), ("evt_new", &json!(MARKER)));
    assert_eq!(site.unrouted().await, 0);
    end(worker).await;
}

#[tokio::test]
async fn an_event_with_a_wrong_routing_key_is_delivered_after_a_requeue_and_one_that_is_still_none_becomes_a_dead_letter()
 {
    let site = site().await;
    let receiver = Receiver::start().await;
    let worker = site.worker().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let misrouted = Message { routing_key: "events".into(), ..site.event("evt_key", ACCOUNT, TYPE, &json!(MARKER)) };
    site.publish_unrouted(misrouted).await;
    site.publish_unrouted(site.event("evt_new", ACCOUNT, NEW_TYPE, &json!(MARKER))).await;
    assert_eq!(site.json(&["dead-letters", "requeue", "--all"]).await, json!({"requeued": 2}));
    assert_eq!(receiver.next().await.event_id(), "evt_key");
    site.wait_for_dead(1).await;
    let rows = site.listed().await;
    assert_eq!([&rows[0]["id"], &rows[0]["queue"]], [&json!("evt_new"), &json!(site.dead_queue())]);
    assert_eq!((rows.len(), site.unrouted().await), (1, 0));
    end(worker).await;
}

#[tokio::test]
async fn discard_removes_the_one_it_is_told_from_either_queue() {
    let site = site().await;
    site.bury_unknown("evt_1").await;
    site.publish_unrouted(site.event("evt_2", ACCOUNT, NEW_TYPE, &json!(MARKER))).await;
    site.publish_unrouted(site.event("evt_3", ACCOUNT, NEW_TYPE, &json!(MARKER))).await;
    assert_eq!(site.json(&["dead-letters", "discard", "evt_2"]).await, json!({"discarded": 1}));
    assert_eq!(site.json(&["dead-letters", "discard", "evt_1"]).await, json!({"discarded": 1}));
    assert_eq!(site.ids().await, ["evt_3"]);
    assert_fails(&site.dead(&["discard", "evt_2"]).await, "there is no dead letter evt_2");
}

#[tokio::test]
async fn a_full_queue_of_unrouted_events_drops_the_oldest_and_refuses_no_publish() {
    let site = Site::new().await.set("queue.unrouted_max_bytes", "4096");
    end(site.worker().await).await;
    let ids: Vec<String> = (0..20).map(|number| format!("evt_{number:02}")).collect();
    for id in &ids {
        site.publish_unrouted(site.event(id, ACCOUNT, NEW_TYPE, &json!("x".repeat(900)))).await;
    }
    // A quorum queue drops after its confirm.
    wait_until("it has dropped what is too much", async || site.unrouted().await <= 4).await;
    let kept: BTreeSet<String> = site.ids().await.into_iter().collect();
    let newest: BTreeSet<String> = ids.into_iter().rev().take(kept.len()).collect();
    assert!(kept == newest && kept.len() >= 3, "{kept:?}");
}

#[tokio::test]
async fn without_the_queue_of_unrouted_events_the_dead_letters_are_listed_and_requeued_all_the_same() {
    let site = site().await;
    site.bury_unknown("evt_1").await;
    site.own_amqp().await.delete_queue(site.unrouted_queue()).await.unwrap();
    let listed = site.dead(&["list", "--json"]).await;
    let lines: Vec<&str> = listed.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    let expected = format!(
        "note: unrouted events are not looked at: the queue {} does not exist: a worker declares it when it starts",
        site.unrouted_queue()
    );
    assert!(lines == [expected] && listed.code == 0 && listed.stdout.contains("evt_1"), "{listed:?}");
    let requeued = site.dead(&["requeue", "--all"]).await;
    assert!(requeued.code == 0 && requeued.stdout.contains("requeued 1 dead letter"), "{requeued:?}");
}

#[tokio::test]
async fn what_keeps_unrouted_events_is_declared_again_and_no_consumer_notices() {
    let site = Site::new().await;
    let mut worker = site.worker().await;
    let mut amqp = site.own_amqp().await;
    amqp.delete_queue(site.unrouted_queue()).await.unwrap();
    amqp.delete_exchange(site.unrouted_exchange()).await.unwrap();
    worker.wait_for_log("was deleted at the broker; declaring it again").await;
    let event = site.event("evt_1", ACCOUNT, NEW_TYPE, &json!(MARKER));
    let event = Message { exchange: site.unrouted_exchange().to_owned(), ..event };
    // On a connection for each try: the broker closes the channel of a publish to an exchange that does not exist.
    wait_until("it is declared and bound", async || {
        matches!(site.own_amqp().await.publish(&event).await, Ok(Fate::Confirmed))
    })
    .await;
    assert_eq!(worker.log().matches(replica::ATTACHED).count(), 1);
    assert!(worker.metric("consumer_losses_total").await == 0.0 && worker.is_ready().await);
}

//! The list of dead letters says what to do about each.

use serde_json::json;

use super::{ACCOUNT, MARKER, NEW_TYPE, TYPE, end, grown_catalogue, site};
use crate::support::*;

#[tokio::test]
async fn an_event_that_expired_becomes_a_dead_letter_that_says_so_and_can_be_requeued() {
    let site = site().await;
    let event = site.event("evt_late", ACCOUNT, TYPE, &json!(MARKER));
    let event = event.with(|properties| properties.with_expiration("1".into()));
    assert_eq!(site.publish_message(&event).await, Fate::Confirmed);
    site.wait_for_dead(1).await;
    let rows = site.listed().await;
    assert_eq!([&rows[0]["id"], &rows[0]["reason"]], ["evt_late", "expired"]);
    assert!(rows[0]["detail"].as_str().unwrap().contains("`expiration`"), "{rows:?}");
    let receiver = Receiver::start().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    assert_eq!(site.json(&["dead-letters", "requeue", "--all"]).await, json!({"requeued": 1}));
    assert_eq!(receiver.next().await.event_id(), "evt_late");
    end(worker).await;
}

#[tokio::test]
async fn below_the_table_stands_for_each_kind_of_letter_what_is_wrong_and_what_to_do() {
    let site = Site::new().await;
    let worker = site.worker().await;
    let unknown = site.event("evt_new", ACCOUNT, NEW_TYPE, &json!(MARKER)).into_queue(site.worker_queue());
    assert_eq!(site.publish_message(&unknown).await, Fate::Confirmed);
    site.wait_for_dead(1).await;
    end(worker).await;
    for (id, body) in [("msg_1", "{\"a\""), ("msg_2", "no"), ("msg_3", "")] {
        site.bury(site.message(body).with_id(id)).await;
    }
    let below = async |site: &Site| -> Vec<String> {
        let shown = site.dead(&["list"]).await.stdout;
        let below = shown.split_once("\n\n").unwrap_or_else(|| panic!("no blank line below the table: {shown}")).1;
        below.lines().map(str::to_owned).collect()
    };
    let not_json =
        "not_json (msg_1 and 1 more): the body is not valid JSON (line 1, column 4): have a JSON library write it";
    let empty = "empty (msg_3): the body is empty: publish the event in it, a JSON object";
    let unknown = "unknown_type (evt_new): the event type is not in the catalogue: correct `type`, or add it to the settings \
                   if it is new (it is `content.archived`; did you mean `content.created`?)";
    let told = [not_json, unknown, empty, "4 dead letters"];
    assert_eq!(below(&site).await, told);
    let file = grown_catalogue(&site);
    let site = site.env("PENR_WEBHOOKS_CONFIG", &file);
    let rejected = "rejected (evt_new): a worker refused it, and the settings here accept it: requeue it when all workers \
                    have them";
    let told = [not_json, rejected, empty, "4 dead letters"];
    assert_eq!(below(&site).await, told);
}

//! Dead letters whose properties the AMQP library cannot read are listed and discarded like others, wherever they stand in the
//! queue.

use serde_json::json;

use super::{ACCOUNT, MARKER, TYPE, assert_fails, site};
use crate::support::*;

/// The reason that the list shows.
const REASON: &str = "unreadable";

impl Site {
    /// Publishes an event whose message id is not UTF-8 straight into the dead queue.
    async fn bury_unreadable(&self, id: &str) {
        let message = self.event(id, ACCOUNT, TYPE, &json!(MARKER));
        self.bury_raw(RawMessage { message_id: Some(b"evt\xff".to_vec()), ..message.into() }).await;
    }

    /// Publishes a message straight into the dead queue.
    pub(super) async fn bury_raw(&self, message: RawMessage) {
        let message = RawMessage { exchange: String::new(), routing_key: self.dead_queue().into(), ..message };
        assert_eq!(self.publish_raw(&message).await, Fate::Confirmed);
    }
}

#[tokio::test]
async fn unreadable_letters_are_listed_among_the_others_and_not_requeued() {
    let site = site().await;
    for id in ["evt_1", "evt_3"] {
        site.bury_unknown(id).await;
    }
    site.bury_unreadable("evt_2").await;
    site.bury_unknown("evt_4").await;
    let list = site.json(&["dead-letters", "list"]).await;
    assert_eq!((&list["total"], &list["hidden"]), (&json!(4), &json!(0)));
    assert_eq!(site.ids().await, ["evt_1", "evt_2", "evt_3", "evt_4"]);
    assert_eq!([&list["data"][1]["reason"], &list["data"][1]["type"]], [REASON, TYPE]);
    let table = site.dead(&["list"]).await;
    assert_eq!(table.code, 0);
    assert!(table.stdout.contains(REASON) && table.stderr.contains("discard --unreadable"), "{table:?}");
    assert_fails(&site.dead(&["requeue", "evt_2"]).await, "discard --unreadable");
    let requeued = site.dead(&["requeue", "--all", "--json"]).await;
    assert_fails(&requeued, "discard --unreadable");
    assert_eq!(requeued.stdout, "{\"requeued\":3}\n");
    assert_eq!(site.ids().await, ["evt_2"]);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 3);
}

/// With more than eight letters: from nine on, the broker put them back in another order.
#[tokio::test]
async fn unreadable_letters_are_found_among_any_number_of_others() {
    let site = site().await;
    for round in 0..2 {
        for number in 0..12 {
            site.bury_unknown(&format!("evt_{round}_{number:02}")).await;
        }
        site.bury_unreadable(&format!("evt_{round}_poison")).await;
    }
    site.bury_unknown("evt_last").await;
    let rows = site.listed().await;
    assert_eq!(rows.len(), 27);
    for _ in 0..2 {
        assert_eq!(site.listed().await, rows);
    }
    assert_eq!(site.json(&["dead-letters", "discard", "evt_0_03"]).await, json!({"discarded": 1}));
    assert_eq!(site.discard_unreadable().await, json!({"discarded": 1}));
    assert_eq!(site.discard_unreadable().await, json!({"discarded": 1}));
    assert_fails(&site.dead(&["discard", "--unreadable"]).await, "there is no dead letter that cannot be read");
    let ids = site.ids().await;
    assert!(ids.len() == 24 && ids.iter().all(|id| !id.contains("poison")), "{ids:?}");
}

/// Three are discarded by their ids, the fourth as unreadable.
#[tokio::test]
async fn whatever_cannot_be_read_about_a_message_is_listed_and_removed() {
    const FRAME: usize = 131_072;
    let site = site().await;
    let header_key = Some(Table::default().long_string(b"key\xff", "value"));
    let event = |id| RawMessage::from(site.event(id, ACCOUNT, TYPE, &json!(MARKER)));
    site.bury_raw(RawMessage { headers: header_key, ..event("evt_key") }).await;
    site.bury_raw(RawMessage { content_type: Some(b"\xc3\x28".to_vec()), ..site.message("").into() }).await;
    let (exchange, routing_key) = (site.dead_exchange().into(), b"content.\xff".to_vec());
    let routed = RawMessage { exchange, routing_key, ..event("evt_routing") };
    assert_eq!(site.publish_raw(&routed).await, Fate::Confirmed);
    // Once the broker has counted a return, the headers of this one do not fit into their frame any more.
    let large = Some(Table::default().long_string("large", vec![b'x'; FRAME - 60]));
    site.bury_raw(RawMessage { headers: large, ..event("evt_large") }).await;
    for _ in 0..3 {
        assert_eq!(site.ids().await.len(), 4);
    }
    for id in ["evt_key", "evt_routing", "evt_large"] {
        assert_eq!(site.json(&["dead-letters", "discard", id]).await, json!({"discarded": 1}), "{id}");
    }
    assert_eq!(site.discard_unreadable().await, json!({"discarded": 1}));
    assert!(site.listed().await.is_empty());
}

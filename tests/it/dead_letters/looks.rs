//! A look at dead letters costs none its life, although the broker counts how often each was given back.

use serde_json::json;
use url::Url;

use super::{ACCOUNT, MARKER, NEW_TYPE, TYPE, assert_fails, end};
use crate::support::*;

/// A site whose dead queue has a limit that the command line does not know of, as with an operator's policy.
async fn site_with_limit(limit: u32) -> Site {
    let site = Site::new().await.set("queue.dead_delivery_limit", &limit.to_string());
    let worker = site.worker().await;
    // This one dies, the others are put there.
    let unknown = site.event("evt_dead", ACCOUNT, NEW_TYPE, &json!(MARKER));
    let unknown = Message { exchange: String::new(), routing_key: site.worker_queue().into(), ..unknown };
    assert_eq!(site.publish_raw(&unknown).await, Fate::Confirmed);
    site.wait_for_dead(1).await;
    end(worker).await;
    site.set("queue.dead_delivery_limit", "1000000")
}

#[tokio::test]
async fn the_lowest_delivery_limit_that_nobody_told_us_removes_nothing() {
    let site = site_with_limit(1).await;
    let message = site.message(MARKER);
    let named = |id: &[u8]| Message { message_id: Some(id.to_vec()), ..message.clone() };
    site.bury(named(b"msg_1")).await;
    site.bury(named(b"msg_\xff")).await;
    let rows = site.listed().await;
    assert_eq!([&rows[0]["id"], &rows[0]["reason"], &rows[0]["type"]], ["evt_dead", "unknown_type", NEW_TYPE]);
    assert!(rows[0]["time"].is_string() && rows.len() == 3, "{rows:?}");
    for _ in 0..2 {
        assert_eq!(site.listed().await, rows);
        assert_eq!(site.dead(&["discard", "nobody"]).await.code, 1);
        assert_eq!(site.dead(&["requeue", "--reason", "too_deep"]).await.code, 1);
    }
    assert_eq!(site.discard_unreadable().await, json!({"discarded": 1}));
    // What was written anew is still what it was.
    assert_eq!(site.json(&["dead-letters", "requeue", "evt_dead"]).await, json!({"requeued": 1}));
    let mut amqp = raw_amqp::RawAmqp::connect(site.amqp_url()).await.unwrap();
    let taken = amqp.take(site.worker_queue()).await.unwrap().expect("it is in the worker queue");
    assert!(!format!("{:?}", taken.content.headers).contains("death"), "{:?}", taken.content.headers);
    assert_eq!(site.ids().await, ["msg_1"]);
}

/// RabbitMQ takes 32 removals in a row from a channel.
#[tokio::test]
async fn many_are_written_anew_and_none_twice() {
    let site = site_with_limit(2).await;
    let message = |number: usize| {
        let named = Message { message_id: Some(format!("msg_{number:03}").into()), ..site.message(MARKER) };
        Message { exchange: String::new(), routing_key: site.dead_queue().into(), ..named }
    };
    let mut amqp = raw_amqp::RawAmqp::connect(site.amqp_url()).await.unwrap();
    amqp.publish_burst((0..100).map(message)).await.unwrap();
    let rows = site.listed().await;
    assert_eq!(rows.len(), 101);
    for _ in 0..3 {
        assert_eq!(site.listed().await, rows);
    }
    assert_eq!(site.queue_depth(site.dead_queue()).await, 101);
}

const PASSWORD: &str = "hunter2";

/// From RabbitMQ 4.3 on they do not.
async fn servers_count_looks(servers: &PrivateServers) -> bool {
    let version = servers.ctl(&["version"]).await;
    let numbers: Vec<u32> = version.trim().split('.').map_while(|number| number.parse().ok()).collect();
    numbers.as_slice() < &[4, 3]
}

#[tokio::test]
async fn under_a_real_policy_and_without_the_right_to_write_anew_reading_stops_before_the_limit() {
    let servers = PrivateServers::start().await;
    servers.ctl(&["set_policy", "low", ".*", r#"{"delivery-limit":3}"#, "--apply-to", "queues"]).await;
    servers.ctl(&["add_user", "narrow", PASSWORD]).await;
    servers.ctl(&["set_permissions", "narrow", "^penr", "^penr", "^penr"]).await;
    let site = Site::on(&servers).await;
    end(site.worker().await).await;
    for number in 0..5 {
        site.bury(site.event(&format!("evt_{number}"), ACCOUNT, TYPE, &json!(MARKER))).await;
    }
    for _ in 0..8 {
        assert_eq!(site.ids().await.len(), 5);
    }
    let mut url = Url::parse(site.amqp_url()).unwrap();
    url.set_username("narrow").unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    let admin_url = site.amqp_url().to_owned();
    let narrow = site.env("AMQP_URL", url.as_str()).set("queue.dead_delivery_limit", "3");
    // The first look is free.
    assert_eq!(narrow.dead(&["list"]).await.code, 0);
    for _ in 0..2 {
        let stopped = narrow.dead(&["list"]).await;
        if stopped.code == 0 && !servers_count_looks(&servers).await {
            assert_eq!(narrow.ids().await.len(), 5);
            return;
        }
        assert_fails(&stopped, "stopped reading");
        assert!(stopped.stderr.contains(r"amq\.default"), "{}", stopped.stderr);
    }
    let told_nothing = narrow.set("queue.dead_delivery_limit", "1000000");
    let noted = told_nothing.dead(&["list"]).await;
    assert!(noted.code == 0 && noted.stderr.contains("note: the broker counts this look"), "{noted:?}");
    let site = told_nothing.env("AMQP_URL", &admin_url);
    assert_eq!(site.ids().await.len(), 5);
}

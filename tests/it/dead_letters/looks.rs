//! Reading dead letters loses none, although the broker counts how often each was put back and drops it beyond a limit.

use std::collections::BTreeSet;

use serde_json::json;

use super::{ACCOUNT, MARKER, NEW_TYPE, TYPE, assert_fails, end};
use crate::support::*;

/// A site whose dead queue has a delivery limit that the commands do not know, as with a policy of the broker's operator.
async fn site_with_limit(limit: u32) -> Site {
    let site = Site::new().await.set("queue.dead_delivery_limit", &limit.to_string());
    let worker = site.worker().await;
    // A real dead letter; the tests publish others straight into the dead queue.
    let unknown = site.event("evt_dead", ACCOUNT, NEW_TYPE, &json!(MARKER));
    assert_eq!(site.publish_message(&unknown.into_queue(site.worker_queue())).await, Fate::Confirmed);
    site.wait_for_dead(1).await;
    end(worker).await;
    site.set("queue.dead_delivery_limit", "1000000")
}

#[tokio::test]
async fn a_delivery_limit_of_one_that_the_commands_do_not_know_removes_no_letter() {
    let site = site_with_limit(1).await;
    site.bury(site.message(MARKER).with_id("msg_1")).await;
    site.bury_raw(RawMessage { message_id: Some(b"msg_\xff".to_vec()), ..site.message(MARKER).into() }).await;
    let rows = site.listed().await;
    assert_eq!([&rows[0]["id"], &rows[0]["reason"], &rows[0]["type"]], ["evt_dead", "unknown_type", NEW_TYPE]);
    assert!(rows[0]["time"].is_string() && rows.len() == 3, "{rows:?}");
    for _ in 0..2 {
        assert_eq!(site.listed().await, rows);
        assert_eq!(site.dead(&["discard", "nobody"]).await.code, 1);
        assert_eq!(site.dead(&["requeue", "--reason", "too_deep"]).await.code, 1);
    }
    assert_eq!(site.discard_unreadable().await, json!({"discarded": 1}));
    // A rewritten letter can be requeued like any other.
    assert_eq!(site.json(&["dead-letters", "requeue", "evt_dead"]).await, json!({"requeued": 1}));
    let taken = site.own_amqp().await.take(site.worker_queue()).await.unwrap().expect("it is in the worker queue");
    assert!(!format!("{:?}", taken.headers()).contains("death"), "{:?}", taken.headers());
    assert_eq!(site.ids().await, ["msg_1"]);
}

/// More letters than the 32 removals that RabbitMQ passes on from a channel at once.
#[tokio::test]
async fn many_letters_are_written_anew_and_none_twice() {
    let site = site_with_limit(2).await;
    let message =
        |number: usize| site.message(MARKER).with_id(&format!("msg_{number:03}")).into_queue(site.dead_queue());
    site.own_amqp().await.publish_burst((0..100).map(message)).await.unwrap();
    let rows = site.listed().await;
    assert_eq!(rows.len(), 101);
    for _ in 0..3 {
        assert_eq!(site.listed().await, rows);
    }
    assert_eq!(site.queue_depth(site.dead_queue()).await, 101);
}

/// RabbitMQ 4 delivers messages with a priority of 5 or more first, and so the copies that we have just published.
#[tokio::test]
async fn what_is_written_anew_is_not_read_once_more_in_place_of_another() {
    let site = site_with_limit(2).await;
    let event = |id: &str, number: u32| site.event(&format!("evt_{id}_{number}"), ACCOUNT, TYPE, &json!(MARKER));
    for number in 0..3 {
        site.bury(event("first", number).with(|properties| properties.with_priority(9))).await;
    }
    assert_eq!(site.ids().await.len(), 4);
    for number in 0..3 {
        site.bury(event("later", number)).await;
    }
    let ids: BTreeSet<String> = site.ids().await.into_iter().collect();
    assert_eq!(ids.len(), 7, "{ids:?}");
}

/// Whether the broker counts a read as a return: not from RabbitMQ 4.3 on.
async fn servers_count_looks(servers: &PrivateServers) -> bool {
    let version = servers.ctl(&["eval", "io:format(rabbit_misc:version())."]).await;
    let numbers: Vec<u32> = version.trim().split('.').map_while(|number| number.parse().ok()).collect();
    numbers.as_slice() < &[4, 3]
}

/// Under a policy that the commands do not know. One test for all cases, since a private broker takes seconds to start.
#[tokio::test]
async fn under_a_real_policy_looks_cost_only_what_cannot_be_written_anew() {
    let servers = PrivateServers::broker().await;
    servers.ctl(&["set_policy", "low", ".*", r#"{"delivery-limit":3}"#, "--apply-to", "queues"]).await;
    servers.let_users(&[["narrow", "^penr", "^penr", "^penr"]]).await;
    let looks_count = servers_count_looks(&servers).await;
    let site = Site::on(&servers).await;
    end(site.worker().await).await;
    let (admin, narrow) = (site.amqp_url().to_owned(), site.amqp_url_of("narrow"));
    site.bury(site.event("evt_0", ACCOUNT, TYPE, &json!(MARKER))).await;
    let site = without_the_right_to_write_anew_nothing_is_read(site.env("AMQP_URL", &narrow), looks_count).await;
    let site = site.env("AMQP_URL", &admin);
    for number in 1..5 {
        site.bury(site.event(&format!("evt_{number}"), ACCOUNT, TYPE, &json!(MARKER))).await;
    }
    for _ in 0..5 {
        assert_eq!(site.ids().await.len(), 5);
    }
    let site = a_letter_that_is_too_large_costs_no_other_letter(site, &servers, looks_count).await;
    a_letter_whose_properties_are_too_large_is_named_in_a_note(site, looks_count).await;
}

/// With a single letter, which each command would read and put back.
async fn without_the_right_to_write_anew_nothing_is_read(site: Site, looks_count: bool) -> Site {
    let site = site.set("queue.dead_delivery_limit", "3");
    for command in [&["list"][..], &["discard", "nobody"]].repeat(3) {
        let stopped = site.dead(command).await;
        assert_fails(&stopped, "stopped reading");
        assert!(stopped.stderr.contains(r"amq\.default") && stopped.stdout.is_empty(), "{stopped:?}");
    }
    let unaware = site.set("queue.dead_delivery_limit", "1000000");
    for noted in [false, looks_count] {
        let listed = unaware.dead(&["list"]).await;
        assert!(listed.code == 0 && listed.stdout.contains("evt_0"), "{listed:?}");
        assert_eq!(listed.stderr.contains("note: the broker counts this look"), noted, "{listed:?}");
    }
    unaware
}

/// The broker's operator has lowered `max_message_size`.
async fn a_letter_that_is_too_large_costs_no_other_letter(
    site: Site,
    servers: &PrivateServers,
    looks_count: bool,
) -> Site {
    let large = |id: &str| site.event(id, ACCOUNT, TYPE, &json!("x".repeat(3000)));
    site.bury(large("evt_large")).await;
    site.bury(large("evt_larger")).await;
    // RabbitMQ 3 reads the first setting, RabbitMQ 4 the second.
    let lower = "application:set_env(rabbit, max_message_size, 2000), persistent_term:put(max_message_size, 2000).";
    servers.ctl(&["eval", lower]).await;
    assert_eq!(site.ids().await.len(), 7);
    let site = site.set("queue.dead_delivery_limit", "3");
    let told = site.dead(&["list"]).await;
    assert!(told.stdout.contains("evt_4") && told.stdout.contains("evt_larger"), "{told:?}");
    assert_eq!(told.code, i32::from(looks_count), "{told:?}");
    assert_eq!(told.stderr.contains("raise its max_message_size, or discard the letter"), looks_count, "{told:?}");
    for id in ["evt_larger", "evt_large"] {
        let discarded = site.dead(&["discard", id]).await;
        assert_eq!(discarded.stdout, "discarded 1 dead letter\n", "{discarded:?}");
    }
    assert_eq!(site.ids().await.len(), 5);
    site
}

/// The properties of each letter here fit into their frame, but not with the headers that we or the broker add.
async fn a_letter_whose_properties_are_too_large_is_named_in_a_note(site: Site, looks_count: bool) {
    let site = site.set("queue.dead_delivery_limit", "1000000");
    for (id, room) in [("evt_full", 200), ("evt_cut", 60)] {
        let large = Some(Table::default().long_string("large", vec![b'x'; 131_072 - room]));
        site.bury_raw(RawMessage { headers: large, ..site.event(id, ACCOUNT, TYPE, &json!(MARKER)).into() }).await;
        for _ in 0..2 {
            assert_eq!(site.ids().await.len(), 6);
        }
        let noted = site.dead(&["list"]).await;
        assert!(noted.code == 0 && noted.stdout.contains(id) && noted.stdout.contains("evt_4"), "{noted:?}");
        assert_eq!(noted.stderr.contains("note: the broker counts this look"), looks_count, "{noted:?}");
        assert_eq!(noted.stderr.contains("its properties are too large for that: discard"), looks_count, "{noted:?}");
        let discarded = site.dead(&["discard", id]).await;
        assert_eq!(discarded.stdout, "discarded 1 dead letter\n", "{discarded:?}");
    }
}

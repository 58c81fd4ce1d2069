//! An event arrives whatever the size, depth and text of its headers.

use super::{Bad, Scene, valid};
use crate::support::{RawMessage, Table};

async fn arrives(table: Table) {
    let mut scene = Scene::open().await;
    scene.publish_good(50).await;
    let message = scene.site.message(valid("evt_table").to_string());
    scene.publish_raw(&RawMessage { headers: Some(table), ..message.into() }).await;
    scene.good.push("evt_table".to_owned());
    scene.publish_good(50).await;
    scene.all_good_arrive().await;
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn an_event_with_three_thousand_headers_arrives() {
    let table = (0..3_000).fold(Table::default(), |table, n| table.long_string(format!("header-{n}"), "value"));
    arrives(table).await;
}

#[tokio::test]
async fn an_event_with_a_header_of_120_kb_arrives() {
    arrives(Table::default().long_string("large", "x".repeat(120 * 1024))).await;
}

#[tokio::test]
async fn an_event_with_a_header_that_is_not_utf_8_arrives() {
    arrives(Table::default().long_string("key", b"\xff\xc3\x28")).await;
}

#[tokio::test]
async fn an_event_with_tables_50_deep_in_its_headers_arrives() {
    arrives(Table::nested(50)).await;
}

#[tokio::test]
async fn an_event_with_tables_200_deep_in_its_headers_arrives() {
    arrives(Table::nested(200)).await;
}

#[tokio::test]
async fn an_event_with_tables_1000_deep_in_its_headers_arrives() {
    arrives(Table::nested(1_000)).await;
}

#[tokio::test]
async fn an_event_with_tables_16000_deep_in_its_headers_arrives() {
    arrives(Table::nested(16_000)).await;
}

#[tokio::test]
async fn an_event_with_as_many_lists_in_lists_as_a_frame_can_hold_arrives() {
    arrives(nested_lists(26_100)).await;
}

#[tokio::test]
async fn a_bad_message_with_deep_headers_becomes_a_dead_letter_like_any_other() {
    let scene = Scene::open().await;
    let bad = [1_000, 16_000].map(|depth| {
        let message = RawMessage { headers: Some(Table::nested(depth)), ..scene.site.message("{").into() };
        Bad { message, reason: "not_json" }
    });
    scene.only_these_become_dead_letters(bad.into()).await;
}

/// Lists in lists: 5 bytes each, the deepest that fits.
fn nested_lists(depth: usize) -> Table {
    let lists = (0..depth as u32).rev().flat_map(|below| [&b"A"[..], &(below * 5).to_be_bytes()].concat());
    Table([0].into_iter().chain(lists).collect())
}

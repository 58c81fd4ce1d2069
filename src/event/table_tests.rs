//! The parser on the table of messages that whole workers are tested with.

use std::collections::BTreeSet;

use super::*;

// Other tests use all of it.
#[allow(dead_code)]
#[path = "../../tests/it/bad_input/table.rs"]
mod table;

use table::{Fate, NOW, Row, rows};

fn parser() -> EventParser {
    let event_type = EventType::parse("content.published").unwrap();
    let entry = CatalogueEntry { event_type, name: String::new(), description: String::new(), example: None };
    EventParser { catalogue: Catalogue::new(vec![entry]), max_event_bytes: 256 * 1024 }
}

fn parse(row: &Row) -> Result<Event, Malformed> {
    let table::Properties { message_id, timestamp, content_encoding, compression } = row.properties.clone();
    let properties = Properties { message_id, timestamp, content_encoding, compression, trace: None };
    // Nanoseconds do not go out.
    let now = "2026-11-23T10:00:00.123456789Z".parse().unwrap();
    parser().parse(&row.body(), &properties, now)
}

#[test]
fn each_message_of_the_table_is_sent_or_refused_as_it_says() {
    for row in rows() {
        match (&row.fate, parse(&row)) {
            (Fate::Sent { sent }, Ok(event)) => {
                let sent = sent.replace(NOW, "2026-11-23T10:00:00.123456Z");
                assert_eq!(String::from_utf8_lossy(&event.body), sent, "{}", row.name);
            }
            (Fate::Dead { reason, text }, Err(malformed)) => {
                assert_eq!((malformed.reason(), &malformed.to_string()), (reason.as_str(), text), "{}", row.name);
            }
            (_, other) => panic!("{}: {other:?}", row.name),
        }
    }
}

#[test]
fn the_table_has_a_message_for_each_reason_but_that_of_size() {
    let reasons: BTreeSet<_> = rows().iter().filter_map(|row| Some(parse(row).err()?.reason())).collect();
    let all: BTreeSet<_> = Malformed::REASONS.into_iter().filter(|reason| *reason != "too_large").collect();
    assert_eq!(reasons, all);
}

//! The parser on the table of messages that whole workers are tested with.

use std::mem::discriminant;

use super::*;

// Other tests use all of it.
#[allow(dead_code)]
#[path = "../../tests/it/bad_input/table.rs"]
mod table;

use table::{Fate, NOW, Row, rows};

fn parser() -> EventParser {
    EventParser { catalogue: Catalogue::of_types(&["content.published"]), max_event_bytes: 256 * 1024 }
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

/// A message that is too large would make the table unreadable; tests that read the table add one.
#[test]
fn the_table_has_a_message_that_breaks_each_rule_but_that_of_size() {
    let broken: Vec<Malformed> = rows().iter().filter_map(|row| parse(row).err()).collect();
    for rule in malformed::tests::all() {
        let is_there = broken.iter().any(|malformed| discriminant(malformed) == discriminant(&rule));
        assert_ne!(is_there, matches!(rule, Malformed::TooLarge(_)), "{rule:?}");
    }
    for name in [
        "gzip",
        "zlib",
        "Zstandard",
        "UTF-16",
        "another character set",
        "pickle",
        "MessagePack",
        "PHP",
        "form",
        "XML",
        "YAML",
        "Python dict",
        "base64",
    ] {
        let is_named = |malformed: &Malformed| {
            let text = malformed.to_string();
            let (what, looks) = text.split_once(" and looks like ").unwrap_or_default();
            what.starts_with("the body is not ") && looks.contains(name)
        };
        assert!(broken.iter().any(is_named), "{name}");
    }
}

//! Parses any bytes as a broker message. The parser must not panic; the body made of an accepted event must be JSON with the
//! event's own id.

use penr_webhooks::event::{Catalogue, CatalogueEntry, EventParser, Properties};
use penr_webhooks::ids::EventType;

/// Whether the body is an event. Panics if the parser breaks its promise.
pub fn check(body: &[u8]) -> bool {
    let event_type = EventType::parse("content.created").expect("a valid type");
    let entry = CatalogueEntry { event_type, name: String::new(), description: String::new(), example: None };
    let parser = EventParser { catalogue: Catalogue::new(vec![entry]), max_event_bytes: 64 * 1024 };
    let properties = Properties { message_id: Some("message".to_owned()), ..Properties::default() };
    let _ = parser.warnings(body, &properties);
    let Ok(event) = parser.parse(body, &properties, jiff::Timestamp::UNIX_EPOCH) else { return false };
    // Only the beginning is compared: `data` passes through unread.
    let sent = std::str::from_utf8(&event.body).expect("JSON is UTF-8");
    let start = format!(r#"{{"id":"{}","type":"content.created","timestamp":""#, event.id);
    assert!(sent.starts_with(&start) && sent.ends_with('}'));
    serde_json::from_str::<&serde_json::value::RawValue>(sent).expect("what is sent is JSON");
    true
}

//! Reads an event from a broker message, or says why it is none. Pure: the caller brings the clock.
//!
//! `data` passes through byte for byte, whatever JSON it is; everything around it is checked.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::ids::{AccountId, EventId, EventType};
use crate::text::printable;

/// JSON nested deeper than this, counted from the outer object, is refused.
const MAX_DEPTH: usize = 128;
/// Of an encoding that is named in a reason.
const MAX_ENCODING_BYTES: usize = 64;

/// Something that happened in penr.ai, with the body that is signed, sent and stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    pub event_type: EventType,
    pub account_id: AccountId,
    /// Serialised once; every request and every row holds these bytes.
    pub body: Bytes,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} {} of {}, {} bytes)", self.id, self.event_type, self.account_id, self.body.len())
    }
}

impl Event {
    /// An event that never happened, for its owner to see what one looks like. `unique` must be fresh.
    pub fn test(event_type: &EventType, account_id: &AccountId, unique: u128, now: Timestamp) -> Self {
        let id = EventId::parse(&format!("evt_test_{unique:032x}")).expect("letters, digits and _");
        let data = r#"{"test":true,"message":"This event was sent to test the webhook; nothing happened."}"#;
        let body = body_to_send(&id, event_type, &format!("{now:.3}"), data);
        Self { id, event_type: event_type.clone(), account_id: account_id.clone(), body }
    }
}

/// One type that customers can subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    pub event_type: EventType,
    /// Shown to customers.
    pub name: String,
    /// Shown to customers.
    pub description: String,
}

/// The event types we know, in the order they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue(Vec<CatalogueEntry>);

impl Catalogue {
    pub fn new(entries: Vec<CatalogueEntry>) -> Self {
        Self(entries)
    }

    pub fn get(&self, name: &str) -> Option<&EventType> {
        self.types().find(|known| known.as_str() == name)
    }

    pub fn types(&self) -> impl Iterator<Item = &EventType> {
        self.0.iter().map(|entry| &entry.event_type)
    }

    pub fn entries(&self) -> &[CatalogueEntry] {
        &self.0
    }
}

/// What the broker tells us about a message besides its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub message_id: Option<String>,
    /// Unix seconds.
    pub timestamp: Option<u64>,
    pub content_encoding: Option<String>,
}

/// Why a broker message is no event. The texts name fields and limits, never content; of its properties the encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the body is larger than event.max_event_bytes ({0} bytes)")]
    TooLarge(usize),
    #[error("the body is compressed or encoded: its content_encoding is \"{0}\", not utf-8")]
    Encoded(String),
    #[error("the body is empty")]
    Empty,
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the body is not valid JSON (line {line}, column {column})")]
    NotJson { line: usize, column: usize },
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("a key stands twice in the outer object")]
    RepeatedKey,
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{0}` is not a string")]
    NotAString(&'static str),
    #[error("`id` is not 1 to 128 letters, digits, _ or -")]
    Id,
    #[error("`account_id` is not 1 to 128 printable ASCII characters")]
    AccountId,
    #[error("`occurred_at` is not an RFC 3339 time")]
    OccurredAt,
    #[error("the event type is not in the catalogue; add it to the settings if it is new")]
    UnknownType,
}

impl Malformed {
    /// A short name for metrics and filters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Encoded(_) => "encoded",
            Self::Empty => "empty",
            Self::NotUtf8 => "not_utf8",
            Self::TooDeep => "too_deep",
            Self::NotJson { .. } => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::RepeatedKey => "repeated_key",
            Self::Missing(_) => "missing_field",
            Self::NotAString(_) => "wrong_type",
            Self::Id => "invalid_id",
            Self::AccountId => "invalid_account_id",
            Self::OccurredAt => "invalid_occurred_at",
            Self::UnknownType => "unknown_type",
        }
    }
}

/// Reads events as the settings define them.
#[derive(Debug, Clone)]
pub struct EventParser {
    pub catalogue: Catalogue,
    pub max_event_bytes: usize,
}

impl EventParser {
    /// `now` stands in where neither the event nor its message says when it happened.
    pub fn parse(&self, body: &[u8], properties: &Properties, now: Timestamp) -> Result<Event, Malformed> {
        let envelope = self.envelope(body, properties)?;
        let event_type = self.catalogue.get(&text("type", envelope.event_type)?).ok_or(Malformed::UnknownType)?;
        let account_id = AccountId::parse(&text("account_id", envelope.account_id)?).ok_or(Malformed::AccountId)?;
        let id = event_id(envelope.id, properties)?;
        let occurred_at = occurred_at(envelope.occurred_at, properties, now)?;
        let data = envelope.data.ok_or(Malformed::Missing("data"))?;
        let body = body_to_send(&id, event_type, &occurred_at, data.get());
        Ok(Event { id, event_type: event_type.clone(), account_id, body })
    }

    fn envelope<'a>(&self, body: &'a [u8], properties: &Properties) -> Result<Envelope<'a>, Malformed> {
        if body.len() > self.max_event_bytes {
            return Err(Malformed::TooLarge(self.max_event_bytes));
        }
        if let Some(encoding) = properties.content_encoding.as_deref().filter(|encoding| !is_plain(encoding)) {
            return Err(Malformed::Encoded(printable(encoding, MAX_ENCODING_BYTES)));
        }
        let text = std::str::from_utf8(body).map_err(|_| Malformed::NotUtf8)?;
        if text.bytes().all(|b| b.is_ascii_whitespace()) {
            return Err(Malformed::Empty);
        }
        if depth(text) > MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        Envelope::read(text)
    }
}

/// The outer object, its values still as they were written.
#[derive(Default)]
struct Envelope<'a> {
    id: Option<&'a RawValue>,
    event_type: Option<&'a RawValue>,
    account_id: Option<&'a RawValue>,
    occurred_at: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    repeated: bool,
}

impl<'a> Envelope<'a> {
    fn read(text: &'a str) -> Result<Self, Malformed> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let envelope = deserializer.deserialize_map(EnvelopeVisitor).and_then(|envelope| {
            deserializer.end()?;
            Ok(envelope)
        });
        match envelope {
            Ok(envelope) if envelope.repeated => Err(Malformed::RepeatedKey),
            Ok(envelope) => Ok(envelope),
            Err(error) if error.is_data() => Err(Malformed::NotAnObject),
            Err(error) => Err(Malformed::NotJson { line: error.line(), column: error.column() }),
        }
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<&'a RawValue>> {
        match key {
            "id" => Some(&mut self.id),
            "type" => Some(&mut self.event_type),
            "account_id" => Some(&mut self.account_id),
            "occurred_at" => Some(&mut self.occurred_at),
            "data" => Some(&mut self.data),
            _ => None,
        }
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        let mut unknown = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(slot) = envelope.slot(&key) {
                let earlier = slot.replace(map.next_value()?);
                envelope.repeated |= earlier.is_some();
            } else {
                map.next_value::<IgnoredAny>()?;
                envelope.repeated |= !unknown.insert(key);
            }
        }
        Ok(envelope)
    }
}

fn event_id(value: Option<&RawValue>, properties: &Properties) -> Result<EventId, Malformed> {
    let own = value.map(|raw| text("id", Some(raw))).transpose()?.filter(|id| !id.is_empty());
    let id = own.or_else(|| properties.message_id.clone().filter(|id| !id.is_empty()));
    EventId::parse(&id.ok_or(Malformed::Missing("id"))?).ok_or(Malformed::Id)
}

/// Whether a body so encoded is the text itself. Publishers write a character set here, or what MIME calls a transfer
/// encoding, in all spellings. Whether it is UTF-8 is seen from the body.
fn is_plain(encoding: &str) -> bool {
    let known: String = encoding.chars().filter(|char| !matches!(char, '-' | '_' | ' ' | '\t')).collect();
    let plain = ["", "utf8", "ascii", "usascii", "identity", "7bit", "8bit", "binary"];
    plain.iter().any(|plain| known.eq_ignore_ascii_case(plain))
}

/// The publisher's own spelling where there is one: it is checked, not rewritten.
fn occurred_at(value: Option<&RawValue>, properties: &Properties, now: Timestamp) -> Result<String, Malformed> {
    if value.is_some() {
        let written = text("occurred_at", value)?;
        return if is_rfc3339(&written) { Ok(written) } else { Err(Malformed::OccurredAt) };
    }
    let seconds = properties.timestamp.and_then(|seconds| i64::try_from(seconds).ok());
    // RFC 3339 ends with the year 9999; a message's timestamp beyond it tells us nothing.
    let sent = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(sent.map(|time| time.to_string()).filter(|written| is_rfc3339(written)).unwrap_or_else(|| now.to_string()))
}

/// RFC 3339, section 5.6: jiff also reads ISO 8601 forms which other readers do not, so the shape is checked first.
fn is_rfc3339(text: &str) -> bool {
    const SHAPE: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let fits = |(byte, shape): (u8, &u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        other => byte == *other,
    };
    let (Some(start), Some(rest)) = (text.get(..SHAPE.len()), text.get(SHAPE.len()..)) else { return false };
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=9).contains(&digits) {
                return false;
            }
            &fraction[digits..]
        }
        None => rest,
    };
    let offset = match rest.as_bytes() {
        b"Z" | b"z" => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()),
        _ => false,
    };
    offset && start.bytes().zip(SHAPE).all(fits) && text.parse::<Timestamp>().is_ok()
}

fn text(name: &'static str, value: Option<&RawValue>) -> Result<String, Malformed> {
    let raw = value.ok_or(Malformed::Missing(name))?;
    serde_json::from_str(raw.get()).map_err(|_| Malformed::NotAString(name))
}

/// Every part but `data` consists of characters that JSON does not escape.
fn body_to_send(id: &EventId, event_type: &EventType, occurred_at: &str, data: &str) -> Bytes {
    format!(r#"{{"id":"{id}","type":"{event_type}","timestamp":"{occurred_at}","data":{data}}}"#).into()
}

/// How deeply arrays and objects are nested. A linear scan, so that no parser has to recurse to find out.
fn depth(json: &str) -> usize {
    let (mut open, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' if !in_string => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
#[path = "event/tests.rs"]
mod tests;

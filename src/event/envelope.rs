//! Reads the outer JSON object of an event, and leaves the values in it as they were written.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Malformed;

/// The outer object.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub(super) id: Option<&'a RawValue>,
    pub(super) event_type: Option<&'a RawValue>,
    pub(super) account_id: Option<&'a RawValue>,
    pub(super) occurred_at: Option<&'a RawValue>,
    pub(super) data: Option<&'a RawValue>,
    /// Whether a key stands twice, a known or an unknown one.
    repeated: bool,
}

impl<'a> Envelope<'a> {
    /// Reads `json`, which must not be nested deeper than `MAX_DEPTH`.
    ///
    /// # Errors
    ///
    /// The text is no JSON, no object, or repeats a key.
    pub(super) fn read(json: &'a str) -> Result<Self, Malformed> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
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

    /// Where the value of a known key belongs.
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

/// The string that a field holds.
///
/// # Errors
///
/// The field is missing or no string.
pub(super) fn text(name: &'static str, value: Option<&RawValue>) -> Result<String, Malformed> {
    let raw = value.ok_or(Malformed::Missing(name))?;
    serde_json::from_str(raw.get()).map_err(|_| Malformed::NotAString(name))
}

/// How deeply arrays and objects are nested. A linear scan: a parser that recurses could overflow its stack.
pub(super) fn depth(json: &str) -> usize {
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

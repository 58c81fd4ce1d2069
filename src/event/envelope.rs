//! Reads the outer JSON object of an event, and leaves the values in it as they were written.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Looks, Malformed, Shape};

/// The outer object.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub(super) id: Option<&'a RawValue>,
    pub(super) event_type: Option<&'a RawValue>,
    pub(super) account_id: Option<&'a RawValue>,
    pub(super) occurred_at: Option<&'a RawValue>,
    pub(super) data: Option<&'a RawValue>,
    pub(super) cloud: CloudFields<'a>,
    /// The keys that mean nothing here.
    pub(super) unknown: HashSet<Cow<'a, str>>,
    /// Whether a key stands twice, a known or an unknown one.
    repeated: bool,
}

/// The fields that only a CloudEvent has.
#[derive(Default)]
pub(super) struct CloudFields<'a> {
    pub(super) specversion: Option<&'a RawValue>,
    pub(super) accountid: Option<&'a RawValue>,
    pub(super) time: Option<&'a RawValue>,
    pub(super) data_base64: Option<&'a RawValue>,
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
            Err(error) if error.is_data() => Err(Malformed::NotAnObject(Shape::of(json))),
            Err(error) => {
                Err(Malformed::NotJson { line: error.line(), column: error.column(), looks: Looks::of_text(json) })
            }
        }
    }

    /// Whether it is a CloudEvent in structured mode. With an `account_id` it is an ordinary event.
    pub(super) fn is_cloud_event(&self) -> bool {
        self.cloud.specversion.is_some() && self.account_id.is_none()
    }

    /// Where the value of a known key belongs.
    fn slot(&mut self, key: &str) -> Option<&mut Option<&'a RawValue>> {
        match key {
            "id" => Some(&mut self.id),
            "type" => Some(&mut self.event_type),
            "account_id" => Some(&mut self.account_id),
            "occurred_at" => Some(&mut self.occurred_at),
            "data" => Some(&mut self.data),
            "specversion" => Some(&mut self.cloud.specversion),
            "accountid" => Some(&mut self.cloud.accountid),
            "time" => Some(&mut self.cloud.time),
            "data_base64" => Some(&mut self.cloud.data_base64),
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
        while let Some(Key(key)) = map.next_key()? {
            if let Some(slot) = envelope.slot(&key) {
                let earlier = slot.replace(map.next_value()?);
                envelope.repeated |= earlier.is_some();
            } else {
                map.next_value::<IgnoredAny>()?;
                envelope.repeated |= !envelope.unknown.insert(key);
            }
        }
        Ok(envelope)
    }
}

/// A key, copied only if it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

/// A field that may be left out: null counts as left out.
pub(super) fn given(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|raw| raw.get() != "null")
}

/// The string that a field holds, copied only if it has escapes.
///
/// # Errors
///
/// The field is missing or no string.
pub(super) fn text<'a>(name: &'static str, value: Option<&'a RawValue>) -> Result<Cow<'a, str>, Malformed> {
    let raw = value.ok_or(Malformed::Missing(name))?.get();
    match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        _ => serde_json::from_str(raw).map(Cow::Owned).map_err(|_| Malformed::NotAString(name)),
    }
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

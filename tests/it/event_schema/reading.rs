//! Reads a body for the schema as other languages do: what serde_json's `Value` cannot hold, such as `1e400`, half of a surrogate
//! pair, or more than 127 levels, becomes another value of its kind. Fields whose value matters to the schema are strings or null.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// The JSON value, or `None` if the body is no JSON in UTF-8.
pub fn read(body: &[u8]) -> Option<Value> {
    match fields(body) {
        Some(fields) => Some(Value::Object(fields.into_iter().collect())),
        None => serde_json::from_slice(body).ok(),
    }
}

/// The fields of an object. Of a key that stands twice, the last value counts.
pub fn fields(body: &[u8]) -> Option<BTreeMap<String, Value>> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).ok()?;
    Some(fields.into_iter().map(|(key, raw)| (key, value(raw.get()))).collect())
}

fn value(raw: &str) -> Value {
    serde_json::from_str(raw).unwrap_or_else(|_| match raw.as_bytes()[0] {
        b'"' => "\u{fffd}".into(),
        b'[' => Value::Array(Vec::new()),
        b'{' => Value::Object(serde_json::Map::new()),
        _ => f64::MAX.into(),
    })
}

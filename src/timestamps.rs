//! Times as texts: what is written, and which texts are accepted (RFC 3339).

use jiff::Timestamp;
use serde::Serializer;

mod spelling;

pub(crate) use spelling::{in_one_form, instant, is_same_clock};

/// Writes a time with milliseconds: `2026-11-23T10:00:00.000Z`. For `#[serde(serialize_with = …)]`.
pub(crate) fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

/// Writes a time as [`rfc3339`] does, or null.
pub(crate) fn optional_rfc3339<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

//! Times as texts: what is written, and which texts are accepted (RFC 3339).

use jiff::Timestamp;
use serde::Serializer;

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

/// Whether a text is a time as RFC 3339 (section 5.6) defines it. The shape is checked first: jiff also reads forms of
/// ISO 8601 that other programs do not read.
pub(crate) fn is_rfc3339(text: &str) -> bool {
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

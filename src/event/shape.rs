//! Tells what a JSON text is that should have been an object, so that its publisher learns what to change.

use std::fmt;

use serde::de::IgnoredAny;

/// What a body is in place of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Several events, perhaps.
    Array,
    /// A string that holds an object or an array: it was encoded twice.
    JsonInString,
    /// What JavaScript makes of an object that is turned into a string.
    ObjectObject,
    /// A string of another kind, a number, true, false or null.
    Other,
}

impl Shape {
    /// The shape of a text that begins as JSON.
    pub(super) fn of(json: &str) -> Self {
        let json = json.trim_ascii();
        match json.as_bytes() {
            _ if json.starts_with("[object ") => Self::ObjectObject,
            [b'[', ..] => Self::Array,
            [b'"', ..] if holds_json(json) => Self::JsonInString,
            _ => Self::Other,
        }
    }
}

/// What is wrong, and what to do about it.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Array => "the body is a JSON array: publish each event as an object in a message of its own",
            Self::JsonInString => "the body is a JSON string that holds JSON: encode the event once, not twice",
            Self::ObjectObject => {
                "the body is JavaScript's \"[object Object]\": publish what JSON.stringify makes of the event"
            }
            Self::Other => "the body is not a JSON object: publish each event as an object, in a message of its own",
        })
    }
}

/// Whether a JSON text is a string that holds an object or an array in JSON.
pub(super) fn holds_json(json: &str) -> bool {
    let Ok(held) = serde_json::from_str::<String>(json) else { return false };
    held.trim_ascii_start().starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(&held).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_object_is_told_by_its_shape() {
        for (json, shape) in [
            ("[]", Shape::Array),
            (" [{}, {}]\n", Shape::Array),
            (r#""{\"id\":\"evt_1\"}""#, Shape::JsonInString),
            ("\n\" [\\u007b}]\"", Shape::JsonInString),
            (r#""{\"id\":""#, Shape::Other),
            (r#""42""#, Shape::Other),
            (r#""s""#, Shape::Other),
            ("null", Shape::Other),
            ("42", Shape::Other),
            ("[object Object]", Shape::ObjectObject),
        ] {
            assert_eq!(Shape::of(json), shape, "{json}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(Shape::of(&format!("\"{deep}\"")), Shape::JsonInString, "it must not overflow the stack");
    }
}

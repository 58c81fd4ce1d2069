//! The `data` of an event that this service makes itself: JSON text, sent as it was written.

use serde_json::value::RawValue;

use super::envelope::depth;
use super::malformed::MAX_DEPTH;

/// The `data` of a test event or of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventData(String);

/// Why a text is no `data`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataRefusal {
    /// The text is no JSON: line and column of the first mistake.
    #[error("must be JSON; the mistake is at line {0}, column {1}")]
    NotJson(usize, usize),
    /// The body around it is one level more.
    #[error("must not be nested deeper than {} levels", MAX_DEPTH - 1)]
    TooDeep,
    /// Written out it has more bytes than [`EventData::MAX_BYTES`].
    #[error("may have at most {} bytes", EventData::MAX_BYTES)]
    TooLarge,
}

impl EventData {
    /// Bytes of the text at most.
    pub const MAX_BYTES: usize = 60 * 1024;

    /// Reads JSON, and keeps its spelling. White space around it does not count.
    ///
    /// # Errors
    ///
    /// The text is no JSON, is nested too deeply, or is too large.
    pub fn parse(text: &str) -> Result<Self, DataRefusal> {
        let text = text.trim();
        if text.len() > Self::MAX_BYTES {
            return Err(DataRefusal::TooLarge);
        }
        if depth(text) >= MAX_DEPTH {
            return Err(DataRefusal::TooDeep);
        }
        match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => Ok(Self(raw.get().to_owned())),
            Err(error) => Err(DataRefusal::NotJson(error.line(), error.column())),
        }
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text for an answer in JSON, which then shows it as it was written.
    pub(crate) fn raw(&self) -> Box<RawValue> {
        RawValue::from_string(self.0.clone()).expect("was JSON when it was read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_keeps_its_spelling() {
        for text in [r#"{"a": 1.0, "b": "\u00fc"}"#, "null", "1e400", r#""\ud800""#, r#"{"a":1,"a":2}"#] {
            assert_eq!(EventData::parse(&format!("\n {text} ")).unwrap().as_str(), text);
            assert_eq!(EventData::parse(text).unwrap().raw().get(), text);
        }
    }

    #[test]
    fn what_is_no_data_says_why() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(EventData::parse(&nested(127)).is_ok());
        assert_eq!(EventData::parse(&nested(128)), Err(DataRefusal::TooDeep));
        let sized = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2));
        assert!(EventData::parse(&sized(60 * 1024)).is_ok());
        assert_eq!(EventData::parse(&sized(60 * 1024 + 1)), Err(DataRefusal::TooLarge));
        for text in ["", "{", "{'a': 1}", "{} {}", "\u{feff}{}"] {
            assert!(matches!(EventData::parse(text), Err(DataRefusal::NotJson(..))), "{text}");
        }
    }
}

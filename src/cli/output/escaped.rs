//! Writes JSON in which no character steers a terminal: control characters and invisible ones are written as `\uXXXX`. To a
//! program it is the same JSON.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::text::is_unprintable;

/// # Errors
///
/// The writer does not take it.
pub(super) fn write(writer: &mut impl Write, document: &impl Serialize) -> io::Result<()> {
    Ok(document.serialize(&mut Serializer::with_formatter(writer, Escaped))?)
}

/// Compact JSON, but for these characters.
struct Escaped;

impl Formatter for Escaped {
    /// A part of a text in which nothing else needs to be escaped.
    fn write_string_fragment<W: Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_unprintable) {
            let (plain, from) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = from.chars();
            let unprintable = chars.next().expect("one was found there");
            for unit in unprintable.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(document: &Value) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes, document).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_steers_a_terminal_is_escaped_in_names_and_texts() {
        let document = json!({ "a\u{9b}": "\u{7f}\u{9f}x\n\"\u{202e}é\u{200b}\u{e0001}" });
        let text = r#"{"a\u009b":"\u007f\u009fx\n\"\u202eé\u200b\udb40\udc01"}"#;
        assert_eq!(written(&document), text);
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), document);
    }

    #[test]
    fn other_json_is_as_compact_as_ever() {
        let document = json!({ "a": [1, 2.5, null, true, "é😀", { "b": "" }], "c\\": "\u{1b}" });
        assert_eq!(written(&document), document.to_string());
    }
}

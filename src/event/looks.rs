//! Guesses from its beginning what a body is that is not JSON in UTF-8, so that its publisher learns what to change.

use std::fmt;

/// What a body looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    /// Compressed by gzip.
    Gzip,
    /// Compressed by zlib, which many name deflate.
    Zlib,
    /// Compressed by Zstandard.
    Zstd,
    /// Text in UTF-16.
    Utf16,
    /// JSON, but in a character set such as Latin-1.
    OtherCharacters,
    /// Written by Python's pickle.
    Pickle,
    /// A map or an array of MessagePack.
    MessagePack,
    /// Written by PHP's `serialize`.
    PhpSerialize,
    /// Fields of an HTML form, as in a query.
    Form,
    /// XML or HTML.
    Xml,
    /// YAML.
    Yaml,
    /// What Python's `str` makes of a dict, or another object in single quotes.
    SingleQuotes,
    /// The base64 of a JSON object.
    Base64,
    /// Nothing that is known here.
    Unknown,
}

impl Looks {
    pub(super) fn of(body: &[u8]) -> Self {
        match body {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Self::Zlib,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Self::Utf16,
            body if is_utf16_object(body) => Self::Utf16,
            [0x80, 2..=5, ..] => Self::Pickle,
            [0x81..=0x9f | 0xdc..=0xdf, ..] => Self::MessagePack,
            [b'{', ..] => Self::OtherCharacters,
            _ => Self::Unknown,
        }
    }

    /// What a text looks like that is not JSON.
    pub(super) fn of_text(text: &str) -> Self {
        let text = text.trim_ascii_start();
        match text.as_bytes() {
            [b'<', ..] => Self::Xml,
            [b'{', b'\'', ..] => Self::SingleQuotes,
            // `{"` and a brace with a line break behind it.
            [b'e', b'y', b'J', ..] | [b'e', b'w', b'o' | b'0', ..] => Self::Base64,
            [b'a', b':', b'0'..=b'9', ..] | [b'O', b':', b'0'..=b'9', ..] => Self::PhpSerialize,
            [b'-', b'-', b'-', ..] => Self::Yaml,
            _ => match name_and_rest(text) {
                Some(('=', _)) => Self::Form,
                Some((':', rest)) if rest.starts_with([' ', '\n', '\r']) => Self::Yaml,
                _ => Self::Unknown,
            },
        }
    }
}

/// The first character of a text that belongs to no name, and what stands behind it. `None` if no name stands before it.
fn name_and_rest(text: &str) -> Option<(char, &str)> {
    let rest = text.trim_start_matches(|char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.'));
    let mut chars = rest.chars();
    let first = chars.next().filter(|_| rest.len() < text.len())?;
    Some((first, chars.as_str()))
}

/// As a part of "the body is not UTF-8" or "the body is not valid JSON".
impl fmt::Display for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => " and looks like gzip",
            Self::Zlib => " and looks like zlib (deflate)",
            Self::Zstd => " and looks like Zstandard",
            Self::Utf16 => " and looks like UTF-16",
            Self::OtherCharacters => " and looks like JSON in another character set",
            Self::Pickle => " and looks like Python's pickle",
            Self::MessagePack => " and looks like MessagePack",
            Self::PhpSerialize => " and looks like PHP's serialize",
            Self::Form => " and looks like the fields of a form",
            Self::Xml => " and looks like XML",
            Self::Yaml => " and looks like YAML",
            Self::SingleQuotes => " and looks like a Python dict",
            Self::Base64 => " and looks like base64",
            Self::Unknown => "",
        })
    }
}

/// Whether a body begins as a JSON object in UTF-16 without a byte order mark. Such bytes may be valid UTF-8.
pub(super) fn is_utf16_object(body: &[u8]) -> bool {
    matches!(body, [b'{', 0, ..] | [0, b'{', ..])
}

/// Whether a body begins with a section of AMQP 1.0 (part 3.2 of its specification). RabbitMQ unpacks one data section for
/// consumers of AMQP 0-9-1, and passes other bodies on as they are.
pub(super) fn is_amqp_1_0(body: &[u8]) -> bool {
    const CODES: std::ops::RangeInclusive<u8> = 0x70..=0x78;
    match body {
        [0, 0x53, code, ..] | [0, 0x80, 0, 0, 0, 0, 0, 0, 0, code, ..] => CODES.contains(code),
        [0, 0xa3, _, name @ ..] => name.starts_with(b"amqp:"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_a_body_looks_like() {
        let utf16: Vec<u8> = "{\"é\"".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let bodies: [(&[u8], Looks); 11] = [
            (b"\x1f\x8b\x08\0", Looks::Gzip),
            (b"x\x9c\xabV", Looks::Zlib),
            (b"\x28\xb5\x2f\xfd\x24", Looks::Zstd),
            (b"\xff\xfe{\0", Looks::Utf16),
            (&utf16, Looks::Utf16),
            (b"{\"a\":\"\xe9\"}", Looks::OtherCharacters),
            (b"\x80\x04\x95", Looks::Pickle),
            (b"\x85\xa2id", Looks::MessagePack),
            (b"\xdc\0\x01", Looks::MessagePack),
            (b"\xff", Looks::Unknown),
            (b"", Looks::Unknown),
        ];
        for (body, looks) in bodies {
            assert_eq!(Looks::of(body), looks, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn the_first_characters_tell_what_a_text_looks_like() {
        for (text, looks) in [
            (r#"a:5:{s:2:"id";s:5:"evt_1";}"#, Looks::PhpSerialize),
            (r#"O:8:"stdClass":1:{s:2:"id";s:5:"evt_1";}"#, Looks::PhpSerialize),
            ("id=evt_1&type=content.published", Looks::Form),
            ("<?xml version=\"1.0\"?><event/>", Looks::Xml),
            ("\n<event/>", Looks::Xml),
            ("id: evt_1\ntype: content.published\n", Looks::Yaml),
            ("data:\n  title: Hello\n", Looks::Yaml),
            ("---\nid: evt_1\n", Looks::Yaml),
            ("{'id': 'evt_1'}", Looks::SingleQuotes),
            ("eyJpZCI6ImV2dF8xIn0=", Looks::Base64),
            ("ewogICJpZCI6IDEKfQ==", Looks::Base64),
            (r#"{"id":"evt_1""#, Looks::Unknown),
            ("no event", Looks::Unknown),
            ("=", Looks::Unknown),
            ("https://example.com/", Looks::Unknown),
            ("é: 1", Looks::Unknown),
            ("", Looks::Unknown),
        ] {
            assert_eq!(Looks::of_text(text), looks, "{text}");
        }
    }

    #[test]
    fn a_section_of_amqp_1_0_is_known_by_its_descriptor() {
        let sections: [&[u8]; 4] = [
            b"\0Sw\xa1\x02{}",
            b"\0Su\xa0\x02{}\0Su\xa0\x02{}",
            b"\0\x80\0\0\0\0\0\0\0w\xa1\x02{}",
            b"\0\xa3\x11amqp:amqp-value:*\xa1\x02{}",
        ];
        for section in sections {
            assert!(is_amqp_1_0(section), "{}", section.escape_ascii());
        }
        for other in [&b"\0S"[..], b"\0SA", b"\0{", b"{}", b"Sw", b""] {
            assert!(!is_amqp_1_0(other), "{}", other.escape_ascii());
        }
    }
}

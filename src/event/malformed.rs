//! Why a broker message is no event.

use super::looks::Looks;
use super::shape::Shape;
use super::wrong_time::WrongTime;

/// JSON that is nested deeper, counted from the outer object, is refused.
pub(super) const MAX_DEPTH: usize = 128;

/// The rule that a broker message breaks. The texts name fields and limits, and say what the publisher does about it. They repeat
/// nothing of the body; of the properties they repeat the encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Larger than this many bytes.
    #[error(
        "the body is larger than event.max_event_bytes ({0} bytes): publish less `data`, or where receivers find it"
    )]
    TooLarge(usize),
    /// Has this `content_encoding`.
    #[error("the content_encoding is \"{0}\": publish the JSON uncompressed, with the content_encoding utf-8 or none")]
    Encoded(String),
    /// Not UTF-8, and the header `compression` has this value.
    #[error("the body is compressed, as its header `compression` (\"{0}\") says: publish the JSON uncompressed")]
    Compressed(String),
    /// A section of AMQP 1.0 that the broker passed on as it was.
    #[error("the body is an AMQP 1.0 value or sequence: publish the JSON as bytes in one data section")]
    Amqp10,
    /// Empty, or nothing but white space.
    #[error("the body is empty: publish the event in it, a JSON object")]
    Empty,
    /// Not UTF-8.
    #[error("the body is not UTF-8{0}: publish the JSON as UTF-8 text, uncompressed")]
    NotUtf8(Looks),
    /// JSON behind a byte order mark.
    #[error("the body begins with a byte order mark: publish the JSON in UTF-8 without one")]
    ByteOrderMark,
    /// Nested too deeply to be parsed safely.
    #[error(
        "the body is nested deeper than {MAX_DEPTH} levels: make `data` flatter, or put the inner part into a string"
    )]
    TooDeep,
    /// Not JSON from this place on.
    #[error("the body is not valid JSON (line {line}, column {column}){looks}: have a JSON library write it")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What it may be instead.
        looks: Looks,
    },
    /// JSON, but not an object.
    #[error("{0}")]
    NotAnObject(Shape),
    /// A repeated key, known or unknown: readers differ in which value they take.
    #[error("a key stands twice in the outer object: write each key once")]
    RepeatedKey,
    /// A required field is missing.
    #[error("`{0}` is missing: {hint}", hint = what_to_send(.0))]
    Missing(&'static str),
    /// A field that must be a string is something else.
    #[error("`{0}` is not a string: {hint}", hint = what_to_send(.0))]
    NotAString(&'static str),
    /// `id`, or the message id in its place, breaks the rule for event ids.
    #[error("`id` is not 1 to 128 letters, digits, _ or -: give the event another id, such as a UUID")]
    Id,
    /// The field with the account's id breaks the rule for account ids.
    #[error(
        "`{0}` is not 1 to 128 printable ASCII characters: send the id with which the account's webhooks were made"
    )]
    AccountId(&'static str),
    /// The field with the event's time has none.
    #[error("`{0}` {1}")]
    OccurredAt(&'static str, WrongTime),
    /// A type that the settings do not list.
    #[error("the event type is not in the catalogue: correct `type`, or add it to the settings if it is new")]
    UnknownType,
    /// A CloudEvent of another version.
    #[error("`specversion` is not \"1.0\": publish a CloudEvent of version 1.0, or an event with `account_id`")]
    SpecVersion,
    /// A CloudEvent whose data is not JSON.
    #[error("`data_base64` is not supported: publish the CloudEvent's data as JSON in `data`")]
    DataBase64,
}

/// What belongs into a field.
fn what_to_send(field: &str) -> &'static str {
    match field {
        "id" => "send a string that no other event has, here or as the message_id",
        "type" => "send one of the event types in the catalogue, as a string",
        "data" => "send any JSON, null too",
        "occurred_at" | "time" => "send a string such as \"2026-11-23T10:00:00Z\", or leave it out",
        _ => "send the account's id, as a string",
    }
}

impl Malformed {
    /// Everything that [`Malformed::reason`] may say.
    pub(crate) const REASONS: [&'static str; 15] = [
        "too_large",
        "encoded",
        "empty",
        "not_utf8",
        "not_json",
        "too_deep",
        "not_an_object",
        "repeated_key",
        "missing_field",
        "wrong_type",
        "invalid_id",
        "invalid_account_id",
        "invalid_occurred_at",
        "unknown_type",
        "unsupported_cloudevent",
    ];

    /// A short name for metrics and filters. Several rules may share one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Encoded(_) | Self::Compressed(_) | Self::Amqp10 => "encoded",
            Self::Empty => "empty",
            Self::NotUtf8(_) => "not_utf8",
            Self::TooDeep => "too_deep",
            Self::ByteOrderMark | Self::NotJson { .. } => "not_json",
            Self::NotAnObject(_) => "not_an_object",
            Self::RepeatedKey => "repeated_key",
            Self::Missing(_) => "missing_field",
            Self::NotAString(_) => "wrong_type",
            Self::Id => "invalid_id",
            Self::AccountId(_) => "invalid_account_id",
            Self::OccurredAt(..) => "invalid_occurred_at",
            Self::UnknownType => "unknown_type",
            Self::SpecVersion | Self::DataBase64 => "unsupported_cloudevent",
        }
    }

    /// The same rule without the place in the one body that broke it.
    pub(crate) fn without_place(&self) -> Self {
        match self {
            Self::NotJson { looks, .. } => Self::NotJson { line: 1, column: 1, looks: *looks },
            other => other.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::{Looks, Malformed, Shape, WrongTime};

    /// One of each variant, in the order in which they are declared.
    pub(in crate::event) fn all() -> Vec<Malformed> {
        // A new variant does not compile here before it has its place.
        let next = |malformed: &Malformed| {
            Some(match malformed {
                Malformed::TooLarge(_) => Malformed::Encoded("gzip".into()),
                Malformed::Encoded(_) => Malformed::Compressed("zlib".into()),
                Malformed::Compressed(_) => Malformed::Amqp10,
                Malformed::Amqp10 => Malformed::Empty,
                Malformed::Empty => Malformed::NotUtf8(Looks::Gzip),
                Malformed::NotUtf8(_) => Malformed::ByteOrderMark,
                Malformed::ByteOrderMark => Malformed::TooDeep,
                Malformed::TooDeep => Malformed::NotJson { line: 1, column: 1, looks: Looks::Form },
                Malformed::NotJson { .. } => Malformed::NotAnObject(Shape::Other),
                Malformed::NotAnObject(_) => Malformed::RepeatedKey,
                Malformed::RepeatedKey => Malformed::Missing("id"),
                Malformed::Missing(_) => Malformed::NotAString("id"),
                Malformed::NotAString(_) => Malformed::Id,
                Malformed::Id => Malformed::AccountId("account_id"),
                Malformed::AccountId(_) => Malformed::OccurredAt("occurred_at", WrongTime::Other),
                Malformed::OccurredAt(..) => Malformed::UnknownType,
                Malformed::UnknownType => Malformed::SpecVersion,
                Malformed::SpecVersion => Malformed::DataBase64,
                Malformed::DataBase64 => return None,
            })
        };
        std::iter::successors(Some(Malformed::TooLarge(1)), next).collect()
    }

    #[test]
    fn the_list_of_reasons_has_each_once() {
        let mut reasons = Vec::new();
        for malformed in all() {
            if !reasons.contains(&malformed.reason()) {
                reasons.push(malformed.reason());
            }
        }
        assert_eq!(reasons, Malformed::REASONS);
    }

    #[test]
    fn every_text_says_what_is_wrong_and_what_to_do() {
        for malformed in all() {
            let text = malformed.to_string();
            let (wrong, cure) = text.split_once(": ").unwrap_or_else(|| panic!("no cure: {text}"));
            assert!(wrong.len() > 10 && cure.len() > 10 && !text.contains('\n') && text.len() < 150, "{text}");
        }
    }

    /// Rows of the table in `docs/publishing.md`: reason and text. All numbers are written as N, because they are examples.
    fn documented() -> BTreeSet<(String, String)> {
        let document = include_str!("../../docs/publishing.md");
        let section = document.split("\n## ").find(|section| section.starts_with("What becomes a dead letter\n"));
        let rows = section.expect("the section exists").lines().filter_map(|line| line.strip_prefix("| `"));
        let cells = rows.filter_map(|row| row.strip_suffix(" |")?.split_once("` | "));
        cells.map(|(reason, text)| (reason.to_owned(), without_numbers(text))).collect()
    }

    fn without_numbers(text: &str) -> String {
        let mut plain = text.replace(|char: char| char.is_ascii_digit(), "N");
        while plain.contains("NN") {
            plain = plain.replace("NN", "N");
        }
        plain
    }

    #[test]
    fn the_document_for_publishers_has_every_reason_with_its_text() {
        let missing = ["type", "account_id", "data"].map(Malformed::Missing);
        let not_a_string = ["type", "account_id", "occurred_at"].map(Malformed::NotAString);
        let shapes = [Shape::Array, Shape::JsonInString, Shape::ObjectObject].map(Malformed::NotAnObject);
        let times = [WrongTime::NoOffset, WrongTime::NoColon, WrongTime::Number];
        let times = times.map(|wrong| Malformed::OccurredAt("occurred_at", wrong));
        let texts = all().into_iter().chain(missing).chain(not_a_string).chain(shapes).chain(times);
        let texts = texts.map(|malformed| (malformed.reason().to_owned(), without_numbers(&malformed.to_string())));
        assert_eq!(documented(), texts.collect());
    }
}

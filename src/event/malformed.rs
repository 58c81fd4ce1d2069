//! Why a broker message is no event.

/// JSON that is nested deeper, counted from the outer object, is refused.
pub(super) const MAX_DEPTH: usize = 128;

/// The rule that a broker message breaks. The texts name fields and limits and repeat nothing of the body; of the properties
/// they repeat the encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Larger than this many bytes.
    #[error("the body is larger than event.max_event_bytes ({0} bytes)")]
    TooLarge(usize),
    /// Has this `content_encoding`.
    #[error("the body is compressed or encoded: its content_encoding is \"{0}\", not utf-8")]
    Encoded(String),
    /// Empty, or nothing but white space.
    #[error("the body is empty")]
    Empty,
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Nested too deeply to be parsed safely.
    #[error("the body is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Not JSON from this place on.
    #[error("the body is not valid JSON (line {line}, column {column})")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A repeated key, known or unknown: readers differ in which value they take.
    #[error("a key stands twice in the outer object")]
    RepeatedKey,
    /// A required field is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field that must be a string is something else.
    #[error("`{0}` is not a string")]
    NotAString(&'static str),
    /// `id` breaks the rule for event ids.
    #[error("`id` is not 1 to 128 letters, digits, _ or -")]
    Id,
    /// `account_id` breaks the rule for account ids.
    #[error("`account_id` is not 1 to 128 printable ASCII characters")]
    AccountId,
    /// `occurred_at` is not an RFC 3339 time.
    #[error("`occurred_at` is not an RFC 3339 time")]
    OccurredAt,
    /// A type that the settings do not list.
    #[error("the event type is not in the catalogue; add it to the settings if it is new")]
    UnknownType,
}

impl Malformed {
    /// Everything that [`Malformed::reason`] may say.
    pub(crate) const REASONS: [&'static str; 14] = [
        "too_large",
        "encoded",
        "empty",
        "not_utf8",
        "too_deep",
        "not_json",
        "not_an_object",
        "repeated_key",
        "missing_field",
        "wrong_type",
        "invalid_id",
        "invalid_account_id",
        "invalid_occurred_at",
        "unknown_type",
    ];

    /// A short name for metrics and filters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Encoded(_) => "encoded",
            Self::Empty => "empty",
            Self::NotUtf8 => "not_utf8",
            Self::TooDeep => "too_deep",
            Self::NotJson { .. } => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::RepeatedKey => "repeated_key",
            Self::Missing(_) => "missing_field",
            Self::NotAString(_) => "wrong_type",
            Self::Id => "invalid_id",
            Self::AccountId => "invalid_account_id",
            Self::OccurredAt => "invalid_occurred_at",
            Self::UnknownType => "unknown_type",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Malformed;

    #[test]
    fn the_list_of_reasons_has_all() {
        // A new variant does not compile here before it has its place.
        let next = |malformed: &Malformed| {
            Some(match malformed {
                Malformed::TooLarge(_) => Malformed::Encoded(String::new()),
                Malformed::Encoded(_) => Malformed::Empty,
                Malformed::Empty => Malformed::NotUtf8,
                Malformed::NotUtf8 => Malformed::TooDeep,
                Malformed::TooDeep => Malformed::NotJson { line: 1, column: 1 },
                Malformed::NotJson { .. } => Malformed::NotAnObject,
                Malformed::NotAnObject => Malformed::RepeatedKey,
                Malformed::RepeatedKey => Malformed::Missing("id"),
                Malformed::Missing(_) => Malformed::NotAString("id"),
                Malformed::NotAString(_) => Malformed::Id,
                Malformed::Id => Malformed::AccountId,
                Malformed::AccountId => Malformed::OccurredAt,
                Malformed::OccurredAt => Malformed::UnknownType,
                Malformed::UnknownType => return None,
            })
        };
        let all = std::iter::successors(Some(Malformed::TooLarge(1)), next).map(|malformed| malformed.reason());
        assert_eq!(all.collect::<Vec<_>>(), Malformed::REASONS);
    }
}

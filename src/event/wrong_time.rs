//! Tells what is wrong with a text that should have been a time, so that its publisher learns what to change.

use std::fmt;

use crate::timestamps::in_one_form;

/// Why a text is no time of RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongTime {
    /// A time without an offset: nobody knows where its clock stands.
    NoOffset,
    /// An offset such as `+0100`.
    NoColon,
    /// A number, perhaps of seconds.
    Number,
    /// Anything else.
    Other,
}

impl WrongTime {
    /// What is wrong with a text that [`in_one_form`] does not take.
    pub(super) fn of(text: &str) -> Self {
        let is_time = |text: String| in_one_form(&text).is_some();
        let minutes_at = text.len().saturating_sub(2);
        if text.parse::<f64>().is_ok_and(f64::is_finite) {
            Self::Number
        } else if is_time(format!("{text}Z")) {
            Self::NoOffset
        } else if text
            .split_at_checked(minutes_at)
            .is_some_and(|(start, minutes)| is_time(format!("{start}:{minutes}")))
        {
            Self::NoColon
        } else {
            Self::Other
        }
    }
}

/// What is wrong, and what to do about it, behind the name of the field.
impl fmt::Display for WrongTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoOffset => "has no offset: add Z if it is in UTC, else its offset, such as +01:00",
            Self::NoColon => "has an offset without a colon: write it as +01:00, or as Z for UTC",
            Self::Number => "is a number in a string: write it as 2026-11-23T10:00:00Z, or leave it out",
            Self::Other => {
                "is not an RFC 3339 time of the years 0001 to 9999 (UTC): write it as 2026-11-23T10:00:00Z, or leave it out"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_time_is_told_by_what_it_lacks() {
        for (text, wrong) in [
            ("2026-11-23T10:00:00", WrongTime::NoOffset),
            ("2026-11-23 10:00:00.123456789", WrongTime::NoOffset),
            ("2026-11-23T10:00:00+0000", WrongTime::NoColon),
            ("2026-11-23T10:00:00.5-0130", WrongTime::NoColon),
            ("1795428000", WrongTime::Number),
            ("1795428000.5", WrongTime::Number),
            ("-1", WrongTime::Number),
            ("", WrongTime::Other),
            ("-", WrongTime::Other),
            (".", WrongTime::Other),
            ("2026-11-23", WrongTime::Other),
            ("2026-11-23T25:00:00", WrongTime::Other),
            ("2026-11-23T10:00:00+2400", WrongTime::Other),
            ("é", WrongTime::Other),
            ("noon é", WrongTime::Other),
        ] {
            assert_eq!(WrongTime::of(text), wrong, "{text}");
        }
    }
}

//! Reads times as RFC 3339 spells them, and writes them in the one form that goes out: `YYYY-MM-DDTHH:MM:SS[.f]Z` with up to six
//! digits after the point.
//!
//! All of the years 0001 to 9999 are read. jiff's `Timestamp` ends a day before the last of them does.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// The years of UTC that both the form which goes out and the libraries of receivers can express.
const YEARS: RangeInclusive<i16> = 1..=9999;

/// Digits after the point that go out.
const DIGITS: usize = 6;

/// The length of `YYYY-MM-DDTHH:MM:SS`.
const SECONDS_END: usize = 19;

/// The same time in the one form that goes out, or `None` if the text is no time of RFC 3339 (section 5.6) from year 0001 to 9999.
/// What is in that form already stays as it is, byte for byte. A leap second becomes the second before it, and digits after
/// the sixth are cut off.
pub(crate) fn in_one_form(text: &str) -> Option<Cow<'_, str>> {
    let time = Spelled::read(text)?;
    if time.is_in_one_form(text) {
        return Some(Cow::Borrowed(text));
    }
    let point = if time.fraction.is_empty() { "" } else { "." };
    Some(Cow::Owned(format!("{}{point}{}Z", time.utc, time.fraction)))
}

/// Whether a receiver sees the date, the clock and the digits of `written` in `sent`, which [`in_one_form`] made of it.
pub(crate) fn is_same_clock(written: &str, sent: &str) -> bool {
    let parts = |text| Some((str::get(text, ..10)?, str::get(text, 11..SECONDS_END)?));
    // Behind the point and the digits that go out.
    let mut cut = written.bytes().skip(SECONDS_END + 1 + DIGITS).take_while(u8::is_ascii_digit);
    parts(written) == parts(sent) && cut.all(|digit| digit == b'0')
}

/// The time that a person or a program gave as the bound of a search: RFC 3339 as [`in_one_form`] reads it, or another form that
/// jiff reads. Later times than a `Timestamp` can express count as the last of those.
pub(crate) fn instant(text: &str) -> Option<Timestamp> {
    let Some(time) = Spelled::read(text) else { return text.parse().ok() };
    let whole = time.utc.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp());
    let digits = time.fraction.bytes().chain(std::iter::repeat(b'0')).take(DIGITS);
    let microseconds = digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    Some(whole.checked_add(microseconds.microseconds()).unwrap_or(Timestamp::MAX))
}

/// A time as a text spells it.
struct Spelled<'a> {
    /// Its whole seconds in UTC.
    utc: DateTime,
    /// The digits after the point that count.
    fraction: &'a str,
    is_leap_second: bool,
}

impl<'a> Spelled<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (start, rest) = (text.get(..SECONDS_END)?.as_bytes(), text.get(SECONDS_END..)?);
        let (fraction, offset) = match rest.strip_prefix('.') {
            Some(rest) => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                (Some(&rest[..digits]).filter(|digits| !digits.is_empty())?, &rest[digits..])
            }
            None => ("", rest),
        };
        let separators = [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")];
        if !separators.iter().all(|(at, allowed)| allowed.as_bytes().contains(&start[*at])) {
            return None;
        }
        let pair = |at: usize| two_digits(&start[at..at + 2]);
        let year = i16::from(pair(0)?) * 100 + i16::from(pair(2)?);
        let second = pair(17)?;
        let is_leap_second = second == 60;
        let date = Date::new(year, pair(5)?, pair(8)?).ok()?;
        let time = Time::new(pair(11)?, pair(14)?, if is_leap_second { 59 } else { second }, 0).ok()?;
        let utc = date.to_datetime(time).checked_sub(minutes_ahead(offset)?.minutes()).ok()?;
        let fraction = &fraction[..fraction.len().min(DIGITS)];
        YEARS.contains(&utc.year()).then_some(Self { utc, fraction, is_leap_second })
    }

    /// Whether `text`, of which this was read, is in the form that goes out.
    fn is_in_one_form(&self, text: &str) -> bool {
        let fraction = if self.fraction.is_empty() { 0 } else { 1 + self.fraction.len() };
        let zone_at = SECONDS_END + fraction;
        text.as_bytes()[10] == b'T' && text.as_bytes()[zone_at..] == *b"Z" && !self.is_leap_second
    }
}

/// How many minutes the clock of an offset is ahead of UTC.
fn minutes_ahead(offset: &str) -> Option<i32> {
    match offset.as_bytes() {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), hours @ .., b':', tens, ones] => {
            let (hours, minutes) = (two_digits(hours)?, two_digits(&[*tens, *ones])?);
            let ahead = i32::from(hours) * 60 + i32::from(minutes);
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -ahead } else { ahead })
        }
        _ => None,
    }
}

fn two_digits(text: &[u8]) -> Option<i8> {
    match text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => i8::try_from((tens - b'0') * 10 + (ones - b'0')).ok(),
        _ => None,
    }
}

#[cfg(test)]
#[path = "spelling_tests.rs"]
mod tests;

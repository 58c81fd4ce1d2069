//! Reads settings that must lie within bounds, for `#[serde(deserialize_with = …)]`: the bounds stand at the field. Pure.
//!
//! An error says what is allowed and never repeats the value. Durations are written `250ms`, `5s`, `2h` or `30d`; their
//! bounds are in milliseconds.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// One second in milliseconds.
pub(crate) const SECOND: u64 = 1000;
/// One day in milliseconds.
pub(crate) const DAY: u64 = 24 * 60 * 60 * SECOND;
/// Bytes.
pub(crate) const MIB: i64 = 1024 * 1024;

/// A whole number from `MIN` to `MAX`.
///
/// # Errors
///
/// The value is no whole number within the bounds.
pub(crate) fn number<'de, D, N, const MIN: i64, const MAX: i64>(deserializer: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: TryFrom<i64>,
{
    let number = Some(i64::deserialize(deserializer)?).filter(|number| (MIN..=MAX).contains(number));
    let number = number.and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| D::Error::custom(format!("must be from {MIN} to {MAX}")))
}

/// A whole number from 1 to `MAX`.
///
/// # Errors
///
/// The value is no whole number within the bounds.
pub(crate) fn positive<'de, D: Deserializer<'de>, const MAX: i64>(deserializer: D) -> Result<NonZeroU32, D::Error> {
    let number: u32 = number::<D, u32, 1, MAX>(deserializer)?;
    Ok(NonZeroU32::new(number).expect("1 or more"))
}

/// A whole number from 1 to `MAX`, or 0 for none.
///
/// # Errors
///
/// The value is no whole number within the bounds.
pub(crate) fn positive_unless_0<'de, D, const MAX: i64>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error>
where
    D: Deserializer<'de>,
{
    number::<D, u32, 0, MAX>(deserializer).map(NonZeroU32::new)
}

/// A share from 0 to 0.5.
///
/// # Errors
///
/// The value is no number within the bounds.
pub(crate) fn up_to_half<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if (0.0..=0.5).contains(&share) { Ok(share) } else { Err(D::Error::custom("must be from 0 to 0.5")) }
}

/// A share from 0 to 1.
///
/// # Errors
///
/// The value is no number within the bounds.
pub(crate) fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(D::Error::custom("must be from 0 to 1")) }
}

/// A duration from `MIN` to `MAX` milliseconds.
///
/// # Errors
///
/// The text is no duration, or one that is out of bounds.
pub(crate) fn duration<'de, D, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<Duration, D::Error>
where
    D: Deserializer<'de>,
{
    let duration = parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)?;
    check(duration, Duration::from_millis(MIN)..=Duration::from_millis(MAX)).map_err(D::Error::custom)?;
    Ok(duration)
}

/// A duration whose bounds depend on other settings: the caller checks them when it has read those.
///
/// # Errors
///
/// The text is no duration.
pub(crate) fn any_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// At most `MOST` durations, each from 0 to `MAX` milliseconds.
///
/// # Errors
///
/// The list is longer, or one of its texts is no duration within the bounds.
pub(crate) fn durations<'de, D, const MOST: usize, const MAX: u64>(deserializer: D) -> Result<Vec<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    if texts.len() > MOST {
        return Err(D::Error::custom(format!("must have at most {MOST} entries")));
    }
    let read = |text: &String| {
        let duration = parse(text)?;
        check(duration, Duration::ZERO..=Duration::from_millis(MAX)).map(|()| duration)
    };
    texts.iter().map(read).collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "must be a duration such as 250ms, 5s or 2h".to_owned())
}

/// Whether a duration lies within a range, for bounds that depend on another setting.
///
/// # Errors
///
/// The duration is out of bounds: the text says what is allowed.
pub(crate) fn check(duration: Duration, range: RangeInclusive<Duration>) -> Result<(), String> {
    if range.contains(&duration) {
        return Ok(());
    }
    let shown = |bound: &Duration| humantime::format_duration(*bound).to_string();
    Err(format!("must be from {} to {}", shown(range.start()), shown(range.end())))
}

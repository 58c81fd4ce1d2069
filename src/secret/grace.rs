//! How long a secret that was replaced also signs.

use std::time::Duration;

/// The longest time, and the one for whoever names none.
pub(crate) const LONGEST_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a duration from `0s` to `24h`.
///
/// # Errors
///
/// The text is no such duration.
pub(crate) fn parse_grace(text: &str) -> Result<Duration, &'static str> {
    let grace = humantime::parse_duration(text).ok().filter(|grace| *grace <= LONGEST_GRACE);
    grace.ok_or("must be a duration from 0s to 24h, such as 30m")
}

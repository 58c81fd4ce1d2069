//! Reads the times of flags such as `--since`: a time of RFC 3339, or how long ago.

use std::time::Duration;

use jiff::Timestamp;

use crate::store::RecoverySpan;
use crate::timestamps::instant;

/// Further back than any delivery is kept.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Parses a time, or how long ago it was, for clap.
pub(super) fn since(text: &str) -> Result<RecoverySpan, String> {
    parse(text, RecoverySpan::Since, RecoverySpan::Ago)
}

/// The same as a time of this machine's clock.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    parse(text, |time| time, ago)
}

/// So long ago, by this machine's clock.
pub(super) fn ago(ago: Duration) -> Timestamp {
    Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN)
}

fn parse<T>(text: &str, time: fn(Timestamp) -> T, ago: fn(Duration) -> T) -> Result<T, String> {
    if let Some(parsed) = instant(text) {
        return Ok(time(parsed));
    }
    let parsed = humantime::parse_duration(text).ok().filter(|ago| *ago <= LONGEST);
    parsed.map(ago).ok_or_else(|| "give a time such as 2026-11-23T10:00:00Z, or how long ago, such as 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_full_or_as_how_long_ago() {
        assert_eq!(time("2026-11-23T10:00:00Z"), Ok(Timestamp::from_second(1_795_428_000).unwrap()));
        let ago = Timestamp::now().duration_since(time("2h").unwrap()).as_secs();
        assert!((7199..=7201).contains(&ago), "{ago}");
        for wrong in ["", "yesterday", "2026-11-23", "1000000y"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}

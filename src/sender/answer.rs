//! Reads the parts of a receiver's answer that are kept. Size and time are bounded, and text is cleaned.

use std::time::{Duration, SystemTime};

use jiff::fmt::rfc2822;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER};

use super::hidden::{End, Hidden};
use crate::text::{Cleaned, printable_lines};

/// Bytes of the beginning of a body that the log keeps.
const MAX_SNIPPET_BYTES: usize = 1024;
/// Bytes of the beginning of a body that are looked at: more than is kept, since a text becomes shorter when it is cleaned or a part
/// of it hidden.
const MAX_LOOKED_AT_BYTES: usize = 4 * MAX_SNIPPET_BYTES;
/// A longer value of `Retry-After` is neither a date nor a sensible number of seconds.
const MAX_RETRY_AFTER_BYTES: usize = 64;

/// How much of a body is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerLimits {
    pub timeout: Duration,
    pub max_bytes: usize,
    /// Whether the log may keep a part of a body.
    pub keeps_snippets: bool,
}

/// The cleaned beginning of the body without what is hidden, and whether there was more of it. If the body was not read to its end, the connection is
/// not used again.
pub(super) async fn snippet(response: Response, limits: AnswerLimits, hidden: &Hidden) -> (Option<String>, bool) {
    let encoded = response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    let mut body = Vec::new();
    // After a timeout the part that was read is kept.
    let whole = tokio::time::timeout(limits.timeout, read(response, limits.max_bytes, &mut body)).await;
    let cut = whole != Ok(true);
    match body.is_empty() {
        _ if !limits.keeps_snippets => (None, false),
        true => (None, cut),
        false if encoded => (Some("(compressed, not shown)".to_owned()), false),
        false => {
            let (text, is_cut) = shown(&body, cut, hidden);
            (Some(text), is_cut)
        }
    }
}

/// What the log keeps of a body of which this was read, and whether there is more. `cut`: more was not read.
fn shown(body: &[u8], cut: bool, hidden: &Hidden) -> (String, bool) {
    let beginning = &body[..body.len().min(MAX_LOOKED_AT_BYTES)];
    // UTF-16 has such bytes between letters: no value would be found in it, but anybody could read it.
    if !hidden.is_empty() && beginning.contains(&0) {
        return ("(has NUL bytes, not shown)".to_owned(), false);
    }
    let cut = cut || beginning.len() < body.len();
    let text = String::from_utf8_lossy(beginning);
    // A character that is cut at the end would be read as another one.
    let text = if cut { text.trim_end_matches(char::REPLACEMENT_CHARACTER) } else { &text };
    let end = if cut { End::Cut } else { End::Whole };
    let text = hidden.hide_and_clean(text, end, |text| printable_lines(text, usize::MAX).text);
    let Cleaned { text, is_cut } = printable_lines(&text, MAX_SNIPPET_BYTES);
    (text, cut || is_cut)
}

/// Reads the beginning of a body. Returns whether it is the whole body.
async fn read(mut response: Response, max_bytes: usize, body: &mut Vec<u8>) -> bool {
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let room = max_bytes - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            return chunk.len() == room;
        }
    }
}

/// How long `Retry-After` (RFC 9110, 10.2.3) asks to wait: seconds, or a date in any form that receivers use. Other values are
/// ignored.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let mut values = headers.get_all(RETRY_AFTER).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_RETRY_AFTER_BYTES)?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok().or_else(|| {
        let zoned = rfc2822::parse(text).ok()?;
        Some(SystemTime::from(zoned.timestamp()))
    })?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn asked(values: &[&[u8]]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(RETRY_AFTER, HeaderValue::from_bytes(value).unwrap());
        }
        let now = httpdate::parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        retry_after(&headers, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        assert_eq!(asked(&[b"120"]), Some(120));
        assert_eq!(asked(&[b"0"]), Some(0));
        assert_eq!(asked(&[b"Mon, 23 Nov 2026 10:01:40 GMT"]), Some(100));
        assert_eq!(asked(&[b"Monday, 23-Nov-26 10:01:40 GMT"]), Some(100));
        assert_eq!(asked(&[b"Mon Nov 23 10:01:40 2026"]), Some(100));
        assert_eq!(asked(&[b"Mon, 23 Nov 2026 12:01:40 +0200"]), Some(100));
        assert_eq!(asked(&[b"Mon, 23 Nov 2026 09:00:00 GMT"]), Some(0));
        assert_eq!(asked(&[b"99999999999999999999"]), Some(u64::MAX));
        assert!(asked(&[b"Fri, 31 Dec 9999 23:59:59 GMT"]).is_some());
    }

    #[test]
    fn a_body_is_read_only_as_far_as_it_can_be_kept_and_a_value_that_is_cut_there_is_hidden() {
        let hidden = Hidden::of_values(&["hunter2hunter2"]);
        // All of it becomes one mark, so the end would be shown if it were read.
        let long = "hunter2hunter2".repeat(10_000) + " the end";
        assert_eq!(shown(long.as_bytes(), false, &hidden), ("[hidden]".to_owned(), true));
        assert_eq!(shown(long.as_bytes(), false, &Hidden::default()).0, long[..MAX_SNIPPET_BYTES]);
        let whole = "hunter2hunter2 the end";
        assert_eq!(shown(whole.as_bytes(), false, &hidden), ("[hidden] the end".to_owned(), false));
        assert_eq!(shown("hunter2hunt".as_bytes(), true, &hidden), ("[hidden]".to_owned(), true));
    }

    #[test]
    fn what_cleaning_makes_readable_is_hidden() {
        let hidden = Hidden::of_values(&["hunter2 & hunter3"]);
        for body in [
            "hun\x1b[1;31mter2\x1b[0m & hun\x01ter3",
            "hunter2\x00& hunter3",
            "hunter2\t&\thunter3",
            "hunter2\x02& hunter3",
            "hunter2 &\r\n hunter3",
            r"hun\u001b[31mter2 & hun\u200bter3",
            "hun&#x200b;ter2 &amp; hunter3",
            "hunter2%20%26\x02hunter3",
        ] {
            let body = format!("it is {body}, yes\nhunter2");
            let (text, _) = shown(body.as_bytes(), false, &hidden);
            let shown = text.replace("[hidden]", "");
            assert!(!shown.contains("ter3"), "{body:?}: {text:?}");
        }
        assert_eq!(shown(b"on\nx hunter2 & hunter3\nend", false, &hidden).0, "on\nx [hidden]\nend");
    }

    #[test]
    fn a_body_with_nul_bytes_is_not_shown_to_a_webhook_with_headers() {
        let wide: Vec<u8> = "hunter2".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hidden = Hidden::of_values(&["hunter2"]);
        assert_eq!(shown(&wide, false, &hidden), ("(has NUL bytes, not shown)".to_owned(), false));
        assert_eq!(shown(b"a\0b", false, &Hidden::default()), ("a b".to_owned(), false));
    }

    #[test]
    fn an_absurd_retry_after_says_nothing() {
        let absurd: &[&[u8]] = &[b"", b"inf", b"NaN", b"1e300", b"-1", b"1.5", b"\xff", b"soon", &[b'9'; 10_000]];
        for value in absurd {
            assert_eq!(asked(&[value]), None, "{}", String::from_utf8_lossy(value));
        }
        assert_eq!(asked(&[b"1", b"2"]), None);
    }
}

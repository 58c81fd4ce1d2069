//! The headers of an answer that the log keeps: those that help to find the request in the receiver's own logs and, after a
//! failure, those that tell who answered and why. Everything else is dropped, above all cookies.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName};

use super::hidden::{End, Hidden};
use crate::text::printable;

/// Bytes of all names and values together.
const MAX_BYTES: usize = 1024;

/// Kept of every answer. They name the request in the receiver's own logs.
const REQUEST_IDS: [&str; 5] = ["X-Request-Id", "Request-Id", "X-Correlation-Id", "X-Amzn-Requestid", "CF-Ray"];

/// Kept of an answer that is no success, too.
const OF_FAILURES: [&str; 9] =
    ["Content-Type", "Server", "Date", "Retry-After", "Location", "WWW-Authenticate", "Allow", "Via", "Cf-Mitigated"];

/// The kept headers as a JSON object of names and cleaned values without what is hidden; `None` without any. If a header has several values, they are
/// joined by a comma.
pub(super) fn of(status: StatusCode, headers: &HeaderMap, hidden: &Hidden) -> Option<String> {
    let of_failures = if status.is_success() { &[][..] } else { &OF_FAILURES };
    // Nearly all answers are successes without any of these: one look at the names costs less than to look each of them up.
    let is_request_id = |name: &HeaderName| REQUEST_IDS.iter().any(|kept| name.as_str().eq_ignore_ascii_case(kept));
    if of_failures.is_empty() && !headers.keys().any(is_request_id) {
        return None;
    }
    let mut kept = BTreeMap::new();
    let mut room = MAX_BYTES;
    for name in REQUEST_IDS.iter().chain(of_failures) {
        let mut values = headers.get_all(*name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let Some(first) = values.next() else { continue };
        let value = values.fold(first.into_owned(), |all, value| all + ", " + &value);
        let Some(left) = room.checked_sub(name.len()) else { break };
        let value = shown(&value, left, hidden);
        room = left - value.len();
        kept.insert(*name, value);
    }
    if kept.is_empty() { None } else { serde_json::to_string(&kept).ok() }
}

/// At most so many bytes of the value, cleaned and without what is hidden. A few times more is looked at, since a value becomes
/// shorter when a part of it is hidden.
fn shown(value: &str, max_bytes: usize, hidden: &Hidden) -> String {
    let beginning = &value[..value.floor_char_boundary(4 * max_bytes)];
    let end = if beginning.len() < value.len() { End::Cut } else { End::Whole };
    let beginning = hidden.hide_and_clean(beginning, end, |text| printable(text, usize::MAX));
    printable(&beginning, max_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn kept(status: u16, headers: &[(&str, &[u8])]) -> serde_json::Value {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let kept = of(StatusCode::from_u16(status).unwrap(), &map, &Hidden::default());
        kept.map_or(serde_json::Value::Null, |kept| serde_json::from_str(&kept).unwrap())
    }

    #[test]
    fn a_success_keeps_request_ids_alone_and_no_answer_keeps_a_cookie() {
        let headers: &[(&str, &[u8])] = &[
            ("set-cookie", b"session=secret"),
            ("server", b"nginx"),
            ("x-request-id", b"r-1"),
            ("cf-ray", b"8f-FRA"),
            ("location", b"/login"),
            ("x-other", b"other"),
        ];
        assert_eq!(kept(200, headers), serde_json::json!({"X-Request-Id": "r-1", "CF-Ray": "8f-FRA"}));
        let failed =
            serde_json::json!({"X-Request-Id": "r-1", "CF-Ray": "8f-FRA", "Server": "nginx", "Location": "/login"});
        assert_eq!(kept(302, headers), failed);
        assert_eq!(kept(204, &headers[..2]), serde_json::Value::Null);
    }

    #[test]
    fn values_are_joined_cleaned_and_cut_to_a_kibibyte_in_all() {
        let allowed = kept(405, &[("allow", b"GET"), ("allow", b"HEAD"), ("via", b"1.1 \xff\t\"a\"")]);
        assert_eq!(allowed, serde_json::json!({"Allow": "GET, HEAD", "Via": "1.1 \u{fffd} \"a\""}));
        let long = [b'x'; 700];
        let cut = kept(500, &[("via", &long), ("server", &long), ("x-request-id", b"r-1"), ("date", &long)]);
        let bytes: usize =
            cut.as_object().unwrap().iter().map(|(name, value)| name.len() + value.as_str().unwrap().len()).sum();
        assert_eq!((bytes, cut["X-Request-Id"].as_str()), (MAX_BYTES, Some("r-1")));
        assert_eq!(cut["Server"].as_str().unwrap().len(), 700);
    }

    #[test]
    fn a_long_value_is_read_only_as_far_as_it_can_be_kept() {
        let hidden = Hidden::of_values(&["hunter2hunter2"]);
        // All of it becomes one mark, so the end would be shown if it were read.
        let long = "hunter2hunter2".repeat(10_000) + " the end";
        assert_eq!(shown(&long, MAX_BYTES, &hidden), "[hidden]");
        assert_eq!(shown(&long, MAX_BYTES, &Hidden::default()), long[..MAX_BYTES]);
        assert_eq!(shown("a\thunter2hunter2, hunter2hunter2 the end", 12, &hidden), "a [hidden], ");
    }
}

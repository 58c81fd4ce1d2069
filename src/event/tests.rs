use super::*;
use crate::trace_context::TraceContext;
use proptest::prelude::*;

fn parser() -> EventParser {
    EventParser { catalogue: Catalogue::of_types(&["content.published"]), max_event_bytes: 256 * 1024 }
}

fn now() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

fn parse(body: impl AsRef<[u8]>) -> Result<Event, Malformed> {
    parser().parse(body.as_ref(), &Properties::default(), now())
}

fn message(fields: &str) -> String {
    format!(r#"{{"id":"evt_1","type":"content.published","account_id":"acc_1",{fields}}}"#)
}

#[test]
fn data_arrives_byte_for_byte() {
    let untouched = [
        r#"{"b":1, "a" :2}"#,
        "1e400",
        "123456789012345678901234567890",
        "-0",
        "0.30000000000000004",
        r#""\u0000 \ud800 \/ \u00e9 é""#,
        "null",
        r#"{"a":1,"a":2}"#,
        "[ ]",
    ];
    for data in untouched {
        let event = parse(message(&format!(r#""occurred_at":"2026-01-02T03:04:05.5Z","data": {data} "#))).unwrap();
        let expected = format!(
            r#"{{"id":"evt_1","type":"content.published","timestamp":"2026-01-02T03:04:05.5Z","data":{data}}}"#
        );
        assert_eq!(event.body, expected);
    }
}

#[test]
fn the_depth_of_a_text_counts_no_brackets_in_strings() {
    let texts = [
        ("1", 0),
        ("{}", 1),
        (r#"{"a":[{}],"b":[]}"#, 3),
        ("[[],[[]],[]]", 3),
        (r#"["[[[[","{{{{"]"#, 1),
        (r#"["]]]",["}}}",[]]]"#, 3),
        (r#"["\"[[["]"#, 1),
        (r#"["\\",[[]]]"#, 3),
        (r#"["\\\"[[",[]]"#, 2),
    ];
    for (json, depth) in texts {
        assert_eq!(envelope::depth(json), depth, "{json}");
    }
}

#[test]
fn an_event_may_be_as_large_as_the_limit_and_no_larger() {
    let body = message(r#""data":1"#);
    let with_limit = |max_event_bytes| EventParser { max_event_bytes, ..parser() };
    let parse = |limit| with_limit(limit).parse(body.as_bytes(), &Properties::default(), now());
    assert!(parse(body.len()).is_ok());
    assert_eq!(parse(body.len() - 1).unwrap_err(), Malformed::TooLarge(body.len() - 1));
}

#[test]
fn whatever_is_no_event_says_why() {
    let nested = |levels: usize| message(&format!(r#""data":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "empty"),
        (b" \n".to_vec(), "empty"),
        (b"null".to_vec(), "not_an_object"),
        (b"true".to_vec(), "not_an_object"),
        (b"42".to_vec(), "not_an_object"),
        (b"\"s\"".to_vec(), "not_an_object"),
        (b"[]".to_vec(), "not_an_object"),
        (b"{} x".to_vec(), "not_json"),
        (b"{}{}".to_vec(), "not_json"),
        (b"\xef\xbb\xbf{}".to_vec(), "not_json"),
        (b"{\0}\0".to_vec(), "not_utf8"),
        (b"\0Sw\xa1\x02{}".to_vec(), "encoded"),
        (b"\xff\xfe{\0}\0".to_vec(), "not_utf8"),
        (message(r#""data":1,"#).into_bytes(), "not_json"),
        (message(r#""data":"#).into_bytes(), "not_json"),
        (nested(127).into_bytes(), ""),
        (nested(128).into_bytes(), "too_deep"),
        (nested(100_000).into_bytes(), "too_deep"),
        (message(r#""x":1"#).into_bytes(), "missing_field"),
        (message(r#""data":1,"data":2"#).into_bytes(), "repeated_key"),
        (message(r#""data":1,"x":2,"x":3"#).into_bytes(), "repeated_key"),
        (message(r#""data":1,"\u0069d":"evt_2""#).into_bytes(), "repeated_key"),
        (message(r#""data":1,"occurred_at":null"#).into_bytes(), ""),
        (message(r#""data":1,"occurred_at":7"#).into_bytes(), "wrong_type"),
        (message(r#""data":1,"occurred_at":"yesterday""#).into_bytes(), "invalid_occurred_at"),
        (message(r#""data":1"#).replace("content.published", "content.deleted").into_bytes(), "unknown_type"),
        (message(r#""data":1"#).replace("content.published", "*").into_bytes(), "unknown_type"),
        (message(r#""data":1"#).replace("\"acc_1\"", "42").into_bytes(), "wrong_type"),
        (message(r#""data":1"#).replace("acc_1", "").into_bytes(), "invalid_account_id"),
        (message(r#""data":1"#).replace("acc_1", "\\u0000").into_bytes(), "invalid_account_id"),
        (message(r#""data":1"#).replace("acc_1", "é").into_bytes(), "invalid_account_id"),
        (message(r#""data":1"#).replace("evt_1", "").into_bytes(), "missing_field"),
        (message(r#""data":1"#).replace("\"evt_1\"", "null").into_bytes(), "missing_field"),
        (message(r#""data":1"#).replace("evt_1", "a b").into_bytes(), "invalid_id"),
        (message(r#""data":1"#).replace("evt_1", "a\\r\\nb").into_bytes(), "invalid_id"),
        (message(r#""data":1"#).replace("evt_1", &"a".repeat(129)).into_bytes(), "invalid_id"),
        (message(&format!(r#""data":"{}""#, "x".repeat(256 * 1024))).into_bytes(), "too_large"),
    ];
    for (body, expected) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        assert_eq!(parse(body).map_or_else(|error| error.reason(), |_| ""), expected, "{shown}");
    }
}

#[test]
fn the_message_fills_in_what_the_event_leaves_out() {
    let body = r#"{"type":"content.published","account_id":"' OR 1=1--","data":{}}"#;
    let trace = TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let properties = Properties {
        trace,
        message_id: Some("msg-1".into()),
        timestamp: Some(1_700_000_000),
        content_encoding: Some("identity".into()),
        compression: Some("zlib".into()),
    };
    let event = parser().parse(body.as_bytes(), &properties, now()).unwrap();
    assert_eq!((event.id.as_str(), event.account_id.as_str()), ("msg-1", "' OR 1=1--"));
    assert!(event.trace.is_some() && event.trace == trace);
    assert!(
        event
            .body
            .starts_with(br#"{"id":"msg-1","type":"content.published","timestamp":"2023-11-14T22:13:20Z","data""#)
    );
    let beyond = Properties { timestamp: Some(1 << 40), ..properties };
    let event = parser().parse(body.as_bytes(), &beyond, now()).unwrap();
    assert!(String::from_utf8_lossy(&event.body).contains(r#""timestamp":"2026-11-23T10:00:00Z""#));
}

fn encoded(encoding: &str) -> Result<Event, Malformed> {
    let properties = Properties { content_encoding: Some(encoding.into()), ..Properties::default() };
    parser().parse(message(r#""data":1"#).as_bytes(), &properties, now())
}

#[test]
fn a_compressed_body_is_no_event_and_the_reason_names_its_encoding() {
    for encoding in ["gzip", "utf-16", "UTF-8; q=1", "base64", "quoted-printable", "utf-88", "latin1"] {
        let malformed = encoded(encoding).unwrap_err();
        assert_eq!(malformed.reason(), "encoded");
        assert!(malformed.to_string().contains(&format!("\"{encoding}\"")), "{malformed}");
    }
    let long = encoded(&format!("a\u{202e}\n{}", "x".repeat(1000))).unwrap_err().to_string();
    assert!(long.contains(r#""a\u{202e} xxx"#) && long.len() < 200, "{long}");
}

#[test]
fn an_encoding_that_changes_nothing_is_none_in_any_spelling() {
    for encoding in [
        "", " ", "utf-8", "UTF8", "utf8", "Utf-8", "utf_8", " UTF-8 ", "us-ascii", "ASCII", "identity", "8bit", "7Bit",
        "binary",
    ] {
        assert!(encoded(encoding).is_ok(), "{encoding}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(body);
    }

    #[test]
    fn an_accepted_event_is_sent_as_json_with_its_own_data(
        id in "[A-Za-z0-9_-]{1,128}", account in "[ -~]{1,128}", data in "[ -~éλ😀]{0,200}",
    ) {
        let data = serde_json::json!({ "text": data });
        let body = serde_json::json!({
            "id": id, "type": "content.published", "account_id": account, "data": data, "more": [1],
        });
        let event = parse(body.to_string()).unwrap();
        let sent: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
        prop_assert_eq!(&sent["data"], &data);
        prop_assert_eq!(&sent["id"], &id);
        prop_assert_eq!(event.account_id.as_str(), account);
    }
}

proptest! {
    #[test]
    fn utf_8_is_utf_8_however_it_is_written(cases in proptest::collection::vec(any::<bool>(), 4), dash in "[-_ ]{0,2}", around in "[ \t]{0,3}") {
        let letters = "utf8".chars().zip(cases).map(|(char, upper)| if upper { char.to_ascii_uppercase() } else { char });
        let mut name: String = letters.collect();
        name.insert_str(3, &dash);
        let written = [around.as_str(), &name, &around].concat();
        prop_assert!(encoded(&written).is_ok());
    }
}

//! Reads any text as headers, a line `name: value` each; a name alone stands for one whose stored value is kept. Nothing may panic.
//! Accepted headers must be accepted again and read back from their stored text, no value may break a line, and no name may be one
//! that must be refused, however it is spelt.

use penr_webhooks::secret::SecretText;
use penr_webhooks::webhook::{CustomHeaders, WantedHeaders};

/// Names that must be refused. `*` stands for any ending, and `-` for any character that is neither a letter nor a digit.
const REFUSED: [&str; 50] = [
    "accept*",
    "baggage",
    "cf-connecting-ip",
    "client-cert*",
    "connection",
    "content-*",
    "cookie",
    "expect",
    "forwarded*",
    "host",
    "if",
    "if-*",
    "keep-alive",
    "metadata",
    "metadata-flavor",
    "origin",
    "proxy",
    "proxy-*",
    "range",
    "referer",
    "sec-*",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "user-agent",
    "via",
    "webhook-*",
    "x-aws-*",
    "x-consumer-*",
    "x-envoy-*",
    "x-forwarded-*",
    "x-google-*",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-middleware-subrequest",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-extra-*",
    "x-remote-group",
    "x-remote-user",
    "x-rewrite-url",
    "x-webauth-*",
    "x-webhook-*",
];

fn must_be_refused(name: &str) -> bool {
    let is = |byte: u8, wanted: u8| match wanted {
        b'-' => !byte.is_ascii_alphanumeric(),
        letter => byte.eq_ignore_ascii_case(&letter),
    };
    let begins = |wanted: &str| name.len() >= wanted.len() && name.bytes().zip(wanted.bytes()).all(|(a, b)| is(a, b));
    REFUSED.iter().any(|refused| match refused.strip_suffix('*') {
        Some(beginning) => begins(beginning),
        None => begins(refused) && name.len() == refused.len(),
    })
}

fn is_harmless(value: &str) -> bool {
    !value.is_empty() && value.trim() == value && value.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// What Oracle's cloud asks for before it shows its metadata.
fn opens_metadata(name: &str, value: &str) -> bool {
    let words: Vec<_> = value.to_ascii_lowercase().split_ascii_whitespace().map(str::to_owned).collect();
    name.eq_ignore_ascii_case("authorization") && words == ["bearer", "oracle"]
}

fn accept(given: Vec<(String, Option<SecretText>)>, stored: &CustomHeaders) -> Option<CustomHeaders> {
    WantedHeaders::parse(given).ok()?.with_kept(stored, true).ok()
}

/// Whether the text has acceptable headers. Panics if the policy breaks its promise.
pub fn check(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let lines = text.split('\n').filter(|line| !line.is_empty());
    let given = lines.map(|line| match line.split_once(": ") {
        Some((name, value)) => (name.to_owned(), Some(value.into())),
        None => (line.to_owned(), None),
    });
    let stored = accept(vec![("X-Kept".to_owned(), Some("kept".into()))], &CustomHeaders::default());
    let Some(headers) = accept(given.collect(), &stored.expect("a usual header")) else { return false };
    let mut again = Vec::new();
    for (name, value) in headers.iter() {
        assert!(!must_be_refused(name.as_str()), "{name:?}");
        assert!(is_harmless(value.expose()), "{:?}", value.expose());
        assert!(!opens_metadata(name.as_str(), value.expose()), "{:?}", value.expose());
        again.push((name.as_str().to_owned(), Some(value.clone())));
    }
    assert!(again.len() <= 10);
    assert_eq!(CustomHeaders::from_text(&headers.to_text()).as_ref(), Some(&headers), "it is read back");
    assert_eq!(accept(again, &CustomHeaders::default()).as_ref(), Some(&headers), "it is accepted again");
    !headers.is_empty()
}

use std::net::IpAddr;

use super::{MAX_URL_BYTES, UrlPolicy, UrlRefusal, WebhookUrl};
use crate::address::AddressPolicy;
use crate::webhook::url_warnings;

mod properties;

fn parse(raw: &str) -> Result<WebhookUrl, UrlRefusal> {
    WebhookUrl::parse(raw, &UrlPolicy::default())
}

fn parsed(raw: &str) -> WebhookUrl {
    parse(raw).unwrap_or_else(|refusal| panic!("{raw} refused: {refusal}"))
}

fn allowing(networks: &[&str]) -> UrlPolicy {
    let allow = networks.iter().map(|network| network.parse().expect("a network of the test")).collect();
    UrlPolicy { addresses: AddressPolicy::new(allow, Vec::new()), ..UrlPolicy::default() }
}

/// The name of the rule in the table.
fn rule(refusal: UrlRefusal) -> &'static str {
    match refusal {
        UrlRefusal::TooLong => "too_long",
        UrlRefusal::Raw => "raw",
        UrlRefusal::Ascii => "ascii",
        UrlRefusal::Parse(_) => "parse",
        UrlRefusal::Scheme | UrlRefusal::HttpsRequired => "scheme",
        UrlRefusal::UserInfo => "userinfo",
        UrlRefusal::Fragment => "fragment",
        UrlRefusal::Host | UrlRefusal::PrivateName => "host",
        UrlRefusal::Blocked => "blocked",
        UrlRefusal::Port => "port",
    }
}

/// The address, if the host is one.
fn address_of(url: &WebhookUrl) -> Option<IpAddr> {
    url.host().trim_matches(['[', ']']).parse().ok()
}

/// Undoes the escapes of the table; a backslash that begins none of them stands for itself.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let (char, length) = escape(&rest[at..]);
        plain.push(char);
        rest = &rest[at + length..];
    }
    plain + rest
}

fn escape(text: &str) -> (char, usize) {
    let code = |from, to| text.get(from..to).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
    match text.as_bytes().get(1) {
        Some(b't') => ('\t', 2),
        Some(b'n') => ('\n', 2),
        Some(b'0') => ('\0', 2),
        Some(b'x') => code(2, 4).map_or(('\\', 1), |char| (char, 4)),
        Some(b'u') => code(2, 6).map_or(('\\', 1), |char| (char, 6)),
        _ => ('\\', 1),
    }
}

#[test]
fn the_table_of_urls_is_kept() {
    for line in include_str!("url.tsv").lines().skip(1) {
        let [url, verdict, rule] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("bad row: {line}") };
        match (verdict, parse(&unescaped(url))) {
            ("R", Err(refusal)) => assert_eq!(self::rule(refusal), rule, "{url}"),
            ("A" | "A→D", Ok(_)) => {}
            (_, result) => panic!("{url}: expected {verdict} {rule}, got {result:?}"),
        }
    }
}

#[test]
fn the_url_requested_is_the_normalised_one() {
    for (raw, normalised) in [
        ("HTTPS://Hooks.Example.COM:443", "https://hooks.example.com/"),
        ("https://example.com./hook", "https://example.com/hook"),
        ("https://example.com:08443/a/../b", "https://example.com:8443/b"),
        ("https://[2606:4700:4700:0:0:0:0:1111]/", "https://[2606:4700:4700::1111]/"),
        ("http://8.8.8.8:80", "http://8.8.8.8/"),
    ] {
        assert_eq!(parsed(raw).as_str(), normalised);
        assert_eq!(parsed(raw).url().as_str(), normalised);
    }
}

#[test]
fn an_address_has_one_spelling() {
    for raw in
        ["https://8.8.8.8./", "https://134744072/", "https://8.8.2056/", "https://8.8.8.0x8/", "https://010.8.8.8/"]
    {
        assert_eq!(parse(raw), Err(UrlRefusal::Host), "{raw}");
    }
}

#[test]
fn a_url_has_exactly_two_slashes() {
    for raw in ["https:example.com/", "https:/example.com/", "https:///example.com/", "https:////example.com/"] {
        assert_eq!(parse(raw), Err(UrlRefusal::Raw), "{raw}");
    }
}

#[test]
fn foreign_letters_are_told_from_disguised_ascii() {
    for raw in ["пример.рф", "אבג.com", "उदाहरण.com", "例え.jp", "cafe\u{301}.fr", "example.com/\u{fc}"]
    {
        assert_eq!(parse(&format!("https://{raw}")), Err(UrlRefusal::Ascii), "{raw}");
    }
    for disguise in
        ["ｌocalhost.com", "a\u{ad}b.com", "a․b.com", "a／b.com", "²130706433", "a\u{202e}b.com", "a\u{a0}b.com"]
    {
        assert_eq!(parse(&format!("https://{disguise}")), Err(UrlRefusal::Raw), "{disguise}");
    }
}

#[test]
fn names_without_a_public_meaning_are_refused() {
    for name in
        ["localhost", "db.localhost", "a.corp", "router.home", "x.home.arpa", "1.0.0.127.in-addr.arpa", "A.LAN."]
    {
        assert_eq!(parse(&format!("https://{name}/")), Err(UrlRefusal::PrivateName), "{name}");
    }
    for name in ["com", "com.", ".com", "a..com", "a-.com", "a.com-", "a!b.com", "a,b.com", ".", ".."] {
        assert_eq!(parse(&format!("https://{name}/")), Err(UrlRefusal::Host), "{name}");
    }
}

#[test]
fn a_name_has_253_bytes_at_most() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    parsed(&format!("https://{longest}/"));
    parsed(&format!("https://{longest}./"));
    assert_eq!(parse(&format!("https://{longest}a/")), Err(UrlRefusal::Host));
}

#[test]
fn a_url_has_2048_bytes_at_most_even_when_normalised() {
    let padded = |filler: &str, bytes: usize| {
        let start = "https://example.com/";
        format!("{start}{}", filler.repeat((bytes - start.len()) / filler.len()))
    };
    assert_eq!(parsed(&padded("a", MAX_URL_BYTES)).as_str().len(), MAX_URL_BYTES);
    assert_eq!(parse(&padded("a", MAX_URL_BYTES + 1)), Err(UrlRefusal::TooLong));
    assert_eq!(parse(&padded("\"", 1000)), Err(UrlRefusal::TooLong));
}

#[test]
fn an_address_without_its_scheme_is_told_what_to_begin_with() {
    let strict = UrlPolicy { require_https: true, ..UrlPolicy::default() };
    for raw in ["localhost:3000/hook", "hooks.example.com:8443/hook", "ftp://example.com/"] {
        assert!(parse(raw).unwrap_err().to_string().contains("must begin with https:// (or http://)"), "{raw}");
        assert_eq!(WebhookUrl::parse(raw, &strict), Err(UrlRefusal::HttpsRequired), "{raw}");
    }
}

#[test]
fn ports_of_web_servers_are_accepted_and_those_of_databases_are_not() {
    for port in [443, 1024, 3000, 4443, 5000, 8000, 8080, 8443, 8888, 9000, 9443, 49152, 65535] {
        parsed(&format!("https://example.com:{port}/"));
    }
    for port in [0, 1, 22, 25, 80, 1023, 2375, 2380, 3306, 5432, 5672, 6379, 9200, 10250, 11211, 15672, 27017] {
        assert_eq!(parse(&format!("https://example.com:{port}/")), Err(UrlRefusal::Port), "{port}");
    }
    parsed("http://example.com:80/");
    assert_eq!(parse("http://example.com:443/"), Err(UrlRefusal::Port));
}

#[test]
fn http_is_accepted_with_a_warning_unless_the_operator_requires_https() {
    let strict = UrlPolicy { require_https: true, ..UrlPolicy::default() };
    let plain = parsed("http://example.com/");
    assert_eq!(url_warnings(plain.as_str(), false).len(), 1);
    assert!(url_warnings(parsed("https://example.com/").as_str(), false).is_empty());
    let refusal = WebhookUrl::parse("http://example.com/", &strict).expect_err("http is refused");
    assert_eq!(refusal, UrlRefusal::HttpsRequired);
    WebhookUrl::parse("https://example.com/", &strict).expect("https is accepted");
}

#[test]
fn an_allowed_network_can_be_called_in_development() {
    let policy = allowing(&["127.0.0.0/8", "::1/128"]);
    let url = WebhookUrl::parse("http://127.0.0.1:9000/hook", &policy).expect("loopback is allowed");
    assert_eq!(address_of(&url), Some([127, 0, 0, 1].into()));
    WebhookUrl::parse("http://[::1]:9000/hook", &policy).expect("loopback is allowed");
    for raw in
        ["http://2130706433:9000/", "http://127.1:9000/", "http://[::ffff:127.0.0.1]:9000/", "http://10.0.0.1:9000/"]
    {
        WebhookUrl::parse(raw, &policy).expect_err(raw);
    }
}

#[test]
fn only_the_host_is_ever_shown() {
    let url = parsed("https://example.com:8443/secret-path?token=secret-query");
    assert_eq!(format!("{url:?}"), r#"WebhookUrl { host: "example.com", .. }"#);
    assert_eq!(url.host(), "example.com");
    assert_eq!(parsed("https://[2606:4700:4700::1111]:8443/").host(), "[2606:4700:4700::1111]");
    assert_eq!(address_of(&url), None);
}

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;
use crate::secret::SecretText;
use crate::webhook::WantedHeaders;

impl Hidden {
    /// What hides the values of these headers.
    pub(in crate::sender) fn of_values(values: &[&str]) -> Self {
        let named = values.iter().enumerate().map(|(at, value)| (format!("X-{at}"), Some(SecretText::from(*value))));
        let wanted = WantedHeaders::parse(named.collect()).unwrap();
        Self::of(&wanted.with_kept(&CustomHeaders::default(), true).unwrap())
    }
}

fn hiding(values: &[&str]) -> Hidden {
    Hidden::of_values(values)
}

fn hide(values: &[&str], text: &str) -> String {
    hiding(values).hide(text, End::Whole).into_owned()
}

fn hide_cut(value: &str, text: &str) -> String {
    hiding(&[value]).hide(text, End::Cut).into_owned()
}

#[test]
fn a_text_is_left_as_it_is_without_headers_or_an_occurrence() {
    assert!(matches!(Hidden::default().hide("Bearer hunter2", End::Cut), Cow::Borrowed(_)));
    assert!(matches!(hiding(&["hunter2"]).hide("hunter %41 &amp; \\u0041", End::Cut), Cow::Borrowed(_)));
}

#[test]
fn values_are_hidden_in_every_usual_spelling() {
    let value = r#"a"b\c<d>&'e=/+f g"#;
    for text in [
        value,
        r#"a\"b\\c<d>&'e=/+f g"#,
        r#"a\"b\\c<d>&'e=\/+f g"#,
        r#"a\"b\\c\u003cd\u003E\u0026'e=/\u002Bf g"#,
        r#"a\x22b\\c<d>&\'e\x3d/+f g"#,
        "a&quot;b\\c&lt;d&gt;&amp;&#39;e=/+f g",
        "a&#34;b\\c&lt;d&gt;&amp;&#x27;e&#61;/&#43;f&#x20;g",
        "a%22b%5Cc%3Cd%3E%26%27e%3D%2F%2Bf%20g",
        "a%22b%5cc%3cd%3e%26'e=/%2bf+g",
        r"a\&quot;b\\c&lt;d&gt;&amp;'e=/+f g",
        r#"a\\\"b\\\\c<d>&'e=\/+f g"#,
        r"a&quot;b\\c&lt;d&gt;&amp;'e=\/+f g",
    ] {
        assert_eq!(hide(&[value], &format!("<{text}>é{text}!")), "<[hidden]>é[hidden]!", "{text}");
    }
}

#[test]
fn the_credentials_after_the_scheme_and_what_basic_encodes_are_hidden_too() {
    assert_eq!(hide(&["Bearer hunter2"], "bearer hunter2, Bearer hunter2"), "bearer [hidden], [hidden]");
    // `aladdin:opens/sesame?`, and `u:<<???>>` in both alphabets and with the `=` missing.
    let login = "Basic YWxhZGRpbjpvcGVucy9zZXNhbWU/";
    let text =
        "user aladdin, password opens/sesame? (aladdin:opens/sesame?) opens%2Fsesame%3F YWxhZGRpbjpvcGVucy9zZXNhbWU\\/";
    assert_eq!(hide(&[login], text), "user aladdin, password [hidden] ([hidden]) [hidden] [hidden]");
    for login in ["basic dTo8PD8/Pz4+", "BASIC dTo8PD8_Pz4-"] {
        assert_eq!(hide(&[login], "it is <<???>>, u:<<???>>"), "it is [hidden], [hidden]", "{login}");
    }
    for value in ["Basic", "Basic !", "Basic dTo", "Basic /w=="] {
        assert_eq!(hide(&[value], &format!("({value})")), "([hidden])");
    }
}

#[test]
fn credentials_within_a_value_are_hidden() {
    let encode = |text: &str| BASE64_STANDARD.encode(text);
    for (value, said) in [
        (&*format!("Basic {}", encode("sk_live_51H8:")), "user sk_live_51H8"),
        (&*format!("Basic {}", encode("key7:x")), "user key7, password x"),
        (&*format!("Basic {}", encode("sk_live_51H8:ignored")), "user sk_live_51H8"),
        (&*format!("Basic {}", encode("user:hunter2\n")), "password hunter2"),
        (&*encode("user:hunter2"), "password hunter2 (user:hunter2)"),
        (&*format!("Custom {}", encode("user:hunter2")), "password hunter2"),
        (&*format!("key={}", encode("TOPSECRET")), "TOPSECRET"),
        (r#"Token token="abcdefTOPSECRET", nonce="x""#, "bad token abcdefTOPSECRET"),
        ("key=AAAASECRET", "no key AAAASECRET"),
        ("ApiKey id:TOPSECRETkey", "no key TOPSECRETkey"),
        ("user:TOPSECRETpass", "password TOPSECRETpass"),
        ("user:TOP,SECRET=pass", "password TOP,SECRET=pass"),
        ("a=1;b=TOPSECRETx;c", "b is TOPSECRETx"),
    ] {
        let shown = hide(&[value], said);
        let words = ["sk_live", "key7", "hunter2", "SECRET"];
        assert!(!words.iter().any(|word| shown.contains(word)), "{value}: {shown}");
    }
    assert_eq!(hide(&["GoogleLogin auth=hunter2hunter2"], "GoogleLogin failed"), "GoogleLogin failed");
}

#[test]
fn there_are_not_too_many_texts_to_search_for_and_every_value_has_its_share() {
    let value = |at: i32| (0..30).fold("Bearer first".to_owned(), |all, piece| format!("{all},piece-{at}-{piece}"));
    let values: Vec<String> = (0..10).map(value).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    let hidden = hiding(&values);
    assert_eq!(hidden.0.len(), MOST_TEXTS);
    for value in &values {
        assert_eq!(hidden.hide(value, End::Whole), HIDDEN);
        assert_eq!(hidden.hide(&value.replace("Bearer", "bearer"), End::Whole), "bearer [hidden]");
    }
}

#[test]
fn values_are_hidden_with_what_nobody_sees_between_their_characters() {
    let value = "0123456789abcdef";
    for text in [
        "01234567\x1b[1;31m89abc\u{9b}0mdef",
        "0\u{200b}1\u{ad}23456789abcdef",
        "0123456789ab\r\n\tcdef",
        r"01\u000023456789\u001b[0mabcdef",
        r"0123456789\u200babcdef",
        "01234567&#8203;89abcdef",
        "01%0023456789abcdef",
        r"01234567\r\n89\tabcdef",
    ] {
        assert_eq!(hide(&[value], &format!("<{text}\n>")), "<[hidden]\n>", "{text:?}");
    }
    for text in ["a b c d e f", "a\tb\r\nc d\ne\u{b}f", r"a\tb\u000bc d\ne f"] {
        assert_eq!(hide(&["a b c d e f"], &format!("<{text}>")), "<[hidden]>", "{text:?}");
    }
    assert_eq!(hide_cut(value, "is 0123\x1b[0m4567\x1b[3"), "is [hidden]");
    assert_eq!(hide(&[value], "\x1b[31mé\n"), "\x1b[31mé\n");
}

#[test]
fn values_that_overlap_are_hidden_as_a_whole() {
    assert_eq!(hide(&["abcdef", "defghi"], "-abcdefghi-"), "-[hidden]-");
    assert_eq!(hide(&["abcd", "abcdefgh"], "abcdefgh abcdefg"), "[hidden] [hidden]efg");
    assert_eq!(hide(&["hidden", "[hid"], "hidden [hidden]"), "[hidden] [hidden]]");
}

#[test]
fn short_values_are_hidden_as_whole_words_alone() {
    assert_eq!(hide(&["abc", "x"], "abc, x: abcd xx (abc)"), "[hidden], [hidden]: abcd xx ([hidden])");
    assert_eq!(hide(&["Bearer on"], "on: one \"on\""), "[hidden]: one \"[hidden]\"");
    assert_eq!(hide_cut("abc", "... ab"), "... ab");
}

#[test]
fn the_beginning_of_a_value_is_hidden_where_the_text_is_cut() {
    let value = "0123456789abcdef0123456789abcdef";
    assert_eq!(hide_cut(value, "is 01234567"), "is [hidden]");
    assert_eq!(hide_cut(value, "is 0123456789abcdef0123"), "is [hidden]");
    assert_eq!(hide_cut(value, "is 0123456"), "is 0123456");
    assert_eq!(hide(&[value], "is 0123456789"), "is 0123456789", "nobody cut it");
    assert_eq!(hide_cut("hunter2", "is hunt"), "is [hidden]");
    assert_eq!(hide_cut("hunter2", "is hun"), "is hun");
    assert_eq!(hide_cut("Bearer hunter2", "is hunt"), "is [hidden]");
    // An escape is cut as well.
    for text in [
        "is <hunter",
        "is \\u003chunter",
        "is \\u003chunter\\u00",
        "is &lt;hunter&qu",
        "is %3Chunter%",
        "is %3Chunter%2",
    ] {
        assert_eq!(hide_cut("<hunter\"2", text), "is [hidden]", "{text}");
    }
}

/// The value as a receiver may repeat it.
fn repeated(how: u8, value: &str) -> String {
    let json = serde_json::to_string(value).unwrap();
    let json = json[1..json.len() - 1].to_owned();
    let html = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', "&quot;").replace('\'', "&#039;")
    };
    let percent = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    match how % 8 {
        0 => value.to_owned(),
        1 => json,
        2 => json.replace('/', "\\/").replace('+', "\\u002B"),
        3 => html(value),
        4 => html(&json),
        5 => percent
            .split('%')
            .enumerate()
            .map(
                |(at, part)| {
                    if at == 0 { part.to_owned() } else { format!("%{}{}", part[..2].to_lowercase(), &part[2..]) }
                },
            )
            .collect(),
        6 => percent.replace("%20", "+"),
        _ => percent,
    }
}

proptest! {
    #[test]
    fn no_answer_shows_a_value(
        value in "[!-~][ -~]{2,30}[!-~]", before in "\\PC{0,10}", after in "\\PC{0,10}",
        ways in proptest::collection::vec(any::<u8>(), 1..4), cut in any::<bool>(),
    ) {
        let hidden = hiding(&[&value]);
        let end = if cut { End::Cut } else { End::Whole };
        for how in ways {
            let spelt = repeated(how, &value);
            // A blank before and after it: no escape of the text around it reaches into the value.
            let text = format!("{before} {spelt} {after}");
            let shown = hidden.hide(&text, end);
            prop_assert!(shown.contains(HIDDEN), "{} in {}", spelt, shown);
            prop_assert!(!shown.split(HIDDEN).any(|part| part.contains(&spelt)), "{} in {}", spelt, shown);
        }
    }

    #[test]
    fn any_text_can_be_searched(text in "\\PC*|[\\\\%&#x;u0-9a-f+é]{0,60}", value in "[%&\\\\x0-9a-f]{4,8}", cut in any::<bool>()) {
        let shown = hiding(&[&value]).hide(&text, if cut { End::Cut } else { End::Whole }).into_owned();
        prop_assert!(!shown.split(HIDDEN).any(|part| part.contains(&value)));
    }
}

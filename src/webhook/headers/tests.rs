use proptest::prelude::*;

use super::*;

fn wanted(given: &[(&str, Option<&str>)]) -> Result<WantedHeaders, HeaderRefusal> {
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), value.map(SecretText::from)));
    WantedHeaders::parse(given.collect())
}

fn set(given: &[(&str, &str)]) -> Result<CustomHeaders, HeaderRefusal> {
    let given: Vec<_> = given.iter().map(|(name, value)| (*name, Some(*value))).collect();
    wanted(&given)?.with_kept(&CustomHeaders::default(), true)
}

#[test]
fn values_are_printable_ascii_without_a_blank_at_either_end() {
    for accepted in ["x", "a b", "~!\"\\", &"x".repeat(LONGEST_VALUE)] {
        assert!(set(&[("Token", accepted)]).is_ok(), "{accepted}");
    }
    let long = "x".repeat(LONGEST_VALUE + 1);
    for refused in ["", " ", " x", "x ", "a\tb", "a\r\nHost: b", "a\0", "a\x7f", "é", &long] {
        let refusal = set(&[("Token", refused)]).unwrap_err();
        assert_eq!(refusal, HeaderRefusal::Value("Token".to_owned()), "{refused:?}");
        assert!(refused.trim().len() < 2 || !refusal.to_string().contains(refused), "{refusal}");
    }
}

#[test]
fn the_value_that_opens_metadata_is_refused_without_being_repeated() {
    let refusal = set(&[("authorization", "bearer   ORACLE")]).unwrap_err();
    assert_eq!(refusal, HeaderRefusal::OpensMetadata("authorization".to_owned()));
    assert!(!refusal.to_string().to_lowercase().contains("bearer"), "{refusal}");
    assert!(set(&[("Authorization", "Bearer Oracle2")]).is_ok());
}

#[test]
fn names_are_tokens_and_a_refusal_repeats_no_more_than_the_token_at_its_beginning() {
    for accepted in ["X", "x-1", "!#$%&'*+-.^_`|~", &"x".repeat(LONGEST_NAME)] {
        assert!(set(&[(accepted, "x")]).is_ok(), "{accepted}");
    }
    for (refused, shown) in [
        ("", ""),
        ("Token: secret", "Token"),
        ("Tökén", "T"),
        ("a\r\nb", "a"),
        ("sk_live_51H8hunter2 ", "sk_live_51H8hunt"),
    ] {
        assert_eq!(set(&[(refused, "x")]), Err(HeaderRefusal::Name(shown.to_owned())));
    }
    for long in ["x".repeat(LONGEST_NAME + 1), "sk_live_51H8 ".repeat(LONGEST_NAME)] {
        assert_eq!(set(&[(&long, "x")]), Err(HeaderRefusal::LongName));
    }
    assert_eq!(set(&[("HOST", "x")]), Err(HeaderRefusal::Refused("HOST".to_owned())));
}

#[test]
fn there_are_at_most_ten_of_4_kib_together_and_none_is_there_twice() {
    let names: Vec<String> = (0..=MOST_HEADERS).map(|number| format!("X-{number}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert!(set(&all[..MOST_HEADERS]).is_ok());
    assert_eq!(set(&all), Err(HeaderRefusal::TooMany));
    let (half, more) = ("x".repeat(MOST_BYTES / 2 - 1), "x".repeat(MOST_BYTES / 2));
    assert!(set(&[("a", &half), ("b", &half)]).is_ok());
    assert_eq!(set(&[("a", &half), ("b", &more)]), Err(HeaderRefusal::TooLong));
    assert_eq!(set(&[("Token", "x"), ("tOKEN", "y")]), Err(HeaderRefusal::Twice("tOKEN".to_owned())));
}

#[test]
fn a_null_keeps_the_value_of_the_name_in_any_case_unless_the_receiver_is_another() {
    let stored = set(&[("Token", "x"), ("Other", "y")]).unwrap();
    let keeps = |given: &[(&str, Option<&str>)]| wanted(given).unwrap().with_kept(&stored, true);
    assert_eq!(keeps(&[("TOKEN", None), ("New", Some("z"))]), set(&[("TOKEN", "x"), ("New", "z")]));
    assert_eq!(keeps(&[("Unknown", None)]), Err(HeaderRefusal::NotStored("Unknown".to_owned())));
    let moved = |given: &[(&str, Option<&str>)]| wanted(given).unwrap().with_kept(&stored, false);
    assert_eq!(moved(&[("Other", Some("y")), ("Token", None)]), Err(HeaderRefusal::OtherReceiver("Token".to_owned())));
    assert_eq!(moved(&[("Token", Some("z"))]), set(&[("Token", "z")]));
    assert_eq!(moved(&[]), Ok(CustomHeaders::default()));
}

#[test]
fn what_is_stored_is_repeated_by_its_own_names_with_null_and_nothing_else() {
    let stored = set(&[("Token", "x"), ("Other", "y")]).unwrap();
    let repeats = |given: &[(&str, Option<&str>)]| wanted(given).unwrap().repeats(&stored);
    assert!(repeats(&[("Token", None), ("Other", None)]));
    assert!(repeats(&[("Other", None), ("Token", None)]), "clients sort names in ways of their own");
    assert!(!repeats(&[("TOKEN", None), ("Other", None)]), "another spelling is shown from then on");
    assert!(!repeats(&[("Token", Some("x")), ("Other", None)]));
    assert!(!repeats(&[("Token", None)]) && !repeats(&[]));
}

#[test]
fn a_stored_name_that_the_policy_refuses_now_is_still_sent_and_cannot_be_saved_again() {
    let stored = CustomHeaders::from_text(&"Via\nx\n".into()).unwrap();
    assert_eq!(stored.names(), ["Via"]);
    assert_eq!(wanted(&[("Via", None)]), Err(HeaderRefusal::Refused("Via".to_owned())));
}

#[test]
fn a_text_that_holds_no_headers_is_not_read() {
    for text in ["Token", "Token\n", "Token\n\n", "To ken\nx\n", "Token\n x\n", "whsec_c2VjcmV0"] {
        assert_eq!(CustomHeaders::from_text(&text.into()), None, "{text:?}");
    }
    assert_eq!(CustomHeaders::from_text(&"".into()), Some(CustomHeaders::default()));
}

#[test]
fn debug_shows_names_alone() {
    let given = wanted(&[("Token", Some("hunter2")), ("Other", None)]).unwrap();
    assert_eq!(format!("{given:?}"), r#"["Token", "Other"]"#);
    assert_eq!(format!("{:?}", set(&[("Token", "hunter2")]).unwrap()), r#"["Token"]"#);
}

proptest! {
    #[test]
    fn what_is_accepted_is_read_back_from_its_text_and_breaks_no_line(
        given in proptest::collection::vec(("[!-~]{1,12}|[A-Z][a-z-]{1,12}", "[ -~\r\n\0é]{0,12}|[ -~]{1,30}"), 0..5),
    ) {
        let given: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if let Ok(headers) = set(&given) {
            let read = CustomHeaders::from_text(&headers.to_text());
            prop_assert_eq!(read.as_ref(), Some(&headers));
            let again: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
            prop_assert_eq!(set(&again), Ok(headers.clone()));
            prop_assert!(again.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])));
        }
    }
}

use jiff::Timestamp;
use proptest::prelude::*;

use super::{in_one_form, instant, is_same_clock};

#[test]
fn every_spelling_comes_out_in_one_form() {
    for (written, sent) in [
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00:00Z"),
        ("2026-11-23T10:00:00.0Z", "2026-11-23T10:00:00.0Z"),
        ("2026-11-23T10:00:00.123450Z", "2026-11-23T10:00:00.123450Z"),
        ("2026-11-23t10:00:00z", "2026-11-23T10:00:00Z"),
        ("2026-11-23 10:00:00Z", "2026-11-23T10:00:00Z"),
        ("2026-11-23T10:00:00.1234567Z", "2026-11-23T10:00:00.123456Z"),
        ("2026-11-23T10:00:00.9999999999999Z", "2026-11-23T10:00:00.999999Z"),
        ("2026-11-23T10:00:00+00:00", "2026-11-23T10:00:00Z"),
        ("2026-11-23T10:00:00-00:00", "2026-11-23T10:00:00Z"),
        ("2026-11-23T10:00:00.50+14:00", "2026-11-22T20:00:00.50Z"),
        ("2026-11-23T10:00:00-23:59", "2026-11-24T09:59:00Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
        ("2017-01-01T00:59:60.75+01:00", "2016-12-31T23:59:59.75Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0000-12-31T23:59:00-00:01", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("9999-12-31T23:59:60Z", "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(in_one_form(written).as_deref(), Some(sent), "{written}");
    }
}

#[test]
fn another_spelling_shows_the_same_clock_unless_the_offset_the_second_or_digits_change() {
    for (written, is_same) in [
        ("2026-11-23T10:00:00Z", true),
        ("2026-11-23t10:00:00.5z", true),
        ("2026-11-23 10:00:00.000000+00:00", true),
        ("2026-11-23T10:00:00-00:00", true),
        ("2026-11-23T10:00:00.1234560Z", true),
        ("2026-11-23T10:00:00.1234567Z", false),
        ("2026-11-23T10:00:00.00000000001+00:00", false),
        ("2026-11-23T11:00:00+01:00", false),
        ("2026-11-23T10:00:00+00:01", false),
        ("2016-12-31T23:59:60Z", false),
    ] {
        assert_eq!(is_same_clock(written, &in_one_form(written).unwrap()), is_same, "{written}");
    }
}

#[test]
fn what_is_no_time_of_rfc_3339_from_year_1_to_9999_is_refused() {
    for wrong in [
        "",
        "2026-11-23",
        "2026-11-23T10:00:00",
        "2026-11-23T10:00Z",
        "20261123T100000Z",
        "2026-W48-1T10:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T10:60:00Z",
        "2026-11-23T10:00:61Z",
        "2026-11-23T10:00:00+0100",
        "2026-11-23T10:00:00+01",
        "2026-11-23T10:00:00+24:00",
        "2026-11-23T10:00:00+01:60",
        "2026-11-23T10:00:00+001:00",
        "2026-11-23T10:00:00 +01:00",
        "2026-11-23T10:00:00Z[UTC]",
        "2026-11-23T10:00:00Z ",
        " 2026-11-23T10:00:00Z",
        "2026-11-23T10:00:00.Z",
        "2026-11-23T10:00:00,5Z",
        "2026-11-23T10:00:00.5",
        "2026-11-23T10:00:00.é",
        "2026-11-23T10:00:00é",
        "2026-11-23T10:00:0éZ",
        "2026-11-23_10:00:00Z",
        "2026/11/23T10:00:00Z",
        "٢026-11-23T10:00:00Z",
        "+002026-11-23T10:00:00Z",
        "-0001-11-23T10:00:00Z",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "10000-01-01T00:00:00Z",
    ] {
        assert_eq!(in_one_form(wrong), None, "{wrong}");
    }
}

#[test]
fn a_bound_of_a_search_may_be_any_time() {
    assert_eq!(instant("1970-01-01T01:00:01.25+01:00"), Timestamp::from_millisecond(1250).ok());
    assert_eq!(instant("1970-01-01T00:00:00.1234567891Z"), Timestamp::from_microsecond(123_456).ok());
    assert_eq!(instant("1970-01-01 00:00:00z"), Some(Timestamp::UNIX_EPOCH));
    assert_eq!(instant("1970-01-01T00:00Z"), Some(Timestamp::UNIX_EPOCH));
    assert_eq!(instant("9999-12-31T23:59:59Z"), Some(Timestamp::MAX));
    assert_eq!(instant("9999-12-30T22:00:00.5Z"), "9999-12-30T22:00:00.5Z".parse().ok());
    assert_eq!(instant("yesterday"), None);
}

/// Times from the first year to jiff's last, in whole microseconds.
fn times() -> impl Strategy<Value = Timestamp> {
    let first: Timestamp = "0001-01-02T00:00:00Z".parse().unwrap();
    let last = Timestamp::MAX.as_microsecond() - 86_400_000_000;
    (first.as_microsecond()..last).prop_map(|time| Timestamp::from_microsecond(time).unwrap())
}

proptest! {
    #[test]
    fn every_accepted_spelling_is_the_same_instant_in_the_one_form(
        time in times(), zone in -1439..1440_i32, more in "[0-9]{0,9}", separator in "[Tt ]",
    ) {
        let offset = jiff::tz::Offset::from_seconds(zone * 60).unwrap();
        let local = offset.to_datetime(time);
        let sign = if zone < 0 { '-' } else { '+' };
        let written = format!(
            "{}{separator}{:.6}{more}{sign}{:02}:{:02}", local.date(), local.time(), zone.abs() / 60, zone.abs() % 60,
        );
        let sent = in_one_form(&written).unwrap().into_owned();
        let shape = sent.len() == 27 && sent.as_bytes()[10] == b'T' && sent.ends_with('Z');
        prop_assert!(shape, "{} became {}", written, sent);
        prop_assert_eq!(sent.parse::<Timestamp>().unwrap(), time, "{} became {}", written, sent);
        prop_assert_eq!(instant(&written), Some(time), "{}", written);
    }

    #[test]
    fn what_is_in_the_form_stays_byte_for_byte(time in times(), digits in 0..7_usize) {
        let whole = time.to_string();
        let fraction = format!("{:06}", time.subsec_microsecond().rem_euclid(1_000_000));
        let point = if digits > 0 { "." } else { "" };
        let written = format!("{}{point}{}Z", &whole[..19], &fraction[..digits]);
        let sent = in_one_form(&written);
        prop_assert_eq!(sent.as_deref(), Some(written.as_str()));
    }

    #[test]
    fn what_goes_out_is_accepted_again_and_stays(text in "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,12})?([Zz]|[+-][0-2][0-9]:[0-5][0-9])") {
        if let Some(sent) = in_one_form(&text) {
            let again = in_one_form(&sent);
            prop_assert_eq!(again.as_deref(), Some(&*sent));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}", cut in 0..40_usize) {
        let _ = (in_one_form(&text), instant(&text));
        let near = format!("2026-11-23T10:00:00.123456+01:00{text}");
        let cut = near.char_indices().nth(cut).map_or(near.len(), |(at, _)| at);
        let _ = (in_one_form(&near[..cut]), instant(&near[..cut]));
    }
}

use super::*;

/// The page parses an example and writes it again, so that customers can edit it.
#[test]
fn javascript_writes_every_number_of_an_example_as_it_stands_there() {
    let settings = load(None, &[]).unwrap();
    let mut numbers = 0;
    for entry in settings.events.catalogue.entries() {
        let text = entry.example.as_ref().expect("an example").as_str();
        assert!(!text.contains(r#"\""#), "{}: every quote begins or ends a string", entry.event_type);
        let outside_strings = text.split('"').step_by(2);
        let words = outside_strings.flat_map(|text| text.split(|c: char| " ,:[]{}\n".contains(c)));
        for number in words.filter(|word| word.starts_with(|c: char| c == '-' || c.is_ascii_digit())) {
            numbers += 1;
            let value: f64 = number.parse().expect("a number");
            // Smaller and larger ones get an exponent in JavaScript; `-0` becomes `0`.
            assert!(value == 0.0 || (1e-6..1e21).contains(&value.abs()), "{}: {number}", entry.event_type);
            assert!(number == value.to_string() && number != "-0", "{}: {number}", entry.event_type);
        }
    }
    assert!(numbers > 7, "{numbers}");
}

/// A receiver that verifies the signature of JSON which it has parsed and written again must fail at a test.
#[test]
fn every_example_changes_when_it_is_parsed_and_written_again() {
    let settings = load(None, &[]).unwrap();
    for entry in settings.events.catalogue.entries() {
        let text = entry.example.as_ref().expect("an example").as_str();
        for part in [": ", ", ", r"\u00fc"] {
            assert!(text.contains(part), "{}: {part}", entry.event_type);
        }
        let parsed: serde_json::Value = serde_json::from_str(text).unwrap();
        assert!(parsed.is_object() && *text != *parsed.to_string(), "{}", entry.event_type);
    }
    let none = "[event_types.\"content.created\"]\nexample = \"\"\n";
    assert_eq!(load(Some(none), &[]).unwrap().events.catalogue.entries()[0].example, None);
}

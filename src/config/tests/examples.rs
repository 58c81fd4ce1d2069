use super::*;

/// A receiver that verifies the signature of JSON which it has parsed and written again must fail at a test.
#[test]
fn every_example_changes_when_it_is_parsed_and_written_again() {
    let settings = load(None, &[]).unwrap();
    for entry in settings.events.catalogue.entries() {
        let text = entry.example.as_ref().expect("an example").as_str();
        for part in [": ", ", ", "1.0", r"\u00fc"] {
            assert!(text.contains(part), "{}: {part}", entry.event_type);
        }
        let parsed: serde_json::Value = serde_json::from_str(text).unwrap();
        assert!(parsed.is_object() && *text != *parsed.to_string(), "{}", entry.event_type);
    }
    let none = "[event_types.\"content.created\"]\nexample = \"\"\n";
    assert_eq!(load(Some(none), &[]).unwrap().events.catalogue.entries()[0].example, None);
}

//! `docs/event.schema.json` and the parser agree. The schema takes whatever the parser takes. The parser refuses something that
//! the schema takes only for one of the reasons in [`Beyond`].

mod changes;
mod reading;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jsonschema::Validator;
use penr_webhooks::event::{Catalogue, CatalogueEntry, EventParser, Malformed, Properties};
use penr_webhooks::ids::EventType;
use proptest::prelude::*;
use serde_json::Value;

use crate::bad_input::table::rows;
use reading::{fields, read};

/// What the parser refuses and a schema of the body cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Beyond {
    /// A key stands twice. A schema sees an object that has each key once.
    RepeatedKey,
    /// No keyword counts levels.
    Depth,
    /// No keyword counts the bytes of a text.
    Size,
    /// `content_encoding` is a property of the message, not a part of its body.
    Encoding,
    /// The body has no `id`, and the message's `message_id`, which is not part of the body, is missing or breaks the rule.
    MessageId,
    /// A day that its month does not have. A pattern that knows leap years could be read by nobody.
    Calendar,
    /// The year is outside of 0001 to 9999 once the offset is subtracted. A pattern does not subtract.
    Year,
}

const ALL: [Beyond; 7] = [
    Beyond::RepeatedKey,
    Beyond::Depth,
    Beyond::Size,
    Beyond::Encoding,
    Beyond::MessageId,
    Beyond::Calendar,
    Beyond::Year,
];

impl Beyond {
    /// Why the parser may refuse a body that the schema takes. `None`: the schema should refuse it too.
    fn of(malformed: &Malformed, body: &Value) -> Option<Self> {
        let text = |field: &str| body[field].as_str();
        match *malformed {
            Malformed::RepeatedKey => Some(Self::RepeatedKey),
            Malformed::TooDeep => Some(Self::Depth),
            Malformed::TooLarge(_) => Some(Self::Size),
            Malformed::Encoded(_) => Some(Self::Encoding),
            Malformed::Missing("id") | Malformed::Id => text("id").is_none_or(str::is_empty).then_some(Self::MessageId),
            Malformed::OccurredAt(field, _) => Self::of_time(text(field)?),
            _ => None,
        }
    }

    /// `time` fits the schema's pattern.
    fn of_time(time: &str) -> Option<Self> {
        let number = |at: std::ops::Range<usize>| time.get(at)?.parse().ok();
        let (year, month, day): (i16, i16, i16) = (number(0..4)?, number(5..7)?, number(8..10)?);
        if jiff::civil::Date::new(year, month.try_into().ok()?, day.try_into().ok()?).is_err() {
            return Some(Self::Calendar);
        }
        // Offsets are shorter than a day.
        let is_at_a_bound = year == 0 || (year, month, day) == (1, 1, 1) || (year, month, day) == (9999, 12, 31);
        is_at_a_bound.then_some(Self::Year)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the project.
pub fn file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

pub fn schema() -> Value {
    serde_json::from_str(&file("docs/event.schema.json")).expect("the schema is JSON")
}

/// The settings as they are delivered.
pub fn settings() -> toml::Table {
    file("config/default.toml").parse().expect("the settings are TOML")
}

/// The types of the catalogue as it is delivered, in its order.
pub fn types() -> Vec<String> {
    settings()["event_types"].as_table().unwrap().keys().cloned().collect()
}

/// With the catalogue and the limit as they are delivered.
pub fn parser() -> EventParser {
    let entry = |name: String| CatalogueEntry {
        event_type: EventType::parse(&name).unwrap(),
        name: String::new(),
        description: String::new(),
        example: None,
    };
    let max_event_bytes = settings()["event"]["max_event_bytes"].as_integer().unwrap();
    EventParser {
        catalogue: Catalogue::new(types().into_iter().map(entry).collect()),
        max_event_bytes: max_event_bytes.try_into().unwrap(),
    }
}

/// The schema and the parser, which are to agree.
struct Judges {
    schema: Validator,
    parser: EventParser,
}

impl Judges {
    fn new() -> Self {
        Self { schema: jsonschema::validator_for(&schema()).expect("the schema is one"), parser: parser() }
    }

    /// Why the parser refuses what the schema takes. `None`: both take the message, or both refuse it.
    ///
    /// # Errors
    ///
    /// They do not agree, and may not.
    fn compare(&self, body: &[u8], properties: &Properties) -> Result<Option<Beyond>, String> {
        let parsed = self.parser.parse(body, properties, jiff::Timestamp::UNIX_EPOCH);
        let read = read(body);
        let refusal = match &read {
            Some(value) => self.schema.validate(value).err().map(|error| error.to_string()),
            None => Some("no JSON".into()),
        };
        match (parsed, refusal) {
            (Ok(_), None) | (Err(_), Some(_)) => Ok(None),
            (Ok(_), Some(refusal)) => Err(format!("the parser takes it, the schema does not: {refusal}")),
            (Err(malformed), None) => {
                let beyond = read.and_then(|value| Beyond::of(&malformed, &value));
                beyond.map(Some).ok_or_else(|| format!("the schema takes it, the parser does not: {malformed}"))
            }
        }
    }
}

/// The messages of the table, one that is too large to stand there, and what fuzzing begins with.
fn messages() -> Vec<(String, Vec<u8>, Properties)> {
    let mut messages: Vec<_> = rows()
        .into_iter()
        .map(|row| {
            let (name, body) = (row.name.clone(), row.body());
            let crate::bad_input::table::Properties { message_id, timestamp, content_encoding, compression } =
                row.properties;
            (name, body, Properties { message_id, timestamp, content_encoding, compression, trace: None })
        })
        .collect();
    let large = "x".repeat(parser().max_event_bytes);
    let large = format!(r#"{{"id":"evt_1","type":"content.published","account_id":"acc_42","data":"{large}"}}"#);
    messages.push(("too large".into(), large.into_bytes(), Properties::default()));
    for input in fs::read_dir(root().join("fuzz/corpus/event")).unwrap() {
        let path = input.unwrap().path();
        messages.push((path.display().to_string(), fs::read(&path).unwrap(), Properties::default()));
    }
    messages
}

#[test]
fn the_schema_agrees_with_the_parser_on_every_message_but_for_what_a_schema_cannot_say() {
    let judges = Judges::new();
    let mut needed = BTreeSet::new();
    let mut wrong = Vec::new();
    for (name, body, properties) in messages() {
        match judges.compare(&body, &properties) {
            Ok(beyond) => needed.extend(beyond),
            Err(problem) => wrong.push(format!("{name}: {problem}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(needed, BTreeSet::from(ALL), "an exception is not needed, or the table has no message for it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_schema_agrees_with_the_parser_on_changed_events(message in changes::message()) {
        thread_local!(static JUDGES: Judges = Judges::new());
        let agreed = JUDGES.with(|judges| judges.compare(message.body.as_bytes(), &message.properties));
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

#[test]
fn the_schema_is_one_and_its_examples_fit_it_and_are_events() {
    let schema = schema();
    jsonschema::meta::validate(&schema).expect("it fits the schema of schemas");
    let whole = Judges::new();
    let mut examples = schema["examples"].as_array().unwrap().clone();
    for kind in ["event", "cloudEvent"] {
        let definition = &schema["$defs"][kind];
        examples.extend(definition["examples"].as_array().unwrap().iter().cloned());
    }
    assert!(examples.len() >= 6, "{examples:?}");
    for example in examples {
        let body = serde_json::to_vec(&example).unwrap();
        assert!(whole.schema.is_valid(&example), "{example}");
        whole.parser.parse(&body, &Properties::default(), jiff::Timestamp::UNIX_EPOCH).expect("it is an event");
    }
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let mut alone = schema.clone();
        for keyword in ["if", "then", "else", "type"] {
            alone.as_object_mut().unwrap().remove(keyword);
        }
        alone["$ref"] = format!("#/$defs/{name}").into();
        let alone = jsonschema::validator_for(&alone).unwrap();
        for example in definition["examples"].as_array().into_iter().flatten() {
            assert!(alone.is_valid(example), "{name}: {example}");
        }
    }
}

#[test]
fn the_schema_names_the_types_and_the_limit_of_the_delivered_settings() {
    let schema = schema();
    assert_eq!(schema["$defs"]["type"]["enum"], serde_json::json!(types()));
    let digits = parser().max_event_bytes.to_string();
    let (thousands, rest) = digits.split_at(digits.len() - 3);
    let limit = format!("at most {thousands},{rest} bytes");
    assert!(schema["description"].as_str().unwrap().contains(&limit), "{limit}");
}

#[test]
fn values_that_the_reader_of_the_tests_cannot_hold_keep_their_kind() {
    let body = br#"{"a":1e400,"b":"\ud800","c":[1e400],"d":{"e":1e400},"f":7}"#;
    let kinds: Vec<bool> = fields(body).unwrap().values().map(Value::is_number).collect();
    assert_eq!(kinds, [true, false, false, false, true]);
    assert_eq!(read(b"{\"a\":1} x"), None);
}

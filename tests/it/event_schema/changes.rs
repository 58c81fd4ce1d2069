//! Valid messages with random changes.

use penr_webhooks::event::Properties;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A message that may be an event.
#[derive(Debug, Clone)]
pub struct Message {
    pub body: String,
    pub properties: Properties,
}

/// The keys of an object with their values as JSON.
type Fields = Vec<(String, String)>;

#[derive(Debug, Clone)]
enum Change {
    Remove(Index),
    /// Replaces the value of a key that is there.
    Replace(Index, String),
    /// Adds a key, which may be there already.
    Add(&'static str, String),
    /// Changes one character inside a string.
    Character(Index, Index, char),
    /// Spells one character of a string as an escape.
    Escape(Index, Index),
}

const KEYS: [&str; 11] = [
    "id",
    "type",
    "account_id",
    "occurred_at",
    "data",
    "specversion",
    "accountid",
    "time",
    "data_base64",
    "source",
    "\\u0069d",
];

const VALUES: [&str; 17] = [
    "null",
    "true",
    "7",
    "1e400",
    "[]",
    "{}",
    "\"\"",
    "\" \"",
    "\"evt_2\"",
    "\"evt_1\\n\"",
    "\"acc 42\"",
    "\"1.0\"",
    "1.0",
    "\"site.connected\"",
    "\"content.deleted\"",
    "\"\\ud800\"",
    "\"\\u00e9\"",
];

pub fn message() -> impl Strategy<Value = Message> {
    let changes = prop::collection::vec(change(), 0..4);
    (prop_oneof![event(), cloud_event()], changes, text_change(), properties()).prop_map(
        |(mut fields, changes, text_change, properties)| {
            for change in changes {
                make(change, &mut fields);
            }
            let written: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            let mut body = format!("{{{}}}", written.join(","));
            if let Some((at, with)) = text_change {
                replace_character(&mut body, at, with);
            }
            Message { body, properties }
        },
    )
}

fn event() -> impl Strategy<Value = Fields> {
    usual_time().prop_map(|time| {
        fields(&[
            ("id", "\"evt_1\""),
            ("type", "\"content.published\""),
            ("account_id", "\"acc_42\""),
            ("occurred_at", &time),
            ("data", "{\"a\":1}"),
        ])
    })
}

fn cloud_event() -> impl Strategy<Value = Fields> {
    usual_time().prop_map(|time| {
        fields(&[
            ("specversion", "\"1.0\""),
            ("id", "\"evt_1\""),
            ("source", "\"/sites/42\""),
            ("type", "\"content.published\""),
            ("accountid", "\"acc_42\""),
            ("time", &time),
            ("data", "{\"a\":1}"),
        ])
    })
}

fn fields(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn change() -> impl Strategy<Value = Change> {
    let character = || prop_oneof![select("0123456789TtZz:.+-_ ,~/éλ".chars().collect::<Vec<_>>()), any::<char>()];
    prop_oneof![
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), value()).prop_map(|(at, value)| Change::Replace(at, value)),
        (select(&KEYS[..]), value()).prop_map(|(key, value)| Change::Add(key, value)),
        (any::<Index>(), any::<Index>(), character()).prop_map(|(field, at, with)| Change::Character(field, at, with)),
        (any::<Index>(), any::<Index>()).prop_map(|(field, at)| Change::Escape(field, at)),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let sized = (select(&['a', ' ', '~', 'é'][..]), 127..130_usize);
    let sized = sized.prop_map(|(char, count)| format!("\"{}\"", char.to_string().repeat(count)));
    let nested = (126..130_usize).prop_map(|levels| "[".repeat(levels) + &"]".repeat(levels));
    prop_oneof![4 => select(&VALUES[..]).prop_map(str::to_owned), 2 => time(), 1 => sized, 1 => nested]
}

fn usual_time() -> impl Strategy<Value = String> {
    prop_oneof![Just("\"2026-11-23T10:00:00Z\"".to_owned()), time()]
}

/// A time in JSON, often one that does not exist or is not spelled as RFC 3339 has it.
fn time() -> impl Strategy<Value = String> {
    let part = |usual: &'static [&'static str], rare: &'static [&'static str]| prop_oneof![4 => select(usual), 1 => select(rare)];
    let date = (
        part(&["2026", "2024"], &["0000", "0001", "1900", "2000", "9999", "10000", "-001"]),
        part(&["02", "11", "12"], &["00", "01", "04", "13", "1"]),
        part(&["01", "23", "28"], &["00", "29", "30", "31", "32"]),
    );
    let clock = (
        part(&["T"], &["t", " ", "_", ""]),
        part(&["10", "23"], &["00", "24", "1"]),
        part(&["00", "59"], &["60"]),
        part(&["00", "59"], &["60", "61"]),
        part(&["", ".5"], &[".", ",5", ".123456", ".1234567890123456789"]),
        part(&["Z", "+02:00"], &["z", "", "-00:00", "+23:59", "-23:59", "+24:00", "+02:60", "+0200", "+02", "Z\\n"]),
    );
    (date, clock).prop_map(|((year, month, day), (separator, hour, minute, second, fraction, offset))| {
        format!("\"{year}-{month}-{day}{separator}{hour}:{minute}:{second}{fraction}{offset}\"")
    })
}

/// A character of the whole body to change, rarely.
fn text_change() -> impl Strategy<Value = Option<(Index, char)>> {
    let characters: Vec<char> = "{}[],:\"\\ 0n\u{0}\u{feff}".chars().collect();
    prop::option::weighted(0.1, (any::<Index>(), select(characters)))
}

fn properties() -> impl Strategy<Value = Properties> {
    let message_id = prop::option::of(select(&["msg_1", "msg 1", ""][..]));
    let encoding = prop::option::weighted(0.2, select(&["utf-8", "UTF8", "gzip"][..]));
    (message_id, encoding).prop_map(|(message_id, encoding)| Properties {
        message_id: message_id.map(Into::into),
        content_encoding: encoding.map(Into::into),
        ..Properties::default()
    })
}

fn make(change: Change, fields: &mut Fields) {
    if let Change::Add(key, value) = change {
        return fields.push((key.to_owned(), value));
    }
    if fields.is_empty() {
        return;
    }
    match change {
        Change::Remove(at) => drop(fields.remove(at.index(fields.len()))),
        Change::Replace(at, value) => at.get_mut(fields).1 = value,
        Change::Character(field, at, with) => change_string(&mut field.get_mut(fields).1, |inner| {
            // Written as an escape where JSON demands one.
            let with = serde_json::to_string(&with).expect("characters are JSON");
            replace(inner, at, with.trim_matches('"').replace("\\\\", "\\u005c").as_str());
        }),
        Change::Escape(field, at) => change_string(&mut field.get_mut(fields).1, |inner| {
            let char = inner.chars().nth(at.index(inner.chars().count())).expect("the place is in the text");
            replace(inner, at, &format!("\\u{:04x}", u32::from(char) & 0xffff));
        }),
        Change::Add(..) => {}
    }
}

/// Changes what stands between the quotes of a string that has no escapes and is not empty.
fn change_string(json: &mut String, change: impl FnOnce(&mut String)) {
    let inner = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    if let Some(inner) = inner.filter(|inner| !inner.is_empty() && !inner.contains('\\')) {
        let mut inner = inner.to_owned();
        change(&mut inner);
        *json = format!("\"{inner}\"");
    }
}

fn replace_character(text: &mut String, at: Index, with: char) {
    if !text.is_empty() {
        replace(text, at, with.encode_utf8(&mut [0; 4]));
    }
}

fn replace(text: &mut String, at: Index, with: &str) {
    let (start, char) = text.char_indices().nth(at.index(text.chars().count())).expect("the place is in the text");
    text.replace_range(start..start + char.len_utf8(), with);
}

//! What a publisher may not have meant, in a message that is an event or nearly one. Workers do not look for it.

use std::fmt;

use super::envelope::{Envelope, given, text};
use super::parser::Fields;
use super::shape::holds_json;
use super::{EventParser, Properties};
use crate::text::printable;
use crate::timestamps::{in_one_form, is_same_clock};

/// Bytes of a text of the publisher's that a warning repeats.
const MAX_SHOWN_BYTES: usize = 64;

/// The millisecond timestamps of the years 2001 to 2286. As seconds they are later than the year 33000.
const MILLISECONDS: std::ops::Range<u64> = 1_000_000_000_000..10_000_000_000_000;

/// Other names that publishers give to our fields, in lower case and without separators.
const ALIASES: [(Name, &[&str]); 5] = [
    (Name::Id, &["eventid", "messageid", "msgid", "uuid", "guid"]),
    (Name::Type, &["eventtype", "event", "eventname", "messagetype", "topic", "routingkey"]),
    (Name::Account, &["account", "acct", "accountuuid", "accountref", "tenant", "tenantid", "customerid"]),
    (
        Name::Time,
        &[
            "timestamp",
            "ts",
            "time",
            "date",
            "datetime",
            "createdat",
            "eventtime",
            "occurred",
            "occuredat",
            "happenedat",
        ],
    ),
    (Name::Data, &["payload", "body", "content", "attributes", "eventdata"]),
];

/// One of the five fields of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Id,
    Type,
    Account,
    Time,
    Data,
}

/// Something in a message that its publisher may not have meant. `Display` says it in a sentence, with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A key that is ignored, and the field, absent here, that it probably means.
    IgnoredKey {
        /// As it is written, safe to print.
        key: String,
        /// Ours.
        field: &'static str,
    },
    /// The message's timestamp is in milliseconds, it seems; AMQP counts seconds.
    Milliseconds(u64),
    /// The time goes out with another clock, or with fewer digits.
    TimeRewritten {
        /// The field that it stands in.
        field: &'static str,
        /// What is sent.
        sent: String,
    },
    /// There is no `id`: the message's id is the event's.
    IdFromMessage(String),
    /// The message's id is another than the event's.
    OtherId(String),
    /// `data` is a string that holds JSON: receivers would have to decode it twice.
    JsonInData,
    /// A framework has put the event into an object of its own, under this key.
    Wrapped {
        /// The framework's.
        key: &'static str,
        /// Whose object it is.
        by: &'static str,
    },
    /// Neither type nor account is there, nor a key that may mean them.
    DataAlone,
    /// A field of the other kind of events, ours or CloudEvents, which is ignored.
    OtherKind {
        /// The field.
        field: &'static str,
        /// What the event is read as.
        read_as: &'static str,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IgnoredKey { key, field } => {
                write!(f, "`{key}` is ignored, and there is no `{field}`: rename it if that is what it means")
            }
            Self::Milliseconds(number) => {
                write!(f, "the message's timestamp {number} looks like milliseconds: AMQP counts seconds")
            }
            Self::TimeRewritten { field, sent } => {
                write!(f, "`{field}` is sent as {sent}: write it so if receivers must see what you wrote")
            }
            Self::IdFromMessage(id) => {
                write!(f, "`id` is missing, so the message_id {id} is taken: write the id into the event too")
            }
            Self::OtherId(id) => {
                write!(f, "the message_id {id} is not the event's `id`, which receivers get: write the same into both")
            }
            Self::JsonInData => {
                f.write_str("`data` is a string that holds JSON: encode it once, unless receivers must get a string")
            }
            Self::Wrapped { key, by } => {
                write!(f, "this looks like a message of {by}, with the event in `{key}`: publish the event alone")
            }
            Self::DataAlone => f.write_str(
                "this has neither `type` nor `account_id`: publish the whole event, and a CloudEvent not in binary but in structured mode",
            ),
            Self::OtherKind { field, read_as } => {
                write!(f, "`{field}` is ignored, since this is read as {read_as}: leave it out")
            }
        }
    }
}

impl EventParser {
    /// What the publisher of a message may not have meant. Nothing if the body is no JSON object; [`EventParser::parse`] then
    /// says why.
    pub fn warnings(&self, body: &[u8], properties: &Properties) -> Vec<Warning> {
        let Ok(envelope) = self.envelope(body, properties) else { return Vec::new() };
        if let Some(warning) = wrapped(&envelope) {
            return vec![warning];
        }
        let mut warnings = ignored_keys(&envelope);
        if warnings.is_empty() && lacks_type_and_account(&envelope) {
            warnings.push(Warning::DataAlone);
        }
        warnings.extend(other_kind(&envelope));
        warnings.extend(id_of_message(&envelope, properties));
        warnings.extend(time_rewritten(&envelope));
        warnings.extend(envelope.data.filter(|data| holds_json(data.get())).map(|_| Warning::JsonInData));
        let timestamp = properties.timestamp.filter(|number| MILLISECONDS.contains(number));
        warnings.extend(timestamp.map(Warning::Milliseconds));
        warnings
    }
}

/// The framework that has probably put the event into an object of its own.
fn wrapped(envelope: &Envelope<'_>) -> Option<Warning> {
    let has = |key: &str| envelope.unknown.contains(key);
    if !lacks_type_and_account(envelope) {
        None
    } else if has("pattern") && envelope.data.is_some() {
        Some(Warning::Wrapped { key: "data", by: "NestJS" })
    } else if has("messageType") && has("message") {
        Some(Warning::Wrapped { key: "message", by: "MassTransit" })
    } else {
        None
    }
}

fn lacks_type_and_account(envelope: &Envelope<'_>) -> bool {
    let cloud = &envelope.cloud;
    let fields = [envelope.event_type, envelope.account_id, cloud.accountid, cloud.specversion];
    fields.iter().all(Option::is_none)
}

/// Sorted by the field that is probably meant.
fn ignored_keys(envelope: &Envelope<'_>) -> Vec<Warning> {
    let cloud = [("time", envelope.cloud.time), ("accountid", envelope.cloud.accountid)];
    let cloud =
        cloud.into_iter().filter(|(_, value)| value.is_some() && !envelope.is_cloud_event()).map(|(key, _)| key);
    let mut keys: Vec<&str> = envelope.unknown.iter().map(AsRef::as_ref).chain(cloud).collect();
    keys.sort_unstable();
    let absent = ALIASES.iter().filter_map(|(name, aliases)| Some((absent(envelope, *name)?, *aliases)));
    absent
        .flat_map(|(field, aliases)| {
            let meant = keys.iter().filter(move |key| means(key, field, aliases));
            meant.map(move |key| Warning::IgnoredKey { key: printable(key, MAX_SHOWN_BYTES), field })
        })
        .collect()
}

/// The field's name if the event lacks it.
fn absent(envelope: &Envelope<'_>, name: Name) -> Option<&'static str> {
    let is_cloud_event = envelope.is_cloud_event();
    let (field, value) = match name {
        Name::Id => ("id", envelope.id),
        Name::Type => ("type", envelope.event_type),
        Name::Data => ("data", envelope.data),
        Name::Account if is_cloud_event => ("accountid", envelope.cloud.accountid),
        Name::Account => ("account_id", envelope.account_id),
        Name::Time if is_cloud_event => ("time", envelope.cloud.time),
        Name::Time => ("occurred_at", envelope.occurred_at),
    };
    // `data` may be null; elsewhere null counts as absent.
    let is_absent = if name == Name::Data { value.is_none() } else { given(value).is_none() };
    is_absent.then_some(field)
}

/// Whether a key probably means this field.
fn means(key: &str, field: &str, aliases: &[&str]) -> bool {
    let plain = |text: &str| text.chars().filter(|char| char.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let (key, field): (String, String) = (plain(key), plain(field));
    let is_other_word = ALIASES.iter().any(|(_, aliases)| aliases.contains(&key.as_str()));
    let is_typo = field.len() >= 4 && !is_other_word && strsim::osa_distance(&key, &field) <= field.len() / 4;
    key == field || is_typo || aliases.contains(&key.as_str())
}

fn other_kind(envelope: &Envelope<'_>) -> Option<Warning> {
    if envelope.is_cloud_event() {
        let read_as = "a CloudEvent, whose time is `time`";
        return envelope.occurred_at.map(|_| Warning::OtherKind { field: "occurred_at", read_as });
    }
    let read_as = "an ordinary event, as it has `account_id`";
    envelope.cloud.specversion.map(|_| Warning::OtherKind { field: "specversion", read_as })
}

fn id_of_message(envelope: &Envelope<'_>, properties: &Properties) -> Option<Warning> {
    let id = properties.message_id.as_deref().filter(|id| !id.is_empty())?;
    let shown = || printable(id, MAX_SHOWN_BYTES);
    match given(envelope.id) {
        Some(own) if own.get() != r#""""# => {
            let is_other = text("id", Some(own)).is_ok_and(|own| own != id);
            is_other.then(|| Warning::OtherId(shown()))
        }
        _ => Some(Warning::IdFromMessage(shown())),
    }
}

fn time_rewritten(envelope: &Envelope<'_>) -> Option<Warning> {
    let time = Fields::of(envelope).ok()?.time;
    let written = text(time.name, Some(given(time.value)?)).ok()?;
    let sent = in_one_form(&written).filter(|sent| !is_same_clock(&written, sent))?;
    Some(Warning::TimeRewritten { field: time.name, sent: sent.into_owned() })
}

#[cfg(test)]
#[path = "warnings_tests.rs"]
mod tests;

//! A dead letter or an unrouted event as it is listed: its queue, its reason, its id, its type.

use comfy_table::Cell;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::cli::{CommandResult, output};
use crate::config::Settings;
use crate::event::{EventParser, Malformed};
use crate::ids::EventType;
use crate::queue::{DeadLetter, LetterQueue};
use crate::text::printable;

/// The reason of a dead letter whose properties cannot be read.
pub(super) const UNREADABLE: &str = "unreadable";

/// A dead letter as a line of the table, or an object of the JSON document.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetterRow {
    /// The name of the queue in which it lies: that of the dead letters, or that of the unrouted events.
    queue: String,
    pub(super) reason: String,
    /// The reason in words, if it is one of ours.
    detail: Option<String>,
    /// When it became a dead letter; of an unrouted event, when it was published, as its publisher says.
    time: Option<Timestamp>,
    id: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Bytes of its body.
    size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

impl DeadLetterRow {
    pub(super) fn of(letter: &DeadLetter, settings: &Settings) -> Self {
        let (reason, detail) = why_dead(letter, &settings.events);
        let labels = Labels::of(letter);
        let seconds = match letter.kept_in {
            LetterQueue::Dead => letter.died_at,
            LetterQueue::Unrouted => letter.properties.timestamp,
        };
        let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
        Self {
            queue: letter.kept_in.name(&settings.queue).to_owned(),
            reason,
            detail,
            time: seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()),
            id: Some(labels.id),
            event_type: Some(labels.event_type),
            size: Some(letter.body.len()),
            payload: None,
        }
    }

    pub(super) fn with_payload(self, letter: &DeadLetter) -> Self {
        Self { payload: Some(String::from_utf8_lossy(&letter.body).into_owned()), ..self }
    }

    /// Rows are listed in this order: the oldest first, those without a time last.
    pub(super) fn sort_key(&self) -> impl Ord + use<> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (self.time.is_none(), self.time, text(&self.id), self.reason.clone(), self.size, text(&self.event_type))
    }
}

/// Why a worker would refuse the letter now, or else why the broker made it a dead letter; and the same in words if the
/// reason is one of ours. What no queue took has a routing key that was no event type of the catalogue, whatever its body says.
pub(super) fn why_dead(letter: &DeadLetter, parser: &EventParser) -> (String, Option<String>) {
    if letter.unreadable {
        return (UNREADABLE.to_owned(), Some("the properties of its message cannot be read".to_owned()));
    }
    let parsed = parser.parse(&letter.body, &letter.properties, Timestamp::now());
    match (parsed, letter.kept_in) {
        (parsed, LetterQueue::Unrouted) => why_unrouted(parsed.map(|event| event.event_type), &letter.routing_key),
        (Err(malformed), _) => (malformed.reason().to_owned(), Some(malformed.to_string())),
        (Ok(_), _) => (letter.broker_reason.clone().unwrap_or_else(|| "unknown".to_owned()), None),
    }
}

fn why_unrouted(parsed: Result<EventType, Malformed>, routing_key: &str) -> (String, Option<String>) {
    let key = printable(routing_key, 200);
    let detail = match &parsed {
        Ok(event_type) if event_type.as_str() == routing_key => format!(
            "no queue took its routing key \"{key}\" when it was published; its type is in the catalogue now: requeue it"
        ),
        Ok(event_type) => format!(
            "no queue takes its routing key \"{key}\", which is not its type {event_type}: correct the publisher, whose \
             routing key must be the type, then requeue it"
        ),
        Err(Malformed::UnknownType) => format!("no queue takes its routing key \"{key}\": {}", Malformed::UnknownType),
        Err(malformed) => malformed.to_string(),
    };
    (parsed.err().unwrap_or(Malformed::UnknownType).reason().to_owned(), Some(detail))
}

/// The id and the event type that a dead letter is listed with: those of its body, else those of its properties. A letter
/// without an id gets one from the hash of its body, so that it can be selected.
pub(super) struct Labels {
    pub(super) id: String,
    pub(super) event_type: String,
}

impl Labels {
    pub(super) fn of(letter: &DeadLetter) -> Self {
        #[derive(Default, Deserialize)]
        struct Body {
            #[serde(default)]
            id: Value,
            #[serde(default, rename = "type")]
            event_type: Value,
        }
        let body: Body = serde_json::from_slice(&letter.body).unwrap_or_default();
        let text = |value: Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let message_id = || letter.properties.message_id.clone().filter(|id| !id.is_empty());
        let hash = || format!("body-{}", hex::encode(&Sha256::digest(&letter.body)[..8]));
        Self {
            id: text(body.id).or_else(message_id).unwrap_or_else(hash),
            event_type: text(body.event_type).unwrap_or_else(|| letter.routing_key.clone()),
        }
    }
}

/// Prints the table, then the payloads of rows that have one.
pub(super) fn print_table(rows: &[DeadLetterRow]) -> CommandResult {
    let mut table = output::table(["TIME (UTC)", "QUEUE", "REASON", "ID", "TYPE", "SIZE"]);
    let shown = |text: Option<&str>| Cell::new(printable(text.unwrap_or_default(), 200));
    for row in rows {
        table.add_row([
            Cell::new(row.time.map_or_else(String::new, output::short)),
            shown(Some(&row.queue)),
            shown(Some(&row.reason)),
            shown(row.id.as_deref()),
            shown(row.event_type.as_deref()),
            Cell::new(row.size.map_or_else(String::new, |bytes| format!("{bytes} B"))),
        ]);
    }
    output::show(&table)?;
    for row in rows {
        let name = printable(row.id.as_deref().unwrap_or_default(), 200);
        if let Some(payload) = &row.payload {
            output::line(format_args!("{name}: {}", printable(payload, usize::MAX)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unrouted_event_is_told_by_its_routing_key_and_by_what_its_body_says() {
        let created = || EventType::parse("content.created").unwrap();
        let (reason, detail) = why_unrouted(Ok(created()), "content.created");
        assert!(reason == "unknown_type" && detail.unwrap().ends_with("its type is in the catalogue now: requeue it"));
        let (reason, detail) = why_unrouted(Ok(created()), "events\u{1b}");
        let expected = r#"no queue takes its routing key "events ", which is not its type content.created: correct"#;
        assert!(reason == "unknown_type" && detail.as_ref().unwrap().starts_with(expected), "{detail:?}");
        let (reason, detail) = why_unrouted(Err(Malformed::UnknownType), "no.such");
        let expected = r#"no queue takes its routing key "no.such": the event type is not in the catalogue"#;
        assert!(reason == "unknown_type" && detail.as_ref().unwrap().starts_with(expected), "{detail:?}");
        let empty = why_unrouted(Err(Malformed::Empty), "no.such");
        assert_eq!(empty, ("empty".to_owned(), Some(Malformed::Empty.to_string())));
    }
}

//! A dead letter as it is listed: its reason, its id, its type.

use comfy_table::Cell;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::cli::{CommandResult, output};
use crate::event::EventParser;
use crate::queue::DeadLetter;
use crate::text::printable;

/// The reason of a dead letter whose properties cannot be read.
pub(super) const UNREADABLE: &str = "unreadable";

/// A dead letter as a line of the table, or an object of the JSON document.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetterRow {
    pub(super) reason: String,
    /// The reason in words, if it is one of ours.
    detail: Option<String>,
    /// When it became a dead letter.
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
    pub(super) fn of(letter: &DeadLetter, parser: &EventParser) -> Self {
        let (reason, detail) = why_dead(letter, parser);
        let labels = Labels::of(letter);
        let seconds = letter.died_at.and_then(|seconds| i64::try_from(seconds).ok());
        Self {
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
/// reason is one of ours.
pub(super) fn why_dead(letter: &DeadLetter, parser: &EventParser) -> (String, Option<String>) {
    if letter.unreadable {
        return (UNREADABLE.to_owned(), Some("the properties of its message cannot be read".to_owned()));
    }
    match parser.parse(&letter.body, &letter.properties, Timestamp::now()) {
        Err(malformed) => (malformed.reason().to_owned(), Some(malformed.to_string())),
        Ok(_) => (letter.broker_reason.clone().unwrap_or_else(|| "unknown".to_owned()), None),
    }
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
    let mut table = output::table(["TIME (UTC)", "REASON", "ID", "TYPE", "SIZE"]);
    let shown = |text: Option<&str>| Cell::new(printable(text.unwrap_or_default(), 200));
    for row in rows {
        table.add_row([
            Cell::new(row.time.map_or_else(String::new, output::short)),
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

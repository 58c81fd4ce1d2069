//! A dead letter or an unrouted event as it is listed: its queue, its reason, its id, its type.

use std::cmp::Reverse;
use std::collections::HashMap;

use comfy_table::Cell;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::why::Why;
use crate::cli::{CommandResult, output};
use crate::config::Settings;
use crate::queue::{DeadLetter, LetterQueue};
use crate::text::printable;

/// So many texts stand below the table at most.
const MOST_TEXTS: usize = 20;

/// A dead letter as a line of the table, or an object of the JSON document.
#[derive(Debug, Serialize)]
pub(super) struct DeadLetterRow {
    /// The name of the queue in which it lies: that of the dead letters, or that of the unrouted events.
    queue: String,
    pub(super) reason: String,
    /// What is wrong, and what to do about it.
    detail: String,
    /// Equal if the same is to be done.
    #[serde(skip)]
    kind: String,
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
        let Why { reason, detail, kind } = Why::of(letter, &settings.events);
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
            kind,
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

    fn shown_id(&self) -> String {
        shown(self.id.as_deref().unwrap_or_default())
    }

    /// Rows are listed in this order: the oldest first, those without a time last.
    pub(super) fn sort_key(&self) -> impl Ord + use<> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (self.time.is_none(), self.time, text(&self.id), self.reason.clone(), self.size, text(&self.event_type))
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

/// Prints the table, then what is to be done, then the payloads of rows that have one.
pub(super) fn print_table(rows: &[DeadLetterRow]) -> CommandResult {
    let mut table = output::table(["TIME (UTC)", "QUEUE", "REASON", "ID", "TYPE", "SIZE"]);
    for row in rows {
        table.add_row([
            Cell::new(row.time.map_or_else(String::new, output::short)),
            Cell::new(shown(&row.queue)),
            Cell::new(shown(&row.reason)),
            Cell::new(row.shown_id()),
            Cell::new(shown(row.event_type.as_deref().unwrap_or_default())),
            Cell::new(row.size.map_or_else(String::new, |bytes| format!("{bytes} B"))),
        ]);
    }
    output::show(&table)?;
    texts(rows).into_iter().try_for_each(output::line)?;
    for row in rows {
        if let Some(payload) = &row.payload {
            output::line(format_args!("{}: {}", row.shown_id(), printable(payload, usize::MAX)))?;
        }
    }
    Ok(())
}

fn shown(text: &str) -> String {
    printable(text, 200)
}

/// The lines below the table: for each kind of letter, the most frequent first, what is wrong and what to do. Places in a body are
/// those of the letter that is named.
fn texts(rows: &[DeadLetterRow]) -> Vec<String> {
    let mut kinds: Vec<(&DeadLetterRow, usize)> = Vec::new();
    let mut positions = HashMap::new();
    for row in rows {
        let position = *positions.entry((&row.reason, &row.kind)).or_insert_with(|| {
            kinds.push((row, 0));
            kinds.len() - 1
        });
        kinds[position].1 += 1;
    }
    kinds.sort_by_key(|(_, count)| Reverse(*count));
    let hidden = kinds.len().saturating_sub(MOST_TEXTS);
    let lines = kinds.into_iter().take(MOST_TEXTS).map(|(first, count)| {
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        let (reason, detail) = (shown(&first.reason), printable(&first.detail, usize::MAX));
        format!("{reason} ({}{more}): {detail}", first.shown_id())
    });
    let lines = std::iter::once(String::new()).filter(|_| !rows.is_empty()).chain(lines);
    lines.chain((hidden > 0).then(|| format!("{hidden} more texts: --json shows all"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, reason: &str, kind: &str) -> DeadLetterRow {
        DeadLetterRow {
            queue: String::new(),
            reason: reason.to_owned(),
            detail: format!("{kind} of {id}"),
            kind: kind.to_owned(),
            time: None,
            id: Some(id.to_owned()),
            event_type: None,
            size: None,
            payload: None,
        }
    }

    #[test]
    fn each_kind_of_letter_has_one_text_the_most_frequent_first() {
        let rows =
            [row("a", "empty", "x"), row("b", "not_json", "y"), row("c", "not_json", "z"), row("d", "not_json", "y")];
        let expected = ["", "not_json (b and 1 more): y of b", "empty (a): x of a", "not_json (c): z of c"];
        assert_eq!(texts(&rows), expected);
        assert_eq!(texts(&[]), [""; 0]);
    }

    #[test]
    fn there_are_at_most_so_many_texts_and_none_steers_a_terminal() {
        let rows: Vec<_> =
            (0..25).map(|number| row(&number.to_string(), "x\u{1b}", &format!("\u{1b}{number}"))).collect();
        let texts = texts(&rows);
        assert_eq!((texts.len(), texts[21].as_str()), (22, "5 more texts: --json shows all"));
        assert_eq!(texts[1], "x  (0):  0 of 0");
    }
}

//! The table of messages in `messages.jsonl`: what becomes of each. Tests of the parser, of the schema and of a whole worker read it.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Stands in `sent` for a time that only the test knows.
pub const NOW: &str = "NOW";

/// A line of the table. Its event, if it is one, is `evt_1` or `msg_1`, a `content.published` of `acc_42`.
#[derive(Debug, Clone, Deserialize)]
pub struct Row {
    /// Unique.
    pub name: String,
    body: Option<String>,
    /// In place of `body`, if it is no text.
    body_base64: Option<String>,
    #[serde(default)]
    pub properties: Properties,
    #[serde(flatten)]
    pub fate: Fate,
}

/// The properties of the message.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Properties {
    pub message_id: Option<String>,
    pub timestamp: Option<u64>,
    pub content_encoding: Option<String>,
    /// A header.
    pub compression: Option<String>,
}

/// What becomes of the message.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Fate {
    /// It is an event, and receivers get this body.
    Sent { sent: String },
    /// It becomes a dead letter with this reason, which this text explains.
    Dead { reason: String, text: String },
}

impl Row {
    /// The same row with other texts in its body, its properties and its fate.
    pub fn with_texts(mut self, change: impl Fn(&str) -> String) -> Self {
        self.body = self.body.map(|text| change(&text));
        self.properties.message_id = self.properties.message_id.map(|id| change(&id));
        if let Fate::Sent { sent } = &mut self.fate {
            *sent = change(sent);
        }
        self
    }

    pub fn body(&self) -> Vec<u8> {
        match (&self.body, &self.body_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(base64)) => STANDARD.decode(base64).expect("it is base64"),
            _ => panic!("{}: a row has one body", self.name),
        }
    }
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let rows: Vec<Row> = include_str!("messages.jsonl").lines().map(read).collect();
    let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len(), "a name stands twice");
    rows
}

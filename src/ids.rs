//! The identifiers of accounts, events, webhooks, deliveries and processes, each a type of its own. `parse` returns `None` for a text that
//! is no such identifier: there is only one reason, and the caller names it.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

/// The id that a publisher gave to an event: `[A-Za-z0-9_-]{1,128}`, unique within the account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

impl EventId {
    /// Reads an event's id.
    pub fn parse(text: &str) -> Option<Self> {
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let valid = (1..=128).contains(&text.len()) && text.bytes().all(known);
        valid.then(|| Self(text.into()))
    }

    /// The text that was read.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One of the catalogue's types, such as `content.published`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

impl EventType {
    /// Lower-case words of letters, digits, `_` and `-`, separated by dots, at most 64 bytes: safe as a routing key,
    /// a header value and inside JSON.
    pub fn parse(text: &str) -> Option<Self> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let word = |word: &str| !word.is_empty() && word.bytes().all(known);
        (text.len() <= 64 && text.split('.').all(word)).then(|| Self(text.into()))
    }

    /// The text that was read.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A customer of penr.ai: 1 to 128 printable ASCII characters, compared exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// Reads an account's id.
    pub fn parse(text: &str) -> Option<Self> {
        is_printable_name(text).then(|| Self(text.into()))
    }

    /// The text that was read.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who acts for an account, such as one of its users: 1 to 128 printable ASCII characters. Only penr.ai knows what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(Arc<str>);

impl Actor {
    /// Reads an actor's name.
    pub fn parse(text: &str) -> Option<Self> {
        is_printable_name(text).then(|| Self(text.into()))
    }

    /// The text that was read.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_printable_name(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

macro_rules! display_as_str {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
display_as_str!(EventId EventType AccountId Actor);

/// The id of a webhook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WebhookId(pub Uuid);

impl WebhookId {
    /// Reads the spelling that this service writes: lower case, with hyphens.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Uuid::try_parse(text).ok()?;
        (id.as_hyphenated().to_string() == text).then_some(Self(id))
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a delivery: a version 5 UUID (RFC 9562) of the event's id in the webhook's namespace. Every worker, and every
/// redelivery of a message, gives one event for one webhook the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub Uuid);

impl DeliveryId {
    /// The id of the delivery of an event to a webhook.
    pub fn of(webhook: WebhookId, event: &EventId) -> Self {
        Self(Uuid::new_v5(&webhook.0, event.as_str().as_bytes()))
    }
}

/// The id of a process: a version 7 UUID, made when the process starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub Uuid);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

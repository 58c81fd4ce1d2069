//! Checks the parts of a broker message and puts an event together from them.

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::envelope::{Envelope, depth, text};
use super::malformed::MAX_DEPTH;
use super::{Catalogue, Event, Malformed, body_to_send};
use crate::ids::{AccountId, EventId};
use crate::text::printable;
use crate::timestamps::is_rfc3339;
use crate::trace_context::TraceContext;

/// Bytes of an encoding's name that an error repeats.
const MAX_ENCODING_BYTES: usize = 64;

/// What a broker message says beside its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Stands in for an `id` that the event lacks.
    pub message_id: Option<String>,
    /// Unix seconds. Stands in for an `occurred_at` that the event lacks.
    pub timestamp: Option<u64>,
    /// A body with another encoding than UTF-8 text is refused.
    pub content_encoding: Option<String>,
    /// A valid `traceparent`.
    pub trace: Option<TraceContext>,
}

/// Reads events as the settings define them.
#[derive(Debug, Clone)]
pub struct EventParser {
    /// The types that an event may have.
    pub catalogue: Catalogue,
    /// The largest body accepted.
    pub max_event_bytes: usize,
}

impl EventParser {
    /// The event in a message. `now` is its time if neither the event nor its message gives one.
    ///
    /// # Errors
    ///
    /// The first rule that the message breaks.
    pub fn parse(&self, body: &[u8], properties: &Properties, now: Timestamp) -> Result<Event, Malformed> {
        let envelope = self.envelope(body, properties)?;
        let event_type = self.catalogue.get(&text("type", envelope.event_type)?).ok_or(Malformed::UnknownType)?;
        let account_id = AccountId::parse(&text("account_id", envelope.account_id)?).ok_or(Malformed::AccountId)?;
        let id = event_id(envelope.id, properties)?;
        let occurred_at = occurred_at(envelope.occurred_at, properties, now)?;
        let data = envelope.data.ok_or(Malformed::Missing("data"))?;
        let body = body_to_send(&id, event_type, &occurred_at, data.get());
        Ok(Event { id, event_type: event_type.clone(), account_id, body, trace: properties.trace })
    }

    fn envelope<'a>(&self, body: &'a [u8], properties: &Properties) -> Result<Envelope<'a>, Malformed> {
        if body.len() > self.max_event_bytes {
            return Err(Malformed::TooLarge(self.max_event_bytes));
        }
        if let Some(encoding) = properties.content_encoding.as_deref().filter(|encoding| !is_plain(encoding)) {
            return Err(Malformed::Encoded(printable(encoding, MAX_ENCODING_BYTES)));
        }
        let text = std::str::from_utf8(body).map_err(|_| Malformed::NotUtf8)?;
        if text.bytes().all(|b| b.is_ascii_whitespace()) {
            return Err(Malformed::Empty);
        }
        if depth(text) > MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        Envelope::read(text)
    }
}

fn event_id(value: Option<&RawValue>, properties: &Properties) -> Result<EventId, Malformed> {
    let own = value.map(|raw| text("id", Some(raw))).transpose()?.filter(|id| !id.is_empty());
    let id = own.or_else(|| properties.message_id.clone().filter(|id| !id.is_empty()));
    EventId::parse(&id.ok_or(Malformed::Missing("id"))?).ok_or(Malformed::Id)
}

/// Whether a body with this `content_encoding` is plain text. Publishers write a character set or a MIME transfer encoding
/// here, in many spellings. Whether the text is UTF-8 is checked on the body itself.
fn is_plain(encoding: &str) -> bool {
    let known: String = encoding.chars().filter(|char| !matches!(char, '-' | '_' | ' ' | '\t')).collect();
    let plain = ["", "utf8", "ascii", "usascii", "identity", "7bit", "8bit", "binary"];
    plain.iter().any(|plain| known.eq_ignore_ascii_case(plain))
}

/// When the event happened: a valid `occurred_at` as the publisher wrote it, else the message's timestamp, else `now`.
fn occurred_at(value: Option<&RawValue>, properties: &Properties, now: Timestamp) -> Result<String, Malformed> {
    if value.is_some() {
        let written = text("occurred_at", value)?;
        return if is_rfc3339(&written) { Ok(written) } else { Err(Malformed::OccurredAt) };
    }
    let seconds = properties.timestamp.and_then(|seconds| i64::try_from(seconds).ok());
    // RFC 3339 ends with the year 9999: a message's timestamp beyond that is ignored.
    let sent = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(sent.map(|time| time.to_string()).filter(|written| is_rfc3339(written)).unwrap_or_else(|| now.to_string()))
}

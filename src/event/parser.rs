//! Checks the parts of a broker message and puts an event together from them.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::envelope::{Envelope, depth, given, text};
use super::looks::{Looks, is_amqp_1_0, is_utf16_object};
use super::malformed::MAX_DEPTH;
use super::{Catalogue, Event, Malformed, WrongTime, body_to_send};
use crate::ids::{AccountId, EventId};
use crate::text::printable;
use crate::timestamps::in_one_form;
use crate::trace_context::TraceContext;

/// Bytes of an encoding's name that an error repeats.
const MAX_ENCODING_BYTES: usize = 64;

/// Bytes of an event type that is shown.
const MAX_TYPE_BYTES: usize = 64;

/// What a broker message says beside its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Stands in for an `id` that the event lacks.
    pub message_id: Option<String>,
    /// Unix seconds. Stands in for an `occurred_at` that the event lacks.
    pub timestamp: Option<u64>,
    /// A body with another encoding than UTF-8 text is refused.
    pub content_encoding: Option<String>,
    /// The header `compression`: explains a body that is not UTF-8.
    pub compression: Option<String>,
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
    /// The event in a message: ours, or a CloudEvent 1.0 in structured mode. `now` is its time if neither the event nor its message
    /// gives one.
    ///
    /// # Errors
    ///
    /// The first rule that the message breaks.
    pub fn parse(&self, body: &[u8], properties: &Properties, now: Timestamp) -> Result<Event, Malformed> {
        let fields = Fields::of(&self.envelope(body, properties)?)?;
        let event_type = self.catalogue.get(&text("type", fields.event_type)?).ok_or(Malformed::UnknownType)?;
        let account = text(fields.account.name, fields.account.value)?;
        let account_id = AccountId::parse(&account).ok_or(Malformed::AccountId(fields.account.name))?;
        let id = event_id(fields.id, properties)?;
        let occurred_at = occurred_at(fields.time, properties, now)?;
        let data = fields.data.ok_or(Malformed::Missing("data"))?;
        let body = body_to_send(&id, event_type, &occurred_at, data);
        Ok(Event { id, event_type: event_type.clone(), account_id, body, trace: properties.trace })
    }

    /// The event type that stands in a message's body, safe to print, whether or not the catalogue has it. It is for people who may see
    /// the body.
    pub fn written_type(&self, body: &[u8], properties: &Properties) -> Option<String> {
        let envelope = self.envelope(body, properties).ok()?;
        text("type", envelope.event_type).ok().map(|written| printable(&written, MAX_TYPE_BYTES))
    }

    pub(super) fn envelope<'a>(&self, body: &'a [u8], properties: &Properties) -> Result<Envelope<'a>, Malformed> {
        if body.len() > self.max_event_bytes {
            return Err(Malformed::TooLarge(self.max_event_bytes));
        }
        if let Some(encoding) = properties.content_encoding.as_deref().filter(|encoding| !is_plain(encoding)) {
            return Err(Malformed::Encoded(printable(encoding, MAX_ENCODING_BYTES)));
        }
        let text = std::str::from_utf8(body).map_err(|_| why_not_utf8(body, properties))?;
        if text.bytes().all(|b| b.is_ascii_whitespace()) {
            return Err(Malformed::Empty);
        }
        if depth(text) > MAX_DEPTH {
            return Err(Malformed::TooDeep);
        }
        Envelope::read(text).map_err(|malformed| match malformed {
            Malformed::NotJson { .. } => why_not_json(text, malformed),
            other => other,
        })
    }
}

fn why_not_utf8(body: &[u8], properties: &Properties) -> Malformed {
    match properties.compression.as_deref() {
        _ if is_amqp_1_0(body) => Malformed::Amqp10,
        None | Some("") => Malformed::NotUtf8(Looks::of(body)),
        Some(method) => Malformed::Compressed(printable(method, MAX_ENCODING_BYTES)),
    }
}

/// A better reason than the place where the JSON breaks, if the beginning tells one.
fn why_not_json(text: &str, otherwise: Malformed) -> Malformed {
    match text.as_bytes() {
        body if is_amqp_1_0(body) => Malformed::Amqp10,
        body if is_utf16_object(body) => Malformed::NotUtf8(Looks::Utf16),
        _ if text.starts_with('\u{feff}') => Malformed::ByteOrderMark,
        _ => otherwise,
    }
}

/// The parts of an event, from where its kind has them.
pub(super) struct Fields<'a> {
    id: Option<&'a RawValue>,
    event_type: Option<&'a RawValue>,
    account: Field<'a>,
    pub(super) time: Field<'a>,
    data: Option<&'a str>,
}

/// A field whose name differs between kinds of events.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) name: &'static str,
    pub(super) value: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// # Errors
    ///
    /// It is a CloudEvent of a kind that is not supported.
    pub(super) fn of(envelope: &Envelope<'a>) -> Result<Self, Malformed> {
        let Envelope { id, event_type, account_id, occurred_at, ref cloud, .. } = *envelope;
        let data = envelope.data.map(RawValue::get);
        if !envelope.is_cloud_event() {
            let account = Field { name: "account_id", value: account_id };
            let time = Field { name: "occurred_at", value: occurred_at };
            return Ok(Self { id, event_type, account, time, data });
        }
        if !text("specversion", cloud.specversion).is_ok_and(|version| version == "1.0") {
            return Err(Malformed::SpecVersion);
        }
        if given(cloud.data_base64).is_some() {
            return Err(Malformed::DataBase64);
        }
        let account = Field { name: "accountid", value: cloud.accountid };
        let time = Field { name: "time", value: cloud.time };
        // CloudEvents may leave out `data`; receivers of ours always get one.
        Ok(Self { id, event_type, account, time, data: data.or(Some("null")) })
    }
}

fn event_id(value: Option<&RawValue>, properties: &Properties) -> Result<EventId, Malformed> {
    let own = given(value).map(|raw| text("id", Some(raw))).transpose()?.filter(|id| !id.is_empty());
    let id = own.as_deref().or(properties.message_id.as_deref()).filter(|id| !id.is_empty());
    EventId::parse(id.ok_or(Malformed::Missing("id"))?).ok_or(Malformed::Id)
}

/// Whether a body with this `content_encoding` is plain text. Publishers write a character set or a MIME transfer encoding
/// here, in many spellings. Whether the text is UTF-8 is checked on the body itself.
fn is_plain(encoding: &str) -> bool {
    let known: String = encoding.chars().filter(|char| !matches!(char, '-' | '_' | ' ' | '\t')).collect();
    let plain = ["", "utf8", "ascii", "usascii", "identity", "7bit", "8bit", "binary"];
    plain.iter().any(|plain| known.eq_ignore_ascii_case(plain))
}

/// When the event happened: its own time, else the message's timestamp, else `now`.
fn occurred_at<'a>(time: Field<'a>, properties: &Properties, now: Timestamp) -> Result<Cow<'a, str>, Malformed> {
    if let Some(value) = given(time.value) {
        let written = text(time.name, Some(value))?;
        let sent = match &written {
            Cow::Borrowed(written) => in_one_form(written),
            Cow::Owned(written) => in_one_form(written).map(|sent| Cow::Owned(sent.into_owned())),
        };
        return sent.ok_or_else(|| Malformed::OccurredAt(time.name, WrongTime::of(&written)));
    }
    let seconds = properties.timestamp.and_then(|seconds| i64::try_from(seconds).ok());
    // A timestamp beyond the year 9999 is ignored.
    let sent = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    let now = || Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
    Ok(Cow::Owned(sent.unwrap_or_else(now).to_string()))
}

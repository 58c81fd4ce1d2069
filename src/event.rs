//! Reads an event from a broker message, or says why the message is none. Pure: the caller brings the clock.
//!
//! `data` passes through byte for byte, whatever JSON it is; everything around it is checked.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;

use crate::ids::{AccountId, EventId, EventType};
use crate::trace_context::{TraceContext, TraceId};

mod catalogue;
mod data;
mod envelope;
mod looks;
mod malformed;
mod parser;
mod shape;
mod warnings;
mod wrong_time;

pub use catalogue::{Catalogue, CatalogueEntry};
pub use data::{DataRefusal, EventData};
pub use looks::Looks;
pub use malformed::Malformed;
pub use parser::{EventParser, Properties};
pub use shape::Shape;
pub use warnings::Warning;
pub use wrong_time::WrongTime;

/// Something that happened in penr.ai, with the body that is signed, sent and stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Chosen by the publisher.
    pub id: EventId,
    /// One of the catalogue.
    pub event_type: EventType,
    /// The account whose webhooks get it.
    pub account_id: AccountId,
    /// Serialised once: every request and every row holds these bytes.
    pub body: Bytes,
    /// The span that the attempts of its deliveries are children of, if it belongs to a trace.
    pub trace: Option<TraceContext>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} {} of {}, {} bytes)", self.id, self.event_type, self.account_id, self.body.len())
    }
}

impl Event {
    /// A made-up event, for the owner of a webhook to see what events look like: the body of a real one with `"test":true`
    /// behind it. `unique` must be new for each. Without `data` it says that nothing happened.
    pub fn test(
        event_type: &EventType,
        account_id: &AccountId,
        data: Option<&EventData>,
        unique: u128,
        now: Timestamp,
    ) -> Self {
        const NOTHING: &str = r#"{"test":true,"message":"This event was sent to test the webhook; nothing happened."}"#;
        let id = EventId::parse(&format!("evt_test_{unique:032x}")).expect("letters, digits and _");
        let data = data.map_or(NOTHING, EventData::as_str);
        let real = body_to_send(&id, event_type, &format!("{now:.3}"), data);
        let open = real.strip_suffix(b"}").expect("a body is an object");
        let body = [open, br#","test":true}"#].concat().into();
        Self { id, event_type: event_type.clone(), account_id: account_id.clone(), body, trace: None }
    }

    /// The trace that it belongs to, for the log.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace.map(|trace| trace.trace_id)
    }
}

/// The body of a request. Every part but `data`, which is JSON already, consists of characters that JSON does not escape.
fn body_to_send(id: &EventId, event_type: &EventType, occurred_at: &str, data: &str) -> Bytes {
    format!(r#"{{"id":"{id}","type":"{event_type}","timestamp":"{occurred_at}","data":{data}}}"#).into()
}

#[cfg(test)]
#[path = "event/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "event/table_tests.rs"]
mod table_tests;

//! A delivery (one event for one webhook), its attempts and their outcomes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::event::Event;
use crate::ids::DeliveryId;
use crate::snapshot::{Snapshot, Standing};
use crate::trace_context::TraceContext;

mod error_detail;
mod error_name;

pub use error_detail::{ErrorDetail, Phase};
pub use error_name::ErrorName;

/// An event and its row in the database, which may not be written yet.
#[derive(Debug)]
pub struct EventRow {
    /// The event itself.
    pub event: Event,
    /// The day of the row's partition, by Postgres's clock.
    pub day: Date,
    /// The row's key within its day.
    pub key: Uuid,
    /// Whether the row is committed.
    stored: AtomicBool,
}

impl EventRow {
    /// An event whose row is not written yet.
    pub fn new(event: Event, day: Date, key: Uuid) -> Self {
        Self { event, day, key, stored: AtomicBool::new(false) }
    }

    /// An event read from its row.
    pub fn stored(event: Event, day: Date, key: Uuid) -> Self {
        Self { event, day, key, stored: AtomicBool::new(true) }
    }

    /// Whether the row is known to be committed.
    pub(crate) fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Relaxed)
    }

    /// Remembers that the row is committed: the event's other deliveries do not write it again.
    pub(crate) fn mark_stored(&self) {
        self.stored.store(true, Ordering::Relaxed);
    }
}

/// One event for one webhook, ready for its next attempt.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Made of the ids of the webhook and the event.
    pub id: DeliveryId,
    /// The event, shared by its deliveries.
    pub row: Arc<EventRow>,
    /// The webhook as it was looked up last.
    pub webhook: Arc<Snapshot>,
    /// Why the next attempt is made.
    pub trigger: Trigger,
    /// The number of the next attempt, from 1.
    pub attempt: u32,
}

impl Delivery {
    /// The event to send.
    pub fn event(&self) -> &Event {
        &self.row.event
    }
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Trigger {
    /// The event arrived.
    Event,
    /// An earlier attempt failed.
    Retry,
    /// The webhook's owner asked for a test.
    Test,
    /// Somebody asked to send the delivery again.
    Resend,
}

impl Trigger {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Retry => "retry",
            Self::Test => "test",
            Self::Resend => "resend",
        }
    }

    /// The trigger with this name, if there is one.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Event, Self::Retry, Self::Test, Self::Resend].into_iter().find(|t| t.as_str() == name)
    }
}

/// One HTTP request for a delivery, as the log keeps it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The id of the row in the log.
    pub id: Uuid,
    /// What the receiver answered, or why it did not.
    pub outcome: Outcome,
    /// From the beginning of the attempt until its outcome was known.
    pub duration: Duration,
    /// When the attempt began, on this machine's monotonic clock.
    pub started: Instant,
    /// On the same clock: until when the receiver asked for no further requests.
    pub paused_until: Option<Instant>,
    /// The second since 1970 that the request names as its time, and that its signature covers.
    pub signed_at: i64,
    /// The span of the attempt, if its event belongs to a trace.
    pub trace: Option<TraceContext>,
}

impl Attempt {
    /// When the outcome was known.
    pub fn ended(&self) -> Instant {
        self.started + self.duration
    }
}

/// How an attempt ended. Never an `Err`: a receiver's answer is data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered, with success or without.
    Answered(Answer),
    /// There was no answer.
    Failed(AttemptError),
}

/// The parts of a receiver's answer that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The cleaned beginning of the body.
    pub snippet: Option<String>,
    /// Whether the body was longer than what is kept of it.
    pub truncated: bool,
    /// The cleaned headers that are kept, as a JSON object of names and texts; `None` without any.
    pub headers: Option<String>,
    /// How long the receiver asked to wait, by `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// Whether the status is one of 200 to 299.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there was no answer. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptError {
    /// The host's address must not be called.
    BlockedAddress,
    /// The saved URL is refused by the present settings.
    InvalidUrl,
    /// No connection to the host was made, and no more is known.
    Connect,
    /// The receiver or its name servers failed in a way that has a name of its own.
    Detailed(ErrorDetail),
    /// This service failed. The delivery keeps its attempt.
    Internal,
    /// This service failed and reached nobody: no name server answers, or the proxy does not. Named `internal`, too.
    CutOff,
}

impl AttemptError {
    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlockedAddress => "blocked_address",
            Self::InvalidUrl => "invalid_url",
            Self::Connect => Phase::Connect.as_str(),
            Self::Detailed(detail) => detail.phase().as_str(),
            Self::Internal | Self::CutOff => "internal",
        }
    }

    /// The phase of the request that failed. `None` if the receiver did not cause the failure.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Self::Connect => Some(Phase::Connect),
            Self::Detailed(detail) => Some(detail.phase()),
            Self::BlockedAddress | Self::InvalidUrl | Self::Internal | Self::CutOff => None,
        }
    }

    /// The cause within its phase, if it is known.
    pub fn detail(self) -> Option<ErrorDetail> {
        match self {
            Self::Detailed(detail) => Some(detail),
            _ => None,
        }
    }
}

impl From<ErrorDetail> for AttemptError {
    fn from(detail: ErrorDetail) -> Self {
        Self::Detailed(detail)
    }
}

impl Outcome {
    /// Whether the receiver answered with one of 200 to 299.
    pub(crate) fn is_success(&self) -> bool {
        matches!(self, Self::Answered(answer) if answer.is_success())
    }

    /// The answer's HTTP status, if there was an answer.
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::Answered(answer) => Some(answer.status),
            Self::Failed(_) => None,
        }
    }

    /// The name of the error; `None` after a success.
    pub fn error(&self) -> Option<&'static str> {
        match self {
            Self::Answered(answer) if answer.is_success() => None,
            Self::Answered(_) => Some("http_status"),
            Self::Failed(error) => Some(error.as_str()),
        }
    }

    /// The cause within the phase that failed, if it is known.
    pub fn error_detail(&self) -> Option<&'static str> {
        match self {
            Self::Answered(_) => None,
            Self::Failed(error) => error.detail().map(ErrorDetail::as_str),
        }
    }

    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answered(answer) => Some(answer),
            Self::Failed(_) => None,
        }
    }
}

/// Why a delivery ended without a success. The names stand in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedReason {
    /// The last attempt of the schedule failed.
    Exhausted,
    /// The webhook was switched off or deleted while the delivery waited.
    Cancelled,
    /// This service had disabled the webhook.
    Disabled,
    /// The database refuses to store the attempt.
    Unrecordable,
}

impl ClosedReason {
    /// In the order of the variants.
    pub(crate) const ALL: [Self; 4] = [Self::Exhausted, Self::Cancelled, Self::Disabled, Self::Unrecordable];

    /// Why the deliveries of a webhook with this standing are closed without an attempt; `None` if they are attempted.
    pub fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::Active => None,
            Standing::Disabled => Some(Self::Disabled),
            Standing::Off => Some(Self::Cancelled),
        }
    }

    /// The name in the database and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
            Self::Disabled => "disabled",
            Self::Unrecordable => "unrecordable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ClosedReason;

    #[test]
    fn the_list_of_reasons_has_all() {
        // A new variant does not compile here before it has its place.
        let next = |reason: &ClosedReason| match reason {
            ClosedReason::Exhausted => Some(ClosedReason::Cancelled),
            ClosedReason::Cancelled => Some(ClosedReason::Disabled),
            ClosedReason::Disabled => Some(ClosedReason::Unrecordable),
            ClosedReason::Unrecordable => None,
        };
        let all: Vec<_> = std::iter::successors(Some(ClosedReason::Exhausted), next).collect();
        assert_eq!(all, ClosedReason::ALL);
    }
}

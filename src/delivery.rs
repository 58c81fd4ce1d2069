//! What is owed to a webhook and what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use uuid::Uuid;

use crate::event::Event;
use crate::ids::DeliveryId;
use crate::snapshot::{Snapshot, Standing};

/// An event and the row that holds it, or will.
#[derive(Debug)]
pub struct EventRow {
    pub event: Event,
    /// The partition, by Postgres's clock.
    pub day: Date,
    pub key: Uuid,
    stored: AtomicBool,
}

impl EventRow {
    /// An event that no row holds yet.
    pub fn new(event: Event, day: Date, key: Uuid) -> Self {
        Self { event, day, key, stored: AtomicBool::new(false) }
    }

    /// An event read from its row.
    pub fn stored(event: Event, day: Date, key: Uuid) -> Self {
        Self { event, day, key, stored: AtomicBool::new(true) }
    }

    pub fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Relaxed)
    }

    /// Remembers that the row is committed, so that it is written once for all its deliveries.
    pub fn mark_stored(&self) {
        self.stored.store(true, Ordering::Relaxed);
    }
}

/// One event owed to one webhook, ready for its next attempt.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub row: Arc<EventRow>,
    pub webhook: Arc<Snapshot>,
    /// Why the next attempt is made.
    pub trigger: Trigger,
    /// The number of the next attempt, from 1.
    pub attempt: u32,
}

impl Delivery {
    pub fn event(&self) -> &Event {
        &self.row.event
    }
}

/// Why an attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Event,
    Retry,
    Test,
    Resend,
}

impl Trigger {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Retry => "retry",
            Self::Test => "test",
            Self::Resend => "resend",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Event, Self::Retry, Self::Test, Self::Resend].into_iter().find(|t| t.as_str() == name)
    }
}

/// One HTTP request as it is logged.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Names the log row.
    pub id: Uuid,
    pub outcome: Outcome,
    /// From the start of the attempt to its verdict.
    pub duration: Duration,
    /// When the attempt began, on this machine's monotonic clock.
    pub started: Instant,
    /// Until when the receiver asked that its webhook gets nothing, on the same clock.
    pub paused_until: Option<Instant>,
}

impl Attempt {
    /// When its verdict was known.
    pub fn ended(&self) -> Instant {
        self.started + self.duration
    }
}

/// What an attempt told us. Never an `Err`: a receiver's answer is data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answered(Answer),
    Failed(AttemptError),
}

/// A receiver's answer, as far as we keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The cleaned beginning of the body.
    pub snippet: Option<String>,
    /// How long the receiver asked us to wait.
    pub retry_after: Option<Duration>,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there was no answer. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptError {
    BlockedAddress,
    InvalidUrl,
    Dns,
    Connect,
    Tls,
    Timeout,
    Protocol,
    /// Our own failure; never the receiver's fault, never costs an attempt.
    Internal,
    /// The same, and nobody was reached: no name server answers, or not even the proxy. It is told as `internal`.
    CutOff,
}

impl AttemptError {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlockedAddress => "blocked_address",
            Self::InvalidUrl => "invalid_url",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Internal | Self::CutOff => "internal",
        }
    }
}

impl Outcome {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Answered(answer) if answer.is_success())
    }

    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::Answered(answer) => Some(answer.status),
            Self::Failed(_) => None,
        }
    }

    /// The name of what went wrong, `None` after a success.
    pub fn error(&self) -> Option<&'static str> {
        match self {
            Self::Answered(answer) if answer.is_success() => None,
            Self::Answered(_) => Some("http_status"),
            Self::Failed(error) => Some(error.as_str()),
        }
    }

    pub fn snippet(&self) -> Option<&str> {
        match self {
            Self::Answered(answer) => answer.snippet.as_deref(),
            Self::Failed(_) => None,
        }
    }
}

/// Why a delivery ended without a success. The names stand in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedReason {
    /// The schedule ended.
    Exhausted,
    /// The webhook was switched off or deleted while the delivery waited.
    Cancelled,
    /// We had disabled the webhook.
    Disabled,
    /// The database refuses to hold the attempt.
    Unrecordable,
}

impl ClosedReason {
    /// Why the deliveries of a webhook with this standing are closed without an attempt; `None` if they are attempted.
    pub fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::Active => None,
            Standing::Disabled => Some(Self::Disabled),
            Standing::Off => Some(Self::Cancelled),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
            Self::Disabled => "disabled",
            Self::Unrecordable => "unrecordable",
        }
    }
}

//! A customer's registration, and what an attempt needs of it.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::delivery::ClosedReason;
use crate::event::{AccountId, Catalogue, EventType};
use crate::secret::OpenError;
use crate::signature::SigningKey;

mod url;

pub use url::{AllowedHostError, AllowedHosts, UrlPolicy, UrlRefusal, UrlWarning, WebhookUrl};

/// Names a webhook.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WebhookId(pub Uuid);

impl WebhookId {
    /// Reads the one spelling we write: lower case, with hyphens.
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

/// What its customer calls a webhook: 1 to 200 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookName(String);

impl WebhookName {
    pub fn parse(text: &str) -> Result<Self, WebhookRefusal> {
        let text = text.trim();
        let length = text.chars().count();
        if !(1..=200).contains(&length) || text.chars().any(char::is_control) {
            return Err(WebhookRefusal::Name);
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The types a webhook subscribes to: at least one, each of the catalogue, in its order, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriptions(Vec<EventType>);

impl Subscriptions {
    pub fn parse<S: AsRef<str>>(names: &[S], catalogue: &Catalogue) -> Result<Self, WebhookRefusal> {
        if names.is_empty() {
            return Err(WebhookRefusal::NoEvents);
        }
        if let Some(unknown) = names.iter().find(|name| catalogue.get(name.as_ref()).is_none()) {
            let shown = unknown.as_ref().chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
            return Err(WebhookRefusal::UnknownEvent(shown));
        }
        let wanted = |known: &&EventType| names.iter().any(|name| name.as_ref() == known.as_str());
        Ok(Self(catalogue.types().filter(wanted).cloned().collect()))
    }

    pub fn types(&self) -> &[EventType] {
        &self.0
    }
}

/// Why a webhook cannot be saved as it was given, said to the one who gave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookRefusal {
    #[error("the name must have 1 to 200 characters and no control characters")]
    Name,
    #[error("choose at least one event type")]
    NoEvents,
    #[error("there is no event type `{0}`")]
    UnknownEvent(String),
    #[error(transparent)]
    Url(#[from] UrlRefusal),
}

/// A webhook as its customer sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Webhook {
    #[schema(value_type = Uuid)]
    pub id: WebhookId,
    #[serde(skip)]
    pub account_id: AccountId,
    pub name: String,
    pub url: String,
    pub events: Vec<String>,
    pub active: bool,
    /// Why we switched it off; `None` while it is on or if its owner did.
    pub disabled_reason: Option<String>,
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
    pub warnings: Vec<String>,
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Changes with `name`, `url`, `events` and `active`, and with nothing else. An opaque string: in quotes it is the
    /// webhook's `ETag`, for `If-Match`.
    pub version: String,
}

/// What one lookup saw of a webhook: enough to call it, or the reason not to.
#[derive(Debug)]
pub struct Snapshot {
    pub id: WebhookId,
    /// Raised whenever the webhook is switched off; deliveries of an older one are cancelled.
    pub activation: i32,
    /// Whether its newest results that are recorded were failures: then a success changes its health.
    pub troubled: bool,
    /// Until when it gets nothing, by this process's clock, for its receiver asked for time. Past or `None`: it is not
    /// paused.
    pub paused_until: Option<Instant>,
    pub state: SnapshotState,
}

impl Snapshot {
    /// The saved URL, while it is active.
    pub fn url(&self) -> Option<&str> {
        match &self.state {
            SnapshotState::Active { url, .. } => Some(url),
            SnapshotState::Disabled | SnapshotState::Off => None,
        }
    }

    /// Names the receiver: another URL, or switching off and on, makes another one. What one asked for does not hold for
    /// the next.
    pub fn receiver(&self) -> ReceiverId {
        let mut hasher = DefaultHasher::new();
        (self.activation, self.url()).hash(&mut hasher);
        ReceiverId(hasher.finish())
    }

    /// What a delivery owed to this webhook finds when the webhook is read again; `None` if it is gone. It is off for
    /// what was owed before it was switched off, even if it is on again.
    pub fn as_of(&self, now: Option<&Arc<Self>>) -> Arc<Self> {
        let standing = now.map(|now| (now.activation, now.state.standing()));
        match (Standing::for_owed(self.activation, standing), now) {
            (Standing::Active | Standing::Disabled, Some(now)) => now.clone(),
            _ => Self { state: SnapshotState::Off, ..*self }.into(),
        }
    }
}

/// The receiver that a webhook has had since it was last switched on or got another URL. Means nothing outside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverId(pub u64);

/// Whether a webhook takes deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Active,
    /// Switched off by us: its deliveries are closed at once, so that they can be recovered.
    Disabled,
    /// Switched off by its owner, or deleted.
    Off,
}

impl Standing {
    /// What it is for a delivery that is owed since an activation, given the webhook's activation and standing now;
    /// `None` if it is gone.
    pub fn for_owed(owed_since: i32, now: Option<(i32, Self)>) -> Self {
        match now {
            Some((_, Self::Disabled)) => Self::Disabled,
            Some((activation, standing)) if activation == owed_since => standing,
            _ => Self::Off,
        }
    }

    /// Why its deliveries are closed without an attempt, if they are.
    pub fn closes(self) -> Option<ClosedReason> {
        match self {
            Self::Active => None,
            Self::Disabled => Some(ClosedReason::Disabled),
            Self::Off => Some(ClosedReason::Cancelled),
        }
    }
}

#[derive(Debug)]
pub enum SnapshotState {
    Active {
        /// As it was saved; it is checked again at every attempt.
        url: String,
        secrets: Result<Box<Secrets>, OpenError>,
    },
    Disabled,
    Off,
}

impl SnapshotState {
    fn standing(&self) -> Standing {
        match self {
            Self::Active { .. } => Standing::Active,
            Self::Disabled => Standing::Disabled,
            Self::Off => Standing::Off,
        }
    }

    /// Why its deliveries are closed without an attempt, if they are.
    pub fn closes(&self) -> Option<ClosedReason> {
        self.standing().closes()
    }
}

/// What a request is signed with.
#[derive(Debug, Clone)]
pub struct Secrets {
    pub current: SigningKey,
    /// Still valid for a while after a regeneration.
    pub previous: Option<SigningKey>,
}

/// What the owner of a saved URL should know about it, in sentences.
pub fn url_warnings(saved: &str) -> Vec<String> {
    let plain = saved.starts_with("http://").then_some(UrlWarning::PlainHttp);
    plain.iter().map(ToString::to_string).collect()
}

/// Timestamps leave as RFC 3339 with milliseconds.
pub fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

/// [`rfc3339`] or null.
pub fn optional_rfc3339<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

//! A webhook as its customer saves it and sees it.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::event::Catalogue;
use crate::ids::{AccountId, EventType, WebhookId};

mod url;

pub use url::{AllowedHostError, AllowedHosts, UrlPolicy, UrlRefusal, UrlWarning, WebhookUrl};

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

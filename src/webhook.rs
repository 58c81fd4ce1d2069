//! A webhook as its customer saves it and sees it.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::event::Catalogue;
use crate::ids::{AccountId, EventType, WebhookId};
use crate::timestamps::{optional_rfc3339, rfc3339};

mod url;

pub use url::{AllowedHosts, UrlPolicy, UrlRefusal, WebhookUrl};

/// What its customer calls a webhook: 1 to 200 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookName(String);

impl WebhookName {
    /// Reads a name. White space around it does not count.
    ///
    /// # Errors
    ///
    /// [`WebhookRefusal::Name`]
    pub fn parse(text: &str) -> Result<Self, WebhookRefusal> {
        let text = text.trim();
        let length = text.chars().count();
        if !(1..=200).contains(&length) || text.chars().any(char::is_control) {
            return Err(WebhookRefusal::Name);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name without white space around it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The event types that a webhook subscribes to: one or more of the catalogue, in the catalogue's order, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriptions(Vec<EventType>);

impl Subscriptions {
    /// The types with these names.
    ///
    /// # Errors
    ///
    /// [`WebhookRefusal::NoEvents`], or [`WebhookRefusal::UnknownEvent`] with the first name that is not in the catalogue.
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

    /// The types, in the catalogue's order.
    pub fn types(&self) -> &[EventType] {
        &self.0
    }
}

/// Why a webhook cannot be saved as it was given. The texts are for the person who gave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookRefusal {
    /// The name is empty, too long or has control characters.
    #[error("the name must have 1 to 200 characters and no control characters")]
    Name,
    /// The list of event types is empty.
    #[error("choose at least one event type")]
    NoEvents,
    /// A name that is not in the catalogue.
    #[error("there is no event type `{0}`")]
    UnknownEvent(String),
    /// The URL breaks a rule.
    #[error(transparent)]
    Url(#[from] UrlRefusal),
}

/// A webhook as its customer sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Webhook {
    /// Made by us; never changes.
    #[schema(value_type = Uuid)]
    pub id: WebhookId,
    /// The account that it belongs to; never shown.
    #[serde(skip)]
    pub account_id: AccountId,
    /// The name that its owner gave it.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// The event types that it gets.
    pub events: Vec<String>,
    /// Whether events are sent to it.
    pub active: bool,
    /// Why we switched it off; null while it is on or if its owner did.
    pub disabled_reason: Option<String>,
    /// Whether it fails for so long that its owner was notified (`health.notice_after`, `health.notice_attempts`).
    pub failing: bool,
    /// When the first attempt failed since the last success; null if the last attempt succeeded.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
    /// What its owner should know about the URL, in sentences.
    pub warnings: Vec<String>,
    /// When it was created.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When its owner last changed it.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Until when the secret before the newest one also signs; null if only the newest one does.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub previous_valid_until: Option<Timestamp>,
    /// Changes with `name`, `url`, `events` and `active`, and with nothing else. An opaque string: in quotes it is the
    /// webhook's `ETag`, for `If-Match`.
    pub version: String,
}

/// Sentences for the owner of a saved URL; none for most URLs.
pub(crate) fn url_warnings(saved: &str) -> Vec<String> {
    const PLAIN_HTTP: &str = "the URL uses http, so everyone on the way can read the events; use https";
    saved.starts_with("http://").then(|| PLAIN_HTTP.to_owned()).into_iter().collect()
}

//! A webhook as its customer saves it and sees it.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::event::Catalogue;
use crate::ids::{AccountId, EventType, WebhookId};
use crate::text::is_visible;
use crate::timestamps::{optional_rfc3339, rfc3339};

mod headers;
mod pace;
mod url;
mod warnings;

pub use headers::{
    CustomHeaders, HeaderName, HeaderNames, HeaderRefusal, LONGEST_NAME, LONGEST_VALUE, MOST_HEADERS, WantedHeaders,
};
pub use pace::MaxPerSecond;
pub use url::{AllowedHosts, UrlPolicy, UrlRefusal, WebhookUrl, origin_of};
pub(crate) use warnings::url_warnings;

/// What its customer calls a webhook: 1 to 200 characters, at least one of them visible and none a control character.
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
        if length > 200 || !text.chars().any(is_visible) || text.chars().any(char::is_control) {
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
    /// Nothing of the name can be seen, or it is too long or has control characters.
    #[error("the name must have 1 to 200 characters, at least one of them visible, and no control characters")]
    Name,
    /// The list of event types is empty.
    #[error("choose at least one event type")]
    NoEvents,
    /// A name that is not in the catalogue.
    #[error("there is no event type `{0}`")]
    UnknownEvent(String),
    /// No whole number from 1 to 1,000.
    #[error("the pace must be a whole number of requests a second, from 1 to 1000")]
    MaxPerSecond,
    /// A header breaks a rule.
    #[error(transparent)]
    Header(#[from] HeaderRefusal),
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
    /// When it was switched off, by its owner or by us; null while it is active, and if that time is not known.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub inactive_since: Option<Timestamp>,
    /// Why we switched it off; null while it is on or if its owner did.
    pub disabled_reason: Option<String>,
    /// Whether it fails for so long that its owner was notified (`health.notice_after`, `health.notice_attempts`).
    pub failing: bool,
    /// When the first attempt failed since the last success; null if the last attempt succeeded.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
    /// The headers that its owner added to its requests, each name with null: values are never shown.
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    pub headers: HeaderNames,
    /// The most requests that it gets in a second; null: as many as it takes.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub max_per_second: Option<MaxPerSecond>,
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
    /// Since when its deliveries wait because the operators hold them: nothing is sent, everything is kept, and sent later. Null:
    /// they do not.
    #[serde(serialize_with = "optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub held_since: Option<Timestamp>,
    /// Changes with `name`, `url`, `events`, `active`, `headers` and `max_per_second`, and with nothing else. An opaque string: in quotes it is the
    /// webhook's `ETag`, for `If-Match`.
    pub version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_character_that_can_be_seen() {
        for name in [
            "",
            "  ",
            "\u{feff}",
            "\u{200b}\u{200b}",
            "\u{3164}",
            "\u{2800} \u{2800}",
            "\u{202e}",
            "\u{fe0f}",
            "\u{a0}",
        ] {
            assert_eq!(WebhookName::parse(name), Err(WebhookRefusal::Name), "{name:?}");
        }
        for name in ["a", "ü", "…", "❤\u{fe0f}", "\u{202e}a", "مدونة", "ブログ", "👩\u{200d}👧"] {
            assert_eq!(WebhookName::parse(name).map(|name| name.0), Ok(name.to_owned()));
        }
    }

    #[test]
    fn a_name_is_short_and_has_no_control_characters() {
        WebhookName::parse(&format!(" {} ", "é".repeat(200))).expect("blanks around it do not count");
        assert_eq!(WebhookName::parse(&"a".repeat(201)), Err(WebhookRefusal::Name));
        assert_eq!(WebhookName::parse("a\u{7}b"), Err(WebhookRefusal::Name));
    }
}

//! Shows a request as its receiver gets it.

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use super::hidden::HIDDEN;
use crate::event::Event;
use crate::snapshot::Secrets;

/// What is sent, and what Standard Webhooks signs of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SentRequest {
    /// By their names as they are written on the wire.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// `id.timestamp.body`, of which `Webhook-Signature` is made.
    pub signed: String,
}

impl SentRequest {
    pub(super) fn of(headers: &HeaderMap, url: Option<&url::Url>, event: &Event) -> Self {
        let mut shown = by_name(headers);
        // The HTTP client adds Host and Content-Length.
        if let Some(url) = url {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            shown.insert("Host".into(), format!("{}{port}", url.host_str().unwrap_or_default()));
        }
        shown.insert("Content-Length".into(), event.body.len().to_string());
        let body = String::from_utf8_lossy(&event.body).into_owned();
        let timestamp = headers.get(super::STANDARD_TIMESTAMP).map(text).unwrap_or_default();
        Self { headers: shown, signed: format!("{}.{timestamp}.{body}", event.id), body }
    }
}

/// A request that was sent, as far as it is known.
pub struct PastRequest<'a> {
    pub event_id: &'a str,
    pub event_type: &'a str,
    /// The number of the attempt, from 1.
    pub attempt: i32,
    /// The unix second that the request was signed for.
    pub signed_at: Option<i64>,
    /// `None` if it is no longer kept.
    pub event: Option<&'a Event>,
    /// What the request was signed with, if that is known.
    pub secrets: Option<&'a Secrets>,
    /// The names of the webhook's own headers in the request, as far as they are known. No values are kept.
    pub own_headers: &'a [String],
}

impl PastRequest<'_> {
    /// Makes the headers again, by their names as they are written on the wire. What is not known is left out, and so is
    /// `Traceparent`: the span of a past attempt is not kept.
    pub fn headers(&self) -> BTreeMap<String, String> {
        let attempt = u32::try_from(self.attempt).unwrap_or_default();
        let mut headers = HeaderMap::from_iter(super::unsigned_headers(self.event_id, self.event_type, attempt));
        if let Some(timestamp) = self.signed_at {
            headers.insert(super::STANDARD_TIMESTAMP, timestamp.into());
            if let (Some(event), Some(secrets)) = (self.event, self.secrets) {
                headers = super::headers(event, secrets, attempt, timestamp, None);
            }
        }
        let mut shown = by_name(&headers);
        let own = self.own_headers.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        shown.extend(own.map(|name| (title_case(&name), HIDDEN.to_owned())));
        shown.extend(self.event.map(|event| ("Content-Length".into(), event.body.len().to_string())));
        shown
    }
}

fn by_name(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (title_case(name), text(value))).collect()
}

fn text(value: &HeaderValue) -> String {
    if value.is_sensitive() {
        return HIDDEN.to_owned();
    }
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The name as the HTTP client writes it: `Webhook-Id`.
fn title_case(name: &HeaderName) -> String {
    let word = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    name.as_str().split('-').map(word).collect::<Vec<_>>().join("-")
}

//! Shows a request as its receiver gets it.

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, HeaderName};
use serde::Serialize;
use utoipa::ToSchema;

use crate::event::Event;

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
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut shown: BTreeMap<_, _> = headers.iter().map(|(name, value)| (title_case(name), text(value))).collect();
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

/// The name as the HTTP client writes it: `Webhook-Id`.
fn title_case(name: &HeaderName) -> String {
    let word = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    name.as_str().split('-').map(word).collect::<Vec<_>>().join("-")
}

//! Reads a request's query and ids strictly: unknown, repeated and unreadable parameters are refused.

use std::collections::{BTreeMap, HashMap};

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::Method;
use axum::http::request::Parts;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use url::form_urlencoded;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, ParameterIn};
use uuid::Uuid;

use super::problem::Problem;
use crate::ids::{DeliveryId, WebhookId};
use crate::text::printable;
use crate::timestamps::instant;

/// The query parameters of every route, as its description names them.
pub(super) struct Parameters(HashMap<(Method, String), Vec<String>>);

impl Parameters {
    pub(super) fn described_by(document: &OpenApi) -> Self {
        let mut parameters = HashMap::new();
        for (path, item) in &document.paths.paths {
            let operations = [
                (Method::GET, &item.get),
                (Method::POST, &item.post),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            for (method, operation) in operations {
                if let Some(operation) = operation {
                    parameters.insert((method, path.clone()), query_of(operation));
                }
            }
        }
        Self(parameters)
    }

    pub(super) fn of(&self, method: &Method, route: &str) -> &[String] {
        // HEAD takes the parameters of GET.
        let method = if method == Method::HEAD { Method::GET } else { method.clone() };
        self.0.get(&(method, route.to_owned())).map_or(&[], Vec::as_slice)
    }
}

fn query_of(operation: &Operation) -> Vec<String> {
    let all = operation.parameters.iter().flatten();
    all.filter(|one| one.parameter_in == ParameterIn::Query).map(|one| one.name.clone()).collect()
}

/// A request's query: known parameters, each once.
#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn read(text: &str, known: &[String]) -> Result<Self, Problem> {
        let mut query = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let shown = printable(&name, 64);
            if !known.iter().any(|known| *known == name) {
                return Err(Problem::malformed(&shown, "is no query parameter of this address"));
            }
            if value.contains(['\0', char::REPLACEMENT_CHARACTER]) {
                return Err(Problem::malformed(&shown, "is not readable text"));
            }
            if query.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(Problem::malformed(&shown, "is given twice"));
            }
        }
        Ok(Self(query))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A parameter that is one of these words.
    ///
    /// # Errors
    ///
    /// 400 if it is another word.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        chosen.map(Some).ok_or_else(|| Problem::malformed(name, format!("must be {}", words())))
    }

    /// A parameter that is a time.
    ///
    /// # Errors
    ///
    /// 400 if it is something else.
    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // A query decodes `+` as a blank, so this is an offset that the caller has not encoded.
        let read = if text.is_ascii() && text.len() > 19 {
            text[..19].to_owned() + &text[19..].replace(' ', "+")
        } else {
            text.to_owned()
        };
        time(&read).map(Some).ok_or_else(|| Problem::malformed(name, NOT_A_TIME))
    }

    /// A parameter that is an HTTP status.
    ///
    /// # Errors
    ///
    /// 400 if it is something else.
    pub(super) fn http_status(&self) -> Result<Option<u16>, Problem> {
        let Some(text) = self.text("http_status") else { return Ok(None) };
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let status = text.parse().ok().filter(|status| digits && (100..=999).contains(status));
        status
            .map(Some)
            .ok_or_else(|| Problem::malformed("http_status", "must be a number of three digits, such as 500"))
    }

    /// The parameter `limit`, a number of rows from 1 to 100.
    ///
    /// # Errors
    ///
    /// 400 if it is something else.
    pub(super) fn limit(&self, default: u32) -> Result<u32, Problem> {
        let Some(text) = self.text("limit") else { return Ok(default) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let limit = text.parse().ok().filter(|limit| digits && (1..=100).contains(limit));
        limit.ok_or_else(|| Problem::malformed("limit", "must be a whole number from 1 to 100"))
    }
}

pub(super) const NOT_A_TIME: &str = "must be a time such as 2026-11-23T10:00:00Z";

/// Parses a time that both RFC 3339 and PostgreSQL can express.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let time = instant(text)?;
    crate::store::YEARS.contains(&time.to_zoned(TimeZone::UTC).year()).then_some(time)
}

/// Parses an id in the only spelling that we write: lower case, with hyphens.
pub(super) fn canonical(text: &str) -> Option<Uuid> {
    WebhookId::parse(text).map(|id| id.0)
}

/// The webhook that a path names.
pub(super) struct WebhookPath(pub(super) WebhookId);

/// The webhook and the delivery that a path names.
pub(super) struct DeliveryPath(pub(super) WebhookId, pub(super) DeliveryId);

impl<S: Send + Sync> FromRequestParts<S> for WebhookPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(WebhookId(id(parts, state, "id").await?)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DeliveryPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let webhook = WebhookId(id(parts, state, "id").await?);
        Ok(Self(webhook, DeliveryId(id(parts, state, "delivery_id").await?)))
    }
}

/// An id of the path. Text that is no id names nothing: 404.
async fn id<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<Uuid, Problem> {
    let given = RawPathParams::from_request_parts(parts, state).await.map_err(|_| Problem::not_found())?;
    let text = given.iter().find(|(own, _)| *own == name).map(|(_, text)| text);
    text.and_then(canonical).ok_or_else(Problem::not_found)
}

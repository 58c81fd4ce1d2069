//! Reads a request's JSON body strictly: plain UTF-8 JSON of a bounded size with known fields, each once.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};

use super::Api;
use super::problem::Problem;
use crate::text::printable;

/// Bytes of a caller's text that an answer repeats; all our field names are shorter.
const SHOWN_BYTES: usize = 200;

/// A request's JSON body.
pub(super) struct Json<T>(pub(super) T);

/// A request's JSON body, or the default if there is none.
pub(super) struct OptionalJson<T>(pub(super) T);

/// How a body is read from bytes that have arrived.
pub(super) trait JsonBody: Sized {
    /// # Errors
    ///
    /// 415 if the headers announce something else, 400 if the bytes cannot be read.
    fn of(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem>;
}

impl<T: DeserializeOwned> JsonBody for Json<T> {
    fn of(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        check_type(headers)?;
        parse(body).map(Self)
    }
}

impl<T: DeserializeOwned + Default> JsonBody for OptionalJson<T> {
    fn of(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        check_type(headers)?;
        parse(body).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        check_type(request.headers())?;
        let body = read(request.into_body(), api.settings.limits.max_body_bytes).await?;
        parse(&body).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<Arc<Api>> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = read(body, api.settings.limits.max_body_bytes).await?;
        Self::of(&parts.headers, &body)
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let encoded = headers.get_all(header::CONTENT_ENCODING).iter().any(|encoding| encoding != "identity");
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(given), None, false) = (types.next(), types.next(), encoded) else { return Err(Problem::media_type()) };
    let given = given.to_str().unwrap_or_default().to_ascii_lowercase().replace([' ', '"'], "");
    match given.as_str() {
        "application/json" | "application/json;charset=utf-8" => Ok(()),
        _ => Err(Problem::media_type()),
    }
}

pub(super) async fn read(body: Body, most: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, most).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::too_large(most)),
        Err(_) => Err(Problem::malformed("", "the body ended early")),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| Problem::malformed("", "the body is not UTF-8"))?;
    if text.starts_with('\u{feff}') {
        return Err(Problem::malformed("", "the body begins with a byte order mark"));
    }
    // serde would accept an array as an object with its fields in order.
    if text.trim_start().starts_with('[') {
        return Err(Problem::malformed("", "the body must be an object"));
    }
    // serde_json refuses more than 128 levels, so no body can exhaust the stack. It skips raw values without recursion.
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "" } else { path.as_str() };
        Problem::malformed(&printable(field, SHOWN_BYTES), printable(&error.inner().to_string(), SHOWN_BYTES))
    })?;
    deserializer.end().map_err(|_| Problem::malformed("", "something follows the JSON"))?;
    Ok(read)
}

/// Text without NUL, which the database cannot hold.
#[derive(Debug, Clone)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.contains('\0') {
            true => Err(serde::de::Error::custom("must not contain NUL")),
            false => Ok(Self(text)),
        }
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A whole number, also as JSON writers of other languages write it: 5.0.
#[derive(Debug, Clone, Copy)]
pub(super) struct WholeNumber(pub(super) i64);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        #[expect(clippy::cast_possible_truncation, reason = "a number that is too large becomes the largest")]
        let whole = || number.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64);
        let number = number.as_i64().or_else(whole);
        number.map(Self).ok_or_else(|| serde::de::Error::custom("must be a whole number"))
    }
}

/// Reads a field that may be left out but not be null.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

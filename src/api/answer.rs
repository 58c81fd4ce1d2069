//! The answers that routes share: a JSON document, and the problems that the API's description names for them.

use std::collections::BTreeMap;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::IntoResponses;
use utoipa::openapi::{
    Header, Object, ObjectBuilder, Ref, RefOr, Response as DescribedResponse, ResponseBuilder, Type,
};

/// A JSON document. Status 200 unless the route gives another.
pub(super) struct JsonAnswer<T>(pub(super) T);

impl<T: Serialize> IntoResponse for JsonAnswer<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).expect("answers are plain JSON");
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// A JSON document that is text already.
pub(super) struct JsonText(pub(super) String);

impl IntoResponse for JsonText {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

/// A document as JSON text.
pub(super) fn json_text(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("answers are plain JSON")
}

/// The problems that every route may answer with.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        described([
            ("400", "The query or the body cannot be read"),
            ("401", "A valid token is needed"),
            ("429", "Too many requests; Retry-After says when to come again"),
            (
                "503",
                "Not available for the moment, or it is not known whether a change was made (`outcome-unknown`); Retry-After says when to come again, and is missing if a second request might do the change twice",
            ),
        ])
    }
}

/// The problems of routes that name a webhook.
pub(super) struct WebhookProblems;

impl IntoResponses for WebhookProblems {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        let mut responses = Problems::responses();
        responses.extend(described([("404", "There is no such thing, or it is another account's")]));
        responses
    }
}

/// The problem of routes that change something or show a secret.
pub(super) struct ReadOnlyProblem;

impl IntoResponses for ReadOnlyProblem {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        described([("403", "The token may only read")])
    }
}

/// The problem of routes that take `If-Match`.
pub(super) struct PreconditionProblem;

impl IntoResponses for PreconditionProblem {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        described([("412", "The webhook is not as If-Match says")])
    }
}

/// The problems of routes that read a body.
pub(super) struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        described([
            ("413", "The body is too large"),
            ("415", "The body is not plain JSON"),
            ("422", "Some fields cannot be accepted; errors names them"),
        ])
    }
}

/// Problems by their status, each with what it means.
fn described<const N: usize>(problems: [(&str, &str); N]) -> BTreeMap<String, RefOr<DescribedResponse>> {
    let response = |status: &str, meaning: &str| {
        let schema = Ref::from_schema_name("Problem");
        let content = utoipa::openapi::ContentBuilder::new().schema(Some(schema)).build();
        let mut response = ResponseBuilder::new().description(meaning).content("application/problem+json", content);
        if let Some((name, header)) = header_of(status) {
            response = response.header(name, header);
        }
        response.build().into()
    };
    problems.into_iter().map(|(status, meaning)| (status.to_owned(), response(status, meaning))).collect()
}

/// The header that problems with this status have. Of those with 503 some lack it: see `Again::LookFirst`.
fn header_of(status: &str) -> Option<(&'static str, Header)> {
    let described = |schema: Object, meaning: &str| {
        let mut header = Header::new(schema);
        header.description = Some(meaning.to_owned());
        header
    };
    match status {
        "401" => {
            let meaning = "The scheme, and `error=\"invalid_token\"` if a token was given (RFC 6750)";
            Some(("WWW-Authenticate", described(Object::with_type(Type::String), meaning)))
        }
        "429" | "503" => {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
            let meaning = match status {
                "429" => "Seconds until it makes sense to try again",
                _ => "Seconds until it makes sense to try again; missing if a second request might do a change twice",
            };
            Some(("Retry-After", described(seconds, meaning)))
        }
        _ => None,
    }
}

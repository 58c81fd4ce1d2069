//! Describes the API in OpenAPI 3.1, from the same declarations the routes are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Ref, RefOr, Response as DescribedResponse, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Api, deliveries, event_types, problem, secrets, stats, test_sends, webhooks};

const PATH: &str = "/v1/openapi.json";

/// A JSON answer.
pub(super) struct Document<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Document<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).expect("answers are plain JSON");
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// What any route may answer besides its own.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        let described = [
            ("400", "The query or the body cannot be read"),
            ("401", "A valid token is needed"),
            ("429", "Too many requests; Retry-After says when to come again"),
            ("503", "Not available for the moment; Retry-After says when to come again"),
        ];
        described.into_iter().map(|(status, text)| (status.to_owned(), problem_response(text))).collect()
    }
}

/// The answers of routes that name a webhook.
pub(super) struct WebhookProblems;

impl IntoResponses for WebhookProblems {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        let mut responses = Problems::responses();
        responses.insert("404".into(), problem_response("There is no such thing, or it is another account's"));
        responses
    }
}

/// The answer of routes that heed If-Match.
pub(super) struct PreconditionProblem;

impl IntoResponses for PreconditionProblem {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        BTreeMap::from([("412".to_owned(), problem_response("The webhook is not as If-Match says"))])
    }
}

/// The answers of routes that read a body.
pub(super) struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        let described = [
            ("413", "The body is too large"),
            ("415", "The body is not plain JSON"),
            ("422", "Some fields cannot be accepted; errors names them"),
        ];
        described.into_iter().map(|(status, text)| (status.to_owned(), problem_response(text))).collect()
    }
}

fn problem_response(description: &str) -> RefOr<DescribedResponse> {
    let schema = Ref::from_schema_name("Problem");
    let content = utoipa::openapi::ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build().into()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "penr.ai webhooks",
        description = "Register webhooks, see what was sent to them, send it again. \
                       Ids of other accounts are answered 404, as if they did not exist."
    ),
    components(schemas(problem::Document<'static>)),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Base;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("HS256; `sub` is the account's id, `exp` is required and at most 24 hours ahead"));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme.build()));
    }
}

/// Every route of the API that is for the holders of a token.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(event_types::list))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show, webhooks::update, webhooks::delete))
        .routes(routes!(secrets::show))
        .routes(routes!(secrets::regenerate))
        .routes(routes!(test_sends::send))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::resend))
        .routes(routes!(deliveries::recover))
        .routes(routes!(stats::show))
}

/// The description of all of them.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

/// The route that needs no token.
pub(super) fn serve(document: &utoipa::openapi::OpenApi) -> axum::Router<Arc<Api>> {
    let text = Bytes::from(serde_json::to_vec(document).expect("a description is plain JSON"));
    let show: MethodRouter<Arc<Api>> = get(async move || ([(header::CONTENT_TYPE, "application/json")], text.clone()));
    axum::Router::new().route(PATH, show)
}

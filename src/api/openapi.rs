//! Puts the API together from the routes of each file, with its description in OpenAPI 3.1: one declaration makes both.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::header;
use axum::routing::{MethodRouter, get};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

mod examples;
mod nulls;

use super::{Api, deliveries, delivery, event_types, problem, secrets, sending_addresses, stats, test_sends, webhooks};

pub(super) const PATH: &str = "/v1/openapi.json";

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
            .description(Some("HS256; `sub` is the account's id, `exp` is required and at most 24 hours ahead; `act.sub` may name who acts for the account"));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme.build()));
    }
}

/// The routes that need a token, and the description of all routes.
pub(super) fn parts() -> (axum::Router<Arc<Api>>, utoipa::openapi::OpenApi) {
    let routes = OpenApiRouter::with_openapi(Base::openapi())
        .merge(event_types::routes())
        .merge(webhooks::routes())
        .merge(secrets::routes())
        .merge(sending_addresses::routes())
        .merge(test_sends::routes())
        .merge(deliveries::routes())
        .merge(delivery::routes())
        .merge(stats::routes());
    let (routes, mut document) = routes.split_for_parts();
    nulls::say_where_null_can_be(&mut document);
    examples::add(&mut document);
    (routes, document)
}

/// All operations, for changes to each.
fn operations(document: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    let paths = document.paths.paths.values_mut();
    paths.flat_map(|path| [&mut path.get, &mut path.post, &mut path.patch, &mut path.delete]).flatten()
}

/// The description of all routes, as `/v1/openapi.json` and the file `openapi.json` have it.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    parts().1
}

/// The route of the description, which needs no token.
pub(super) fn serve(document: &utoipa::openapi::OpenApi) -> axum::Router<Arc<Api>> {
    let text = Bytes::from(serde_json::to_vec(document).expect("a description is plain JSON"));
    let show: MethodRouter<Arc<Api>> = get(async move || ([(header::CONTENT_TYPE, "application/json")], text.clone()));
    axum::Router::new().route(PATH, show)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::super::{audit, limits};
    use super::*;

    #[test]
    fn every_route_that_counts_for_more_is_described() {
        let paths = document().paths.paths;
        assert!(limits::EXPENSIVE.iter().all(|path| paths.contains_key(*path)));
    }

    #[test]
    fn every_route_that_changes_something_and_that_of_the_secret_have_an_action() {
        let paths = document().paths.paths;
        let mut actions = Vec::new();
        for (route, path) in &paths {
            let methods = [
                (Method::POST, &path.post),
                (Method::PATCH, &path.patch),
                (Method::DELETE, &path.delete),
                (Method::PUT, &path.put),
            ];
            for (method, _) in methods.into_iter().filter(|(_, operation)| operation.is_some()) {
                let action = audit::action(&method, route);
                actions.push(action.unwrap_or_else(|| panic!("{method} {route} has no audit line")));
            }
        }
        actions.push(audit::action(&Method::GET, "/v1/webhooks/{id}/secret").expect("it shows a secret"));
        actions.sort_unstable();
        let count = actions.len();
        actions.dedup();
        assert_eq!((actions.len(), count), (9, 9), "{actions:?}");
    }
}

//! Shows and replaces a webhook's signing secret.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{JsonAnswer, ReadOnlyProblem, WebhookProblems};
use super::auth::Caller;
use super::problem::Problem;
use super::query::WebhookPath;
use crate::secret::{Owner, SigningSecret};
use crate::timestamps::rfc3339;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(regenerate))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Secret {
    secret: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Regenerated {
    secret: String,
    /// Until then requests are signed with the secret before it too.
    #[serde(serialize_with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    previous_valid_until: jiff::Timestamp,
}

/// The secret that signs now
#[utoipa::path(get, path = "/v1/webhooks/{id}/secret", operation_id = "getSecret", tag = "secrets", params(("id" = Uuid, Path)),
    responses((status = 200, body = Secret), WebhookProblems, ReadOnlyProblem))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<JsonAnswer<Secret>, Problem> {
    caller.may_see_secrets()?;
    let secret =
        api.ask(api.store.secret(&api.keyring, caller.scope(), id)).await?.ok_or_else(Problem::not_found)??;
    Ok(JsonAnswer(Secret { secret: secret.expose().to_owned() }))
}

/// Make a new secret; the one before it stays valid beside it for 24 hours, older ones do not
#[utoipa::path(post, path = "/v1/webhooks/{id}/secret/regenerate", operation_id = "regenerateSecret", tag = "secrets", params(("id" = Uuid, Path)),
    responses((status = 200, body = Regenerated), WebhookProblems, ReadOnlyProblem))]
pub(super) async fn regenerate(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<JsonAnswer<Regenerated>, Problem> {
    let owner = Owner { account_id: &caller.account, webhook_id: id };
    let secret = SigningSecret::from_random(rand::random());
    let replaced = api.ask(api.store.replace_secret(&api.keyring, owner, &secret)).await?;
    let previous_valid_until = replaced.ok_or_else(Problem::not_found)?;
    Ok(JsonAnswer(Regenerated { secret: secret.expose().to_owned(), previous_valid_until }))
}

//! Shows and replaces what a webhook's requests are signed with.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::auth::Caller;
use super::openapi::{Document, WebhookProblems};
use super::problem::Problem;
use super::query::WebhookPath;
use super::webhooks::find;
use crate::secret::SigningSecret;
use crate::webhook::rfc3339;

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
#[utoipa::path(get, path = "/v1/webhooks/{id}/secret", tag = "secrets", params(("id" = Uuid, Path)),
    responses((status = 200, body = Secret), WebhookProblems))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<Document<Secret>, Problem> {
    let webhook = find(&api, &caller, id).await?;
    let secret = api.ask(api.store.secret(&api.keyring, &webhook)).await?.ok_or_else(Problem::not_found)??;
    Ok(Document(Secret { secret: secret.expose().to_owned() }))
}

/// Make a new secret; the one before it stays valid beside it for 24 hours, older ones do not
#[utoipa::path(post, path = "/v1/webhooks/{id}/secret/regenerate", tag = "secrets", params(("id" = Uuid, Path)),
    responses((status = 200, body = Regenerated), WebhookProblems))]
pub(super) async fn regenerate(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<Document<Regenerated>, Problem> {
    let webhook = find(&api, &caller, id).await?;
    let secret = SigningSecret::from_random(rand::random());
    let replaced = api.ask(api.store.replace_secret(&api.keyring, &webhook, &secret)).await?;
    let previous_valid_until = replaced.ok_or_else(Problem::not_found)?;
    Ok(Document(Regenerated { secret: secret.expose().to_owned(), previous_valid_until }))
}

//! Shows and replaces a webhook's signing secret, and ends the one before it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{BodyProblems, JsonAnswer, JsonText, ReadOnlyProblem, WebhookProblems, json_text};
use super::auth::Caller;
use super::body::{OptionalJson, Text, given};
use super::idempotency::{self, KeyParameter, Keyed};
use super::problem::{Again, Problem};
use super::query::WebhookPath;
use super::refused_fields::RefusedFields;
use crate::secret::{LONGEST_GRACE, Owner, SigningSecret, parse_grace};
use crate::store::{NewSecret, Replaced, Store};
use crate::timestamps::rfc3339;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(regenerate)).routes(routes!(end_previous))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Secret {
    secret: String,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Rotation {
    /// How long the secret before it also signs: `0s` to `24h`, such as `30m`. 24 hours if it is left out.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, required = false)]
    grace: Option<Text>,
}

impl Rotation {
    /// # Errors
    ///
    /// 422 if `grace` is no duration up to 24 hours.
    fn grace(&self) -> Result<Duration, Problem> {
        let Some(text) = &self.grace else { return Ok(LONGEST_GRACE) };
        let mut refused = RefusedFields::default();
        match refused.unless("grace", parse_grace(&text.0)) {
            Some(grace) => Ok(grace),
            None => Err(refused.into()),
        }
    }
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

/// Make a new secret; the one before it stays valid beside it for 24 hours, or for `grace`; older ones do not
#[utoipa::path(post, path = "/v1/webhooks/{id}/secret/regenerate", operation_id = "regenerateSecret", tag = "secrets", request_body(content = Option<Rotation>),
    params(("id" = Uuid, Path), KeyParameter),
    responses((status = 200, body = Regenerated), WebhookProblems, BodyProblems, ReadOnlyProblem))]
pub(super) async fn regenerate(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
    Keyed { body: OptionalJson(rotation), once }: Keyed<OptionalJson<Rotation>>,
) -> Result<JsonText, Problem> {
    let grace = rotation.grace()?;
    let owner = Owner { account_id: &caller.account, webhook_id: id };
    let secret = SigningSecret::from_random(rand::random());
    let body = |&previous_valid_until: &jiff::Timestamp| {
        json_text(&Regenerated { secret: secret.expose().to_owned(), previous_valid_until })
    };
    let new = NewSecret { owner, secret: &secret, grace };
    let again = if once.is_some() { Again::WithKey } else { idempotency::WITHOUT_KEY };
    let once = once.as_ref().map(|once| (once, &body as _));
    let replace = async |store: Store| store.replace_secret(&api.keyring, &new, once).await;
    match api.change(&caller.audit, again, replace).await? {
        Replaced::Until(until) => Ok(JsonText(body(&until))),
        Replaced::Unknown => Err(Problem::not_found()),
        Replaced::NotDone(not_done) => {
            caller.audit.repeats();
            Ok(JsonText(idempotency::answer(&not_done, &api.keyring)?))
        }
    }
}

/// Sign with the newest secret alone from now on
#[utoipa::path(delete, path = "/v1/webhooks/{id}/secret/previous", operation_id = "endPreviousSecret", tag = "secrets", params(("id" = Uuid, Path)),
    responses(
        (status = 204, description = "Only the newest secret signs, whether there was another or not"),
        WebhookProblems, ReadOnlyProblem,
    ))]
pub(super) async fn end_previous(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<StatusCode, Problem> {
    let end = async |store: Store| store.end_previous_secret(caller.scope(), id).await;
    let again = Again::Harmless("the answer is 204, whether it was done or not");
    match api.change(&caller.audit, again, end).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found()),
    }
}

//! Registers, lists, shows and deletes an account's webhooks.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Api;
use super::answer::{
    BodyProblems, JsonAnswer, JsonText, PreconditionProblem, Problems, ReadOnlyProblem, WebhookProblems, json_text,
};
use super::auth::Caller;
use super::body::{Json, Text, WholeNumber, given};
use super::cursor::Cursors;
use super::etag;
use super::given_headers::{self, GivenHeaders};
use super::idempotency::{self, KeyParameter, Keyed};
use super::problem::{Again, Problem};
use super::query::WebhookPath;
use super::refused_fields::RefusedFields;
use super::webhook_changes;
use crate::ids::{AccountId, WebhookId};
use crate::secret::SigningSecret;
use crate::store::{Created, Deleted, NewWebhook, Position, Store, StoreError};
use crate::webhook::{MaxPerSecond, Subscriptions, Webhook, WebhookName, WebhookUrl};
use crate::webhook_activity::{Activity, ListedWebhook};

/// Webhooks of a page, unless the caller asks for another number.
const PAGE: u32 = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, webhook_changes::update, delete))
}

/// What can be shown beside webhooks.
#[derive(Clone, Copy, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Include {
    Activity,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Registration {
    /// 1 to 200 characters, at least one of them visible and none of them a control character.
    #[schema(value_type = String, min_length = 1, max_length = 200)]
    name: Text,
    /// Where events are posted to: http or https, on a public address.
    #[schema(value_type = String, min_length = 1, max_length = 2048)]
    url: Text,
    /// What to subscribe to.
    #[schema(value_type = Vec<String>, min_items = 1)]
    events: Vec<Text>,
    #[serde(default, deserialize_with = "given")]
    #[schema(schema_with = given_headers::of_new_webhook, required = false)]
    headers: Option<GivenHeaders>,
    /// The most requests that it gets in a second. Null, or left out: as many as it takes.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    max_per_second: Option<WholeNumber>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedWebhook {
    #[serde(flatten)]
    webhook: Webhook,
    /// What the webhook's requests are signed with.
    secret: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookList {
    data: Vec<ListedWebhook>,
    next_cursor: Option<String>,
}

/// The account's webhooks, oldest first
#[utoipa::path(get, path = "/v1/webhooks", operation_id = "listWebhooks", tag = "webhooks",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "100 if it is left out"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("include" = inline(Option<Include>), Query, description = "`activity` adds each webhook's last attempt and the number of waiting deliveries, counted up to 1,000"),
    ),
    responses((status = 200, body = WebhookList), Problems))]
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller) -> Result<JsonAnswer<WebhookList>, Problem> {
    let limit = caller.query.limit(PAGE)?;
    let with_activity = includes_activity(&caller)?;
    let account = &caller.account;
    let cursors = Cursors { secrets: &api.tokens.secrets, account, list: "webhooks" };
    let after = caller.query.text("cursor").map(|cursor| cursors.read(cursor)).transpose()?;
    let question = async {
        let webhooks = api.store.list_webhooks(account, after, limit + 1).await?;
        let shown = webhooks.len().min(limit as usize);
        let ids: Vec<WebhookId> = webhooks[..shown].iter().map(|webhook| webhook.id).collect();
        let activity = match with_activity {
            true => api.store.activities(account, &ids).await?,
            false => HashMap::new(),
        };
        Ok::<_, StoreError>((webhooks, activity))
    };
    let (mut webhooks, mut activity) = api.ask(question).await?;
    let more = webhooks.len() > limit as usize;
    webhooks.truncate(limit as usize);
    let last = webhooks.last().filter(|_| more);
    let next_cursor = last.map(|last| cursors.write(Position { time: last.created_at, id: last.id.0 }));
    let data = webhooks.into_iter().map(|webhook| {
        let activity = activity.remove(&webhook.id).map(Activity::from);
        ListedWebhook { webhook, activity }
    });
    Ok(JsonAnswer(WebhookList { data: data.collect(), next_cursor }))
}

/// Register a webhook, active at once
#[utoipa::path(post, path = "/v1/webhooks", operation_id = "createWebhook", tag = "webhooks", request_body = Registration,
    params(KeyParameter),
    responses(
        (status = 201, body = CreatedWebhook, headers(("ETag" = String), ("Location" = String, description = "The path of the new webhook"))),
        (status = 409, description = "The account has too many webhooks", body = super::problem::Document, content_type = "application/problem+json"),
        Problems, BodyProblems, ReadOnlyProblem,
    ))]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Keyed { body: Json(registration), once }: Keyed<Json<Registration>>,
) -> Result<(StatusCode, [(HeaderName, String); 2], JsonText), Problem> {
    let mut refused = RefusedFields::default();
    let name = refused.unless("name", WebhookName::parse(&registration.name.0));
    let url = refused.unless("url", WebhookUrl::parse(&registration.url.0, &api.urls));
    let events = refused.unless("events", Subscriptions::parse(&registration.events, &api.catalogue));
    let headers = registration.headers.unwrap_or_default().check_all();
    let headers = refused.unless("headers", headers);
    let max_per_second = registration.max_per_second.map(|number| MaxPerSecond::new(number.0)).transpose();
    let max_per_second = refused.unless("max_per_second", max_per_second);
    let (Some(name), Some(url), Some(events), Some(headers), Some(max_per_second)) =
        (name, url, events, headers, max_per_second)
    else {
        return Err(refused.into());
    };
    let secret = SigningSecret::from_random(rand::random());
    let account_id: &AccountId = &caller.account;
    let id = WebhookId(Uuid::now_v7());
    caller.audit.about(id);
    let new = NewWebhook {
        id,
        account_id,
        name: &name,
        url: &url,
        events: &events,
        secret: &secret,
        headers: &headers,
        max_per_second,
    };
    let most = api.settings.limits.max_webhooks;
    let body =
        |webhook: &Webhook| json_text(&CreatedWebhook { webhook: webhook.clone(), secret: secret.expose().to_owned() });
    let again = if once.is_some() { Again::WithKey } else { idempotency::WITHOUT_KEY };
    let once = once.as_ref().map(|once| (once, &body as _));
    let create = async |store: Store| store.create_webhook_within(&api.keyring, &new, most, once).await;
    let body = match api.change(&caller.audit, again, create).await? {
        Created::Webhook(webhook) => body(&webhook),
        Created::TooMany => return Err(Problem::too_many_webhooks(most)),
        Created::NotDone(not_done) => {
            caller.audit.repeats();
            idempotency::answer(&not_done, &api.keyring)?
        }
    };
    let created: Headed = serde_json::from_str(&body).map_err(|_| Problem::internal())?;
    caller.audit.about(WebhookId(created.id));
    let location = format!("/v1/webhooks/{}", created.id);
    let headers = [(header::ETAG, etag::tag(&created.version)), (header::LOCATION, location)];
    Ok((StatusCode::CREATED, headers, JsonText(body)))
}

/// What the answer's `ETag` and `Location` are made of.
#[derive(Deserialize)]
struct Headed {
    id: Uuid,
    version: String,
}

/// One webhook
#[utoipa::path(get, path = "/v1/webhooks/{id}", operation_id = "getWebhook", tag = "webhooks",
    params(
        ("id" = Uuid, Path),
        ("include" = inline(Option<Include>), Query, description = "`activity` adds its last attempt and the number of waiting deliveries, counted up to 100,000"),
    ),
    responses((status = 200, body = ListedWebhook, headers(("ETag" = String))), WebhookProblems))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<([(HeaderName, String); 1], JsonAnswer<ListedWebhook>), Problem> {
    let with_activity = includes_activity(&caller)?;
    let question = async {
        let Some(webhook) = api.store.find_webhook(caller.scope(), id).await? else { return Ok(None) };
        let activity = match with_activity {
            true => api.store.activity(&caller.account, id).await?.map(Activity::from),
            false => None,
        };
        Ok::<_, StoreError>(Some(ListedWebhook { webhook, activity }))
    };
    let shown = api.ask(question).await?.ok_or_else(Problem::not_found)?;
    Ok(([(header::ETAG, etag::tag(&shown.webhook.version))], JsonAnswer(shown)))
}

fn includes_activity(caller: &Caller) -> Result<bool, Problem> {
    Ok(caller.query.choice("include", &[("activity", Include::Activity)])?.is_some())
}

/// Delete a webhook for good: its pending deliveries are cancelled, and nobody can read its log or its secret any more
#[utoipa::path(delete, path = "/v1/webhooks/{id}", operation_id = "deleteWebhook", tag = "webhooks",
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The webhook's `ETag`, or its `version` in quotes, as it was last seen")),
    responses((status = 204, description = "It is gone"), WebhookProblems, PreconditionProblem, ReadOnlyProblem))]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let only_if = etag::if_match(&headers);
    let delete = async |store: Store| store.delete_webhook(caller.scope(), id, only_if.as_deref()).await;
    match api.change(&caller.audit, Again::Harmless("404 then means that it was done"), delete).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::Unknown => Err(Problem::not_found()),
        Deleted::Stale => Err(Problem::stale()),
    }
}

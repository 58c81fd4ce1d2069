//! Changes a webhook. A caller may send the fields to change, or the whole webhook as it was read.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::answer::{BodyProblems, JsonAnswer, PreconditionProblem, ReadOnlyProblem, WebhookProblems};
use super::auth::Caller;
use super::body::{Json, Text, WholeNumber, given};
use super::etag;
use super::given_headers::{self, GivenHeaders};
use super::problem::{Again, FieldError, Problem};
use super::query::WebhookPath;
use super::refused_fields::RefusedFields;
use crate::ids::WebhookId;
use crate::store::{Changed, Store, WebhookChange};
use crate::timestamps::instant;
use crate::webhook::{MaxPerSecond, Subscriptions, Webhook, WebhookName, WebhookUrl};

/// What is left out stays as it is. A whole webhook, as `GET` shows it, may be sent too: what changes by itself is then ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[expect(dead_code, reason = "fields that are ignored are known, so that a whole webhook is accepted")]
pub(super) struct Change {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 200)]
    name: Option<Text>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, required = false, min_length = 1, max_length = 2048)]
    url: Option<Text>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Vec<String>, required = false, min_items = 1)]
    events: Option<Vec<Text>>,
    /// Switching off cancels its pending deliveries.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = bool, required = false)]
    active: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    #[schema(schema_with = given_headers::of_change, required = false)]
    headers: Option<GivenHeaders>,
    /// The most requests that it gets in a second. Null: as many as it takes.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, required = false, minimum = 1, maximum = 1000)]
    max_per_second: Option<Option<WholeNumber>>,
    /// If it is given, it must be the webhook's own.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Uuid, required = false)]
    id: Option<Text>,
    /// If it is given, it must be the webhook's own.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, format = DateTime, required = false)]
    created_at: Option<Text>,
    /// If this is a text and `active` is false, a webhook that we disabled keeps its reason.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    disabled_reason: Value,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    inactive_since: IgnoredAny,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    failing: IgnoredAny,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    failing_since: IgnoredAny,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    previous_valid_until: IgnoredAny,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    held_since: IgnoredAny,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    warnings: IgnoredAny,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    updated_at: IgnoredAny,
    /// Ignored; `If-Match` makes a change depend on the version.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    version: IgnoredAny,
    /// Ignored.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    activity: IgnoredAny,
}

impl Change {
    /// The change itself, and the time of creation that the caller believes in.
    ///
    /// # Errors
    ///
    /// 422 with all fields that cannot be accepted.
    fn check(self, api: &Api, id: WebhookId) -> Result<(WebhookChange, Option<Timestamp>), Problem> {
        let mut refused = RefusedFields::default();
        let name = self.name.and_then(|name| refused.unless("name", WebhookName::parse(&name.0)));
        let url = self.url.and_then(|url| refused.unless("url", WebhookUrl::parse(&url.0, &api.urls)));
        let events =
            self.events.and_then(|events| refused.unless("events", Subscriptions::parse(&events, &api.catalogue)));
        let headers = self.headers.and_then(|headers| refused.unless("headers", headers.check()));
        let max_per_second = self.max_per_second.and_then(|given| {
            refused.unless("max_per_second", given.map(|number| MaxPerSecond::new(number.0)).transpose())
        });
        if let Some(given) = self.id {
            let is_same = Uuid::parse_str(&given.0).is_ok_and(|given| given == id.0);
            refused.unless("id", if is_same { Ok(()) } else { Err(FIXED) });
        }
        let created_at = self.created_at.and_then(|given| refused.unless("created_at", instant(&given.0).ok_or(FIXED)));
        refused.none()?;
        let keeps_reason = self.disabled_reason.is_string();
        let active = self.active;
        let change = WebhookChange { name, url, events, active, headers, max_per_second, keeps_reason, only_if: None };
        Ok((change, created_at))
    }
}

const FIXED: &str = "cannot be changed; send the webhook's own, or leave it out";

/// Change a webhook; with If-Match only if it still has that version
#[utoipa::path(patch, path = "/v1/webhooks/{id}", operation_id = "updateWebhook", tag = "webhooks", request_body = Change,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The webhook's `ETag`, or its `version` in quotes, as it was last seen")),
    responses(
        (status = 200, body = Webhook, headers(("ETag" = String))),
        WebhookProblems, PreconditionProblem, BodyProblems, ReadOnlyProblem,
    ))]
pub(super) async fn update(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
    headers: HeaderMap,
    Json(change): Json<Change>,
) -> Result<([(HeaderName, String); 1], JsonAnswer<Webhook>), Problem> {
    let (mut change, created_at) = change.check(&api, id)?;
    change.only_if = etag::if_match(&headers);
    caller.audit.changes(fields(&change));
    let update = async |store: Store| {
        // Nothing changes the time of creation, so it may be compared before.
        if let Some(believed) = created_at {
            let webhook = store.find_webhook(caller.scope(), id).await?.ok_or_else(Problem::not_found)?;
            let shown = |time: Timestamp| format!("{time:.3}");
            let mut refused = RefusedFields::default();
            let is_same = shown(believed) == shown(webhook.created_at);
            refused.unless("created_at", if is_same { Ok(()) } else { Err(FIXED) });
            refused.none()?;
        }
        Ok::<_, Problem>(store.update_webhook(&api.keyring, caller.scope(), id, &change).await?)
    };
    let again = match change.only_if {
        Some(_) => Again::Harmless(
            "412 then means that it was done, or that somebody else has changed the webhook; read it to see which",
        ),
        None => Again::Harmless("if it was done, nothing changes but updated_at and the version"),
    };
    match api.change(&caller.audit, again, update).await? {
        Changed::Webhook(webhook) => Ok(([(header::ETAG, etag::tag(&webhook.version))], JsonAnswer(*webhook))),
        Changed::Unknown => Err(Problem::not_found()),
        Changed::Stale => Err(Problem::stale()),
        Changed::Refused(refusal) => Err(refused_headers(&refusal.to_string())),
        Changed::Unreadable(error) => {
            tracing::error!(webhook_id = %id, error = crate::error_chain(&error), "the headers cannot be decrypted");
            Err(refused_headers("a stored value cannot be read; give all values again, or remove the headers"))
        }
    }
}

/// The names of the fields that a change sets.
fn fields(change: &WebhookChange) -> Vec<&'static str> {
    let set = [
        ("name", change.name.is_some()),
        ("url", change.url.is_some()),
        ("events", change.events.is_some()),
        ("active", change.active.is_some()),
        ("headers", change.headers.is_some()),
        ("max_per_second", change.max_per_second.is_some()),
    ];
    set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect()
}

fn refused_headers(reason: &str) -> Problem {
    Problem::invalid(vec![FieldError { field: "headers".to_owned(), reason: reason.to_owned() }])
}

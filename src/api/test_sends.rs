//! Sends a test event to a webhook, and shows the request and its result.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{BodyProblems, JsonAnswer, ReadOnlyProblem, WebhookProblems};
use super::auth::Caller;
use super::body::{OptionalJson, Text, given};
use super::problem::{FieldError, Problem};
use super::query::WebhookPath;
use crate::store::StoreError;
use crate::test_send::{Prepared, TestRefusal, TestSent};

pub(super) const PATH: &str = "/v1/webhooks/{id}/test";

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(send))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Wish {
    /// The webhook's first one if it is left out.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, required = false)]
    event_type: Option<Text>,
}

/// Send a test event now, as a real one would be sent; changes nothing but the log
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", operation_id = "sendTest", tag = "webhooks", request_body(content = Option<Wish>),
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = TestSent, description = "What came of it, whether it succeeded or not"),
        (status = 409, description = "The webhook is not active", body = super::problem::Document, content_type = "application/problem+json"),
        WebhookProblems, BodyProblems, ReadOnlyProblem,
    ))]
pub(super) async fn send(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
    OptionalJson(wish): OptionalJson<Wish>,
) -> Result<JsonAnswer<TestSent>, Problem> {
    let event_type = wish.event_type.map(|name| {
        let known = api.catalogue.get(&name.0).cloned();
        known.ok_or_else(|| {
            let reason = "there is no such event type".to_owned();
            Problem::invalid(vec![FieldError { field: "event_type".into(), reason }])
        })
    });
    let event_type = event_type.transpose()?;
    let preparing = Prepared::read(&api.store, &api.keyring, caller.scope(), id, event_type);
    let prepared = api.ask(preparing).await?;
    // A test that is refused does not count in the limit.
    api.limits.test(&caller.account)?;
    let sending = {
        let api = api.clone();
        async move {
            let sent = prepared.send(&api.sender).await;
            api.ask::<_, StoreError>(sent.record(&api.store)).await
        }
    };
    // In a task of its own: the test is sent and logged also if the caller hangs up.
    let sent = api.tests.spawn(sending).await.map_err(|_| Problem::internal())?;
    sent.map(JsonAnswer)
}

impl From<TestRefusal> for Problem {
    fn from(refusal: TestRefusal) -> Self {
        match refusal {
            TestRefusal::Unknown => Self::not_found(),
            TestRefusal::Inactive(reason) => Self::inactive(reason.as_deref()),
            TestRefusal::Store(error) => error.into(),
        }
    }
}

//! Sends a test event to a webhook, and shows the request and its result.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{BodyProblems, JsonAnswer, ReadOnlyProblem, WebhookProblems};
use super::auth::Caller;
use super::body::{OptionalJson, Text, given};
use super::problem::Problem;
use super::query::WebhookPath;
use super::refused_fields::RefusedFields;
use crate::event::{Catalogue, EventData};
use crate::store::StoreError;
use crate::test_send::{Prepared, TestRefusal, TestSent, TestWish};

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
    /// The event's `data`, sent as it is written here: any JSON of at most 61,440 bytes, nested at most 127 levels deep. The
    /// event type's example if it is left out.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Value, required = false)]
    data: Option<Box<RawValue>>,
}

impl Wish {
    /// # Errors
    ///
    /// 422 that names every field that cannot be accepted.
    fn read(self, catalogue: &Catalogue) -> Result<TestWish<'_>, Problem> {
        let mut refused = RefusedFields::default();
        let known = |name: Text| catalogue.get(&name.0).cloned().ok_or("there is no such event type");
        let event_type = self.event_type.and_then(|name| refused.unless("event_type", known(name)));
        let data = self.data.and_then(|raw| refused.unless("data", EventData::parse(raw.get())));
        refused.none()?;
        Ok(TestWish { catalogue, event_type, data })
    }
}

/// Send a test event now, as a real one would be sent; changes nothing but the log
///
/// Its body is that of an event, with `"test":true` as a further top-level field.
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", operation_id = "sendTest", tag = "webhooks", request_body(content = Option<Wish>),
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = TestSent, description = "What came of it, whether it succeeded or not"),
        (status = 409, description = "The webhook is not active, or the operators hold it", body = super::problem::Document, content_type = "application/problem+json"),
        WebhookProblems, BodyProblems, ReadOnlyProblem,
    ))]
pub(super) async fn send(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
    // Clients built from older descriptions may send null.
    OptionalJson(wish): OptionalJson<Option<Wish>>,
) -> Result<JsonAnswer<TestSent>, Problem> {
    let wish = wish.unwrap_or_default().read(&api.catalogue)?;
    let preparing = Prepared::read(&api.store, &api.keyring, caller.scope(), id, wish);
    let prepared = api.ask(preparing).await?;
    // A test that is refused before does not count in the limit. One that the webhook's pace has no room for does: tests go
    // before deliveries, and must not take the whole pace.
    api.limits.test(&caller.account)?;
    let prepared = api.ask(prepared.take_place(&api.store, api.max_per_second)).await?;
    let sending = {
        let (api, audit) = (api.clone(), caller.audit.clone());
        async move {
            audit.change_begins();
            let sent = prepared.send(&api.sender).await;
            let recorded = api.ask::<_, StoreError>(sent.record(&api.store)).await;
            let recorded = recorded.map_err(|_| Problem::test_not_confirmed())?;
            audit.change_is_done();
            Ok::<_, Problem>(recorded)
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
            TestRefusal::Held(_) => Self::held(),
            TestRefusal::OverPace(wait) => Self::over_pace(wait),
            TestRefusal::Store(error) => error.into(),
        }
    }
}

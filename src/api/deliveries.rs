//! Shows a webhook's log, and sends deliveries again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Api;
use super::answer::{BodyProblems, JsonAnswer, ReadOnlyProblem, WebhookProblems};
use super::auth::Caller;
use super::body::{Json, Text};
use super::cursor::Cursors;
use super::problem::{Again, FieldError, Problem};
use super::query::{DeliveryPath, WebhookPath, canonical};
use crate::ids::{DeliveryId, EventType};
use crate::store::{LogFilter, LogRow, LogStatus, RecoverError, Since, Store};

/// Rows of a page, unless the caller asks for another number.
const PAGE: u32 = 10;
/// An answer counts closed deliveries up to this number; all of them are recovered.
const COUNTED: i64 = 100_000;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(resend)).routes(routes!(recover))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Log {
    data: Vec<LogRow>,
    /// Where the log goes on. A filtered page may hold few rows, even none, and still go on.
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Resent {
    delivery_id: Uuid,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Span {
    /// What ended without a success at this time or later is sent again.
    #[schema(value_type = String, format = DateTime)]
    since: Text,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Recovering {
    /// 100,000 stands for more too.
    recovering: u64,
}

/// A webhook's attempts, newest first
///
/// Filtered by `event_type`, or by `status=success`, it counts as four requests, unless `delivery_id` is given.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", operation_id = "listDeliveries", tag = "log",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "10 if it is left out"),
        ("status" = inline(Option<LogStatus>), Query),
        ("event_type" = Option<String>, Query),
        ("delivery_id" = Option<Uuid>, Query),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Log), WebhookProblems))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<JsonAnswer<Log>, Problem> {
    let query = &caller.query;
    let limit = query.limit(PAGE)?;
    let list = id.to_string();
    let cursors = Cursors { secrets: &api.tokens.secrets, account: &caller.account, list: &list };
    let event_type = query
        .text("event_type")
        .map(|text| EventType::parse(text).ok_or_else(|| Problem::malformed("event_type", "is no event type")));
    let delivery = query.text("delivery_id").map(|text| {
        canonical(text).map(DeliveryId).ok_or_else(|| Problem::malformed("delivery_id", "must be a UUID in lower case"))
    });
    let filter = LogFilter {
        status: query.choice("status", &[("success", LogStatus::Success), ("failed", LogStatus::Failed)])?,
        event_type: event_type.transpose()?,
        delivery: delivery.transpose()?,
        before: query.text("cursor").map(|cursor| cursors.read(cursor)).transpose()?,
    };
    let question = async |store: Store| store.log(caller.scope(), id, &filter, limit).await;
    let page = api.ask_in_turn(&caller.account, question).await?;
    let page = page.ok_or_else(Problem::not_found)?;
    Ok(JsonAnswer(Log { data: page.rows, next_cursor: page.next.map(|place| cursors.write(place)) }))
}

/// Send one delivery again now, with its whole schedule
///
/// The delivery of a test cannot be sent again: 404.
#[utoipa::path(post, path = "/v1/webhooks/{id}/deliveries/{delivery_id}/resend", operation_id = "resendDelivery", tag = "log",
    params(("id" = Uuid, Path), ("delivery_id" = Uuid, Path)),
    responses(
        (status = 202, body = Resent, description = "It is due now"),
        (status = 409, description = "The webhook is not active, or the event is no longer kept", body = super::problem::Document, content_type = "application/problem+json"),
        WebhookProblems, ReadOnlyProblem,
    ))]
pub(super) async fn resend(
    State(api): State<Arc<Api>>,
    caller: Caller,
    DeliveryPath(id, delivery): DeliveryPath,
) -> Result<(StatusCode, JsonAnswer<Resent>), Problem> {
    let resend = async |store: Store| store.resend(caller.scope(), id, delivery).await;
    api.change(Again::Harmless, resend).await?;
    Ok((StatusCode::ACCEPTED, JsonAnswer(Resent { delivery_id: delivery.0 })))
}

/// Send everything again that ended without a success, at a bounded rate
///
/// Counts as four requests.
#[utoipa::path(post, path = "/v1/webhooks/{id}/recover", operation_id = "recoverDeliveries", tag = "log", request_body = Span,
    params(("id" = Uuid, Path)),
    responses(
        (status = 202, body = Recovering, description = "So many will be sent"),
        (status = 409, description = "The webhook is not active", body = super::problem::Document, content_type = "application/problem+json"),
        WebhookProblems, BodyProblems, ReadOnlyProblem,
    ))]
pub(super) async fn recover(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
    Json(span): Json<Span>,
) -> Result<(StatusCode, JsonAnswer<Recovering>), Problem> {
    let since = rfc3339(&span.since.0).ok_or_else(|| {
        let reason = "must be a time such as 2026-11-23T10:00:00Z".to_owned();
        Problem::invalid(vec![FieldError { field: "since".into(), reason }])
    })?;
    let question = async |store: Store| {
        let closed = store.count_closed(caller.scope(), id, Since::Time(since), COUNTED).await?;
        if closed.recoverable > 0 {
            store.request_recovery(caller.scope(), id, &closed).await?;
        }
        Ok::<_, RecoverError>(closed.recoverable)
    };
    let recovering = api.ask_in_turn(&caller.account, question).await?;
    api.recoveries.notify();
    Ok((StatusCode::ACCEPTED, JsonAnswer(Recovering { recovering })))
}

/// Parses a time that both RFC 3339 and PostgreSQL can express.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    let years = crate::store::YEARS;
    years.contains(&time.to_zoned(jiff::tz::TimeZone::UTC).year()).then_some(time)
}

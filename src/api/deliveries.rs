//! Shows a webhook's log, and sends deliveries again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::answer::{BodyProblems, JsonAnswer, ReadOnlyProblem, WebhookProblems};
use super::auth::Caller;
use super::body::{Json, Text, given};
use super::cursor::Cursors;
use super::problem::{Again, Problem};
use super::query::{DeliveryPath, NOT_A_TIME, Query, WebhookPath, canonical, time};
use super::refused_fields::RefusedFields;
use super::{Api, told_if_unconfirmed};
use crate::delivery_state::WantedState;
use crate::ids::{DeliveryId, EventId, EventType, WebhookId};
use crate::store::{
    DeliveryRow, LogFilter, LogRow, LogSpan, LogStatus, PageBounds, Position, RecoverySpan, Requested, Store,
};

/// Rows of a page, unless the caller asks for another number.
const PAGE: u32 = 10;
/// Why the end of a span is refused.
const LATER: &str = "must be later than since";
/// An answer counts closed deliveries up to this number; all of them are recovered.
const COUNTED: i64 = 100_000;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(resend)).routes(routes!(recover, count_recoverable))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Log {
    data: Vec<LogRow>,
    /// Where the log goes on. A filtered page may hold few rows, even none, and still go on.
    next_cursor: Option<String>,
}

/// Each delivery once, at the place of its newest attempt or, without one, where it was created; newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deliveries {
    data: Vec<DeliveryRow>,
    /// Where the list goes on. A page may hold few rows, even none, and still go on.
    next_cursor: Option<String>,
}

/// The log: attempts, or deliveries with `view=deliveries`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Listed {
    Attempts(Log),
    Deliveries(Deliveries),
}

/// Not derived: a page without rows is both, and the derived `oneOf` permits only one.
impl PartialSchema for Listed {
    fn schema() -> RefOr<Schema> {
        let parts = [Log::name(), Deliveries::name()].map(Ref::from_schema_name);
        let either = parts.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item);
        let either = either.description(Some("The log: attempts, or deliveries with `view=deliveries`."));
        RefOr::T(Schema::AnyOf(either.build()))
    }
}

impl ToSchema for Listed {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend([(Log::name().into(), Log::schema()), (Deliveries::name().into(), Deliveries::schema())]);
        Log::schemas(schemas);
        Deliveries::schemas(schemas);
    }
}

/// What the rows of the list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
enum View {
    Attempts,
    Deliveries,
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
    /// What ended at this time or later is left out.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, format = DateTime, required = false)]
    until: Option<Text>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Recoverable {
    /// 100,000 stands for more too.
    count: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Recovering {
    /// 100,000 stands for more too.
    recovering: u64,
}

/// A webhook's attempts or deliveries, newest first
///
/// With `view=deliveries` each delivery is one row, and `status` and `http_status` are those of its newest attempt. This view, and
/// attempts filtered by `event_type`, `http_status` or `status=success`, count as four requests, unless `delivery_id` or
/// `event_id` is given.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", operation_id = "listDeliveries", tag = "log",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "10 if it is left out"),
        ("status" = inline(Option<LogStatus>), Query),
        ("event_type" = Option<String>, Query),
        ("delivery_id" = Option<Uuid>, Query),
        ("event_id" = Option<String>, Query, description = "Only the delivery of this event; not together with `delivery_id`"),
        ("http_status" = Option<u16>, Query, minimum = 100, maximum = 999),
        ("from" = Option<String>, Query, format = DateTime, description = "Only what was attempted, or created if it never was, at this time or later"),
        ("to" = Option<String>, Query, format = DateTime, description = "Only what is older than this"),
        ("view" = inline(Option<View>), Query, description = "`attempts` if it is left out"),
        ("state" = inline(Option<WantedState>), Query, description = "Only with `view=deliveries`. `undelivered` stands for every state but `delivered`"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = Listed), WebhookProblems))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<JsonAnswer<Listed>, Problem> {
    let query = &caller.query;
    let limit = query.limit(PAGE)?;
    let list = id.to_string();
    let cursors = Cursors { secrets: &api.tokens.secrets, account: &caller.account, list: &list };
    let filter = filter(query, id, &cursors)?;
    let state = query.choice("state", &WantedState::all().collect::<Vec<_>>())?;
    let write = |next: Option<Position>| next.map(|place| cursors.write(place));
    let listed = match query.choice("view", &[("attempts", View::Attempts), ("deliveries", View::Deliveries)])? {
        Some(View::Deliveries) => {
            // A short page with a cursor is better than none: 503.
            let bounds = PageBounds { rows: limit, until: Some(Instant::now() + api.settings.database_timeout / 2) };
            let question = async |store: Store| store.deliveries(caller.scope(), id, &filter, state, bounds).await;
            let page = api.ask_in_turn(&caller.account, question).await?.ok_or_else(Problem::not_found)?;
            Listed::Deliveries(Deliveries { data: page.rows, next_cursor: write(page.next) })
        }
        _ if state.is_some() => return Err(Problem::malformed("state", "needs view=deliveries")),
        Some(View::Attempts) | None => {
            let question = async |store: Store| store.log(caller.scope(), id, &filter, limit).await;
            let page = api.ask_in_turn(&caller.account, question).await?.ok_or_else(Problem::not_found)?;
            Listed::Attempts(Log { data: page.rows, next_cursor: write(page.next) })
        }
    };
    Ok(JsonAnswer(listed))
}

fn filter(query: &Query, webhook: WebhookId, cursors: &Cursors<'_>) -> Result<LogFilter, Problem> {
    let event_type = query
        .text("event_type")
        .map(|text| EventType::parse(text).ok_or_else(|| Problem::malformed("event_type", "is no event type")));
    let delivery = query.text("delivery_id").map(|text| {
        canonical(text).map(DeliveryId).ok_or_else(|| Problem::malformed("delivery_id", "must be a UUID in lower case"))
    });
    let delivery_of = |text| match EventId::parse(text) {
        _ if delivery.is_some() => Err(Problem::malformed("event_id", "cannot stand beside delivery_id")),
        Some(event) => Ok(DeliveryId::of(webhook, &event)),
        None => Err(Problem::malformed("event_id", "must have 1 to 128 letters, digits, _ and -")),
    };
    let by_event = query.text("event_id").map(delivery_of).transpose()?;
    let span = LogSpan { from: query.time("from")?, to: query.time("to")? };
    Ok(LogFilter {
        status: query
            .choice("status", &[LogStatus::Success, LogStatus::Failed].map(|status| (status.as_str(), status)))?,
        event_type: event_type.transpose()?,
        delivery: delivery.transpose()?.or(by_event),
        http_status: query.http_status()?,
        span,
        before: query.text("cursor").map(|cursor| cursors.read(cursor)).transpose()?,
    })
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
    let again =
        Again::LookFirst("the log and the delivery's state show whether it was sent; a second request sends it again");
    api.change(&caller.audit, again, resend).await?;
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
    let span = recovery_span(&span)?;
    let recover = async |unconfirmed: Arc<AtomicBool>| {
        let question = async |store: Store| {
            let closed = store.count_closed(caller.scope(), id, span, COUNTED).await?;
            if closed.recoverable == 0 {
                return Ok(0);
            }
            // Counting changes nothing: only what follows may have been done although its answer is missing.
            match store.noting(&unconfirmed).request_recovery(caller.scope(), id, &closed).await? {
                Requested::Stored => Ok(closed.recoverable),
                Requested::Unfinished => Err(Problem::recovering()),
            }
        };
        api.ask_in_turn(&caller.account, question).await
    };
    let again = Again::Harmless("nothing is sent twice for it, and the answer counts only what is not being sent yet");
    let recovering = told_if_unconfirmed(&caller.audit, again, recover).await?;
    api.recoveries.notify();
    Ok((StatusCode::ACCEPTED, JsonAnswer(Recovering { recovering })))
}

/// The span of a request's body.
fn recovery_span(span: &Span) -> Result<RecoverySpan, Problem> {
    let mut refused = RefusedFields::default();
    let since = refused.unless("since", time(&span.since.0).ok_or(NOT_A_TIME));
    let until = span.until.as_ref().and_then(|until| refused.unless("until", time(&until.0).ok_or(NOT_A_TIME)));
    let Some(since) = since else { return Err(refused.into()) };
    let recovered = match until {
        Some(until) => refused.unless("until", RecoverySpan::between(since, until).ok_or(LATER)),
        None => Some(RecoverySpan::Since(since)),
    };
    let Some(recovered) = recovered else { return Err(refused.into()) };
    refused.none()?;
    Ok(recovered)
}

/// Count what would be sent again
///
/// Changes nothing, and also answers while the webhook is not active. Counts as four requests.
#[utoipa::path(get, path = "/v1/webhooks/{id}/recover", tag = "log", operation_id = "countRecoverable",
    params(
        ("id" = Uuid, Path),
        ("since" = String, Query, format = DateTime, description = "What ended without a success at this time or later"),
        ("until" = Option<String>, Query, format = DateTime, description = "and before this time, which must be later than `since`"),
    ),
    responses((status = 200, body = Recoverable), WebhookProblems))]
pub(super) async fn count_recoverable(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<JsonAnswer<Recoverable>, Problem> {
    let since = caller.query.time("since")?.ok_or_else(|| Problem::malformed("since", NOT_A_TIME))?;
    let span = match caller.query.time("until")? {
        Some(until) => RecoverySpan::between(since, until).ok_or_else(|| Problem::malformed("until", LATER))?,
        None => RecoverySpan::Since(since),
    };
    let question = async |store: Store| store.count_recoverable(caller.scope(), id, span, COUNTED).await;
    let closed = api.ask_in_turn(&caller.account, question).await?;
    Ok(JsonAnswer(Recoverable { count: closed.recoverable }))
}

//! Lists the event types that a webhook can subscribe to.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{JsonAnswer, Problems};
use super::auth::Caller;

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventTypeRow {
    r#type: String,
    name: String,
    description: String,
    /// The `data` of such an event, spelled as Test sends it. Null if there is none.
    #[schema(value_type = Value, required = true)]
    example: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventTypes {
    data: Vec<EventTypeRow>,
}

/// The event types, as they are shown to customers
#[utoipa::path(get, path = "/v1/event-types", operation_id = "listEventTypes", tag = "event types", responses((status = 200, body = EventTypes), Problems))]
pub(super) async fn list(State(api): State<Arc<Api>>, _: Caller) -> JsonAnswer<EventTypes> {
    let row = |entry: &crate::event::CatalogueEntry| EventTypeRow {
        r#type: entry.event_type.to_string(),
        name: entry.name.clone(),
        description: entry.description.clone(),
        example: entry.example.as_ref().map(crate::event::EventData::raw),
    };
    JsonAnswer(EventTypes { data: api.catalogue.entries().iter().map(row).collect() })
}

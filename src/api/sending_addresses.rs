//! Lists the addresses that requests to webhooks come from, for the firewalls of receivers.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
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
pub(super) struct SendingAddresses {
    /// Networks in CIDR notation, such as `203.0.113.7/32`. If it is empty, the operator has not named the addresses; that does
    /// not mean that every address is one of them.
    data: Vec<String>,
}

/// The addresses that webhooks are called from
#[utoipa::path(get, path = "/v1/sending-addresses", operation_id = "listSendingAddresses", tag = "webhooks", responses((status = 200, body = SendingAddresses), Problems))]
pub(super) async fn list(State(api): State<Arc<Api>>, _: Caller) -> JsonAnswer<SendingAddresses> {
    let data = api.settings.sending_addresses.iter().map(ToString::to_string).collect();
    JsonAnswer(SendingAddresses { data })
}

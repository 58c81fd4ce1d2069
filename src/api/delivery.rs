//! Shows one delivery.

use std::sync::Arc;

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{JsonAnswer, WebhookProblems};
use super::auth::Caller;
use super::problem::Problem;
use super::query::DeliveryPath;
use crate::store::Store;
use crate::token::Access;
use crate::whole_delivery::{DeliveryRefusal, WholeDelivery};

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(show))
}

/// One delivery: its state, its body, its headers and its attempts
///
/// 404 if no row of it is left. A token that may only read gets no signatures in `request_headers`.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries/{delivery_id}", tag = "log", operation_id = "getDelivery",
    params(("id" = Uuid, Path), ("delivery_id" = Uuid, Path)),
    responses((status = 200, body = WholeDelivery), WebhookProblems))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    DeliveryPath(id, delivery): DeliveryPath,
) -> Result<JsonAnswer<WholeDelivery>, Problem> {
    // Whoever has the body and its `X-Webhook-Signature` can send the request again at any time: it covers no time.
    let keyring = (caller.access() == Access::Full).then_some(&api.keyring);
    let question = async |store: Store| WholeDelivery::read(&store, keyring, caller.scope(), id, delivery).await;
    Ok(JsonAnswer(api.ask_in_turn(&caller.account, question).await?))
}

impl From<DeliveryRefusal> for Problem {
    fn from(refusal: DeliveryRefusal) -> Self {
        match refusal {
            DeliveryRefusal::UnknownWebhook => Self::not_found(),
            DeliveryRefusal::NothingLeft => Self::nothing_left(refusal.to_string()),
            DeliveryRefusal::Store(error) => error.into(),
        }
    }
}

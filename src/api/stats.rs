//! Counts a webhook's attempts over time, for a chart.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::answer::{JsonAnswer, WebhookProblems};
use super::auth::Caller;
use super::problem::Problem;
use super::query::WebhookPath;
use crate::store::{Bucket, Store, Window};

pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(show))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stats {
    #[schema(value_type = Window, inline)]
    window: &'static str,
    bucket_seconds: u64,
    /// Oldest first, empty ones included; the last one is not over.
    data: Vec<Bucket>,
}

/// Attempts over time, tests left out
///
/// Counts as four requests.
#[utoipa::path(get, path = "/v1/webhooks/{id}/stats", operation_id = "getStats", tag = "log",
    params(
        ("id" = Uuid, Path),
        ("window" = inline(Option<Window>), Query, description = "24h if it is left out"),
    ),
    responses((status = 200, body = Stats), WebhookProblems))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    WebhookPath(id): WebhookPath,
) -> Result<JsonAnswer<Stats>, Problem> {
    let windows = Window::ALL.map(|window| (window.name(), window));
    let window = caller.query.choice("window", &windows)?.unwrap_or(Window::Day);
    let question = async |store: Store| store.stats(&caller.account, id, window).await;
    let data = api.ask_in_turn(&caller.account, question).await?;
    let data = data.ok_or_else(Problem::not_found)?;
    Ok(JsonAnswer(Stats { window: window.name(), bucket_seconds: window.bucket().as_secs(), data }))
}

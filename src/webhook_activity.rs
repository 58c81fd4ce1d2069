//! What the API and the command line show of a webhook's deliveries beside the webhook: the last attempt, and how much waits.

use serde::Serialize;
use utoipa::ToSchema;

use crate::delivery::{ErrorDetail, ErrorName};
use crate::store::{self, LogStatus};
use crate::webhook::Webhook;

/// A webhook, with its activity where that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListedWebhook {
    #[serde(flatten)]
    pub webhook: Webhook,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub activity: Option<Activity>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Activity {
    /// `success` or `failed`; null if there was no attempt.
    #[schema(value_type = Option<LogStatus>, inline)]
    last_status: Option<&'static str>,
    #[serde(serialize_with = "crate::timestamps::optional_rfc3339")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_attempt_at: Option<jiff::Timestamp>,
    /// What went wrong with the last attempt, as in the log; null if it succeeded.
    #[schema(value_type = Option<ErrorName>)]
    last_error: Option<String>,
    /// What exactly went wrong, as in the log; null if that is not known.
    last_error_detail: Option<ErrorDetail>,
    /// The status of the last attempt's answer; null if there was none.
    last_http_status: Option<i32>,
    /// Deliveries that wait for their time. Counted up to 1,000 in the list of webhooks, and up to 100,000 for one webhook.
    pub waiting: u64,
}

impl From<store::Activity> for Activity {
    fn from(activity: store::Activity) -> Self {
        let shown = Self {
            last_status: None,
            last_attempt_at: None,
            last_error: None,
            last_error_detail: None,
            last_http_status: None,
            waiting: activity.waiting,
        };
        let Some(last) = activity.last_attempt else { return shown };
        Self {
            last_status: Some(LogStatus::of(last.error.as_deref()).as_str()),
            last_attempt_at: Some(last.created_at),
            last_error: last.error,
            last_error_detail: last.error_detail,
            last_http_status: last.http_status,
            ..shown
        }
    }
}

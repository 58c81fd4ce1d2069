//! A webhook's version, which is its `ETag` in the API: how statements compute it and compare it.

use super::headers_and_pace::HeadersAndPace;
use super::holds::Holds;
use super::inactive_since::InactiveSince;
use super::known_columns::Addition;
use super::{Store, StoreError};

/// How statements compute a webhook's version, which is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WebhookVersion {
    /// A number that a trigger raises, to the time in microseconds, when a field that customers change gets another value.
    Revision,
    /// A hash of those fields, as releases before V11 have it. Made where the schema has no revisions yet, and for
    /// `If-Match` with a version that such a release gave out.
    Hash,
}

impl WebhookVersion {
    fn sql(self) -> &'static str {
        match self {
            Self::Revision => "revision::text",
            Self::Hash => {
                "encode(sha256(convert_to(json_build_array(name, url, event_types, active)::text, 'UTF8')), 'hex')"
            }
        }
    }

    /// All columns that a [`Webhook`] is read from.
    ///
    /// [`Webhook`]: crate::webhook::Webhook
    pub(super) fn columns(
        self,
        inactive_since: InactiveSince,
        headers_and_pace: HeadersAndPace,
        holds: Holds,
    ) -> String {
        format!(
            "id, account_id, name, url, event_types, active, {}, disabled_reason, failing_since, \
             failing_noticed_at IS NOT NULL AS failing, created_at, updated_at, \
             CASE WHEN previous_secret_until > now() THEN previous_secret_until END AS previous_valid_until, \
             {}, {}, {} AS version",
            inactive_since.read(),
            headers_and_pace.read(),
            holds.read(),
            self.sql()
        )
    }

    /// The condition that the webhook's version is one of `given`, or that `given` is null. `given` is the statement's
    /// parameter of this number.
    pub(super) fn is_one_of(self, parameter: u8, given: Option<&[String]>) -> String {
        let is_hash = |version: &String| version.len() == 64;
        let hash = match given.is_some_and(|given| given.iter().any(is_hash)) {
            true if self != Self::Hash => format!(" OR {} = ANY (${parameter})", Self::Hash.sql()),
            _ => String::new(),
        };
        format!("(${parameter}::text[] IS NULL OR {} = ANY (${parameter}){hash})", self.sql())
    }
}

impl Store {
    /// All columns that a webhook is read from, in the schema as it is.
    pub(super) async fn webhook_columns(&self) -> Result<String, StoreError> {
        let (version, inactive_since) = (self.webhook_version().await?, self.inactive_since().await?);
        Ok(version.columns(inactive_since, self.headers_and_pace().await?, self.keeps_holds().await?))
    }

    /// How to compute versions in the schema as it is, which may be that of the release before.
    pub(super) async fn webhook_version(&self) -> Result<WebhookVersion, StoreError> {
        Ok(match self.has(Addition::Revisions).await? {
            true => WebhookVersion::Revision,
            false => WebhookVersion::Hash,
        })
    }
}

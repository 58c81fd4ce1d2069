//! Since when a webhook is inactive: how statements note that and read it.
//!
//! A process of the release before V15 notes nothing. But every process raises `activation` when it switches a webhook off. So the
//! time is stored with the activation that the switching off began, and read only while the webhook has that activation.

use deadpool_postgres::Transaction;
use tokio_postgres::Error;

use super::known_columns::Addition;
use super::{Store, StoreError};

/// What the schema keeps about the time at which a webhook was switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InactiveSince {
    Kept,
    /// Nothing: V15 is missing.
    BeforeV15,
}

impl InactiveSince {
    fn of(is_kept: bool) -> Self {
        if is_kept { Self::Kept } else { Self::BeforeV15 }
    }

    /// The column `inactive_since` of a SELECT: null while the webhook is active, and if the time is not known.
    pub(super) fn read(self) -> &'static str {
        match self {
            Self::Kept => {
                "CASE WHEN NOT active AND inactive_activation = activation THEN inactive_since END AS inactive_since"
            }
            Self::BeforeV15 => "NULL::timestamptz AS inactive_since",
        }
    }

    /// The end of the SET list of an UPDATE that may switch a webhook. `row` names the row as it was, and `active_then` is an
    /// expression for whether the webhook is active afterwards.
    pub(super) fn note(self, row: &str, active_then: &str) -> String {
        let noted = |name: &str, value: &str| {
            format!(", {name} = CASE WHEN {active_then} THEN NULL WHEN {row}.active THEN {value} ELSE {row}.{name} END")
        };
        match self {
            Self::Kept => {
                noted("inactive_since", "now()") + &noted("inactive_activation", &format!("{row}.activation + 1"))
            }
            Self::BeforeV15 => String::new(),
        }
    }
}

impl Store {
    /// What the schema keeps, for statements of their own. Costs a query only until the columns are known to be there.
    pub(super) async fn inactive_since(&self) -> Result<InactiveSince, StoreError> {
        Ok(InactiveSince::of(self.has(Addition::InactiveSince).await?))
    }

    /// The same within a transaction.
    pub(super) async fn inactive_since_within(&self, transaction: &Transaction<'_>) -> Result<InactiveSince, Error> {
        Ok(InactiveSince::of(self.has_within(transaction, Addition::InactiveSince).await?))
    }
}

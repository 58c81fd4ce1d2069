//! Keeps the holds of operators (V17). A hold is one row until the release of all that it holds is done: see `release`.

use tokio_postgres::Row;
use uuid::Uuid;

use super::known_columns::Addition;
use super::{Store, StoreError, column};
use crate::hold::{Held, Hold, HoldReason, Release};
use crate::ids::{AccountId, WebhookId};

/// What the schema keeps of holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Kept,
    /// Nothing: V17 is missing.
    BeforeV17,
}

impl Holds {
    /// The column `held_since` of a row of `webhooks`: the beginning of the oldest hold that is in force for the webhook.
    pub(super) fn read(self) -> &'static str {
        match self {
            Self::Kept => {
                "(SELECT min(h.since) FROM holds h
                  WHERE (h.webhook_id = webhooks.id OR h.account_id = webhooks.account_id
                      OR (h.webhook_id IS NULL AND h.account_id IS NULL))
                    AND (h.released_through IS NULL OR h.released_through < webhooks.id)) AS held_since"
            }
            Self::BeforeV17 => "NULL::timestamptz AS held_since",
        }
    }
}

impl Store {
    /// What the schema keeps of holds, for statements of their own.
    pub(super) async fn keeps_holds(&self) -> Result<Holds, StoreError> {
        Ok(if self.has(Addition::Holds).await? { Holds::Kept } else { Holds::BeforeV17 })
    }

    async fn needs_holds(&self) -> Result<(), StoreError> {
        match self.keeps_holds().await? {
            Holds::Kept => Ok(()),
            Holds::BeforeV17 => Err(StoreError::NotMigrated(anyhow::anyhow!(
                "its schema keeps no holds; run `penr-webhooks migrate` first"
            ))),
        }
    }

    /// All holds, oldest first. None before V17.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        match self.keeps_holds().await? {
            Holds::Kept => Ok(self.query(LIST, &[]).await?.iter().map(hold).collect()),
            Holds::BeforeV17 => Ok(Vec::new()),
        }
    }

    /// The webhooks of the accounts that these holds hold.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn webhooks_of_held_accounts(
        &self,
        holds: &[Hold],
    ) -> Result<Vec<(AccountId, WebhookId)>, StoreError> {
        let account = |hold: &Hold| match &hold.held {
            Held::Account(account) => Some(account.as_str().to_owned()),
            Held::Webhook(_) | Held::All => None,
        };
        let accounts: Vec<String> = holds.iter().filter_map(account).collect();
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT account_id, id FROM webhooks WHERE account_id = ANY ($1)";
        let rows = self.query(sql, &[&accounts]).await?;
        Ok(rows.iter().map(|row| (super::account(row), WebhookId(column(row, "id")))).collect())
    }

    /// Holds something. What is held already stays held since then; a new reason replaces the old one. A release that is not
    /// finished ends. `None`: there is no such webhook.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] before V17. Else the database is not available, busy or read-only: perhaps it is held, if only
    /// the answer is missing.
    pub async fn hold(&self, held: &Held, reason: Option<&HoldReason>) -> Result<Option<Hold>, StoreError> {
        self.needs_holds().await?;
        let (id, reason) = (Uuid::now_v7(), reason.map(HoldReason::as_str));
        // A webhook is locked, so that it is not deleted meanwhile: its hold would stay.
        let (webhook, account) = columns(held);
        let (values, conflict) = match held {
            Held::Webhook(_) => ("FROM webhooks WHERE id = $2 FOR KEY SHARE", "(webhook_id)"),
            Held::Account(_) => ("", "(account_id)"),
            Held::All => ("", "((webhook_id IS NULL)) WHERE webhook_id IS NULL AND account_id IS NULL"),
        };
        let sql = format!(
            "INSERT INTO holds AS held (id, webhook_id, account_id, reason)
             SELECT $1::uuid, $2::uuid, $3::text, $4::text {values}
             ON CONFLICT {conflict} DO UPDATE SET
                 since = CASE WHEN held.released_at IS NULL THEN held.since ELSE excluded.since END,
                 reason = CASE WHEN held.released_at IS NULL THEN coalesce(excluded.reason, held.reason)
                     ELSE excluded.reason END,
                 released_at = NULL, released_through = NULL,
                 spreading_since = NULL, spread_until = NULL
             RETURNING {COLUMNS}"
        );
        let rows = self.query_to_write(&sql, &[&id, &webhook, &account, &reason]).await?;
        Ok(rows.first().map(hold))
    }

    /// Begins the release of a hold, which workers carry out. `None`: there is no such hold.
    ///
    /// # Errors
    ///
    /// As [`Store::hold`].
    pub async fn release_hold(&self, held: &Held) -> Result<Option<Hold>, StoreError> {
        self.needs_holds().await?;
        let (webhook, account) = columns(held);
        Ok(self.query_to_write(BEGIN_RELEASE, &[&webhook, &account]).await?.first().map(hold))
    }

    /// Deletes the hold of an account.
    pub(super) async fn forget_hold_of(&self, account: &AccountId) -> Result<(), StoreError> {
        if self.keeps_holds().await? == Holds::BeforeV17 {
            return Ok(());
        }
        self.execute("DELETE FROM holds WHERE account_id = $1", &[&account.as_str()]).await.map(drop)
    }
}

/// The columns `webhook_id` and `account_id`.
fn columns(held: &Held) -> (Option<Uuid>, Option<&str>) {
    match held {
        Held::Webhook(webhook) => (Some(webhook.0), None),
        Held::Account(account) => (None, Some(account.as_str())),
        Held::All => (None, None),
    }
}

fn hold(row: &Row) -> Hold {
    let (webhook, account): (Option<Uuid>, Option<&str>) = (column(row, "webhook_id"), column(row, "account_id"));
    let held = match (webhook, account) {
        (Some(webhook), _) => Held::Webhook(WebhookId(webhook)),
        (None, Some(_)) => Held::Account(super::account(row)),
        (None, None) => Held::All,
    };
    let through = column::<Option<Uuid>>(row, "released_through").map(WebhookId);
    let release = column::<Option<_>>(row, "released_at").map(|at| Release { at, through });
    Hold { id: column(row, "id"), held, since: column(row, "since"), reason: column(row, "reason"), release }
}

const COLUMNS: &str = "id, webhook_id, account_id, since, reason, released_at, released_through";

const LIST: &str = "
    SELECT id, webhook_id, account_id, since, reason, released_at, released_through FROM holds ORDER BY since, id";

const BEGIN_RELEASE: &str = "
    UPDATE holds SET released_at = coalesce(released_at, now())
    WHERE webhook_id IS NOT DISTINCT FROM $1::uuid AND account_id IS NOT DISTINCT FROM $2::text
    RETURNING id, webhook_id, account_id, since, reason, released_at, released_through";

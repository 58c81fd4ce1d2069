//! Keeps what customers registered.

use tokio_postgres::Row;

use super::{Store, StoreError, account, column};
use crate::event::{AccountId, EventType};
use crate::secret::{Keyring, OpenError, Owner, SigningSecret};
use crate::webhook::{Subscriptions, Webhook, WebhookId, WebhookName, WebhookUrl};

/// A webhook to be registered.
#[derive(Debug)]
pub struct NewWebhook<'a> {
    pub id: WebhookId,
    pub account_id: &'a AccountId,
    pub name: &'a WebhookName,
    pub url: &'a WebhookUrl,
    pub events: &'a Subscriptions,
    pub secret: &'a SigningSecret,
}

/// What a customer changes; `None` leaves as it is.
#[derive(Debug, Default)]
pub struct WebhookChange {
    pub name: Option<WebhookName>,
    pub url: Option<WebhookUrl>,
    pub events: Option<Subscriptions>,
    pub active: Option<bool>,
}

const COLUMNS: &str = "id, account_id, name, url, event_types, active, disabled_reason, failing_since, created_at, \
                       updated_at";

impl Store {
    /// Registers a webhook, active from its first lookup on.
    pub async fn create_webhook(&self, keyring: &Keyring, new: &NewWebhook<'_>) -> Result<Webhook, StoreError> {
        let owner = Owner { account_id: new.account_id, webhook_id: new.id };
        let envelope = keyring.seal(new.secret, owner, rand::random());
        let sql = format!(
            "INSERT INTO webhooks (id, account_id, name, url, event_types, secret)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING {COLUMNS}"
        );
        let account = new.account_id.as_str();
        let types = names(new.events.types());
        let params: super::Params<'_> =
            &[&new.id.0, &account, &new.name.as_str(), &new.url.as_str(), &types, &envelope];
        let rows = self.query(&sql, params).await?;
        Ok(webhook(rows.first().expect("INSERT returns its row")))
    }

    /// An account's webhooks, oldest first.
    pub async fn list_webhooks(&self, account_id: &AccountId) -> Result<Vec<Webhook>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE account_id = $1 ORDER BY created_at, id");
        let rows = self.query(&sql, &[&account_id.as_str()]).await?;
        Ok(rows.iter().map(webhook).collect())
    }

    pub async fn find_webhook(&self, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id = $1");
        Ok(self.query(&sql, &[&id.0]).await?.first().map(webhook))
    }

    /// Switching off cancels what is owed; switching on forgets why it was off. `None` if there is no such webhook.
    pub async fn update_webhook(&self, id: WebhookId, change: &WebhookChange) -> Result<Option<Webhook>, StoreError> {
        let sql = format!(
            "UPDATE webhooks SET
                 name = coalesce($2, name),
                 url = coalesce($3, url),
                 event_types = coalesce($4, event_types),
                 active = coalesce($5, active),
                 activation = activation + coalesce(active AND NOT $5, false)::integer,
                 disabled_reason = CASE WHEN $5::boolean IS NULL THEN disabled_reason END,
                 failing_since = CASE WHEN $5 AND NOT active THEN NULL ELSE failing_since END,
                 consecutive_failures = CASE WHEN $5 AND NOT active THEN 0 ELSE consecutive_failures END,
                 last_error = CASE WHEN $5 AND NOT active THEN NULL ELSE last_error END,
                 failing_noticed_at = CASE WHEN $5 AND NOT active THEN NULL ELSE failing_noticed_at END,
                 updated_at = now()
             WHERE id = $1 RETURNING {COLUMNS}"
        );
        let name = change.name.as_ref().map(WebhookName::as_str);
        let url = change.url.as_ref().map(WebhookUrl::as_str);
        let types = change.events.as_ref().map(|events| names(events.types()));
        let rows = self.query(&sql, &[&id.0, &name, &url, &types, &change.active]).await?;
        Ok(rows.first().map(webhook))
    }

    /// Whether there was such a webhook. Its log stays until retention ends it.
    pub async fn delete_webhook(&self, id: WebhookId) -> Result<bool, StoreError> {
        Ok(self.execute("DELETE FROM webhooks WHERE id = $1", &[&id.0]).await? > 0)
    }

    /// The secret that signs now. The outer `None` means that there is no such webhook.
    pub async fn secret(
        &self,
        keyring: &Keyring,
        webhook: &Webhook,
    ) -> Result<Option<Result<SigningSecret, OpenError>>, StoreError> {
        let rows = self.query("SELECT secret FROM webhooks WHERE id = $1", &[&webhook.id.0]).await?;
        let owner = Owner { account_id: &webhook.account_id, webhook_id: webhook.id };
        Ok(rows.first().map(|row| keyring.open(column(row, "secret"), owner)))
    }

    /// Makes a new secret the one that signs; the one before it stays valid beside it for 24 h, older ones do not.
    /// Whether there was such a webhook.
    pub async fn replace_secret(
        &self,
        keyring: &Keyring,
        webhook: &Webhook,
        secret: &SigningSecret,
    ) -> Result<bool, StoreError> {
        let owner = Owner { account_id: &webhook.account_id, webhook_id: webhook.id };
        let envelope = keyring.seal(secret, owner, rand::random());
        Ok(self.execute(REPLACE_SECRET, &[&webhook.id.0, &envelope]).await? > 0)
    }
}

const REPLACE_SECRET: &str = "
    UPDATE webhooks
    SET previous_secret = secret, previous_secret_until = now() + interval '24 hours', secret = $2, updated_at = now()
    WHERE id = $1";

fn names(types: &[EventType]) -> Vec<&str> {
    types.iter().map(EventType::as_str).collect()
}

fn webhook(row: &Row) -> Webhook {
    let url: String = column(row, "url");
    Webhook {
        id: WebhookId(column(row, "id")),
        account_id: account(row),
        name: column(row, "name"),
        warnings: crate::webhook::url_warnings(&url),
        url,
        events: column(row, "event_types"),
        active: column(row, "active"),
        disabled_reason: column(row, "disabled_reason"),
        failing_since: column(row, "failing_since"),
        created_at: column(row, "created_at"),
        updated_at: column(row, "updated_at"),
    }
}

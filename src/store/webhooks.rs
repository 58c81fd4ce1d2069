//! Stores the webhooks that customers register.

use deadpool_postgres::Object;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::headers_and_pace::{self, HeadersAndPace, NotSet, SealedHeaders, WantedChange, header_names};
use super::inactive_since::InactiveSince;
use super::kept_answers::{self, AnswerOnce, NotDone};
use super::sql::query;
use super::{Params, Scope, Store, StoreError, account, column};
use crate::ids::{AccountId, EventType, WebhookId};
use crate::secret::{HeadersOwner, Keyring, OpenError, Owner, SigningSecret};
use crate::webhook::{
    CustomHeaders, HeaderRefusal, MaxPerSecond, Subscriptions, WantedHeaders, Webhook, WebhookName, WebhookUrl,
};

/// A webhook to be registered.
#[derive(Debug)]
pub(crate) struct NewWebhook<'a> {
    pub id: WebhookId,
    pub account_id: &'a AccountId,
    pub name: &'a WebhookName,
    pub url: &'a WebhookUrl,
    pub events: &'a Subscriptions,
    pub secret: &'a SigningSecret,
    pub headers: &'a CustomHeaders,
    pub max_per_second: Option<MaxPerSecond>,
}

/// A customer's change of a webhook. `None` leaves a field as it is.
#[derive(Debug, Default)]
pub struct WebhookChange {
    pub name: Option<WebhookName>,
    pub url: Option<WebhookUrl>,
    pub events: Option<Subscriptions>,
    pub active: Option<bool>,
    /// They replace all that the webhook has.
    pub headers: Option<WantedHeaders>,
    /// The inner `None` ends the pace.
    pub max_per_second: Option<Option<MaxPerSecond>>,
    /// The customer repeats that we disabled the webhook: switching off then leaves the reason as it is.
    pub keeps_reason: bool,
    /// One of these versions must be the webhook's, if they are given.
    pub only_if: Option<Vec<String>>,
}

/// The result of a registration.
#[derive(Debug)]
pub(crate) enum Created {
    Webhook(Box<Webhook>),
    /// The account has as many webhooks as it may have.
    TooMany,
    /// The key of the request forbids it.
    NotDone(NotDone),
}

/// The result of a change.
#[derive(Debug)]
pub enum Changed {
    Webhook(Box<Webhook>),
    /// There is no such webhook.
    Unknown,
    /// The webhook was changed before, so that it has none of the versions in `only_if`.
    Stale,
    /// The headers cannot be set so. Nothing was changed.
    Refused(HeaderRefusal),
    /// Values are to be kept that cannot be decrypted. Nothing was changed.
    Unreadable(OpenError),
}

impl From<NotSet> for Changed {
    fn from(not_set: NotSet) -> Self {
        match not_set {
            NotSet::Refused(refusal) => Self::Refused(refusal),
            NotSet::Unreadable(error) => Self::Unreadable(error),
        }
    }
}

/// The result of a deletion.
#[derive(Debug)]
pub enum Deleted {
    Done,
    /// There is no such webhook.
    Unknown,
    /// The webhook was changed before, so that it has none of the versions in `only_if`.
    Stale,
}

/// The position of a row in a list that is ordered by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub time: Timestamp,
    pub id: Uuid,
}

impl Store {
    /// Registers a webhook. Events that are looked up from then on are delivered to it.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: perhaps the webhook was registered, if only the answer is missing.
    pub(crate) async fn create_webhook(&self, keyring: &Keyring, new: &NewWebhook<'_>) -> Result<Webhook, StoreError> {
        match self.create_webhook_within(keyring, new, u32::MAX, None).await? {
            Created::Webhook(webhook) => Ok(*webhook),
            Created::TooMany | Created::NotDone(_) => {
                Err(StoreError::Refused(anyhow::anyhow!("nobody has so many webhooks")))
            }
        }
    }

    /// The same, unless the account would then have more than `most` webhooks, however many requests come at once. With a key
    /// it is done once: the answer, which is made by the function beside the key, is kept with it.
    ///
    /// # Errors
    ///
    /// As [`Store::create_webhook`].
    pub(crate) async fn create_webhook_within(
        &self,
        keyring: &Keyring,
        new: &NewWebhook<'_>,
        most: u32,
        once: Option<AnswerOnce<'_, Webhook>>,
    ) -> Result<Created, StoreError> {
        let once = if once.is_some() && self.keeps_answers().await? { once } else { None };
        let owner = Owner { account_id: new.account_id, webhook_id: new.id };
        let envelope = keyring.seal(new.secret, owner, rand::random());
        let columns = self.webhook_columns().await?;
        let has_more = !new.headers.is_empty() || new.max_per_second.is_some();
        let (more_columns, more) = match has_more {
            true => (", header_names, headers, max_per_second, headers_set_at", ", $8, $9, $10, now()"),
            false => ("", ""),
        };
        if has_more {
            self.needs_headers_and_pace().await?;
        }
        let sql = format!(
            "INSERT INTO webhooks (id, account_id, name, url, event_types, secret{more_columns})
             SELECT $1, $2, $3, $4, $5, $6{more}
             WHERE (SELECT count(*) FROM webhooks WHERE account_id = $2) < $7 RETURNING {columns}"
        );
        let account = new.account_id.as_str();
        let types = names(new.events.types());
        let most = i64::from(most);
        let headers = SealedHeaders::of(new.headers, keyring, HeadersOwner { owner, origin: &new.url.origin() });
        let max_per_second = headers_and_pace::stored_number(new.max_per_second);
        let params: Params<'_> = &[
            &new.id.0,
            &account,
            &new.name.as_str(),
            &new.url.as_str(),
            &types,
            &envelope,
            &most,
            &headers.names,
            &headers.envelope,
            &max_per_second,
        ];
        let params = if has_more { params } else { &params[..7] };
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            // Registrations of one account take turns, so that each counts the ones before it.
            kept_answers::take_turns(&transaction, new.account_id).await?;
            if let Some((once, _)) = once
                && let Some(not_done) = kept_answers::find(&transaction, new.account_id, once).await?
            {
                return transaction.commit().await.map(|()| Created::NotDone(not_done));
            }
            let rows = query(&transaction, &sql, params).await?;
            let Some(created) = rows.first().map(webhook) else {
                return transaction.commit().await.map(|()| Created::TooMany);
            };
            if let Some((once, answer)) = once {
                kept_answers::keep(&transaction, keyring, new.account_id, once, &answer(&created)).await?;
            }
            transaction.commit().await.map(|()| Created::Webhook(Box::new(created)))
        };
        self.write(work).await
    }

    /// The account's webhooks after a position, oldest first.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn list_webhooks(
        &self,
        account_id: &AccountId,
        after: Option<Position>,
        limit: u32,
    ) -> Result<Vec<Webhook>, StoreError> {
        self.webhooks_where("account_id = $1", &account_id.as_str(), after, limit).await
    }

    /// The webhooks for which `condition` holds, after a position, oldest first. `value` is `$1` in the condition.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(super) async fn webhooks_where(
        &self,
        condition: &str,
        value: &(dyn ToSql + Sync),
        after: Option<Position>,
        limit: u32,
    ) -> Result<Vec<Webhook>, StoreError> {
        let columns = self.webhook_columns().await?;
        let sql = format!(
            "SELECT {columns} FROM webhooks
             WHERE {condition} AND (created_at, id) > (coalesce($2::timestamptz, '-infinity'), coalesce($3::uuid, {NIL}))
             ORDER BY created_at, id LIMIT $4"
        );
        let (time, id) = after.map(|after| (after.time, after.id)).unzip();
        let rows = self.query(&sql, &[value, &time, &id, &i64::from(limit)]).await?;
        Ok(rows.iter().map(webhook).collect())
    }

    /// A webhook by its id; `None` if the account does not have it.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn find_webhook(&self, scope: Scope<'_>, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let columns = self.webhook_columns().await?;
        let sql =
            format!("SELECT {columns} FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id)");
        Ok(self.query(&sql, &[&id.0, &scope.account()]).await?.first().map(webhook))
    }

    /// Changes a webhook. Switching it off cancels its pending deliveries; switching it on removes its failures and the reason
    /// why it was disabled. Both end a pause, and so does another URL.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: perhaps the change was made, if only the answer is missing.
    pub async fn update_webhook(
        &self,
        keyring: &Keyring,
        scope: Scope<'_>,
        id: WebhookId,
        change: &WebhookChange,
    ) -> Result<Changed, StoreError> {
        let version = self.webhook_version().await?;
        // No headers and no pace are what every webhook has before V16.
        if change.headers.as_ref().is_some_and(|wanted| !wanted.is_empty()) || change.max_per_second.flatten().is_some()
        {
            self.needs_headers_and_pace().await?;
        }
        let headers_and_pace = self.headers_and_pace().await?;
        let is_expected = |parameter| version.is_one_of(parameter, change.only_if.as_deref());
        let sql = update_statement(
            self.keeps_pauses().await?,
            self.inactive_since().await?,
            headers_and_pace,
            &is_expected(7),
            &self.webhook_columns().await?,
        );
        let name = change.name.as_ref().map(WebhookName::as_str);
        let url = change.url.as_ref().map(WebhookUrl::as_str);
        let types = change.events.as_ref().map(|events| names(events.types()));
        let sets_pace = change.max_per_second.is_some();
        let max_per_second = headers_and_pace::stored_number(change.max_per_second.flatten());
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let mut headers = None;
            if headers_and_pace == HeadersAndPace::Kept && (change.headers.is_some() || change.url.is_some()) {
                let wanted = WantedChange {
                    wanted: change.headers.as_ref(),
                    url: change.url.as_ref(),
                    condition: &is_expected(3),
                    only_if: change.only_if.as_deref(),
                };
                match headers_and_pace::after_change(&transaction, keyring, (scope, id), wanted).await? {
                    // The UPDATE finds nothing either.
                    None => {}
                    Some(Ok(sealed)) => headers = sealed,
                    Some(Err(not_set)) => return transaction.commit().await.map(|()| Some(not_set.into())),
                }
            }
            let (names, envelope) = headers.as_ref().map(|sealed| (&sealed.names, &sealed.envelope)).unzip();
            let params: Params<'_> = &[
                &id.0,
                &name,
                &url,
                &types,
                &change.active,
                &scope.account(),
                &change.only_if,
                &change.keeps_reason,
                &headers.is_some(),
                &names,
                &envelope.and_then(Option::as_ref),
                &sets_pace,
                &max_per_second,
            ];
            let params = if headers_and_pace == HeadersAndPace::Kept { params } else { &params[..8] };
            let rows = query(&transaction, &sql, params).await?;
            let changed = rows.first().map(|row| Changed::Webhook(Box::new(webhook(row))));
            transaction.commit().await.map(|()| changed)
        };
        if let Some(changed) = self.write(work).await? {
            return Ok(changed);
        }
        Ok(self.find_webhook(scope, id).await?.map_or(Changed::Unknown, |_| Changed::Stale))
    }

    /// Deletes a webhook. Its log stays until it is past its retention. With `only_if`, the webhook is deleted only if it has one
    /// of these versions.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: perhaps it was deleted, if only the answer is missing.
    pub async fn delete_webhook(
        &self,
        scope: Scope<'_>,
        id: WebhookId,
        only_if: Option<&[String]>,
    ) -> Result<Deleted, StoreError> {
        let delete = format!(
            "DELETE FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id) AND {}",
            self.webhook_version().await?.is_one_of(3, only_if)
        );
        let sql = self.deletion(&delete).await?;
        if !self.query_to_write(&sql, &[&id.0, &scope.account(), &only_if]).await?.is_empty() {
            return Ok(Deleted::Done);
        }
        Ok(self.find_webhook(scope, id).await?.map_or(Deleted::Unknown, |_| Deleted::Stale))
    }
}

/// The statement of [`Store::update_webhook`] for the schema as it is.
fn update_statement(
    keeps_pauses: bool,
    inactive_since: InactiveSince,
    headers_and_pace: HeadersAndPace,
    is_expected: &str,
    columns: &str,
) -> String {
    let unpaused = match keeps_pauses {
        // Another URL has another receiver, which has not asked for a pause.
        true => {
            ", paused_until = CASE WHEN active = coalesce($5, active) AND url = coalesce($3, url) THEN paused_until END"
        }
        false => "",
    };
    let noted = inactive_since.note("webhooks", "coalesce($5, active)");
    let headers_and_pace = headers_and_pace.update();
    format!(
        "UPDATE webhooks SET
             name = coalesce($2, name),
             url = coalesce($3, url),
             event_types = coalesce($4, event_types),
             active = coalesce($5, active),
             activation = activation + coalesce(active AND NOT $5, false)::integer,
             disabled_reason = CASE WHEN $5::boolean IS NULL OR ($8 AND NOT $5) THEN disabled_reason END,
             failing_since = CASE WHEN $5 AND NOT active THEN NULL ELSE failing_since END,
             consecutive_failures = CASE WHEN $5 AND NOT active THEN 0 ELSE consecutive_failures END,
             last_error = CASE WHEN $5 AND NOT active THEN NULL ELSE last_error END,
             failing_noticed_at = CASE WHEN $5 AND NOT active THEN NULL ELSE failing_noticed_at END,
             updated_at = now() {unpaused} {noted} {headers_and_pace}
         WHERE id = $1 AND account_id = coalesce($6::text, account_id) AND {is_expected} RETURNING {columns}"
    )
}

const NIL: &str = "'00000000-0000-0000-0000-000000000000'";

fn names(types: &[EventType]) -> Vec<&str> {
    types.iter().map(EventType::as_str).collect()
}

fn webhook(row: &Row) -> Webhook {
    let url: String = column(row, "url");
    let headers = header_names(row);
    Webhook {
        id: WebhookId(column(row, "id")),
        account_id: account(row),
        name: column(row, "name"),
        warnings: crate::webhook::url_warnings(&url, !headers.0.is_empty()),
        headers,
        max_per_second: headers_and_pace::max_per_second(row),
        url,
        events: column(row, "event_types"),
        active: column(row, "active"),
        inactive_since: column(row, "inactive_since"),
        disabled_reason: column(row, "disabled_reason"),
        failing: column(row, "failing"),
        failing_since: column(row, "failing_since"),
        created_at: column(row, "created_at"),
        updated_at: column(row, "updated_at"),
        previous_valid_until: column(row, "previous_valid_until"),
        held_since: column(row, "held_since"),
        version: column(row, "version"),
    }
}

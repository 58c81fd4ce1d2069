//! Reads, replaces and ends the secrets of a webhook.

use std::time::Duration;

use deadpool_postgres::Object;
use jiff::Timestamp;

use super::kept_answers::{self, AnswerOnce, NotDone};
use super::sql::query;
use super::{Params, Scope, Store, StoreError, account, column};
use crate::ids::WebhookId;
use crate::secret::{Keyring, OpenError, Owner, SigningSecret};

/// A new secret that takes the place of the one that signs.
#[derive(Debug)]
pub(crate) struct NewSecret<'a> {
    pub owner: Owner<'a>,
    pub secret: &'a SigningSecret,
    /// How long the previous secret also signs.
    pub grace: Duration,
}

/// The result of replacing a secret.
#[derive(Debug)]
pub(crate) enum Replaced {
    /// Until when the previous secret also signs.
    Until(Timestamp),
    /// There is no such webhook.
    Unknown,
    /// The key of the request forbids it.
    NotDone(NotDone),
}

impl Store {
    /// The secret that signs now; `None` if there is no such webhook. The inner error is that of decrypting it.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(crate) async fn secret(
        &self,
        keyring: &Keyring,
        scope: Scope<'_>,
        id: WebhookId,
    ) -> Result<Option<Result<SigningSecret, OpenError>>, StoreError> {
        let sql =
            "SELECT account_id, secret FROM webhooks WHERE id = $1 AND account_id = coalesce($2::text, account_id)";
        let rows = self.query(sql, &[&id.0, &scope.account()]).await?;
        let open = |row| keyring.open(column(row, "secret"), Owner { account_id: &account(row), webhook_id: id });
        Ok(rows.first().map(open))
    }

    /// Replaces the secret that signs. The previous secret also signs for the time of `grace`; older ones do not. With a key it is
    /// done once: the answer, which is made by the function beside the key, is kept with it.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: perhaps the secret was replaced, if only the answer is missing.
    pub(crate) async fn replace_secret(
        &self,
        keyring: &Keyring,
        new: &NewSecret<'_>,
        once: Option<AnswerOnce<'_, Timestamp>>,
    ) -> Result<Replaced, StoreError> {
        let once = if once.is_some() && self.keeps_answers().await? { once } else { None };
        let owner = new.owner;
        let envelope = keyring.seal(new.secret, owner, rand::random());
        let params: Params<'_> =
            &[&owner.webhook_id.0, &envelope, &owner.account_id.as_str(), &new.grace.as_secs_f64()];
        let work = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            if let Some((once, _)) = once {
                kept_answers::take_turns(&transaction, owner.account_id).await?;
                if let Some(not_done) = kept_answers::find(&transaction, owner.account_id, once).await? {
                    return transaction.commit().await.map(|()| Replaced::NotDone(not_done));
                }
            }
            let rows = query(&transaction, REPLACE_SECRET, params).await?;
            let Some(until) = rows.first().map(|row| column(row, "previous_valid_until")) else {
                return transaction.commit().await.map(|()| Replaced::Unknown);
            };
            if let Some((once, answer)) = once {
                kept_answers::keep(&transaction, keyring, owner.account_id, once, &answer(&until)).await?;
            }
            transaction.commit().await.map(|()| Replaced::Until(until))
        };
        self.write(work).await
    }

    /// Makes requests be signed with the newest secret alone from now on. Returns whether there is such a webhook.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: perhaps it was done, if only the answer is missing.
    pub(crate) async fn end_previous_secret(&self, scope: Scope<'_>, id: WebhookId) -> Result<bool, StoreError> {
        Ok(self.execute(END_PREVIOUS_SECRET, &[&id.0, &scope.account()]).await? > 0)
    }
}

/// Without a grace the previous secret is not kept. `previous_secret_until` is set all the same: while it is NULL, the secret was
/// never replaced, and `kept_delivery` makes the signatures of old requests again.
const REPLACE_SECRET: &str = "
    UPDATE webhooks
    SET previous_secret = CASE WHEN $4::float8 > 0 THEN secret END,
        previous_secret_until = now() + make_interval(secs => $4),
        secret = $2, updated_at = now()
    WHERE id = $1 AND account_id = $3 RETURNING now() + make_interval(secs => $4) AS previous_valid_until";

/// A secret that was never replaced stays so: NULL must stay NULL, and `least` of NULL and a time is the time.
const END_PREVIOUS_SECRET: &str = "
    UPDATE webhooks
    SET previous_secret = NULL,
        previous_secret_until = CASE WHEN previous_secret_until > now() THEN now() ELSE previous_secret_until END,
        updated_at = CASE WHEN previous_secret_until > now() THEN now() ELSE updated_at END
    WHERE id = $1 AND account_id = coalesce($2::text, account_id)";

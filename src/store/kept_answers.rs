//! Keeps the answers to requests that came with an `Idempotency-Key`, so that a repeated request is not carried out again.
//!
//! The answer is written in the transaction of the request itself: either both are there or neither. Requests of one account
//! that have a key take turns, by the advisory lock of the account. An answer is kept for 24 hours.

use std::sync::atomic::Ordering;

use deadpool_postgres::Transaction;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::sql::{execute, query};
use super::{Store, StoreError, WAIT_FOR_STANDBY, account, column};
use crate::ids::{AccountId, WebhookId};
use crate::secret::{Keyring, OpenError, Owner, SigningSecret};

/// Stands in a kept answer where the secret was. JSON never holds it: it writes control characters as escapes.
const SECRET_HERE: &str = "\u{1}";

/// The key of a request, and what was asked.
#[derive(Debug)]
pub(crate) struct Once {
    pub key: String,
    /// Hashes of the request, one with each secret of the API; the newest first.
    pub requests: Vec<Vec<u8>>,
}

/// A key, and the function that makes the answer from what the request has made.
pub(crate) type AnswerOnce<'a, T> = (&'a Once, &'a (dyn Fn(&T) -> String + Sync));

/// What is known of a key that was used before.
#[derive(Debug)]
pub(crate) enum Kept {
    Answer(KeptAnswer),
    /// The key came with another request.
    OtherRequest,
}

/// The answer to the first request with a key, without its secret.
#[derive(Debug)]
pub(crate) struct KeptAnswer {
    webhook: WebhookId,
    answer: String,
    envelope: Vec<u8>,
}

impl KeptAnswer {
    /// The body of the answer, with its secret.
    ///
    /// # Errors
    ///
    /// The secret cannot be decrypted.
    pub(crate) fn open(&self, keyring: &Keyring, account_id: &AccountId) -> Result<String, OpenError> {
        let secret = keyring.open(&self.envelope, Owner { account_id, webhook_id: self.webhook })?;
        Ok(self.answer.replace(SECRET_HERE, secret.expose()))
    }
}

/// An answer that is to be kept.
pub(super) struct NewAnswer<'a> {
    pub owner: Owner<'a>,
    /// The body of the answer.
    pub body: &'a str,
    /// The secret in it.
    pub secret: &'a SigningSecret,
    /// The secret's envelope.
    pub envelope: &'a [u8],
}

/// Requests of one account that make webhooks, or have a key, take turns until their transactions end.
pub(super) async fn take_turns(transaction: &Transaction<'_>, account: &AccountId) -> Result<(), Error> {
    let lock = "SELECT pg_advisory_xact_lock(pg_catalog.hashtextextended($1::text, 1::bigint))";
    query(transaction, lock, &[&account.as_str()]).await.map(drop)
}

/// What is known of the key; `None` if the request is to be carried out. The caller must have its turn.
pub(super) async fn find(
    transaction: &Transaction<'_>,
    account: &AccountId,
    once: &Once,
) -> Result<Option<Kept>, Error> {
    let rows = query(transaction, FIND, &[&account.as_str(), &once.key]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    // The answer must be as safe as after a commit of our own.
    transaction.batch_execute(WAIT_FOR_STANDBY).await?;
    if !once.requests.iter().any(|request| request == column::<&[u8]>(row, "request")) {
        return Ok(Some(Kept::OtherRequest));
    }
    Ok(Some(Kept::Answer(KeptAnswer {
        webhook: WebhookId(column(row, "webhook_id")),
        answer: column(row, "answer"),
        envelope: column(row, "secret"),
    })))
}

/// Keeps the answer to a request that is carried out in this transaction.
pub(super) async fn keep(transaction: &Transaction<'_>, once: &Once, new: &NewAnswer<'_>) -> Result<(), Error> {
    let answer = new.body.replace(new.secret.expose(), SECRET_HERE);
    let account = new.owner.account_id.as_str();
    let request = once.requests.first();
    execute(transaction, KEEP, &[&account, &once.key, &request, &answer, &new.owner.webhook_id.0, &new.envelope]).await
}

impl Store {
    /// Whether the schema can keep answers. Before V13 it cannot, and a key has no effect, as in the release before.
    pub(super) async fn keeps_answers(&self) -> Result<bool, StoreError> {
        let known = &self.connections.known_columns().answers;
        if !known.load(Ordering::Relaxed) {
            let found = self.query("SELECT to_regclass('kept_answers') IS NOT NULL AS keeps", &[]).await?;
            known.store(found.first().is_some_and(|row| column(row, "keeps")), Ordering::Relaxed);
        }
        Ok(known.load(Ordering::Relaxed))
    }

    /// Deletes some of the answers that have been kept for 24 hours. Returns how many.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: the next call goes on.
    pub(crate) async fn forget_answers(&self) -> Result<u64, StoreError> {
        if self.keeps_answers().await? { self.execute(FORGET, &[]).await } else { Ok(0) }
    }

    /// Encrypts the secrets of kept answers with the newest key: those of one page, after a place. Returns how many were moved,
    /// and the place where the next page begins. What cannot be decrypted stays: it is deleted within a day.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: repeat the page.
    pub(crate) async fn reencrypt_answers(
        &self,
        keyring: &Keyring,
        after: Option<(String, String)>,
        page: i64,
    ) -> Result<(u64, Option<(String, String)>), StoreError> {
        if !self.keeps_answers().await? {
            return Ok((0, None));
        }
        let (account_id, key) = after.unwrap_or_default();
        let (mut moved, mut next) = (0, None);
        for row in self.query(PAGE, &[&account_id, &key, &page]).await? {
            moved += self.reencrypt_answer(keyring, &row).await?;
            next = Some((column(&row, "account_id"), column(&row, "key")));
        }
        Ok((moved, next))
    }

    async fn reencrypt_answer(&self, keyring: &Keyring, row: &Row) -> Result<u64, StoreError> {
        let old: &[u8] = column(row, "secret");
        let account_id = account(row);
        let owner = Owner { account_id: &account_id, webhook_id: WebhookId(column::<Uuid>(row, "webhook_id")) };
        if keyring.is_newest(old) {
            return Ok(0);
        }
        let Ok(secret) = keyring.open(old, owner) else { return Ok(0) };
        let new = keyring.seal(&secret, owner, rand::random());
        let key: &str = column(row, "key");
        self.execute(MOVE, &[&account_id.as_str(), &key, &old, &new]).await
    }
}

const FIND: &str = "
    SELECT request, answer, webhook_id, secret FROM kept_answers
    WHERE account_id = $1 AND key = $2 AND created_at > now() - interval '24 hours'";

/// A row that is there already is older than 24 hours.
const KEEP: &str = "
    INSERT INTO kept_answers (account_id, key, request, answer, webhook_id, secret) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (account_id, key) DO UPDATE SET request = excluded.request, answer = excluded.answer,
        webhook_id = excluded.webhook_id, secret = excluded.secret, created_at = excluded.created_at";

const FORGET: &str = "
    DELETE FROM kept_answers WHERE (account_id, key) IN (
        SELECT account_id, key FROM kept_answers WHERE created_at <= now() - interval '24 hours'
        ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED)";

const PAGE: &str = "
    SELECT account_id, key, webhook_id, secret FROM kept_answers
    WHERE (account_id, key) > ($1, $2) ORDER BY account_id, key LIMIT $3";

const MOVE: &str = "UPDATE kept_answers SET secret = $4 WHERE account_id = $1 AND key = $2 AND secret = $3";

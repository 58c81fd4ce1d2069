//! Keeps the answers to requests that came with an `Idempotency-Key`, so that a repeated request is not carried out again.
//!
//! The answer is written in the transaction of the request itself: either both are there or neither. Requests of one account
//! that have a key take turns, by the advisory lock of the account. An answer is kept for 24 hours, and only in an envelope: it
//! holds a secret, and perhaps a URL with a password.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::{Error, Row};

use super::known_columns::Addition;
use super::sql::{execute, query};
use super::{Store, StoreError, WAIT_FOR_STANDBY, account, column};
use crate::ids::AccountId;
use crate::secret::{AnswerOwner, Keyring, OpenError, SecretText};

/// The most keys of one account whose answers are kept. More are refused, so that nobody fills the database with them.
pub(crate) const MOST_KEYS: i64 = 10_000;
/// The number of answers that are deleted in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 1000;

/// The key of a request, and what was asked.
#[derive(Debug)]
pub(crate) struct Once {
    pub key: String,
    /// Hashes of the request, one with each secret of the API; the newest first.
    pub requests: Vec<Vec<u8>>,
}

/// A key, and the function that makes the answer from what the request has made.
pub(crate) type AnswerOnce<'a, T> = (&'a Once, &'a (dyn Fn(&T) -> String + Sync));

/// Why a request with a key is not carried out.
#[derive(Debug)]
pub(crate) enum NotDone {
    /// It was carried out before.
    Answered(KeptAnswer),
    /// The key came with another request before.
    OtherRequest,
    /// The account has used [`MOST_KEYS`] others within 24 hours. The oldest is forgotten after this time.
    TooManyKeys(Duration),
}

/// The row of a kept answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerId {
    pub account_id: AccountId,
    pub key: String,
}

impl fmt::Display for AnswerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of account `{}` with the Idempotency-Key `{}`", self.account_id, self.key)
    }
}

impl AnswerId {
    pub(super) fn of(row: &Row) -> Self {
        Self { account_id: account(row), key: column(row, "key") }
    }

    pub(super) fn owner(&self) -> AnswerOwner<'_> {
        AnswerOwner { account_id: &self.account_id, key: &self.key }
    }
}

/// The answer to the first request with a key.
#[derive(Debug)]
pub(crate) struct KeptAnswer {
    id: AnswerId,
    envelope: Vec<u8>,
}

impl KeptAnswer {
    /// The body of the answer.
    ///
    /// # Errors
    ///
    /// It cannot be decrypted.
    pub(crate) fn open(&self, keyring: &Keyring) -> Result<SecretText, OpenError> {
        keyring.open_answer(&self.envelope, self.id.owner())
    }
}

/// What [`Store::reencrypt_answers`] did with one page of answers.
#[derive(Debug, Default)]
pub(crate) struct ReencryptedAnswers {
    /// The number of answers that were encrypted with the newest key.
    pub moved: u64,
    /// Answers that no key decrypts.
    pub unreadable: Vec<AnswerId>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<AnswerId>,
}

/// Requests of one account that make webhooks, or have a key, take turns until their transactions end.
pub(super) async fn take_turns(transaction: &Transaction<'_>, account: &AccountId) -> Result<(), Error> {
    let lock = "SELECT pg_advisory_xact_lock(pg_catalog.hashtextextended($1::text, 1::bigint))";
    query(transaction, lock, &[&account.as_str()]).await.map(drop)
}

/// Why the request is not to be carried out; `None` if it is. The caller must have its turn.
pub(super) async fn find(
    transaction: &Transaction<'_>,
    account: &AccountId,
    once: &Once,
) -> Result<Option<NotDone>, Error> {
    let rows = query(transaction, FIND, &[&account.as_str(), &once.key]).await?;
    let Some(row) = rows.first() else { return refuse_if_too_many(transaction, account).await };
    // The answer must be as safe as after a commit of our own.
    transaction.batch_execute(WAIT_FOR_STANDBY).await?;
    if !once.requests.iter().any(|request| request == column::<&[u8]>(row, "request")) {
        return Ok(Some(NotDone::OtherRequest));
    }
    Ok(Some(NotDone::Answered(KeptAnswer { id: AnswerId::of(row), envelope: column(row, "envelope") })))
}

async fn refuse_if_too_many(transaction: &Transaction<'_>, account: &AccountId) -> Result<Option<NotDone>, Error> {
    let rows = query(transaction, COUNT_KEYS, &[&account.as_str(), &MOST_KEYS]).await?;
    if rows.first().is_none_or(|row| column::<i64>(row, "keys") < MOST_KEYS) {
        return Ok(None);
    }
    // Some of these may be past their 24 hours, and not deleted yet.
    let rows = query(transaction, COUNT_KEPT, &[&account.as_str()]).await?;
    let full = rows.first().filter(|row| column::<i64>(row, "kept") >= MOST_KEYS);
    Ok(full.map(|row| {
        let wait = Duration::try_from_secs_f64(column(row, "wait")).unwrap_or_default();
        NotDone::TooManyKeys(wait)
    }))
}

/// Keeps the answer to a request that is carried out in this transaction.
pub(super) async fn keep(
    transaction: &Transaction<'_>,
    keyring: &Keyring,
    account_id: &AccountId,
    once: &Once,
    body: &str,
) -> Result<(), Error> {
    let envelope = keyring.seal_answer(body, AnswerOwner { account_id, key: &once.key }, rand::random());
    let request = once.requests.first();
    execute(transaction, KEEP, &[&account_id.as_str(), &once.key, &request, &envelope]).await
}

impl Store {
    /// Whether the schema can keep answers. Before V14 it cannot, and a key has no effect, as in the release before.
    pub(super) async fn keeps_answers(&self) -> Result<bool, StoreError> {
        self.has(Addition::Answers).await
    }

    /// Deletes some of the answers that have been kept for 24 hours. Returns whether there may be more.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: the next call goes on.
    pub(crate) async fn forget_answers(&self) -> Result<bool, StoreError> {
        Ok(self.keeps_answers().await?
            && self.execute(FORGET, &[&FORGOTTEN_AT_ONCE]).await? >= FORGOTTEN_AT_ONCE as u64)
    }

    /// Encrypts kept answers with the newest key: those of one page, after a place. Answers that are past their 24 hours stay as
    /// they are.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only: repeat the page.
    pub(crate) async fn reencrypt_answers(
        &self,
        keyring: &Keyring,
        after: Option<&AnswerId>,
        page: i64,
    ) -> Result<ReencryptedAnswers, StoreError> {
        let mut done = ReencryptedAnswers::default();
        if !self.keeps_answers().await? {
            return Ok(done);
        }
        let (account_id, key) = after.map_or(("", ""), |after| (after.account_id.as_str(), &after.key));
        for row in self.query(PAGE, &[&account_id, &key, &page]).await? {
            let (id, old) = (AnswerId::of(&row), column::<&[u8]>(&row, "envelope"));
            if !keyring.is_newest(old) {
                match keyring.open_answer(old, id.owner()) {
                    Ok(body) => done.moved += self.move_answer(keyring, &id, old, &body).await?,
                    Err(_) => done.unreadable.push(id.clone()),
                }
            }
            done.next = Some(id);
        }
        Ok(done)
    }

    async fn move_answer(
        &self,
        keyring: &Keyring,
        id: &AnswerId,
        old: &[u8],
        body: &SecretText,
    ) -> Result<u64, StoreError> {
        let new = keyring.seal_answer(body.expose(), id.owner(), rand::random());
        self.execute(MOVE, &[&id.account_id.as_str(), &id.key, &old, &new]).await
    }
}

const FIND: &str = "
    SELECT account_id, key, request, envelope FROM kept_answers
    WHERE account_id = $1 AND key = $2 AND created_at > now() - interval '24 hours'";

/// The primary key alone answers this, so that it costs little for each request with a key.
const COUNT_KEYS: &str = "
    SELECT count(*) AS keys FROM (SELECT FROM kept_answers WHERE account_id = $1 LIMIT $2) AS counted";

const COUNT_KEPT: &str = "
    SELECT count(*) AS kept,
        coalesce(extract(epoch FROM min(created_at) + interval '24 hours' - now())::float8, 0) AS wait
    FROM kept_answers WHERE account_id = $1 AND created_at > now() - interval '24 hours'";

/// A row that is there already is older than 24 hours.
const KEEP: &str = "
    INSERT INTO kept_answers (account_id, key, request, envelope) VALUES ($1, $2, $3, $4)
    ON CONFLICT (account_id, key) DO UPDATE SET request = excluded.request, envelope = excluded.envelope,
        created_at = excluded.created_at";

const FORGET: &str = "
    DELETE FROM kept_answers WHERE (account_id, key) IN (
        SELECT account_id, key FROM kept_answers WHERE created_at <= now() - interval '24 hours'
        ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED)";

const PAGE: &str = "
    SELECT account_id, key, envelope FROM kept_answers
    WHERE (account_id, key) > ($1, $2) AND created_at > now() - interval '24 hours'
    ORDER BY account_id, key LIMIT $3";

const MOVE: &str = "UPDATE kept_answers SET envelope = $4 WHERE account_id = $1 AND key = $2 AND envelope = $3";

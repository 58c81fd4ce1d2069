//! Keeps webhooks, their deliveries and the webhook log in Postgres. No other module speaks to Postgres.
//!
//! A connection is held for one statement or one short transaction, and each is bounded in time, at the server and here. All
//! times in the database are Postgres's own; callers give durations.
//!
//! # Lock order
//!
//! Two transactions that wait for each other's locks are a deadlock: after a second, Postgres fails one of them. So every
//! transaction takes its locks in the order of this table, and a transaction that has a lock of one line never waits for a
//! lock of a line above. A statement with `SKIP LOCKED` never waits, so it may come at any place.
//!
//! | | lock | taken by |
//! |---|---|---|
//! | 1 | advisory locks | `record`, `is_recorded`: of the batch. `create_webhook_within`, `replace_secret` with a key: of the account. `resend`, `recover`: of old events, shared; `drop_expired`: the same, exclusive, while it marks partitions. |
//! | 2 | one row of `webhooks` | `resend`, `recover`: `FOR NO KEY UPDATE`, until they end. `update_webhook`: the same, until it ends, and no other lock. `replace_secret`, `end_previous_secret`, `reencrypt_page`: one statement each, and no other lock. `delete_webhook`: likewise, and then its rows of `paces` and `holds`. `hold` of a webhook: `FOR KEY SHARE`, and then its row of `holds`. `step_release`: `FOR NO KEY UPDATE`, until it ends; first it skips a locked row, later it waits. |
//! | 3 | `events`, by key | `record`: inserts. |
//! | 4 | `pending_deliveries`, by id: first inserts, then rows that are there | `record`, `recover`, `resend`: insert; then `record`, `recover`: lock, update and delete. `claim_due`, `release`, `close_ended`: skip locked rows. |
//! | 5 | `closed_deliveries`, by id | `record`, `close_ended`, `claim_due`: insert. `record`, `resend`: delete. `recover`, `drop_expired`: delete, and skip locked rows. |
//! | 6 | `kept_answers`, one row | `create_webhook_within`, `replace_secret` with a key. `forget_answers` skips locked rows. |
//! | 7 | rows of `webhooks`, skipping locked ones; then new `notices` | `record`, `record_health`: the health of webhooks. |
//! | 8 | `paces`, by webhook | `take_pace`: one statement, and no other lock. `delete_webhook`, `delete_webhooks`: delete. |
//! | 9 | `processes`, one's own row | `note_process`, `forget_process`: one statement each, and no other lock. `note_process` skips locked rows when it deletes old ones. |
//! | 10 | `holds`, one row | `hold`, `release_hold`: one statement. `delete_webhook`, `delete_webhooks`: delete. `step_release` skips a locked row. |
//!
//! - Rows that are there are locked by a statement of their own (`ORDER BY id FOR UPDATE`) before a transaction changes more
//!   than one of them: updates and deletes lock in the order of their plan.
//! - Inserts come before locks on rows that are there: an insert of an id that another transaction has just inserted waits for
//!   the end of that transaction, while a lock never waits for a row that is not committed.
//! - `record` writes health last and skips locked rows, so that results never wait for a webhook that is being changed.
//!
//! Migrations, grants and index builds hold one advisory lock of their own (`migration_lock`); retention and the making of
//! partitions have one each. None of these waits for a row that the table above names.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use crate::config::Database;
use crate::durations::Durations;
use crate::ids::AccountId;

mod abandoned;
mod activity;
mod address;
mod all_webhooks;
mod answers;
mod attempt_columns;
mod backends;
mod backlog;
mod by_connection;
mod claim;
mod connections;
mod days;
mod delivery_list;
mod delivery_probes;
mod delivery_rows;
mod due;
mod erase;
mod error;
mod headers_and_pace;
mod health;
mod holds;
mod hosts;
mod inactive_since;
mod indexes;
mod inspect;
mod keepalive;
mod kept_answers;
mod kept_delivery;
mod known_columns;
mod log;
mod login;
mod lookup;
mod migrate;
mod migration_lock;
mod migrations;
mod notices;
mod observations;
mod openings;
mod paces;
mod partitions;
mod pool_use;
mod processes;
mod record;
mod recover;
mod recycling;
mod reencrypt;
mod release;
mod resend;
mod retention;
mod rights;
mod schema;
#[cfg(test)]
mod scripted;
mod session;
mod signing_secrets;
mod sql;
mod stats;
mod tasks;
mod tls;
mod traces;
mod traps;
mod turn_result;
mod webhook_version;
mod webhooks;

pub(crate) use activity::{Activity, COUNTED_FOR_ONE};
pub use backends::SessionFault;
pub(crate) use backlog::{Backlog, Failing, FailingWebhook, Waiting, WaitingAccount, WaitingWebhook};
pub use claim::{Claimed, Claims, Room, Taken};
pub(crate) use days::LogSpan;
pub(crate) use delivery_list::PageBounds;
pub use delivery_rows::DeliveryRow;
pub use due::{ClosedAtOnce, DueWebhook, Ended, FoundDue, Owed, Pages, ReadUntil, Swept};
pub(crate) use erase::{Erased, Erasure};
pub use error::StoreError;
pub(crate) use indexes::INDEXES;
pub use indexes::Index;
pub(crate) use inspect::{AnswerCheck, LockRoom, SecretCheck, Server, SnapshotHolder};
pub(crate) use kept_answers::{AnswerId, MOST_KEYS, NotDone, Once};
pub(crate) use kept_delivery::KeptDelivery;
pub use log::LogRow;
pub(crate) use log::{LogFilter, LogStatus};
pub use lookup::Lookup;
pub(crate) use migrate::Unmigrated;
pub(crate) use notices::Notice;
pub use observations::Observations;
pub(crate) use paces::{Ahead, LONGEST_AHEAD};
pub use paces::{Granted, Pace, PaceAsk};
pub(crate) use pool_use::{PoolUse, WAITS};
pub(crate) use processes::OwnProcess;
pub use processes::SeenProcess;
pub use recover::{ClosedSpan, RecoverError, RecoverySpan};
pub(crate) use recover::{Recovery, Requested, YEARS};
pub(crate) use release::{Locked, Reached, ReleaseStep};
pub(crate) use retention::{DropError, Dropped};
pub(crate) use rights::{GrantError, Rights};
pub(crate) use schema::Schema;
pub(crate) use signing_secrets::{NewSecret, Replaced};
pub(crate) use stats::{Bucket, Window};
pub use turn_result::{Ending, TurnResult};
pub use webhooks::{Changed, Deleted, WebhookChange};
pub(crate) use webhooks::{Created, NewWebhook, Position};

use connections::{Connection, Connections};

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];
/// Parameters with their types, for [`Store::query_planned_anew`].
type TypedParams<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Whose rows a statement may use. The account is a condition of the statement itself, so that no check before it can be
/// forgotten.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Those of one account. Webhooks of other accounts count as unknown.
    Account(&'a AccountId),
    /// Those of all accounts, for operators and workers.
    Everyone,
}

impl Scope<'_> {
    /// The value of a parameter `$n::text`; null stands for all accounts.
    fn account(&self) -> Option<&str> {
        match self {
            Self::Account(account) => Some(account.as_str()),
            Self::Everyone => None,
        }
    }
}

/// The database, with a pool of connections.
#[derive(Clone)]
pub struct Store {
    connections: Arc<Connections>,
    /// The days of the log, and when they were read.
    log_days: Arc<Mutex<Option<(Instant, days::LogDays)>>>,
    kept: Option<abandoned::Kept>,
    /// Whether a write has begun whose end is not known.
    unconfirmed: Option<Arc<AtomicBool>>,
}

impl Store {
    /// Opens no connection yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Address`] if `DATABASE_URL` cannot be used.
    pub fn new(settings: &Database) -> Result<Self, StoreError> {
        Ok(Self {
            connections: Connections::new(settings)?.into(),
            log_days: Arc::default(),
            kept: None,
            unconfirmed: None,
        })
    }

    /// Returns the same store with a value, such as a permit, that is dropped when the last statement of the returned store has
    /// ended at the server, even if its caller went away before. The value is dropped earlier in two cases: the server does
    /// not confirm the end within seconds; or the statement is a write, whose commit may wait for hours.
    pub(crate) fn keeping(&self, kept: impl Any + Send + Sync) -> Self {
        Self { kept: Some(Arc::new(kept)), ..self.clone() }
    }

    /// Returns the same store, which sets `unconfirmed` while it is not known whether a write was carried out: from its
    /// beginning until its answer. It stays set if the answer does not come.
    pub(crate) fn noting(&self, unconfirmed: &Arc<AtomicBool>) -> Self {
        Self { unconfirmed: Some(unconfirmed.clone()), ..self.clone() }
    }

    /// Opens two sessions and compares them, to find a pooler that exchanges sessions before it does harm.
    ///
    /// # Errors
    ///
    /// [`StoreError::Sessions`] with such a pooler; [`StoreError::Unavailable`] if no session could be opened.
    pub(crate) async fn check_sessions(&self) -> Result<(), StoreError> {
        self.connections.check_sessions().await
    }

    /// Runs a trivial statement.
    ///
    /// # Errors
    ///
    /// The database is not available or busy.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.query("SELECT 1", &[]).await.map(drop)
    }

    /// Whether Postgres has answered a statement within this time, or answers one now. A database all of whose connections are
    /// busy counts as answering.
    pub(crate) async fn answers_within(&self, recently: Duration) -> bool {
        self.connections.last_answer().is_some_and(|last| last.elapsed() <= recently)
            || matches!(tokio::time::timeout(recently, self.ping()).await, Ok(Ok(())))
            || self.connections.are_all_busy()
    }

    /// Whether Postgres has answered a statement since this time.
    pub(crate) fn has_answered_since(&self, time: Instant) -> bool {
        self.connections.last_answer().is_some_and(|last| last >= time)
    }

    /// How many connections of the pool are lent.
    pub(crate) fn pool_use(&self) -> PoolUse {
        self.connections.pool.used()
    }

    /// The waits for a connection so far.
    pub(crate) fn connection_waits(&self) -> &Durations {
        &self.connections.pool.waits
    }

    /// Whether a session that is opened now may write.
    ///
    /// # Errors
    ///
    /// The database is not available or busy.
    pub(crate) async fn takes_writes(&self) -> Result<bool, StoreError> {
        // The first answer may come from an older session. If that is read-only, all are renewed, and a new one is asked.
        Ok(self.may_write().await? || self.may_write().await?)
    }

    async fn may_write(&self) -> Result<bool, StoreError> {
        let mut connection = self.connection().await?;
        let statement =
            connection.prepare("SELECT current_setting('transaction_read_only') = 'off' AS writable").await?;
        let rows = connection.ask(async |client: &mut Object| client.query(&statement, &[]).await).await?;
        let writable = rows.first().is_some_and(|row| column(row, "writable"));
        if !writable {
            connection.discard();
            self.connections.renew();
        }
        Ok(writable)
    }

    async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.connection().await?;
        let statement = connection.prepare(sql).await?;
        connection.ask(async |client: &mut Object| client.query(&statement, params).await).await
    }

    /// As `query`, but the statement is planned for these very values, so that it locks only the partitions that these values
    /// may be in. The plan of a prepared statement may be one for all values, and then locks every partition.
    async fn query_planned_anew(&self, sql: &str, params: TypedParams<'_>) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.connection().await?;
        connection.ask(async |client: &mut Object| client.query_typed(sql, params).await).await
    }

    /// As `query_planned_anew`, for rows that show that work was done already, so that it is not done again. Returns only when
    /// these rows are as safe as after a commit of our own: see [`WAIT_FOR_STANDBY`].
    async fn query_durable(&self, sql: &str, params: TypedParams<'_>) -> Result<Vec<Row>, StoreError> {
        let ask = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let rows = transaction.query_typed(sql, params).await?;
            if !rows.is_empty() {
                transaction.batch_execute(WAIT_FOR_STANDBY).await?;
            }
            transaction.commit().await?;
            Ok(rows)
        };
        self.write(ask).await
    }

    /// As `query`, for a statement that writes.
    async fn query_to_write(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let write = async |client: &mut Object| {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, params).await
        };
        self.write(write).await
    }

    async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, StoreError> {
        let write = async |client: &mut Object| {
            let statement = client.prepare_cached(sql).await?;
            client.execute(&statement, params).await
        };
        self.write(write).await
    }

    /// Runs a transaction, or a statement that writes. It is not cancelled if the caller goes away: see
    /// [`Abandoned::LeftAlone`].
    ///
    /// [`Abandoned::LeftAlone`]: abandoned::Abandoned::LeftAlone
    async fn write<T>(&self, work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>) -> Result<T, StoreError> {
        let (mut connection, room) = self.connections.lend_to_write().await?;
        self.note_unconfirmed(true);
        let written = connection.write(room, work).await;
        // After every other error it is known that nothing was committed.
        self.note_unconfirmed(matches!(written, Err(StoreError::Unavailable(_))));
        written
    }

    fn note_unconfirmed(&self, is_unconfirmed: bool) {
        if let Some(unconfirmed) = &self.unconfirmed {
            unconfirmed.store(is_unconfirmed, Ordering::Relaxed);
        }
    }

    async fn connection(&self) -> Result<Connection, StoreError> {
        Ok(self.connections.lend().await?.keeping(self.kept.clone()))
    }

    /// A session outside the pool, with the usual settings. A caller that needs others, such as a longer statement timeout, sets
    /// them.
    async fn open_session(&self) -> Result<Client, StoreError> {
        self.connections.open_session().await
    }
}

/// Makes the COMMIT of a transaction that only reads wait for the synchronous standby, as if it had written: it writes a
/// message to the WAL, so the standby then has everything that was committed before. A primary that was restarted shows rows
/// that the standby may not have yet; they are lost if the standby takes over. On a standby `pg_current_xact_id` fails, as
/// writes do.
const WAIT_FOR_STANDBY: &str = "SELECT pg_current_xact_id(), pg_logical_emit_message(true, 'penr-webhooks', '')";

/// The account of a row.
fn account(row: &Row) -> AccountId {
    AccountId::parse(column(row, "account_id")).expect("only valid account ids are stored")
}

/// A column with a count.
fn count(row: &Row, name: &str) -> u64 {
    u64::try_from(column::<i64>(row, name)).expect("counts are not negative")
}

/// A column whose type the schema fixes.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> T {
    row.try_get(name).unwrap_or_else(|error| panic!("the schema defines column {name}: {error}"))
}

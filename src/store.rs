//! Keeps webhooks, what is owed to them and their log in Postgres. The only door to it.
//!
//! No connection is held longer than one statement or one short transaction, and each of those is bounded in time on
//! both sides. All times in the database are Postgres's own; callers hand over durations.
//!
//! # The order of locks
//!
//! Two transactions that wait for each other's rows are a deadlock, which Postgres ends after a second by failing one.
//! So every transaction locks rows in this order, and whoever holds a later row never waits for an earlier one:
//!
//! 1. the `webhooks` row: resending, recovering, changing and deleting a webhook begin with it;
//! 2. `pending_deliveries`: first inserts with `ON CONFLICT DO NOTHING`, in the order of their ids, then rows that are
//!    there, in the order of their ids (`ORDER BY id FOR UPDATE`, before whatever changes them);
//! 3. `closed_deliveries`, in the order of their ids.
//!
//! The record transaction has no use for the first place: it reaches webhooks last, and skips those that somebody holds
//! (`FOR UPDATE SKIP LOCKED`). Claims skip pending rows that somebody holds. Skipping never waits, so it may come at any
//! place. Inserts come before locks because an insert of an id that another transaction has just inserted waits for that
//! transaction's end, while a lock never waits for a row that is not committed yet.

use std::any::Any;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use crate::config::Database;
use crate::ids::AccountId;

mod abandoned;
mod address;
mod answers;
mod backends;
mod by_connection;
mod claim;
mod connections;
mod days;
mod due;
mod health;
mod hosts;
mod inspect;
mod log;
mod login;
mod lookup;
mod migrate;
mod notices;
mod openings;
mod partitions;
mod record;
mod recover;
mod reencrypt;
mod resend;
mod rights;
mod schema;
#[cfg(test)]
mod scripted;
mod session;
mod stats;
mod tasks;
mod tls;
mod traps;
mod turn_result;
mod webhooks;

pub use backends::SessionFault;
pub use claim::{Claimed, Claims, Room, Taken};
pub use due::{ClosedAtOnce, DueWebhook, Ended, FoundDue, Pages, ReadUntil, Swept};
pub use health::Observations;
pub use inspect::{LockRoom, SecretCheck, Server, SnapshotHolder};
pub use log::{LogFilter, LogPage, LogRow, LogStatus};
pub use lookup::Lookup;
pub use notices::Notice;
pub use partitions::{DropError, Dropped};
pub use recover::{ClosedSpan, RecoverError, Recovery, Since, YEARS};
pub use reencrypt::Reencrypted;
pub use rights::{GrantError, Rights};
pub use schema::Schema;
pub use stats::{Bucket, Window};
pub use turn_result::{Ending, TurnResult};
pub use webhooks::{Activity, Changed, Created, Deleted, NewWebhook, Position, WebhookChange};

use abandoned::Kept;
use connections::{Connection, Connections};

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];
/// The same with their types, for [`Store::query_planned_anew`].
type TypedParams<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// What to do about a statement that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres is not there, not answering or out of room: try again later, nothing is lost.
    #[error("the database is not available")]
    Unavailable(#[source] anyhow::Error),
    /// Postgres is there, but somebody else stood in the way of this statement, or it took too long: try again soon,
    /// with less at a time if it can be split.
    #[error("the database is busy")]
    Busy(#[source] anyhow::Error),
    /// Postgres may only be read for the time being: try again later, nothing is lost.
    #[error("the database refuses writes")]
    ReadOnly(#[source] anyhow::Error),
    /// Postgres refuses this data: trying again will not help.
    #[error("the database refuses the data")]
    Refused(#[source] anyhow::Error),
    /// Something between us and Postgres does not keep our sessions: trying again helps once somebody has set it right.
    #[error("the database's sessions cannot be used: {0}; {advice}", advice = SessionFault::ADVICE)]
    Sessions(SessionFault),
    /// The role lacks a right: trying again helps once somebody has granted it.
    #[error("the database does not permit it")]
    Denied(#[source] anyhow::Error),
    /// Postgres answers, but its schema lacks a table, a column, a function or a partition that this program needs.
    #[error("the database's schema is not the one needed")]
    NotMigrated(#[source] anyhow::Error),
    /// The schema is not one of ours: somebody else must decide what becomes of it.
    #[error("the database's schema was not made by this program's migrations")]
    Schema(#[source] anyhow::Error),
    /// Another role's code would run with our rights: the operator must remove it first.
    #[error("the database's schema is not safe to migrate")]
    Unsafe(#[source] anyhow::Error),
    /// The address in the settings cannot be used at all.
    #[error("{0} cannot be used")]
    Address(String, #[source] anyhow::Error),
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => Self::of_refusal(refusal),
            None => Self::Unavailable(error.into()),
        }
    }
}

impl StoreError {
    /// What Postgres answered instead of doing it.
    fn of_refusal(refusal: &DbError) -> Self {
        // Without the detail, which may repeat a row.
        let cause = anyhow::anyhow!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
        // A missing partition is reported as a check that no constraint makes.
        if refusal.code() == &SqlState::CHECK_VIOLATION && refusal.constraint().is_none() {
            return Self::NotMigrated(cause.context("run `penr-webhooks migrate` to make partitions"));
        }
        match &refusal.code().code()[..2] {
            // Data exceptions, integrity violations, and what a trigger raises.
            "22" | "23" | "P0" => Self::Refused(cause),
            _ if refusal.code() == &SqlState::QUERY_CANCELED => Self::Busy(OutOfTime(cause.to_string()).into()),
            _ if PASSING.contains(refusal.code()) => Self::Busy(cause),
            _ if refusal.code() == &SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly(cause),
            _ if refusal.code() == &SqlState::INSUFFICIENT_PRIVILEGE => {
                let cure = "the owner of the tables gives it with `penr-webhooks migrate --grant-to ROLE`";
                Self::Denied(anyhow::anyhow!("{cause}; {cure}"))
            }
            _ if NOT_MIGRATED.contains(refusal.code()) => {
                Self::NotMigrated(cause.context("run `penr-webhooks migrate` first"))
            }
            _ => Self::Unavailable(cause),
        }
    }
}

const NOT_MIGRATED: [SqlState; 3] =
    [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_FUNCTION];

/// What the statements of others cause: a deadlock, a conflict, a lock held for long, a statement that ran out of time.
const PASSING: [SqlState; 4] = [
    SqlState::T_R_DEADLOCK_DETECTED,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::QUERY_CANCELED,
];

/// The cause of an error when a statement, or a transaction, was ended because of the time it took.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OutOfTime(String);

impl StoreError {
    /// Whether less at a time may succeed where this failed: it was ended because of the time it took, which is seen
    /// from our side also when the database is away.
    pub fn ran_out_of_time(&self) -> bool {
        matches!(self, Self::Busy(cause) | Self::Unavailable(cause) if cause.is::<OutOfTime>())
    }
}

/// Whose rows a statement sees. Part of the statement itself, so that no check before it can be forgotten.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Those of one account: another's do not exist.
    Account(&'a AccountId),
    /// All, for operators and workers.
    Everyone,
}

impl Scope<'_> {
    /// As `$n::text`: null sees all.
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
    /// When they were asked for.
    log_days: Arc<Mutex<Option<(Instant, days::LogDays)>>>,
    kept: Option<Kept>,
    /// The schema was seen to have a place for pauses (V10).
    keeps_pauses: Arc<AtomicBool>,
}

impl Store {
    /// Opens no connection yet.
    pub fn new(settings: &Database) -> Result<Self, StoreError> {
        Ok(Self {
            connections: Connections::new(settings)?.into(),
            log_days: Arc::default(),
            kept: None,
            keeps_pauses: Arc::default(),
        })
    }

    /// The same store, which does not drop this before the last question that it is asked has ended at the server, also one
    /// whose caller does not wait for the answer. A server that does not say so within seconds is not waited for, nor is a
    /// write, whose commit may wait for a standby for hours.
    pub fn keeping(&self, kept: impl Any + Send + Sync) -> Self {
        Self { kept: Some(Arc::new(kept)), ..self.clone() }
    }

    /// Compares two sessions, so that a pooler that does not keep them is found at once and not by what it breaks. For
    /// whatever runs for long, or is asked what is the matter.
    pub async fn check_sessions(&self) -> Result<(), StoreError> {
        self.connections.check_sessions().await
    }

    /// Asks Postgres for an answer, to know that it is there.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.query("SELECT 1", &[]).await.map(drop)
    }

    /// Whether Postgres has answered anything within this time, or does so when asked. One that is only busy does.
    pub async fn answers_within(&self, recently: Duration) -> bool {
        self.connections.last_answer().is_some_and(|last| last.elapsed() <= recently)
            || matches!(tokio::time::timeout(recently, self.ping()).await, Ok(Ok(())))
            || self.connections.are_all_busy()
    }

    /// Whether Postgres has answered anything since.
    pub fn has_answered_since(&self, time: Instant) -> bool {
        self.connections.last_answer().is_some_and(|last| last >= time)
    }

    /// Whether a session opened now may write.
    pub async fn takes_writes(&self) -> Result<bool, StoreError> {
        // The first answer may come from one opened at another time.
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

    /// As `query`, but the statement is planned for these very values. A prepared statement's plan may be one for all
    /// values, and then locks every partition of a table; this one locks only those that its values may be in.
    async fn query_planned_anew(&self, sql: &str, params: TypedParams<'_>) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.connection().await?;
        connection.ask(async |client: &mut Object| client.query_typed(sql, params).await).await
    }

    /// As `query_planned_anew`, for rows that decide that nothing is left to do: returns once they are as safe as after a
    /// commit of our own. See [`AS_A_WRITE`].
    async fn query_kept(&self, sql: &str, params: TypedParams<'_>) -> Result<Vec<Row>, StoreError> {
        let ask = async |client: &mut Object| {
            let transaction = client.transaction().await?;
            let rows = transaction.query_typed(sql, params).await?;
            if !rows.is_empty() {
                transaction.batch_execute(AS_A_WRITE).await?;
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

    /// A transaction, or a statement that writes. It is not cancelled, whoever gives it up: see [`Abandoned::LeftAlone`].
    ///
    /// [`Abandoned::LeftAlone`]: abandoned::Abandoned::LeftAlone
    async fn write<T>(&self, work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>) -> Result<T, StoreError> {
        let (mut connection, room) = self.connections.lend_to_write().await?;
        connection.write(room, work).await
    }

    async fn connection(&self) -> Result<Connection, StoreError> {
        Ok(self.connections.lend().await?.keeping(self.kept.clone()))
    }

    /// A connection outside the pool, for what needs a session of its own. It is set up as all are; who needs other
    /// settings, such as more time for a statement or for a lock, sets them.
    async fn own_session(&self) -> Result<Client, StoreError> {
        self.connections.own_session().await
    }
}

/// The number of an advisory lock, as SQL. Advisory locks belong to the whole database: with this number, installations
/// in two schemas do not wait for each other. In `public` it is the one that releases before use in all schemas.
macro_rules! lock_of_schema {
    ($number:literal, $schema:literal) => {
        concat!(
            $number,
            "::bigint # CASE ",
            $schema,
            "::text WHEN 'public' THEN 0::bigint ELSE pg_catalog.hashtextextended(",
            $schema,
            "::text, 0::bigint) END"
        )
    };
}

use lock_of_schema;

/// Makes COMMIT wait for the synchronous standby, as after a write, even if the transaction only read: the message is
/// written to the WAL, and the standby then has all that was committed before it. A primary that was restarted shows rows
/// that no standby has yet; whoever trusts them loses them when a standby takes over. A standby refuses
/// `pg_current_xact_id`, as it refuses writes.
const AS_A_WRITE: &str = "SELECT pg_current_xact_id(), pg_logical_emit_message(true, 'penr-webhooks', '')";

/// The account that a row belongs to.
fn account(row: &Row) -> AccountId {
    AccountId::parse(column(row, "account_id")).expect("only valid account ids are stored")
}

/// A count, which is never negative.
fn count(row: &Row, name: &str) -> u64 {
    u64::try_from(column::<i64>(row, name)).expect("counts are not negative")
}

/// A column whose type the schema fixes.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> T {
    row.try_get(name).unwrap_or_else(|error| panic!("the schema defines column {name}: {error}"))
}

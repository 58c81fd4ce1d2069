//! Why a statement did not succeed: one variant for each reaction of a caller.

use tokio_postgres::error::{DbError, SqlState};

use super::backends::SessionFault;

/// Why a statement did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached, does not answer or has no room: try again later.
    #[error("the database is not available")]
    Unavailable(#[source] anyhow::Error),
    /// Postgres answers, but another transaction was in the way, no connection was free, or the statement took too long: try
    /// again soon, with less at a time if it can be split.
    #[error("the database is busy")]
    Busy(#[source] anyhow::Error),
    /// Postgres refuses writes for now, because it is a standby or was set so: try again later.
    #[error("the database refuses writes")]
    ReadOnly(#[source] anyhow::Error),
    /// Postgres refuses this data: trying again does not help.
    #[error("the database refuses the data")]
    Refused(#[source] anyhow::Error),
    /// A pooler between us and Postgres exchanges our sessions: an operator must change its mode.
    #[error("the database's sessions cannot be used: {0}; {advice}", advice = SessionFault::ADVICE)]
    Sessions(SessionFault),
    /// The role lacks a right: the owner of the tables must grant it.
    #[error("the database does not permit it")]
    Denied(#[source] anyhow::Error),
    /// The schema lacks a table, a column, a function or a partition that this program needs: run `migrate`.
    #[error("the database's schema is not the one needed")]
    NotMigrated(#[source] anyhow::Error),
    /// The schema holds another product's tables, or was changed by hand: an operator must decide what to do.
    #[error("the database's schema was not made by this program's migrations")]
    Schema(#[source] anyhow::Error),
    /// The code of another role would run with our rights: an operator must remove it first.
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
    /// Maps an error that Postgres returned.
    pub(super) fn of_refusal(refusal: &DbError) -> Self {
        // The detail is left out: it may repeat a row.
        let cause = anyhow::anyhow!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
        // Postgres reports a missing partition as a violated check without a constraint's name.
        if refusal.code() == &SqlState::CHECK_VIOLATION && refusal.constraint().is_none() {
            return Self::NotMigrated(cause.context("run `penr-webhooks migrate` to make partitions"));
        }
        match &refusal.code().code()[..2] {
            // Data exceptions, integrity violations, and exceptions of triggers and functions.
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

/// Errors that other transactions cause: a deadlock, a conflict, a lock that is held for long, a statement timeout.
const PASSING: [SqlState; 4] = [
    SqlState::T_R_DEADLOCK_DETECTED,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::QUERY_CANCELED,
];

/// The cause of an error if a statement, or a transaction, took too long.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct OutOfTime(pub(super) String);

impl StoreError {
    /// Whether the statement failed because it took too long, so that less at a time may succeed. A database that does not
    /// answer looks the same.
    pub fn ran_out_of_time(&self) -> bool {
        matches!(self, Self::Busy(cause) | Self::Unavailable(cause) if cause.is::<OutOfTime>())
    }
}

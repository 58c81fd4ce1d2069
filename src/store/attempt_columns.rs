//! Which columns the log has. A worker and an API go on with the schema of the release before until `migrate` has run.

use std::sync::atomic::Ordering;

use deadpool_postgres::Transaction;
use tokio_postgres::{Error, Row};

use super::{Store, StoreError, column};
use crate::delivery::ErrorDetail;

/// The columns of `attempts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptColumns {
    All,
    /// Without `signed_at`, `error_detail`, `response_headers` and `response_truncated`: these are not kept.
    BeforeV12,
}

impl AttemptColumns {
    /// A column that V12 added, for the list of a SELECT. It is null where the schema does not have it.
    pub(super) fn read(self, column: &str, type_name: &str) -> String {
        match self {
            Self::All => format!("{column}::{type_name} AS {column}"),
            Self::BeforeV12 => format!("NULL::{type_name} AS {column}"),
        }
    }
}

/// Reads the column `error_detail`. A cause that only a newer release knows is left out.
pub(super) fn error_detail(row: &Row) -> Option<ErrorDetail> {
    column::<Option<&str>>(row, "error_detail").and_then(ErrorDetail::from_name)
}

/// Statements that depend on the columns, made once for either case.
pub(super) struct ByColumns<T> {
    all: T,
    before_v12: T,
}

impl<T> ByColumns<T> {
    pub(super) fn new(make: impl Fn(AttemptColumns) -> T) -> Self {
        Self { all: make(AttemptColumns::All), before_v12: make(AttemptColumns::BeforeV12) }
    }

    pub(super) fn of(&self, columns: AttemptColumns) -> &T {
        match columns {
            AttemptColumns::All => &self.all,
            AttemptColumns::BeforeV12 => &self.before_v12,
        }
    }
}

impl Store {
    /// The columns that a transaction finds. Costs a query only until they are known to be there.
    pub(super) async fn attempt_columns(&self, transaction: &Transaction<'_>) -> Result<AttemptColumns, Error> {
        match self.knows_causes() {
            true => Ok(AttemptColumns::All),
            false => Ok(self.note_causes(Some(&transaction.query_one(HAS_CAUSES, &[]).await?))),
        }
    }

    /// The columns that can be read.
    pub(super) async fn readable_attempt_columns(&self) -> Result<AttemptColumns, StoreError> {
        match self.knows_causes() {
            true => Ok(AttemptColumns::All),
            false => Ok(self.note_causes(self.query(HAS_CAUSES, &[]).await?.first())),
        }
    }

    fn knows_causes(&self) -> bool {
        self.connections.known_columns().causes.load(Ordering::Relaxed)
    }

    fn note_causes(&self, found: Option<&Row>) -> AttemptColumns {
        let has_causes = found.is_some_and(|row| column(row, "has_causes"));
        self.connections.known_columns().causes.store(has_causes, Ordering::Relaxed);
        if has_causes { AttemptColumns::All } else { AttemptColumns::BeforeV12 }
    }
}

const HAS_CAUSES: &str = "SELECT EXISTS (SELECT FROM pg_attribute
    WHERE attrelid = 'attempts'::regclass::oid AND attname = 'signed_at'::name AND NOT attisdropped) AS has_causes";

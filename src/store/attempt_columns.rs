//! Which columns the log has. A worker and an API go on with the schema of the release before until `migrate` has run.

use deadpool_postgres::Transaction;
use tokio_postgres::{Error, Row};

use super::known_columns::Addition;
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
    fn of(has_causes: bool) -> Self {
        if has_causes { Self::All } else { Self::BeforeV12 }
    }

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
        Ok(AttemptColumns::of(self.has_within(transaction, Addition::Causes).await?))
    }

    /// The columns that can be read.
    pub(super) async fn readable_attempt_columns(&self) -> Result<AttemptColumns, StoreError> {
        Ok(AttemptColumns::of(self.has(Addition::Causes).await?))
    }
}

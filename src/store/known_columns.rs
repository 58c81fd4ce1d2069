//! Which additions to the schema it is known to have. The schema may be that of an earlier release until `migrate` has run. A
//! statement that uses an addition asks first, and does without if it is not there.

use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::Transaction;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Row};

use super::{Store, StoreError, column};

/// What a migration added, and what this program can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addition {
    /// `webhooks.paused_until` (V10).
    Pauses,
    /// `webhooks.revision` (V11).
    Revisions,
    /// `attempts.signed_at` and the other columns of V12.
    Causes,
    /// The table `kept_answers` with its column `envelope` (V14).
    Answers,
    /// `webhooks.inactive_since` and `inactive_activation` (V15).
    InactiveSince,
    /// The headers and the pace of a webhook: columns of `webhooks`, and the table `paces` (V16).
    HeadersAndPace,
    /// The table `processes` (V17).
    Processes,
    /// The table `holds` (V17).
    Holds,
    /// `events.traceparent` (V17).
    Traceparents,
}

impl Addition {
    /// In the order of the variants.
    const ALL: [Self; 9] = [
        Self::Pauses,
        Self::Revisions,
        Self::Causes,
        Self::Answers,
        Self::InactiveSince,
        Self::HeadersAndPace,
        Self::Processes,
        Self::Holds,
        Self::Traceparents,
    ];

    /// A table and a column that come with it.
    fn sign(self) -> (&'static str, &'static str) {
        match self {
            Self::Pauses => ("webhooks", "paused_until"),
            Self::Revisions => ("webhooks", "revision"),
            Self::Causes => ("attempts", "signed_at"),
            Self::Answers => ("kept_answers", "envelope"),
            Self::InactiveSince => ("webhooks", "inactive_activation"),
            Self::HeadersAndPace => ("webhooks", "max_per_second"),
            Self::Processes => ("processes", "figures"),
            Self::Holds => ("holds", "released_at"),
            Self::Traceparents => ("events", "traceparent"),
        }
    }
}

/// The additions that a process has seen. One that was not seen is looked for again each time.
#[derive(Debug, Default)]
pub(super) struct KnownColumns([AtomicBool; Addition::ALL.len()]);

impl KnownColumns {
    fn flag(&self, addition: Addition) -> &AtomicBool {
        &self.0[addition as usize]
    }

    /// Forgets all if a statement failed for want of one: a standby may have taken over that lacks a migration.
    pub(super) fn forget_if_missing(&self, error: &Error) {
        if error.code().is_some_and(|code| [SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_TABLE].contains(code)) {
            self.0.iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
        }
    }
}

impl Store {
    /// Whether the schema has an addition. Costs a query only until it is known to be there.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or not migrated.
    pub(super) async fn has(&self, addition: Addition) -> Result<bool, StoreError> {
        if self.knows(addition) {
            return Ok(true);
        }
        let (table, column_name) = addition.sign();
        Ok(self.note(addition, self.query(HAS_COLUMN, &[&table, &column_name]).await?.first()))
    }

    /// The same within a transaction.
    pub(super) async fn has_within(&self, transaction: &Transaction<'_>, addition: Addition) -> Result<bool, Error> {
        if self.knows(addition) {
            return Ok(true);
        }
        let (table, column_name) = addition.sign();
        let row = transaction.query_one(HAS_COLUMN, &[&table, &column_name]).await?;
        Ok(self.note(addition, Some(&row)))
    }

    fn knows(&self, addition: Addition) -> bool {
        self.connections.known_columns().flag(addition).load(Ordering::Relaxed)
    }

    fn note(&self, addition: Addition, found: Option<&Row>) -> bool {
        let is_there = found.is_some_and(|row| column(row, "is_there"));
        self.connections.known_columns().flag(addition).store(is_there, Ordering::Relaxed);
        is_there
    }
}

const HAS_COLUMN: &str = "SELECT EXISTS (SELECT FROM pg_attribute
    WHERE attrelid = to_regclass($1::text)::oid AND attname = ($2::text)::name AND NOT attisdropped) AS is_there";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_addition_has_a_flag_of_its_own() {
        for (position, addition) in Addition::ALL.into_iter().enumerate() {
            assert_eq!(addition as usize, position);
        }
    }
}

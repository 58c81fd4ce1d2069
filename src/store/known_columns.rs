//! Caches which columns and tables the schema is known to have. The schema may be that of an earlier release until `migrate` has run.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// The columns that a process was seen to use. A column that is not known is looked for again each time.
#[derive(Debug, Default)]
pub(super) struct KnownColumns {
    /// `webhooks.paused_until` (V10).
    pub pauses: AtomicBool,
    /// `webhooks.revision` (V11).
    pub revisions: AtomicBool,
    /// `attempts.signed_at` and the other columns of V12.
    pub causes: AtomicBool,
    /// The table `kept_answers` with its column `envelope` (V14).
    pub answers: AtomicBool,
    /// `webhooks.inactive_since` and `inactive_activation` (V15).
    pub inactive_since: AtomicBool,
}

impl KnownColumns {
    /// Forgets all if a statement failed for want of one: a standby may have taken over that lacks a migration.
    pub(super) fn forget_if_missing(&self, error: &Error) {
        if error.code().is_some_and(|code| [SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_TABLE].contains(code)) {
            self.pauses.store(false, Ordering::Relaxed);
            self.revisions.store(false, Ordering::Relaxed);
            self.answers.store(false, Ordering::Relaxed);
            self.causes.store(false, Ordering::Relaxed);
            self.inactive_since.store(false, Ordering::Relaxed);
        }
    }
}

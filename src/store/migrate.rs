//! Brings the schema up to date, also when several replicas try at once.

use std::time::Duration;

use refinery::error::Kind;
use tokio_postgres::Client;

use super::{Store, StoreError, column, partitions};

/// Any number, as long as nothing else in the database uses it as an advisory lock.
const LOCK: i64 = 0x7065_6e72_7768_6b73;
/// That a replica waits for another.
const BOUND: Duration = Duration::from_secs(300);
/// The oldest schema that serves a worker: it may be rolled out before the newest is there.
const OLDEST: i32 = 1;

/// Partitions are made this many days ahead.
pub(super) const DAYS_AHEAD: i32 = 7;

mod embedded {
    refinery::embed_migrations!("src/store/migrations");
}

/// The version of the database's schema against the one this program was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    Missing,
    Older { version: i32, ours: i32 },
    Current { version: i32 },
    Newer { version: i32, ours: i32 },
}

impl Store {
    /// Applies what is missing and returns the names of what was applied. One replica works, the others wait for it.
    /// An index over a long log takes as long as it takes.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let late = |_| StoreError::Unavailable(anyhow::anyhow!("another migration did not end within 5 minutes"));
        let mut client = tokio::time::timeout(BOUND, self.session_that_migrates()).await.map_err(late)??;
        // A newer replica may have migrated further: its schema serves the previous version too.
        let runner = embedded::migrations::runner().set_abort_missing(false);
        let report = runner.run_async(&mut client).await.map_err(|error| match error.kind() {
            Kind::Connection(_, cause) => match cause.downcast_ref().and_then(tokio_postgres::Error::as_db_error) {
                Some(refusal) => StoreError::of_refusal(refusal),
                None => StoreError::Unavailable(anyhow::Error::new(error).context("the migration failed")),
            },
            _ => StoreError::Schema(error.into()),
        })?;
        partitions::make_missing(&client).await?;
        client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await?;
        Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
    }

    async fn session_that_migrates(&self) -> Result<Client, StoreError> {
        let client = self.own_session().await?;
        client
            .batch_execute("SET statement_timeout = 0; SET lock_timeout = 0; SET client_min_messages = warning")
            .await?;
        // Held by the session: a killed replica frees it.
        client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
        Ok(client)
    }

    /// Fails while the schema is older than a worker can use.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let problem = match self.schema().await? {
            Schema::Missing => "it has no schema yet",
            Schema::Older { version, .. } if version < OLDEST => "its schema is older than this program can use",
            Schema::Older { .. } | Schema::Current { .. } | Schema::Newer { .. } => return Ok(()),
        };
        Err(StoreError::NotMigrated(anyhow::anyhow!("{problem}; run `penr-webhooks migrate` first")))
    }

    /// The schema's version beside this program's.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        let ours = embedded::migrations::runner().get_migrations().iter().map(|m| m.version()).max();
        let ours = ours.expect("there is a first migration");
        if !self.has_history().await? {
            return Ok(Schema::Missing);
        }
        let rows = self.query("SELECT max(version)::integer AS version FROM refinery_schema_history", &[]).await?;
        let version: Option<i32> = rows.first().and_then(|row| column(row, "version"));
        Ok(match version {
            None => Schema::Missing,
            Some(version) if version < ours => Schema::Older { version, ours },
            Some(version) if version > ours => Schema::Newer { version, ours },
            Some(version) => Schema::Current { version },
        })
    }

    async fn has_history(&self) -> Result<bool, StoreError> {
        let rows = self.query("SELECT to_regclass('refinery_schema_history') IS NOT NULL AS made", &[]).await?;
        Ok(rows.first().is_some_and(|row| column(row, "made")))
    }
}

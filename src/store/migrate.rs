//! Brings the schema up to date. Several processes may try at once, and each may be killed at any moment: the next run
//! continues where the last one ended.
//!
//! To change the schema, add a file to `migrations/` and run `make schema`, which writes docs/schema.sql. To add an index to a
//! table in use, see `indexes`.

use std::time::Duration;

use refinery::error::Kind;
use refinery::{Migration, Report};
use tokio::time::timeout;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Error};

use super::indexes::{self, BuildError, Index};
use super::schema::{self, Home};
use super::{Store, StoreError, migration_lock, migrations, partitions, rights, traps};

/// How long one `migrate` waits for another to end.
const LOCK_BOUND: Duration = Duration::from_secs(300);
/// The longest time to open a session and to look for the schema. A server or a pooler may accept a connection and never
/// answer.
const SESSION_BOUND: Duration = Duration::from_secs(60);

impl Store {
    /// Applies the migrations and builds the indexes that the database lacks, and makes the partitions of the coming days.
    /// Returns the names of what was applied and built. One session works at a time. Others wait for it up to 5 minutes, then
    /// fail with `Unavailable`; run them again. An index over a long log may take hours. If a newer program has migrated further,
    /// nothing is changed: its schema serves this version too, and it alone knows which indexes are still needed.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Schema`]: the schema holds another product's tables, or was changed by hand. If the tables are another
    ///   product's, nothing was done. If a migration or an index failed, the migrations before it stay.
    /// - [`StoreError::Unsafe`]: another role's function, operator or table would run with our rights. Nothing was done.
    /// - [`StoreError::Denied`]: this role does not own the tables or a partition, or may not make any. What was applied
    ///   stays.
    /// - [`StoreError::Busy`], [`StoreError::Unavailable`], [`StoreError::ReadOnly`]: try again; what was applied stays.
    pub async fn migrate(&self, indexes: &[Index]) -> Result<Vec<String>, StoreError> {
        let (mut client, home) = self.session_that_migrates().await?;
        let newest = schema::newest(&migrations::all());
        if home.is_newer_than(newest) {
            migration_lock::free(&client).await?;
            return Ok(Vec::new());
        }
        traps::check(&client, &home, newest).await?;
        // Migrations make their tables in the first schema of the search path.
        client.batch_execute(&home.within("SET search_path = {home}")).await?;
        // A migration that this program does not have may stand between those that it has.
        let runner = migrations::runner().set_abort_missing(false);
        let report = runner.run_async(&mut client).await.map_err(|error| {
            let _ = error.report().map(log_applied);
            failed(&error)
        })?;
        let applied = log_applied(&report);
        client.batch_execute(POSTGRES_ONLY).await?;
        rights::give_to_owner(&client, &home).await?;
        partitions::make_missing(&client, &home).await?;
        let built = indexes::build(&client, &home, indexes).await.map_err(|error| not_built(&error))?;
        migration_lock::free(&client).await?;
        Ok([applied, built].concat())
    }

    /// Compares the schema with what [`Store::migrate`] would make of it. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if the tables are another product's, [`StoreError::Denied`] if this role may not look; else the
    /// database is not available or busy.
    pub(crate) async fn unmigrated(&self, indexes: &[Index]) -> Result<Unmigrated, StoreError> {
        let (client, home) = self.session_at_home().await?;
        let mut migrations = migrations::all();
        let ours = schema::newest(&migrations);
        let mut unmigrated = Unmigrated { version: home.version(), ours, missing: Vec::new() };
        if home.is_newer_than(ours) {
            return Ok(unmigrated);
        }
        migrations.sort_by_key(Migration::version);
        migrations.retain(|migration| !home.is_at_least(migration.version()));
        unmigrated.missing.extend(migrations.iter().map(ToString::to_string));
        unmigrated.missing.extend(indexes::missing(&client, &home, indexes).await?);
        Ok(unmigrated)
    }

    /// The session holds the migration lock until it is closed.
    async fn session_that_migrates(&self) -> Result<(Client, Home), StoreError> {
        let opened = async {
            let client = self.open_session().await?;
            // The policies of a table that is not ours would run with our rights.
            client.batch_execute("SET row_security = off").await?;
            let (client, home) = at_home(client).await?;
            let settings = "SET statement_timeout = 0; SET lock_timeout = 0; SET client_min_messages = warning";
            client.batch_execute(settings).await?;
            Ok((client, home))
        };
        let (client, home) = within_bound(opened).await?;
        migration_lock::take(&client, &home, LOCK_BOUND).await?;
        // Another process may have migrated meanwhile. `at_home` looks along the session's own search path.
        client.batch_execute("RESET search_path").await?;
        within_bound(at_home(client)).await
    }

    /// A session whose search path is `pg_catalog` alone, and the schema that our tables are in or will be made in. Its role
    /// may be an owner or a superuser, and other roles may have put functions into every other schema, which would then run
    /// with its rights. So statements of this session name our tables with their schema.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if the search path names no usable schema or another product's tables are in the way, and what
    /// opening a session may fail with.
    pub(super) async fn session_at_home(&self) -> Result<(Client, Home), StoreError> {
        within_bound(async { at_home(self.open_session().await?).await }).await
    }
}

/// What `migrate` would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmigrated {
    /// The version of the schema; `None` if there is none.
    pub version: Option<i32>,
    /// The version that this program makes.
    pub ours: i32,
    /// The migrations and indexes that the schema lacks, by name, in the order in which they would be made.
    pub missing: Vec<String>,
}

async fn within_bound<T>(opened: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(SESSION_BOUND, opened).await.unwrap_or_else(|_| {
        let bound = humantime::format_duration(SESSION_BOUND);
        Err(StoreError::Unavailable(anyhow::anyhow!("the server did not answer a new session within {bound}")))
    })
}

/// Logs the names of the migrations that were applied and returns them. The log has them also if a later step fails.
fn log_applied(report: &Report) -> Vec<String> {
    let applied: Vec<String> = report.applied_migrations().iter().map(ToString::to_string).collect();
    for migration in &applied {
        tracing::info!(migration, "applied a migration");
    }
    applied
}

async fn at_home(mut client: Client) -> Result<(Client, Home), StoreError> {
    let Some(home) = schema::find(&mut client, &migrations::all()).await? else {
        let path = "the search path names no schema that exists and that this role may use";
        return Err(StoreError::Schema(anyhow::anyhow!("{path}; create it with CREATE SCHEMA")));
    };
    client.batch_execute(POSTGRES_ONLY).await?;
    Ok((client, home))
}

const POSTGRES_ONLY: &str = "SET search_path = pg_catalog";

fn failed(error: &refinery::Error) -> StoreError {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let refusal = causes.filter_map(|cause| cause.downcast_ref::<Error>()).find_map(Error::as_db_error);
    let whole = || anyhow::anyhow!("the migration failed: {error}");
    match (refusal, error.kind()) {
        (Some(refusal), Kind::Connection(step, _)) => refused(refusal, step, OWNERS_WORK),
        (None, Kind::Connection(..)) => StoreError::Unavailable(whole()),
        _ => StoreError::Schema(whole()),
    }
}

fn not_built(error: &BuildError) -> StoreError {
    let (mut step, mut cure) = (format!("building the index {}", error.index), OWNERS_WORK.to_owned());
    if let Some(partition) = &error.partition {
        step = format!("{step} on {partition}");
        cure =
            format!("give it to the owner of the whole table: ALTER TABLE {partition} OWNER TO …, then migrate again");
    }
    match error.cause.as_db_error() {
        Some(refusal) => refused(refusal, &step, &cure),
        None => StoreError::Unavailable(anyhow::anyhow!("{step}: {}", error.cause)),
    }
}

/// Maps the server's refusal of a step to what the caller can do: try again if another session was in the way, but not if
/// the statement itself cannot be carried out. `cure` says what to do if the role lacks a right.
fn refused(refusal: &DbError, step: &str, cure: &str) -> StoreError {
    let (message, code) = (refusal.message(), refusal.code());
    let cause = anyhow::anyhow!("{step}: {message} (SQLSTATE {})", code.code());
    match &code.code()[..2] {
        _ if code == &SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Denied(anyhow::anyhow!("{cause}; {cure}")),
        // An object is missing, is there already or has another type: somebody has changed the schema by hand.
        "3F" | "42" => StoreError::Schema(cause),
        _ => match StoreError::of_refusal(refusal) {
            StoreError::Unavailable(cause) => StoreError::Unavailable(cause.context(step.to_owned())),
            error => error,
        },
    }
}

const OWNERS_WORK: &str =
    "run `penr-webhooks migrate` as the owner of the tables and functions, with CREATE on their schema";

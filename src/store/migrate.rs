//! Brings the schema up to date. Several processes may try at once, and each may be killed at any moment: the next run
//! continues where the last one ended.
//!
//! To change the schema, add a file to `migrations/` and run `make schema`, which writes docs/schema.sql. To add an index to a
//! table in use, see `indexes`.

use std::time::Duration;

use refinery::error::Kind;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Error};

use super::indexes::{self, BuildError, Index};
use super::schema::{self, Home};
use super::{Store, StoreError, migration_lock, migrations, partitions, rights, traps};

/// How long one `migrate` waits for another to end.
const LOCK_BOUND: Duration = Duration::from_secs(300);

impl Store {
    /// Applies the migrations and builds the indexes that the database lacks, and makes the partitions of the coming days.
    /// Returns the names of what was applied and built. One session works at a time, others wait for it up to 5 minutes; an
    /// index over a long log may take hours.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Schema`]: the schema holds another product's tables, or was changed by hand. Nothing was done.
    /// - [`StoreError::Unsafe`]: another role's function, operator or table would run with our rights. Nothing was done.
    /// - [`StoreError::Denied`]: this role does not own the tables, or may not make any.
    /// - [`StoreError::Busy`], [`StoreError::Unavailable`], [`StoreError::ReadOnly`]: try again; what was applied stays.
    pub async fn migrate(&self, indexes: &[Index]) -> Result<Vec<String>, StoreError> {
        let (mut client, home) = self.session_that_migrates().await?;
        traps::check(&client, &home, schema::newest(&migrations::all())).await?;
        // Migrations make their tables in the first schema of the search path.
        client.batch_execute(&home.within("SET search_path = {home}")).await?;
        // A newer program may have migrated further: its schema serves this version too.
        let runner = migrations::runner().set_abort_missing(false);
        let report = runner.run_async(&mut client).await.map_err(|error| failed(&error))?;
        client.batch_execute(POSTGRES_ONLY).await?;
        rights::give_to_owner(&client, &home).await?;
        partitions::make_missing(&client, &home).await?;
        let built = indexes::build(&client, &home, indexes).await.map_err(|error| not_built(&error))?;
        migration_lock::free(&client).await?;
        let applied = report.applied_migrations().iter().map(ToString::to_string);
        Ok(applied.chain(built).collect())
    }

    /// The session holds the migration lock until it is closed.
    async fn session_that_migrates(&self) -> Result<(Client, Home), StoreError> {
        let client = self.open_session().await?;
        // The policies of a table that is not ours would run with our rights.
        client.batch_execute("SET row_security = off").await?;
        let (client, home) = at_home(client).await?;
        client
            .batch_execute("SET statement_timeout = 0; SET lock_timeout = 0; SET client_min_messages = warning")
            .await?;
        migration_lock::take(&client, &home, LOCK_BOUND).await?;
        Ok((client, home))
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
        at_home(self.open_session().await?).await
    }
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
        (Some(refusal), Kind::Connection(step, _)) => refused(refusal, step),
        (None, Kind::Connection(..)) => StoreError::Unavailable(whole()),
        _ => StoreError::Schema(whole()),
    }
}

fn not_built(error: &BuildError) -> StoreError {
    let step = format!("building the index {}", error.index);
    match error.cause.as_db_error() {
        Some(refusal) => refused(refusal, &step),
        None => StoreError::Unavailable(anyhow::anyhow!("{step}: {}", error.cause)),
    }
}

/// Maps the server's refusal of a step to what the caller can do: try again if another session was in the way, but not if
/// the statement itself cannot be carried out.
fn refused(refusal: &DbError, step: &str) -> StoreError {
    let (message, code) = (refusal.message(), refusal.code());
    let cause = anyhow::anyhow!("{step}: {message} (SQLSTATE {})", code.code());
    match &code.code()[..2] {
        _ if code == &SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Denied(anyhow::anyhow!("{cause}; {OWNERS_WORK}")),
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

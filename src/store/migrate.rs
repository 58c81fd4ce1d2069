//! Brings the schema up to date, also when several replicas try at once.

use std::time::Duration;

use refinery::Migration;
use refinery::error::Kind;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Error};

use super::schema::{self, Place};
use super::{Store, StoreError, lock_of_schema, partitions, rights, traps};

/// Any number, as long as nothing else in the database uses it as an advisory lock. Held by the session that
/// migrates, or gives rights.
pub(super) const LOCK: i64 = 0x7065_6e72_7768_6b73;
/// That a replica waits for another.
const BOUND: Duration = Duration::from_secs(300);

/// Partitions are made this many days ahead.
pub(super) const DAYS_AHEAD: i32 = 7;

mod embedded {
    refinery::embed_migrations!("src/store/migrations");
}

pub(super) fn migrations() -> Vec<Migration> {
    embedded::migrations::runner().get_migrations().clone()
}

impl Store {
    /// Applies what is missing and returns the names of what was applied. One replica works, the others wait for it.
    /// An index over a long log takes as long as it takes. Nothing is done to a schema that is another product's, or that
    /// holds what would run with our rights.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let late = |_| StoreError::Unavailable(anyhow::anyhow!("another migration did not end within 5 minutes"));
        let (mut client, place) = tokio::time::timeout(BOUND, self.session_that_migrates()).await.map_err(late)??;
        traps::check(&client, &place, schema::newest(&migrations())).await?;
        // Migrations make their tables in the first schema of the search path.
        client.batch_execute(&place.within("SET search_path = {home}")).await?;
        // A newer replica may have migrated further: its schema serves the previous version too.
        let runner = embedded::migrations::runner().set_abort_missing(false);
        let report = runner.run_async(&mut client).await.map_err(|error| failed(&error))?;
        client.batch_execute(POSTGRES_ONLY).await?;
        rights::give_to_owner(&client, &place).await?;
        partitions::make_missing(&client, &place).await?;
        client.execute("SELECT pg_advisory_unlock_all()", &[]).await?;
        Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
    }

    async fn session_that_migrates(&self) -> Result<(Client, Place), StoreError> {
        let client = self.own_session().await?;
        // The policies of a table that is not ours would run with our rights.
        client.batch_execute("SET row_security = off").await?;
        let (client, place) = at_home(client).await?;
        client
            .batch_execute("SET statement_timeout = 0; SET lock_timeout = 0; SET client_min_messages = warning")
            .await?;
        // Held by the session: a killed replica frees it.
        let lock = concat!("SELECT pg_advisory_lock(", lock_of_schema!("$1", "$2"), ")");
        client.execute(lock, &[&LOCK, &place.name]).await?;
        Ok((client, place))
    }

    /// A session that finds PostgreSQL's own functions and operators only, and the schema that our tables are in, or will be
    /// made in: its rights may be an owner's or a superuser's, and others may have functions in any other schema. It names
    /// our tables by their schema.
    pub(super) async fn session_at_home(&self) -> Result<(Client, Place), StoreError> {
        at_home(self.own_session().await?).await
    }
}

async fn at_home(mut client: Client) -> Result<(Client, Place), StoreError> {
    let Some(place) = schema::find(&mut client, &migrations()).await? else {
        let path = "the search path names no schema that exists and that this role may use";
        return Err(StoreError::Schema(anyhow::anyhow!("{path}; create it with CREATE SCHEMA")));
    };
    client.batch_execute(POSTGRES_ONLY).await?;
    Ok((client, place))
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

/// What the server says of a statement of a migration. Trying again does not cure it when the statement itself cannot be
/// carried out, as opposed to one that was in somebody's way.
fn refused(refusal: &DbError, step: &str) -> StoreError {
    let (message, code) = (refusal.message(), refusal.code());
    let cause = anyhow::anyhow!("{step}: {message} (SQLSTATE {})", code.code());
    match &code.code()[..2] {
        _ if code == &SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Denied(anyhow::anyhow!("{cause}; {OWNERS_WORK}")),
        // Not there, there already, or of another type: as in a schema that somebody has changed by hand.
        "3F" | "42" => StoreError::Schema(cause),
        _ => match StoreError::of_refusal(refusal) {
            StoreError::Unavailable(cause) => StoreError::Unavailable(cause.context(step.to_owned())),
            error => error,
        },
    }
}

const OWNERS_WORK: &str =
    "run `penr-webhooks migrate` as the owner of the tables and functions, with CREATE on their schema";

//! Adds indexes to tables that are in use, while everybody goes on reading and writing.
//!
//! How to add one: append an [`Index`] to [`INDEXES`], and do not write a migration for it. Migrations run in transactions,
//! where `CREATE INDEX` keeps all writers out until it has read the whole table. `migrate` builds the list after the
//! migrations, one statement at a time: first the index `ON ONLY` the partitioned table, which is empty, and which every
//! partition that is made from then on has too; then for each older partition `CREATE INDEX CONCURRENTLY` and `ATTACH
//! PARTITION`. The first and the last need a lock that writers must wait for; they ask for it for 100 ms at a time, so a
//! writer waits no longer. Every run looks at the catalogue for what is there already, so a run that was killed is continued
//! by the next one: an index that a killed build has left INVALID is dropped and built again. Workers run before and beside
//! the build, so no statement may need the index for more than its speed. An index that is not needed any more is dropped
//! by an ordinary migration with a short `lock_timeout`, as in V7.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

use super::column;
use super::schema::Home;

/// The indexes that tables get beside their use, in the order in which they are built.
pub(crate) const INDEXES: &[Index] = &[];

/// An index that a table is to have.
#[derive(Debug, Clone, Copy)]
pub struct Index {
    /// At most 50 bytes: a partition's index has this name and a number.
    pub name: &'static str,
    pub table: &'static str,
    /// What `CREATE INDEX` has after the table's name, such as `(event_id) WHERE error IS NOT NULL`.
    pub definition: &'static str,
}

/// An index that could not be built.
#[derive(Debug)]
pub(super) struct BuildError {
    pub index: &'static str,
    pub cause: Error,
}

/// Writers wait no longer than this behind a statement that needs a strong lock.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '100ms'";
/// Building concurrently waits for the transactions of others, as long as these take, and keeps nobody waiting.
const NO_LOCK_TIMEOUT: &str = "SET lock_timeout = 0";
/// Between two tries to get a lock: longer than a try, so that writers have most of the time for themselves.
const TRIES_APART: Duration = Duration::from_millis(400);
/// A lock that nobody gives up for so long is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// Builds what is missing and returns the names of the indexes that were not complete before. For the session that holds the
/// migration lock, outside of a transaction.
pub(super) async fn build(session: &Client, home: &Home, indexes: &[Index]) -> Result<Vec<String>, BuildError> {
    let mut built = Vec::new();
    for index in indexes {
        let name = index.name;
        if build_one(session, home, index).await.map_err(|cause| BuildError { index: name, cause })? {
            built.push(name.to_owned());
        }
    }
    Ok(built)
}

async fn build_one(session: &Client, home: &Home, index: &Index) -> Result<bool, Error> {
    let (table, whole) = (format!("{}.{}", home.name, index.table), format!("{}.{}", home.name, index.name));
    let found = session.query_one(TABLE, &[&table]).await?;
    if !column::<bool>(&found, "partitioned") {
        let relation = Relation { name: table, schema: home.name.clone(), oid: column(&found, "oid") };
        return build_on(session, &relation, index.name, index.definition).await;
    }
    let on_table = format!("CREATE INDEX {} ON ONLY {table} {}", index.name, index.definition);
    let fresh = session.query_opt(INDEX, &[&column::<u32>(&found, "oid"), &index.name]).await?.is_none();
    if fresh {
        patiently(session, &on_table).await?;
    }
    let mut built = fresh;
    while let Some(partition) = first_without(session, &table, &whole).await? {
        built = true;
        if let Err(error) = add_partition(session, &whole, index, &partition).await {
            // Retention may have detached or dropped it meanwhile.
            if first_without(session, &table, &whole).await?.is_some_and(|next| next.oid == partition.oid) {
                return Err(error);
            }
        }
    }
    Ok(built)
}

/// A table without partitions, or a partition.
struct Relation {
    /// With its schema.
    name: String,
    schema: String,
    oid: u32,
}

/// A partition that has no part of the whole index yet.
async fn first_without(session: &Client, table: &str, whole: &str) -> Result<Option<Relation>, Error> {
    let partition = |row: Row| Relation {
        name: column(&row, "relation"),
        schema: column(&row, "schema"),
        oid: column(&row, "oid"),
    };
    Ok(session.query_opt(FIRST_WITHOUT, &[&table, &whole]).await?.map(partition))
}

async fn add_partition(session: &Client, whole: &str, index: &Index, partition: &Relation) -> Result<(), Error> {
    let name = format!("{}_{}", index.name, partition.oid);
    build_on(session, partition, &name, index.definition).await?;
    patiently(session, &format!("ALTER INDEX {whole} ATTACH PARTITION {}.{name}", partition.schema)).await
}

/// Builds an index of one table beside readers and writers. Returns whether it was not there before.
async fn build_on(session: &Client, relation: &Relation, name: &str, definition: &str) -> Result<bool, Error> {
    session.batch_execute(NO_LOCK_TIMEOUT).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match session.query_opt(INDEX, &[&relation.oid, &name]).await? {
            Some(found) if column(&found, "valid") => return Ok(false),
            // A build that was killed has left it.
            Some(_) => session.batch_execute(&format!("DROP INDEX CONCURRENTLY {}.{name}", relation.schema)).await?,
            None => {}
        }
        let create = format!("CREATE INDEX CONCURRENTLY {name} ON {} {definition}", relation.name);
        match session.batch_execute(&create).await {
            // A migration of a release before waits at the server for our migration lock, with a snapshot.
            Err(error) if is_in_the_way(&error) && Instant::now() < deadline => sleep(TRIES_APART).await,
            done => return done.map(|()| true),
        }
    }
}

/// Runs a statement that takes a moment but needs a strong lock, as often as it takes to get that.
async fn patiently(session: &Client, statement: &str) -> Result<(), Error> {
    session.batch_execute(LOCK_TIMEOUT).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match session.batch_execute(statement).await {
            Err(error) if is_in_the_way(&error) && Instant::now() < deadline => sleep(TRIES_APART).await,
            done => return done,
        }
    }
}

fn is_in_the_way(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED))
}

const TABLE: &str = "SELECT oid, relkind = 'p' AS partitioned FROM pg_class WHERE oid = $1::text::regclass";

const INDEX: &str = "
    SELECT i.indisvalid AS valid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = $1::oid AND c.relname = $2::text";

/// Of the ordinary partitions: foreign tables have no indexes.
const FIRST_WITHOUT: &str = "
    SELECT p.oid, p.oid::regclass::text AS relation, p.relnamespace::regnamespace::text AS schema
    FROM pg_inherits attached JOIN pg_class p ON p.oid = attached.inhrelid
    WHERE attached.inhparent = $1::text::regclass AND NOT attached.inhdetachpending AND p.relkind = 'r'
        AND NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_inherits part ON part.inhrelid = i.indexrelid
            WHERE i.indrelid = p.oid AND part.inhparent = $2::text::regclass)
    ORDER BY p.oid LIMIT 1";

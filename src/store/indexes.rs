//! Adds indexes to tables that are in use, while everybody goes on reading and writing.
//!
//! - To add an index, append an [`Index`] to [`INDEXES`], and do not write a migration for it: migrations run in transactions,
//!   where `CREATE INDEX` keeps all writers out until it has read the whole table.
//! - `migrate` builds the list after the migrations, one statement at a time: first the index `ON ONLY` the partitioned table,
//!   which is empty, and which every partition that is made from then on has too; then for each older partition `CREATE INDEX
//!   CONCURRENTLY` and `ATTACH PARTITION`. Writers must wait for the first; readers and writers of that partition for the
//!   last. Each try waits 100 ms at most.
//! - Every run looks at the catalogue for what is there already, so the next run continues one that was killed: an index that
//!   a killed build has left INVALID is dropped and built again.
//! - A partition that belongs to a role whose rights this role does not have stops the build, and none is skipped: the error
//!   names the partition. Give it to the owner of the whole table by `ALTER TABLE … OWNER TO …` and run `migrate` again.
//! - Workers run before and beside the build, so no statement may need the index for more than its speed. An index that is not
//!   needed any more is dropped by an ordinary migration with a short `lock_timeout`, as in V7.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

use super::column;
use super::schema::Home;

/// Indexes that `migrate` builds on tables in use, in this order.
pub(crate) const INDEXES: &[Index] = &[
    // The list of deliveries reads those that were never attempted from here. Retries have no entry: they cost no more.
    Index {
        name: "pending_deliveries_unattempted",
        table: "pending_deliveries",
        definition: "(webhook_id, event_key) WHERE attempts_made = 0",
    },
    Index {
        name: "closed_deliveries_unattempted",
        table: "closed_deliveries",
        definition: "(webhook_id, event_key) WHERE attempts_made = 0",
    },
    // `top` asks every few seconds for those that have failed for longest.
    Index {
        name: "webhooks_failing",
        table: "webhooks",
        definition: "(failing_since, id) WHERE active AND failing_since IS NOT NULL",
    },
];

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
    /// The partition that could not be indexed, with its schema; `None` for the whole table.
    pub partition: Option<String>,
    pub cause: Error,
}

/// Writers wait no longer than this behind a statement that needs a strong lock.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '100ms'";
/// Building concurrently waits for the transactions of others, as long as these take, and keeps nobody waiting.
const NO_LOCK_TIMEOUT: &str = "SET lock_timeout = 0";
/// Between two tries to get a lock: longer than a try, so that writers have most of the time for themselves.
const TRIES_APART: Duration = Duration::from_millis(400);
/// After this long without the lock, the build fails.
const PATIENCE: Duration = Duration::from_secs(600);
/// But it is tried this often at least: building the index of one partition may take longer than `PATIENCE`.
const FEWEST_TRIES: u32 = 3;

/// Builds what is missing and returns the names of the indexes that were not complete before. Call it in the session that
/// holds the migration lock, outside a transaction.
pub(super) async fn build(session: &Client, home: &Home, indexes: &[Index]) -> Result<Vec<String>, BuildError> {
    let mut built = Vec::new();
    for index in indexes {
        if build_one(session, home, index).await? {
            tracing::info!(index = index.name, "built an index");
            built.push(index.name.to_owned());
        }
    }
    Ok(built)
}

/// The names of the indexes that [`build`] would build or complete. Changes nothing.
pub(super) async fn missing(session: &Client, home: &Home, indexes: &[Index]) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for index in indexes {
        if home.is_fresh() || !is_complete(session, home, index).await? {
            missing.push(index.name.to_owned());
        }
    }
    Ok(missing)
}

async fn is_complete(session: &Client, home: &Home, index: &Index) -> Result<bool, Error> {
    let (table, parent_index) = (format!("{}.{}", home.name, index.table), format!("{}.{}", home.name, index.name));
    let Some(found) = session.query_opt(TABLE_IF_THERE, &[&table]).await? else { return Ok(false) };
    let oid: u32 = column(&found, "oid");
    let built = session.query_opt(INDEX, &[&oid, &index.name]).await?;
    if !column::<bool>(&found, "partitioned") {
        return Ok(built.is_some_and(|built| column(&built, "valid")));
    }
    Ok(built.is_some() && first_partition_without_index(session, &table, &parent_index).await?.is_none())
}

async fn build_one(session: &Client, home: &Home, index: &Index) -> Result<bool, BuildError> {
    let (table, parent_index) = (format!("{}.{}", home.name, index.table), format!("{}.{}", home.name, index.name));
    let failed = |cause| BuildError { index: index.name, partition: None, cause };
    let found = session.query_one(TABLE, &[&table]).await.map_err(failed)?;
    let oid: u32 = column(&found, "oid");
    if !column::<bool>(&found, "partitioned") {
        let relation = Relation { name: table, schema: home.name.clone(), oid };
        return build_on(session, &relation, index.name, index.definition).await.map_err(failed);
    }
    let is_new = session.query_opt(INDEX, &[&oid, &index.name]).await.map_err(failed)?.is_none();
    if is_new {
        let create = format!("CREATE INDEX {} ON ONLY {table} {}", index.name, index.definition);
        run_briefly_locked(session, &create).await.map_err(failed)?;
    }
    let mut built = is_new;
    let next = async || first_partition_without_index(session, &table, &parent_index).await.map_err(failed);
    while let Some(partition) = next().await? {
        built = true;
        if let Err(cause) = add_partition(session, &parent_index, index, &partition).await {
            // Retention may have detached or dropped it meanwhile.
            if next().await?.is_some_and(|next| next.oid == partition.oid) {
                return Err(BuildError { partition: Some(partition.name), ..failed(cause) });
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

/// A partition whose index is not attached to the partitioned index yet.
async fn first_partition_without_index(
    session: &Client,
    table: &str,
    parent_index: &str,
) -> Result<Option<Relation>, Error> {
    let partition = |row: Row| Relation {
        name: column(&row, "relation"),
        schema: column(&row, "schema"),
        oid: column(&row, "oid"),
    };
    Ok(session.query_opt(FIRST_PARTITION_WITHOUT_INDEX, &[&table, &parent_index]).await?.map(partition))
}

async fn add_partition(session: &Client, parent_index: &str, index: &Index, partition: &Relation) -> Result<(), Error> {
    let name = format!("{}_{}", index.name, partition.oid);
    build_on(session, partition, &name, index.definition).await?;
    let attach = format!("ALTER INDEX {parent_index} ATTACH PARTITION {}.{name}", partition.schema);
    run_briefly_locked(session, &attach).await
}

/// Builds an index of one table beside readers and writers. Returns whether it was not there before.
async fn build_on(session: &Client, relation: &Relation, name: &str, definition: &str) -> Result<bool, Error> {
    session.batch_execute(NO_LOCK_TIMEOUT).await?;
    // An earlier release's `migrate` waits for our lock inside a statement. This build waits for the end of that statement:
    // PostgreSQL reports a deadlock.
    retry_for_lock(move || try_to_build(session, relation, name, definition)).await
}

async fn try_to_build(session: &Client, relation: &Relation, name: &str, definition: &str) -> Result<bool, Error> {
    match session.query_opt(INDEX, &[&relation.oid, &name]).await? {
        Some(found) if column(&found, "valid") => return Ok(false),
        // A build that was killed or that failed has left it.
        Some(_) => session.batch_execute(&format!("DROP INDEX CONCURRENTLY {}.{name}", relation.schema)).await?,
        None => {}
    }
    let create = format!("CREATE INDEX CONCURRENTLY {name} ON {} {definition}", relation.name);
    session.batch_execute(&create).await.map(|()| true)
}

/// Runs a short statement that needs a strong lock. Each try waits no longer for the lock than writers may wait.
async fn run_briefly_locked(session: &Client, statement: &str) -> Result<(), Error> {
    session.batch_execute(LOCK_TIMEOUT).await?;
    retry_for_lock(move || session.batch_execute(statement)).await
}

/// Tries again while another session's lock is in the way, for `PATIENCE` after the first failure, then fails.
async fn retry_for_lock<T, F: Future<Output = Result<T, Error>>>(attempt: impl Fn() -> F) -> Result<T, Error> {
    let (mut failures, mut first_failure) = (0, None);
    loop {
        match attempt().await {
            Err(error) if is_lock_conflict(&error) => {
                failures += 1;
                let waited = first_failure.get_or_insert_with(Instant::now).elapsed();
                if failures >= FEWEST_TRIES && waited >= PATIENCE {
                    return Err(error);
                }
                sleep(TRIES_APART).await;
            }
            done => return done,
        }
    }
}

fn is_lock_conflict(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED))
}

const TABLE: &str = "SELECT oid, relkind = 'p' AS partitioned FROM pg_class WHERE oid = $1::text::regclass";

const TABLE_IF_THERE: &str =
    "SELECT oid, relkind = 'p' AS partitioned FROM pg_class WHERE oid = to_regclass($1::text)::oid";

const INDEX: &str = "
    SELECT i.indisvalid AS valid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = $1::oid AND c.relname = $2::text";

/// Of the ordinary partitions: foreign tables have no indexes.
const FIRST_PARTITION_WITHOUT_INDEX: &str = "
    SELECT p.oid, p.oid::regclass::text AS relation, p.relnamespace::regnamespace::text AS schema
    FROM pg_inherits attached JOIN pg_class p ON p.oid = attached.inhrelid
    WHERE attached.inhparent = $1::text::regclass AND NOT attached.inhdetachpending AND p.relkind = 'r'
        AND NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_inherits part ON part.inhrelid = i.indexrelid
            WHERE i.indrelid = p.oid AND part.inhparent = $2::text::regclass)
    ORDER BY p.oid LIMIT 1";

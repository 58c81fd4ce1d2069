//! Finds the schema that holds our tables, and tells it from one that holds another product's, before anything is changed.

use deadpool_postgres::Object;
use refinery::Migration;
use tokio_postgres::{Client, Error, Row, Transaction};

use super::{Store, StoreError, column, migrations};

/// The oldest version of the schema that a worker can use: a new worker may start before `migrate` has run.
const OLDEST: i32 = 1;

/// The table that records which migrations were applied. Other products that use the same library have a table of this name
/// as well.
macro_rules! history {
    () => {
        "refinery_schema_history"
    };
}

/// The name of that table as a constant.
pub(super) const HISTORY: &str = history!();

/// The tables that our migrations make.
pub(super) const OURS: [&str; 12] = [
    "webhooks",
    "events",
    "attempts",
    "pending_deliveries",
    "closed_deliveries",
    "notices",
    "recoveries",
    "dropped_partitions",
    "kept_answers",
    "paces",
    "processes",
    "holds",
];

/// The version of the database's schema, compared with the one that this program was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schema {
    Missing,
    Older { version: i32, ours: i32 },
    Current { version: i32 },
    Newer { version: i32, ours: i32 },
}

/// The schema, in PostgreSQL's sense of the word, that holds our tables or will hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    /// As in SQL: quoted if necessary.
    pub name: String,
    /// The version of the newest migration that was applied; `None` before the first.
    version: Option<i32>,
}

impl Home {
    /// The statement with each `{home}` replaced by the name of this schema.
    pub(crate) fn within(&self, statement: &str) -> String {
        statement.replace("{home}", &self.name)
    }

    /// Whether no migration was applied here yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.version.is_none()
    }

    /// The version of the newest migration that was applied; `None` before the first.
    pub(crate) fn version(&self) -> Option<i32> {
        self.version
    }

    /// Whether a newer program than one that has these migrations has migrated further.
    pub(crate) fn is_newer_than(&self, newest: i32) -> bool {
        self.version.is_some_and(|ours| ours > newest)
    }

    /// Whether all migrations up to this one were applied.
    pub(crate) fn is_at_least(&self, version: i32) -> bool {
        self.version.is_some_and(|ours| ours >= version)
    }
}

impl Store {
    /// Compares the version of the schema with this program's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if the tables are another product's, [`StoreError::Denied`] if this role may not look; else the
    /// database is not available or busy.
    pub(crate) async fn schema(&self) -> Result<Schema, StoreError> {
        let migrations = migrations::all();
        let ours = newest(&migrations);
        let mut connection = self.connection().await?;
        let found = connection.ask(async |client: &mut Object| read_search_path(client, &migrations).await).await?;
        let version = choose_home(&found, &migrations)?.and_then(|home| home.version);
        Ok(match version {
            None => Schema::Missing,
            Some(version) if version < ours => Schema::Older { version, ours },
            Some(version) if version > ours => Schema::Newer { version, ours },
            Some(version) => Schema::Current { version },
        })
    }

    /// Checks the sessions and the schema before work begins.
    ///
    /// # Errors
    ///
    /// As [`Store::check_sessions`] and [`Store::check_schema`]. Waiting cures neither [`StoreError::Sessions`] nor
    /// [`StoreError::Schema`].
    pub(crate) async fn check_usable(&self) -> Result<(), StoreError> {
        self.check_sessions().await?;
        self.check_schema().await
    }

    /// Checks that the schema is there and new enough for this program.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] while the schema is missing or too old; else as [`Store::schema`].
    pub(crate) async fn check_schema(&self) -> Result<(), StoreError> {
        let problem = match self.schema().await? {
            Schema::Missing => "it has no schema yet",
            Schema::Older { version, .. } if version < OLDEST => "its schema is older than this program can use",
            Schema::Older { .. } | Schema::Current { .. } | Schema::Newer { .. } => return Ok(()),
        };
        Err(StoreError::NotMigrated(anyhow::anyhow!("{problem}; run `penr-webhooks migrate` first")))
    }
}

pub(super) fn newest(migrations: &[Migration]) -> i32 {
    migrations.iter().map(Migration::version).max().expect("there is a first migration")
}

/// Returns the first schema of the search path that has our history. If none has it, returns the first schema of the search
/// path, where new tables are made, unless something there has a name of ours. `None` if the search path names no schema
/// that exists.
pub(super) async fn find(session: &mut Client, migrations: &[Migration]) -> Result<Option<Home>, StoreError> {
    choose_home(&read_search_path(session, migrations).await?, migrations)
}

/// What `read_search_path` found.
#[derive(Debug, Clone, Default)]
struct Found {
    /// In the order of the search path, up to the schema that has our history.
    candidates: Vec<Candidate>,
    /// A schema with a history that comes before all schemas that this role may use and is not one of them, and the role.
    /// PostgreSQL skips such a schema as if it were not on the search path.
    without_usage: Option<(String, String)>,
}

/// A schema of the search path.
#[derive(Debug, Clone, Default)]
struct Candidate {
    name: String,
    /// The migrations in its history, oldest first.
    applied: Vec<Applied>,
    /// Whether this role may not read its history. Such a schema counts as another product's if a later one has ours.
    unreadable: bool,
    /// Its tables, views and sequences that have a name of our tables.
    taken: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Applied {
    version: i32,
    name: String,
    checksum: String,
}

/// A session's search path.
pub(super) struct SearchPath {
    /// Its schemas that exist and that this role may use.
    pub schemas: Vec<String>,
    /// The setting itself.
    setting: String,
    /// The schema in which a statement finds `events`.
    home: Option<String>,
}

impl SearchPath {
    /// The schema in which statements find our tables. Without tables it is `public`, and statements will fail there with a
    /// clear message.
    pub(crate) fn home(&self) -> Home {
        let name = self.home.clone().unwrap_or_else(|| "public".to_owned());
        Home { name, version: None }
    }
}

/// Begins a transaction whose search path is `pg_catalog` alone. Other roles may have put functions and operators into the
/// schemas of the usual search path that fit our arguments better than PostgreSQL's own; they would run with our rights.
/// Statements in the transaction name our tables with their schema. The caller rolls back, which restores the search path.
pub(super) async fn with_pg_catalog_only(session: &mut Client) -> Result<(Transaction<'_>, SearchPath), Error> {
    let transaction = session.transaction().await?;
    let path = transaction.query_one(PATH, &[]).await?;
    transaction.batch_execute("SET LOCAL search_path = pg_catalog").await?;
    let path = SearchPath {
        schemas: column(&path, "schemas"),
        setting: column(&path, "setting"),
        home: column(&path, "home"),
    };
    Ok((transaction, path))
}

async fn read_search_path(session: &mut Client, migrations: &[Migration]) -> Result<Found, Error> {
    let (transaction, path) = with_pg_catalog_only(session).await?;
    let mut found = Found::default();
    for row in transaction.query(CANDIDATES, &[&&OURS[..], &path.schemas]).await? {
        let (name, readable) = (column::<String>(&row, "name"), column::<Option<bool>>(&row, "readable"));
        let applied = match readable {
            Some(true) => history(&transaction, &name).await?,
            _ => Vec::new(),
        };
        let ours = begins_as_ours(&applied, migrations);
        found.candidates.push(Candidate {
            name,
            applied,
            unreadable: readable == Some(false),
            taken: column(&row, "taken"),
        });
        if ours {
            return transaction.rollback().await.map(|()| found);
        }
    }
    let unusable = transaction.query_opt(WITHOUT_USAGE, &[&path.setting]).await?;
    found.without_usage = unusable.map(|row| (column(&row, "schema"), column(&row, "role")));
    transaction.rollback().await?;
    Ok(found)
}

async fn history(session: &Transaction<'_>, schema: &str) -> Result<Vec<Applied>, Error> {
    let query = format!(
        concat!("SELECT version, name::text, checksum::text FROM ONLY {}.", history!(), " ORDER BY version"),
        schema
    );
    let applied = |row: Row| Applied {
        version: column(&row, "version"),
        name: column::<Option<String>>(&row, "name").unwrap_or_default(),
        checksum: column::<Option<String>>(&row, "checksum").unwrap_or_default(),
    };
    Ok(session.query(&query, &[]).await?.into_iter().map(applied).collect())
}

/// Decides which schema of the search path is ours, or will be. The error names the reason and the cure.
fn choose_home(found: &Found, migrations: &[Migration]) -> Result<Option<Home>, StoreError> {
    if let Some((schema, role)) = &found.without_usage {
        let grant = format!("the owner of its tables gives it with `penr-webhooks migrate --grant-to {role}`");
        return Err(StoreError::Denied(anyhow::anyhow!(
            "the role {role} has no USAGE on the schema {schema}; {grant}"
        )));
    }
    let home = |candidate: &Candidate| Home {
        name: candidate.name.clone(),
        version: candidate.applied.last().map(|applied| applied.version),
    };
    if let Some(ours) = found.candidates.iter().find(|candidate| begins_as_ours(&candidate.applied, migrations)) {
        // Statements name tables without a schema, so they would use a table of an earlier schema.
        let before = found.candidates.iter().take_while(|candidate| candidate.name != ours.name);
        if let Some((before, table)) = before.flat_map(|c| c.taken.iter().map(move |table| (c, table))).next() {
            return Err(StoreError::Schema(anyhow::anyhow!(
                "the schema {} holds a table {table} of another product and comes before {}, which holds ours; put {1} first \
                 on the search path",
                before.name,
                ours.name
            )));
        }
        return match ours.applied.iter().find(|applied| differs(applied, migrations)) {
            Some(Applied { version, name, .. }) => Err(StoreError::Schema(anyhow::anyhow!(
                "the migration V{version}__{name} in the schema {} is not this program's: another build has made it",
                ours.name
            ))),
            None => Ok(Some(home(ours))),
        };
    }
    let Some(first) = found.candidates.first() else { return Ok(None) };
    if first.unreadable {
        return Err(StoreError::Denied(anyhow::anyhow!(
            "permission denied for table {}.{}; the owner of the tables gives it with `penr-webhooks migrate --grant-to ROLE`",
            first.name,
            history!()
        )));
    }
    let stranger = match (first.applied.last(), first.taken.first()) {
        (Some(Applied { version, name, .. }), _) => format!("migrations of another product (V{version}__{name})"),
        (None, Some(table)) => format!("a table {table} of another product"),
        (None, None) => return Ok(Some(home(first))),
    };
    Err(StoreError::Schema(anyhow::anyhow!("the schema {} holds {stranger}; {OWN_SCHEMA}", first.name)))
}

const OWN_SCHEMA: &str = "give penr-webhooks a schema of its own: CREATE SCHEMA penr_webhooks, and end DATABASE_URL with \
                          ?options=-csearch_path%3Dpenr_webhooks";

fn begins_as_ours(applied: &[Applied], migrations: &[Migration]) -> bool {
    applied.first().is_some_and(|first| {
        migrations.iter().any(|ours| ours.version() == first.version && !differs(first, migrations))
            && migrations.iter().all(|ours| ours.version() >= first.version)
    })
}

/// Whether this program has a migration of the same version with another name or text. Migrations of newer programs, which
/// this one does not have, do not differ.
fn differs(applied: &Applied, migrations: &[Migration]) -> bool {
    migrations.iter().any(|ours| {
        ours.version() == applied.version
            && (ours.name() != applied.name || ours.checksum().to_string() != applied.checksum)
    })
}

/// Names everything with its schema: the session may have any search path, even one with `pg_catalog` last.
const PATH: &str = "SELECT pg_catalog.current_schemas(false)::pg_catalog.text[] AS schemas,
    pg_catalog.current_setting('search_path'::pg_catalog.text) AS setting,
    (SELECT c.relnamespace::pg_catalog.regnamespace::pg_catalog.text FROM pg_catalog.pg_class c
     WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('events'::pg_catalog.text)::pg_catalog.oid) AS home";

/// What each of the schemas `$2` has, in their order. `readable` says whether this role may read the history; it is null
/// without a history. A view of that name, or a table with other columns or types, does not count as a history: reading it
/// could run its maker's functions with our rights.
const CANDIDATES: &str = concat!(
    "SELECT n.oid::regnamespace::text AS name,
        (SELECT has_table_privilege(a.attrelid, 'SELECT') FROM pg_attribute a
         WHERE a.attrelid = to_regclass(n.oid::regnamespace::text || '.",
    history!(),
    "') AND a.attname IN ('version', 'name', 'checksum') AND a.attnum > 0
            AND a.atttypid = ANY (CASE a.attname WHEN 'version' THEN '{integer}' ELSE '{text,varchar}' END::regtype[])
            AND EXISTS (SELECT FROM pg_class c WHERE c.oid = a.attrelid AND c.relkind = 'r')
         GROUP BY a.attrelid HAVING count(*) = 3) AS readable,
        array(SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = ANY ($1::text[])
              AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') ORDER BY c.relname) AS taken
    FROM unnest($2::text[]) WITH ORDINALITY AS path (name, position)
    JOIN pg_namespace n ON n.nspname = path.name ORDER BY path.position"
);

const WITHOUT_USAGE: &str = concat!(
    "SELECT schema, role FROM (
        SELECT n.oid::regnamespace::text AS schema, quote_ident(current_user) AS role,
            has_schema_privilege(n.oid, 'USAGE') AS usable
        FROM regexp_split_to_table(replace($1::text, '\"', ''), '\\s*,\\s*') WITH ORDINALITY AS path (name, position)
        JOIN pg_namespace n ON n.nspname = CASE path.name WHEN '$user' THEN current_user ELSE path.name END
        WHERE has_schema_privilege(n.oid, 'USAGE')
            OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = '",
    history!(),
    "')
        ORDER BY path.position LIMIT 1
    ) AS first WHERE NOT usable"
);

#[cfg(test)]
mod tests;

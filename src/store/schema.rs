//! Finds our tables on the search path, and knows them from those of another product, before anything is done with them.

use deadpool_postgres::Object;
use refinery::Migration;
use tokio_postgres::{Client, Error, Row, Transaction};

use super::{Store, StoreError, column};

/// The oldest schema that serves a worker: it may be rolled out before the newest is there.
const OLDEST: i32 = 1;

/// Where migrations are written down. Other products that use the same library have a table of this name, too.
macro_rules! history {
    () => {
        "refinery_schema_history"
    };
}

/// The same.
pub(super) const HISTORY: &str = history!();

/// Tables that our migrations make.
pub(super) const OURS: [&str; 8] = [
    "webhooks",
    "events",
    "attempts",
    "pending_deliveries",
    "closed_deliveries",
    "notices",
    "recoveries",
    "dropped_partitions",
];

/// The version of the database's schema against the one this program was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    Missing,
    Older { version: i32, ours: i32 },
    Current { version: i32 },
    Newer { version: i32, ours: i32 },
}

/// The schema, in PostgreSQL's sense, that our tables are in, or will be made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Quoted where it has to be.
    pub name: String,
    /// Of what was migrated last.
    version: Option<i32>,
}

impl Place {
    /// A statement with this schema in place of `{home}`.
    pub fn within(&self, statement: &str) -> String {
        statement.replace("{home}", &self.name)
    }

    /// Whether nothing was migrated here yet.
    pub fn is_fresh(&self) -> bool {
        self.version.is_none()
    }

    /// Whether all migrations up to this one were applied.
    pub fn is_at_least(&self, version: i32) -> bool {
        self.version.is_some_and(|ours| ours >= version)
    }
}

impl Store {
    /// The schema's version beside this program's.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        let migrations = super::migrate::migrations();
        let ours = newest(&migrations);
        let mut connection = self.connection().await?;
        let found = connection.ask(async |client: &mut Object| look(client, &migrations).await).await?;
        let version = judge(&found, &migrations)?.and_then(|place| place.version);
        Ok(match version {
            None => Schema::Missing,
            Some(version) if version < ours => Schema::Older { version, ours },
            Some(version) if version > ours => Schema::Newer { version, ours },
            Some(version) => Schema::Current { version },
        })
    }

    /// Fails while this program cannot work with the database: with [`StoreError::Sessions`] or [`StoreError::Schema`] if no
    /// waiting cures that.
    pub async fn check_usable(&self) -> Result<(), StoreError> {
        self.check_sessions().await?;
        self.check_schema().await
    }

    /// Fails while the schema is missing or older than a worker can use, and with [`StoreError::Schema`] if it is another
    /// product's.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
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

/// The first schema of the search path with our history; else the one that new tables are made in, if nothing in it is in
/// our way; `None` if the search path names no schema that is there.
pub(super) async fn find(session: &mut Client, migrations: &[Migration]) -> Result<Option<Place>, StoreError> {
    judge(&look(session, migrations).await?, migrations)
}

/// What is to be seen of the search path.
#[derive(Debug, Clone, Default)]
struct Found {
    /// In the order of the search path. What comes after our tables is not looked at.
    candidates: Vec<Candidate>,
    /// A schema before the first candidate, with a history, that this role may not use; and the role. PostgreSQL passes
    /// over it on the search path, as if it were not there.
    without_usage: Option<(String, String)>,
}

/// What a schema of the search path has.
#[derive(Debug, Clone, Default)]
struct Candidate {
    name: String,
    /// What its history says was applied, oldest first.
    applied: Vec<Applied>,
    /// Whether this role may not read its history: then it is another product's, unless nothing else can be ours.
    unreadable: bool,
    /// Tables and the like that have names of ours.
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
    /// Those of its schemas that are there and may be used.
    pub schemas: Vec<String>,
    setting: String,
    /// Where the first `events` is.
    home: Option<String>,
}

impl SearchPath {
    /// Where statements find our tables. Where there are none, statements that name them will say so.
    pub fn home(&self) -> Place {
        let name = self.home.clone().unwrap_or_else(|| "public".to_owned());
        Place { name, version: None }
    }
}

/// Begins a transaction that finds PostgreSQL's own functions and operators only: others may have put some into the schemas
/// of the search path that fit our arguments better, and they would run with our rights. It is to be rolled back, which
/// gives the session its search path back; until then our tables are named by their schema.
pub(super) async fn undisturbed(session: &mut Client) -> Result<(Transaction<'_>, SearchPath), Error> {
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

async fn look(session: &mut Client, migrations: &[Migration]) -> Result<Found, Error> {
    let (transaction, path) = undisturbed(session).await?;
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

fn judge(found: &Found, migrations: &[Migration]) -> Result<Option<Place>, StoreError> {
    if let Some((schema, role)) = &found.without_usage {
        let grant = format!("the owner of its tables gives it with `penr-webhooks migrate --grant-to {role}`");
        return Err(StoreError::Denied(anyhow::anyhow!(
            "the role {role} has no USAGE on the schema {schema}; {grant}"
        )));
    }
    let place = |candidate: &Candidate| Place {
        name: candidate.name.clone(),
        version: candidate.applied.last().map(|applied| applied.version),
    };
    if let Some(ours) = found.candidates.iter().find(|candidate| begins_as_ours(&candidate.applied, migrations)) {
        // Statements name tables without their schema: they would go to that one.
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
            None => Ok(Some(place(ours))),
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
        (None, None) => return Ok(Some(place(first))),
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

/// Whether a migration that this program has, too, is another one. Those of newer programs it does not have.
fn differs(applied: &Applied, migrations: &[Migration]) -> bool {
    migrations.iter().any(|ours| {
        ours.version() == applied.version
            && (ours.name() != applied.name || ours.checksum().to_string() != applied.checksum)
    })
}

/// Names all by their schema: it is asked on whatever search path the session has, even one with `pg_catalog` last.
const PATH: &str = "SELECT pg_catalog.current_schemas(false)::pg_catalog.text[] AS schemas,
    pg_catalog.current_setting('search_path'::pg_catalog.text) AS setting,
    (SELECT c.relnamespace::pg_catalog.regnamespace::pg_catalog.text FROM pg_catalog.pg_class c
     WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('events'::pg_catalog.text)::pg_catalog.oid) AS home";

/// Of these schemas, in their order. What has the history's name and is no table, or has other columns, is none: `readable`
/// is null. To read a view, or a column of another's type, would run its maker's functions with our rights.
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
    FROM unnest($2::text[]) WITH ORDINALITY AS path (name, place)
    JOIN pg_namespace n ON n.nspname = path.name ORDER BY path.place"
);

const WITHOUT_USAGE: &str = concat!(
    "SELECT schema, role FROM (
        SELECT n.oid::regnamespace::text AS schema, quote_ident(current_user) AS role,
            has_schema_privilege(n.oid, 'USAGE') AS usable
        FROM regexp_split_to_table(replace($1::text, '\"', ''), '\\s*,\\s*') WITH ORDINALITY AS path (name, place)
        JOIN pg_namespace n ON n.nspname = CASE path.name WHEN '$user' THEN current_user ELSE path.name END
        WHERE has_schema_privilege(n.oid, 'USAGE')
            OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = '",
    history!(),
    "')
        ORDER BY path.place LIMIT 1
    ) AS first WHERE NOT usable"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn migrations() -> Vec<Migration> {
        let migration = |name| Migration::unapplied(name, "SELECT 1").unwrap();
        ["V1__first", "V2__second", "V3__third"].map(migration).to_vec()
    }

    /// As the first of these migrations were applied.
    fn applied(count: usize) -> Vec<Applied> {
        let applied = |ours: &Migration| Applied {
            version: ours.version(),
            name: ours.name().into(),
            checksum: ours.checksum().to_string(),
        };
        migrations().iter().take(count).map(applied).collect()
    }

    fn candidate(name: &str, applied: Vec<Applied>) -> Candidate {
        let taken = if applied.is_empty() { Vec::new() } else { vec!["webhooks".to_owned()] };
        Candidate { name: name.into(), applied, taken, ..Candidate::default() }
    }

    fn other(version: i32) -> Applied {
        Applied { version, name: "other".into(), checksum: "1".into() }
    }

    fn judged(candidates: &[Candidate]) -> Result<Option<Place>, StoreError> {
        judge(&Found { candidates: candidates.to_vec(), ..Found::default() }, &migrations())
    }

    fn refused(candidates: &[Candidate]) -> String {
        crate::error_chain(&judged(candidates).unwrap_err())
    }

    #[test]
    fn our_history_is_found_wherever_it_is_on_the_search_path_also_a_newer_one() {
        let newer = [applied(3), vec![other(4)]].concat();
        for (history, version) in [(applied(1), 1), (applied(3), 3), (newer, 4)] {
            let theirs = Candidate { taken: vec![], ..candidate("theirs", vec![other(1)]) };
            let hidden = Candidate { name: "hidden".into(), unreadable: true, ..Candidate::default() };
            let path = [Candidate::default(), theirs, hidden, candidate("ours", history)];
            let place = judged(&path).unwrap().unwrap();
            assert_eq!((place.name.as_str(), place.version), ("ours", Some(version)));
        }
    }

    #[test]
    fn anothers_history_is_refused_whatever_its_versions_are() {
        let theirs = [vec![other(1)], vec![other(9)], vec![other(0), applied(1).remove(0)], vec![other(1), other(2)]];
        for history in theirs {
            let error = refused(&[candidate("public", history.clone())]);
            assert!(error.contains("migrations of another product (V"), "{history:?}: {error}");
            assert!(error.contains("CREATE SCHEMA"), "{error}");
        }
        let altered = [applied(2), vec![other(3)]].concat();
        assert!(refused(&[candidate("public", altered)]).contains("V3__other in the schema public is not"));
    }

    #[test]
    fn a_table_in_our_way_is_refused_only_where_our_tables_would_be_made() {
        let taken = Candidate { name: "public".into(), taken: vec!["events".into()], ..Candidate::default() };
        assert!(refused(std::slice::from_ref(&taken)).contains("a table events of another product"));
        let place = judged(&[candidate("own", vec![]), taken]).unwrap().unwrap();
        assert_eq!((place.name.as_str(), place.version), ("own", None));
        assert_eq!(judged(&[]).unwrap(), None);
    }

    #[test]
    fn a_table_that_statements_would_find_before_ours_is_refused() {
        for history in [vec![], vec![other(1)]] {
            let before = Candidate { taken: vec!["events".into()], ..candidate("shop", history) };
            let error = refused(&[candidate("own", vec![]), before, candidate("public", applied(3))]);
            assert!(error.contains("shop holds a table events of another product and comes before public"), "{error}");
        }
    }

    #[test]
    fn a_history_that_may_not_be_read_is_anothers_unless_nothing_else_can_be_ours() {
        let hidden = Candidate { unreadable: true, ..candidate("public", vec![]) };
        let place = judged(&[Candidate::default(), hidden.clone()]).unwrap().unwrap();
        assert_eq!(place.version, None);
        assert!(refused(&[hidden]).contains("permission denied for table public.refinery_schema_history"));
    }
}

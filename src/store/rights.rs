//! Grants, and checks, the rights of a role that runs workers, APIs and commands but does not own the tables.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio_postgres::{Client, Error, Row, Transaction};

use super::schema::{self, Home, OURS};
use super::{Store, StoreError, column, migration_lock};

/// How long granting rights waits for a migration, or for another grant, to end.
const LOCK_BOUND: Duration = Duration::from_secs(60);

/// The rights on each table. Partitions need none: all statements name the whole table.
const TABLES: [(&str, &[&str]); 12] = [
    ("webhooks", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("events", &["SELECT", "INSERT"]),
    ("attempts", &["SELECT", "INSERT"]),
    ("pending_deliveries", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("closed_deliveries", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("notices", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("recoveries", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("kept_answers", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("paces", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("processes", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("holds", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("refinery_schema_history", &["SELECT"]),
];

/// The functions that make partitions with the rights of the tables' owner, each with its table.
const FUNCTIONS: [(&str, &str); 2] = [("make_events_partition", "events"), ("make_attempts_partition", "attempts")];

/// What a role may and may not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rights {
    /// As in SQL: quoted if necessary.
    pub role: String,
    /// Such as `INSERT on attempts`.
    pub missing: Vec<String>,
    /// Wrong owners and missing rights that keep every role from making or dropping partitions, each with the statement that
    /// corrects it.
    pub faults: Vec<String>,
    /// Statements that keep other roles from making functions in the schemas of the search path up to that of our tables. Such
    /// functions may run with the rights of whoever uses our tables.
    pub revokes: Vec<String>,
    /// Whether the role owns the tables, and so may drop partitions.
    pub owner: bool,
}

/// Why a role did not get all the rights that it needs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    #[error("PostgreSQL has no role {0}: make it with CREATE ROLE … LOGIN, or correct the name (capitals count)")]
    NoSuchRole(String),
    #[error("{role} still lacks {missing}, which somebody else has to grant")]
    NotOurs { role: String, missing: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Error> for GrantError {
    fn from(error: Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Grants a role the rights that workers, APIs and commands need, and revokes none. Only the owner of the tables can.
    ///
    /// # Errors
    ///
    /// See [`GrantError`]. [`StoreError::Unavailable`] also if a migration or another grant does not end within a minute.
    pub(crate) async fn grant_to(&self, role: &str) -> Result<(), GrantError> {
        let (mut session, home) = self.session_at_home().await?;
        let Some(quoted) = session.query_opt(ROLE, &[&role]).await? else {
            return Err(GrantError::NoSuchRole(role.to_owned()));
        };
        let quoted: String = column(&quoted, "quoted");
        // Several processes may start together: of two that grant rights on one table at a time, PostgreSQL fails one.
        migration_lock::take(&session, &home, LOCK_BOUND).await?;
        let transaction = session.transaction().await?;
        transaction.batch_execute("SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '60s'").await?;
        if !rights(&transaction, &home, Some(role)).await?.missing.is_empty() {
            transaction.batch_execute(&grants(&home.name, &quoted)).await?;
            // Only if necessary, because the schema may belong to another role than the tables.
            let usable = transaction.query_one(USABLE, &[&role, &home.name]).await?;
            if !column::<bool>(&usable, "usable") {
                transaction.batch_execute(&format!("GRANT USAGE ON SCHEMA {} TO {quoted}", home.name)).await?;
            }
        }
        let rights = rights(&transaction, &home, Some(role)).await?;
        transaction.commit().await?;
        match &rights.missing[..] {
            [] => Ok(()),
            missing => Err(GrantError::NotOurs { role: rights.role, missing: missing.join(", ") }),
        }
    }

    /// What the role of this program's sessions may do.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] without the tables; else the database is not available or busy.
    pub(crate) async fn rights(&self) -> Result<Rights, StoreError> {
        let mut connection = self.connection().await?;
        let ask = async |client: &mut Object| {
            let (transaction, path) = schema::with_pg_catalog_only(client).await?;
            let home = path.home();
            let revokes = transaction.query(REVOKES, &[&path.schemas, &home.name]).await?;
            let revokes = revokes.iter().map(|row| column(row, "statement")).collect();
            let rights = Rights { revokes, ..rights(&transaction, &home, None).await? };
            transaction.rollback().await.map(|()| rights)
        };
        connection.ask(ask).await
    }
}

/// Gives tables that a superuser, or a member of the owner's role, has made in a migration to the owner of `events`, who
/// could not use them otherwise. A role that may not do that leaves them as they are; the doctor reports them.
pub(super) async fn give_to_owner(session: &Client, home: &Home) -> Result<(), StoreError> {
    session.batch_execute("SET lock_timeout = '2s'").await?;
    for row in session.query(STRAYS, &[&&OURS[..], &home.name]).await? {
        let given = session.batch_execute(&column::<String>(&row, "statement")).await.map_err(StoreError::from);
        if !matches!(given, Err(StoreError::Denied(_))) {
            given?;
        }
    }
    Ok(())
}

fn grants(schema: &str, role: &str) -> String {
    let on_tables =
        TABLES.iter().map(|(table, rights)| format!("GRANT {} ON {schema}.{table} TO {role};", rights.join(", ")));
    let on_functions = FUNCTIONS
        .iter()
        .map(|(function, _)| format!("GRANT EXECUTE ON FUNCTION {schema}.{function}(integer) TO {role};"));
    on_tables.chain(on_functions).collect()
}

/// The rights of a role, `None` for the session's own, without `revokes`. The search path must be `pg_catalog` alone.
async fn rights(session: &Transaction<'_>, home: &Home, role: Option<&str>) -> Result<Rights, Error> {
    let (tables, privileges): (Vec<&str>, Vec<&str>) =
        TABLES.iter().flat_map(|(table, rights)| rights.iter().map(move |right| (*table, *right))).unzip();
    let (functions, made): (Vec<&str>, Vec<&str>) = FUNCTIONS.into_iter().unzip();
    let missing = session.query(MISSING, &[&role, &tables, &privileges, &functions, &home.name]).await?;
    let faults = session.query(FUNCTION_FAULTS, &[&functions, &made, &home.name]).await?;
    let strays = session.query(STRAYS, &[&&OURS[..], &home.name]).await?;
    let who = session.query_one(WHO, &[&role, &home.name]).await?;
    let text = |name: &'static str| move |row: &Row| column::<String>(row, name);
    Ok(Rights {
        role: column(&who, "role"),
        missing: missing.iter().map(text("missing")).collect(),
        faults: faults.iter().map(text("fault")).chain(strays.iter().map(text("fault"))).collect(),
        revokes: Vec::new(),
        owner: column(&who, "owner"),
    })
}

const ROLE: &str = "SELECT pg_catalog.quote_ident(rolname) AS quoted FROM pg_roles WHERE rolname = $1::text";

const USABLE: &str =
    "SELECT pg_catalog.has_schema_privilege($1::text::name, $2::text::regnamespace::oid, 'USAGE') AS usable";

const WHO: &str = "
    SELECT pg_catalog.quote_ident(coalesce($1::text, current_user)) AS role,
        (SELECT pg_catalog.bool_and(pg_catalog.pg_has_role(coalesce($1::text, current_user)::name, c.relowner, 'USAGE')) FROM pg_class c
         WHERE c.oid IN (($2::text || '.events')::regclass, ($2::text || '.attempts')::regclass)) AS owner";

const MISSING: &str = "
    WITH home AS (SELECT $5::text::regnamespace::oid AS schema, coalesce($1::text, current_user)::name AS role)
    SELECT 'CONNECT to the database ' || pg_catalog.quote_ident(pg_catalog.current_database()) AS missing FROM home
    WHERE NOT pg_catalog.has_database_privilege(role, pg_catalog.current_database(), 'CONNECT')
    UNION ALL
    SELECT 'USAGE on the schema ' || schema::regnamespace::text FROM home WHERE NOT pg_catalog.has_schema_privilege(role, schema, 'USAGE')
    UNION ALL
    SELECT pg_catalog.string_agg(needed.privilege, ', ' ORDER BY needed.place) || ' on ' || needed.name
    FROM home CROSS JOIN unnest($2::text[], $3::text[]) WITH ORDINALITY AS needed (name, privilege, place)
    JOIN pg_class c ON c.relnamespace = home.schema AND c.relname = needed.name
    WHERE NOT pg_catalog.has_table_privilege(role, c.oid, needed.privilege)
    GROUP BY needed.name
    UNION ALL
    SELECT 'EXECUTE on ' || needed.name FROM home CROSS JOIN pg_catalog.unnest($4::text[]) AS needed (name)
    JOIN pg_proc p ON p.pronamespace = home.schema AND p.proname = needed.name
    WHERE NOT pg_catalog.has_function_privilege(role, p.oid, 'EXECUTE')";

/// Functions whose owner may not do what they do: the tables were given to another role and the functions were not, or the
/// owner may not make tables in the schema.
const FUNCTION_FAULTS: &str = "
    SELECT CASE
        WHEN NOT pg_catalog.pg_has_role(p.proowner, c.relowner, 'USAGE') THEN
            pg_catalog.format('the function %s belongs to %s, who does not own %s: ALTER FUNCTION %s OWNER TO %s', p.proname,
                p.proowner::regrole, c.relname, p.oid::regprocedure, c.relowner::regrole)
        ELSE pg_catalog.format('%s, who owns the function %s, may not make tables: GRANT CREATE ON SCHEMA %s TO %s',
                p.proowner::regrole, p.proname, c.relnamespace::regnamespace, p.proowner::regrole)
        END AS fault
    FROM unnest($1::text[], $2::text[]) AS made (function, parent)
    JOIN pg_class c ON c.relnamespace = $3::text::regnamespace AND c.relname = made.parent
    JOIN pg_proc p ON p.pronamespace = c.relnamespace AND p.proname = made.function
    WHERE NOT pg_catalog.pg_has_role(p.proowner, c.relowner, 'USAGE')
        OR NOT pg_catalog.has_schema_privilege(p.proowner, c.relnamespace, 'CREATE')";

/// Our tables that belong to a role whose rights the owner of `events` does not have. `attempts` is left out: its partitions
/// would have to change their owner as well.
const STRAYS: &str = "
    SELECT pg_catalog.format('the table %s belongs to %s, not to %s as events does: %s'::text, relation, holder, owner,
        statement) AS fault, statement
    FROM (
        SELECT c.oid::regclass::text AS relation, c.relowner::regrole::text AS holder,
            e.relowner::regrole::text AS owner,
            'ALTER TABLE '::text || c.oid::regclass::text || ' OWNER TO '::text || e.relowner::regrole::text AS statement
        FROM pg_class e JOIN pg_class c ON c.relnamespace = e.relnamespace
        WHERE e.relname = 'events' AND e.relnamespace = $2::text::regnamespace AND c.relkind = 'r'
            AND (c.relname = ANY ($1::text[]) OR c.relname = 'refinery_schema_history'::text)
            AND NOT pg_catalog.pg_has_role(e.relowner, c.relowner, 'USAGE')
    ) AS strays ORDER BY relation";

/// One statement for each role that may make objects in a schema of the search path up to that of our tables. Roles that own
/// the schema, or that have the rights of the tables' owner, keep that right.
const REVOKES: &str = "
    WITH home AS (SELECT relnamespace AS schema, relowner AS owner FROM pg_class
                  WHERE relname = 'events' AND relnamespace = $2::text::regnamespace),
    path AS (
        SELECT n.oid, n.nspacl, n.nspowner, p.place
        FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS p (name, place)
        JOIN pg_namespace n ON n.nspname = p.name
    )
    SELECT 'REVOKE CREATE ON SCHEMA '::text || path.oid::regnamespace::text || ' FROM '::text
        || CASE a.grantee WHEN 0::oid THEN 'PUBLIC'::text ELSE a.grantee::regrole::text END AS statement
    FROM home CROSS JOIN path CROSS JOIN LATERAL pg_catalog.aclexplode(path.nspacl) AS a
    WHERE path.place <= (SELECT p.place FROM path AS p WHERE p.oid = home.schema)
        AND a.privilege_type = 'CREATE'::text AND a.grantee <> path.nspowner
        AND NOT pg_catalog.pg_has_role(a.grantee, home.owner, 'USAGE')
    ORDER BY path.place";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_gets_no_right_to_change_or_remove_what_was_logged() {
        let grants = grants("public", "app");
        for statement in
            ["GRANT SELECT, INSERT ON public.attempts TO app;", "ON FUNCTION public.make_events_partition(integer)"]
        {
            assert!(grants.contains(statement), "{grants}");
        }
        assert!(!grants.contains("CREATE") && !grants.contains("ALL"), "{grants}");
    }
}

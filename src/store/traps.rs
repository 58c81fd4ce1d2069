//! Finds functions, operators and tables of other roles in our schema that a migration would use instead of PostgreSQL's or
//! ours, and that would run with the rights of whoever migrates.

use tokio_postgres::Client;

use super::schema::{HISTORY, Home};
use super::{StoreError, column};

/// Checks that a migration would run no code of another role. A migrating role may be a superuser, so such code could do
/// anything. The search path of the session must be `pg_catalog` alone.
///
/// These objects of other roles count as traps:
///
/// - Functions and operators with the name of one of PostgreSQL's, while a migration is to be applied: migrations use names
///   without a schema, and PostgreSQL takes the one that fits the arguments best.
/// - A table or view with the name of our history, since its triggers, checks and defaults run when we write to it; and
///   functions with the names of ours. A superuser checks this before the first migration only: later the tables may belong
///   to a role of their own, which a superuser who migrates them trusts.
///
/// Objects of superusers are no traps, since a superuser can do everything anyway. Objects of roles whose rights the session
/// has are none either, unless the session is a superuser's, who has the rights of all roles. Types are not checked:
/// PostgreSQL's come first on every search path. Casts are not checked: a cast needs a type of its maker, and our statements
/// have values of such a type only if a trapped function or operator returns one.
///
/// The check runs once, after the migration lock was taken and before the first migration. A role that may make objects in
/// the schema can still do so while migrations run. Only `REVOKE CREATE ON SCHEMA` prevents that, and the doctor asks for it.
///
/// # Errors
///
/// [`StoreError::Unsafe`] names the first trap and the cure.
pub(super) async fn check(session: &Client, home: &Home, newest: i32) -> Result<(), StoreError> {
    let (applies, fresh) = (!home.is_at_least(newest), home.is_fresh());
    let Some(trap) = session.query_opt(FIRST_TRAP, &[&home.name, &HISTORY, &fresh, &applies]).await? else {
        return Ok(());
    };
    let text = |name| column::<String>(&trap, name);
    let more = match column::<i64>(&trap, "traps") - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let cure = format!("REVOKE CREATE ON SCHEMA {} FROM PUBLIC, {}", home.name, text("owner"));
    Err(StoreError::Unsafe(anyhow::anyhow!(
        "the {} {} belongs to {}, who would get the rights of whoever migrates{more}; {cure}, then drop or move it, or give \
         penr-webhooks a schema of its own",
        text("kind"),
        text("object"),
        text("owner")
    )))
}

const FIRST_TRAP: &str = "
    WITH home AS (SELECT $1::text::regnamespace::oid AS schema),
    me AS (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
    found AS (
        SELECT 'function' AS kind, p.oid::regprocedure::text AS object, p.proowner AS owner
        FROM home CROSS JOIN me JOIN pg_proc p ON p.pronamespace = home.schema
        WHERE ($4::boolean AND EXISTS (
                SELECT FROM pg_proc o WHERE o.pronamespace = 'pg_catalog'::regnamespace AND o.proname = p.proname))
            OR ($3::boolean OR NOT me.rolsuper) AND p.proname IN ('make_events_partition', 'make_attempts_partition')
        UNION ALL
        SELECT 'operator', p.oid::regoperator::text, p.oprowner
        FROM home JOIN pg_operator p ON p.oprnamespace = home.schema
        WHERE $4::boolean AND EXISTS (SELECT FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = p.oprname)
        UNION ALL
        SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'r' THEN 'table' ELSE 'relation' END, c.oid::regclass::text, c.relowner
        FROM home CROSS JOIN me JOIN pg_class c ON c.relnamespace = home.schema
        WHERE c.relname = $2::text AND ($3::boolean OR NOT me.rolsuper)
    )
    SELECT kind, object, quote_ident(r.rolname) AS owner, count(*) OVER () AS traps
    FROM found JOIN pg_roles r ON r.oid = found.owner CROSS JOIN me
    WHERE NOT r.rolsuper AND (me.rolsuper OR NOT pg_has_role(r.oid, 'USAGE'))
    ORDER BY kind, object LIMIT 1";

//! Finds what another role has put into our schema that a migration would run in place of PostgreSQL's own.

use tokio_postgres::Client;

use super::schema::{HISTORY, Place};
use super::{StoreError, column};

/// Fails if the schema holds what another role's code would be run by: with the rights of whoever migrates, who may be a
/// superuser. For a session that finds PostgreSQL's own functions and operators only.
///
/// - Functions and operators with a name that PostgreSQL's own have, if a migration is to be applied: migrations use names
///   without a schema, and PostgreSQL takes whichever fits the arguments best.
/// - A table or view with the name of our history, whose triggers, checks and defaults run when we write there, and
///   functions with the names of ours. A superuser looks for them before the first migration only: afterwards the tables
///   may belong to a role of their own, which a superuser who migrates them trusts.
///
/// Objects of superusers are no traps: a superuser can do everything anyway. Nor are those of a role whose rights the
/// session has; a superuser has everybody's, and trusts superusers only. Types need no look: those of PostgreSQL come first
/// on every search path. Casts neither: a cast needs one type of its maker's, and no statement of ours has a value of such a
/// type unless a function or an operator brings it.
///
/// Looks once, after the migration lock was taken and before the first migration. Whoever may make objects in the schema
/// can still do so while migrations run: only `REVOKE CREATE ON SCHEMA` ends that. Doctor warns until it is done.
pub(super) async fn check(session: &Client, place: &Place, newest: i32) -> Result<(), StoreError> {
    let (applies, fresh) = (!place.is_at_least(newest), place.is_fresh());
    let Some(trap) = session.query_opt(FIRST_TRAP, &[&place.name, &HISTORY, &fresh, &applies]).await? else {
        return Ok(());
    };
    let text = |name| column::<String>(&trap, name);
    let more = match column::<i64>(&trap, "traps") - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let cure = format!("REVOKE CREATE ON SCHEMA {} FROM PUBLIC, {}", place.name, text("owner"));
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

//! Finds what another role has put into our schema that a migration would run in place of PostgreSQL's own.

use tokio_postgres::Client;

use super::schema::{HISTORY, Place};
use super::{StoreError, column};

/// Fails if the schema holds what another role's code would be run by: with the rights of whoever migrates, who may be a
/// superuser. For a session that finds PostgreSQL's own functions and operators only.
///
/// - Functions and operators with a name that PostgreSQL's own have: migrations use names without a schema, and PostgreSQL
///   takes whichever fits the arguments best.
/// - A table or view with the name of our history, before the first migration: its triggers, checks and defaults would run
///   when we write there. One with the name of another table of ours is refused in any case. After the first migration
///   the tables may belong to a role of their own, which a superuser who migrates them trusts.
///
/// A superuser needs no trap, and what a superuser's extension holds is the superuser's. Nor does a role
/// whose rights the session has anyway; a superuser has everybody's, and trusts superusers only. Types need no look: those
/// of PostgreSQL come first on every search path. Casts neither: a cast needs one type of its maker's, and no statement of
/// ours has a value of such a type unless a function or an operator brings it.
///
/// This looks once, when the lock is held and nothing was run. Whoever may make objects in the schema can still do so while
/// migrations run: only `REVOKE CREATE ON SCHEMA` ends that. Doctor warns until it is done.
pub(super) async fn check(session: &Client, place: &Place) -> Result<(), StoreError> {
    let history = place.is_fresh().then_some(HISTORY);
    let Some(trap) = session.query_opt(FIRST_TRAP, &[&place.name, &history]).await? else { return Ok(()) };
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
    found AS (
        SELECT 'function' AS kind, p.oid::regprocedure::text AS object, p.proowner AS owner
        FROM home JOIN pg_proc p ON p.pronamespace = home.schema
        WHERE EXISTS (SELECT FROM pg_proc o WHERE o.pronamespace = 'pg_catalog'::regnamespace AND o.proname = p.proname)
        UNION ALL
        SELECT 'operator', p.oid::regoperator::text, p.oprowner
        FROM home JOIN pg_operator p ON p.oprnamespace = home.schema
        WHERE EXISTS (SELECT FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = p.oprname)
        UNION ALL
        SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'r' THEN 'table' ELSE 'relation' END, c.oid::regclass::text, c.relowner
        FROM home JOIN pg_class c ON c.relnamespace = home.schema WHERE c.relname = $2::text
    )
    SELECT kind, object, quote_ident(r.rolname) AS owner, count(*) OVER () AS traps
    FROM found JOIN pg_roles r ON r.oid = found.owner CROSS JOIN pg_roles me
    WHERE me.rolname = current_user AND NOT r.rolsuper AND (me.rolsuper OR NOT pg_has_role(r.oid, 'USAGE'))
    ORDER BY kind, object LIMIT 1";

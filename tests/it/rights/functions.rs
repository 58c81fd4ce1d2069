//! The functions that run with the owner's rights make partitions and do nothing else, and only for roles that
//! `migrate --grant-to` named.

use super::*;
use crate::support::older_schema::back_to;

/// PostgreSQL's message for a refused statement.
async fn refused(sql: &tokio_postgres::Client, statement: &str) -> String {
    let error = sql.batch_execute(statement).await.expect_err(statement);
    error.as_db_error().unwrap().message().to_owned()
}

#[tokio::test]
async fn only_named_roles_run_them_and_only_for_the_days_ahead() {
    let site = Site::new().await;
    let role = Role::narrow(&site).await;
    let narrow = servers::connect(&role.url(&site).await).await;
    for function in ["make_events_partition", "make_attempts_partition"] {
        assert!(refused(&narrow, &format!("SELECT {function}(1)")).await.contains("permission denied for function"));
    }
    assert_eq!(site.cli(&["migrate", "--grant-to", &role.name]).await.code, 0);
    for day in ["-2", "32", "NULL"] {
        let said = refused(&narrow, &format!("SELECT make_events_partition({day})")).await;
        assert!(said.contains("31 days ahead"), "{said}");
    }
    narrow.batch_execute("SELECT make_events_partition(31), make_attempts_partition(-1)").await.unwrap();
    let hardened =
        "SELECT count(*) FROM pg_proc WHERE prosecdef AND proconfig = ARRAY['search_path=pg_catalog, public, pg_temp']
        AND proname IN ('make_events_partition', 'make_attempts_partition')";
    assert_eq!(site.count(hardened).await, 2);
    assert_eq!(site.count("SELECT count(*) FROM pg_proc WHERE prosecdef AND proname ~ 'partition'").await, 2);
    role.drop().await;
}

#[tokio::test]
async fn they_do_what_they_did_when_others_put_functions_and_tables_in_their_way() {
    let site = Site::new().await;
    let role = Role::with_rights(&site).await;
    with_todays_partitions_only(&site).await;
    // In PostgreSQL 14 everybody may make functions in `public`.
    role.sql.batch_execute(&format!("GRANT CREATE ON SCHEMA public TO {}", role.name)).await.unwrap();
    let narrow = servers::connect(&role.url(&site).await).await;
    // Each of these fits the arguments of a call better than PostgreSQL's own function or operator.
    let traps = "
        CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION format(text, text, text, regclass, text) RETURNS text RETURN trap();
        CREATE FUNCTION format(text, regclass, text, text, timestamp, timestamp) RETURNS text RETURN trap();
        CREATE FUNCTION hashtextextended(text, integer) RETURNS bigint RETURN trap()::bigint;
        CREATE FUNCTION quote_ident(name) RETURNS text RETURN trap();
        CREATE FUNCTION to_char(date, text) RETURNS text RETURN trap();
        CREATE FUNCTION make_partition(text, timestamp) RETURNS void RETURN trap();
        CREATE FUNCTION differs(regrole, oid) RETURNS boolean RETURN trap()::boolean;
        CREATE OPERATOR public.<> (LEFTARG = regrole, RIGHTARG = oid, FUNCTION = differs);
        CREATE FUNCTION equals(regclass, oid) RETURNS boolean RETURN trap()::boolean;
        CREATE OPERATOR public.= (LEFTARG = regclass, RIGHTARG = oid, FUNCTION = equals);
        SET search_path = pg_temp, public;
        CREATE TEMP TABLE events (day date) PARTITION BY RANGE (day);
        CREATE TEMP TABLE attempts (day date) PARTITION BY RANGE (day)";
    narrow.batch_execute(traps).await.unwrap();
    narrow.batch_execute("SELECT public.make_events_partition(1), public.make_attempts_partition(1)").await.unwrap();
    drop(narrow);
    // Removes the traps too, which the test's own statements would run.
    role.drop().await;
    assert_eq!(days_ahead(&site).await, 2);
}

#[tokio::test]
async fn an_owner_runs_nothing_that_others_have_put_on_the_search_path() {
    let site = Site::unmigrated().await;
    let role = Role::narrow(&site).await;
    let open = "CREATE SCHEMA own; GRANT USAGE, CREATE ON SCHEMA own, public TO";
    role.sql.batch_execute(&format!("{open} {}", role.name)).await.unwrap();
    let narrow = servers::connect(&role.url(&site).await).await;
    let url = format!("{}?options=-csearch_path%3Down,public", site.database_url());
    let site = site.env("DATABASE_URL", &url);
    let receiver = Receiver::start().await;
    // First traps that are there before the first migration, then traps beside our tables.
    for schema in ["public", "own"] {
        let traps = "
            SET search_path = SCHEMA;
            CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
            CREATE FUNCTION current_schemas(text) RETURNS name[] RETURN trap()::name[];
            CREATE FUNCTION hashtextextended(text, integer) RETURNS bigint RETURN trap()::bigint;
            CREATE FUNCTION make_events_partition(double precision) RETURNS void RETURN trap();
            CREATE FUNCTION unnest(name[]) RETURNS SETOF name BEGIN ATOMIC SELECT trap()::name; END;
            CREATE FUNCTION joined(text, timestamptz) RETURNS text RETURN trap();
            CREATE OPERATOR || (LEFTARG = text, RIGHTARG = timestamptz, FUNCTION = joined);
            CREATE FUNCTION joined(text, oid) RETURNS text RETURN trap();
            CREATE OPERATOR || (LEFTARG = text, RIGHTARG = oid, FUNCTION = joined);
            CREATE FUNCTION equals(oid, regclass) RETURNS boolean RETURN trap()::boolean;
            CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = equals);
            CREATE FUNCTION quote_ident(name) RETURNS text RETURN trap()";
        narrow.batch_execute(&traps.replace("SCHEMA", schema)).await.unwrap();
        let output = site.cli(&["migrate", "--grant-to", &role.name]).await;
        assert_eq!(output.code, 0, "{schema}: {}", output.stderr);
        site.create_plain_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
        site.json(&["migrate", "--retention"]).await;
        let report = site.doctor().await;
        report.assert_nowhere("trapped");
        report.assert("search_path", "warns", &[&format!("REVOKE CREATE ON SCHEMA own FROM {}", role.name)]);
    }
    drop(narrow);
    role.drop().await;
    site.doctor().await.assert("search_path", "ok", &[]);
}

#[tokio::test]
async fn nothing_is_migrated_where_others_have_put_what_a_migration_would_run() {
    let site = Site::unmigrated().await;
    let role = Role::narrow(&site).await;
    role.sql.batch_execute(&format!("GRANT CREATE ON SCHEMA public TO {}", role.name)).await.unwrap();
    let narrow = servers::connect(&role.url(&site).await).await;
    // None of these is a trap: the first belongs to a superuser, the next has no name of PostgreSQL's, and PostgreSQL's types
    // come first.
    let harmless = "CREATE FUNCTION format(text, date) RETURNS text RETURN 'x'";
    role.sql.batch_execute(harmless).await.unwrap();
    let theirs = "
        CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
        CREATE FUNCTION equals(oid, regclass) RETURNS boolean RETURN trap()::boolean;
        CREATE DOMAIN public.text AS pg_catalog.text CHECK (trap() IS NULL)";
    narrow.batch_execute(theirs).await.unwrap();
    let planted = [
        ("FUNCTION", "format(pg_catalog.text, regclass)", "RETURNS pg_catalog.text RETURN trap()"),
        ("OPERATOR", "= (oid, regclass)", "(LEFTARG = oid, RIGHTARG = regclass, FUNCTION = equals)"),
        ("VIEW", "refinery_schema_history", "AS SELECT trap()::integer AS version, trap() AS name, trap() AS checksum"),
        (
            "TABLE",
            "refinery_schema_history",
            "(version integer PRIMARY KEY, name varchar, applied_on varchar, checksum varchar)",
        ),
    ];
    for (kind, name, definition) in planted {
        let made = name.trim_end_matches(" (oid, regclass)");
        narrow.batch_execute(&format!("CREATE {kind} public.{made} {definition}")).await.unwrap();
        let output = site.cli(&["migrate"]).await;
        let errors = output.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!((output.code, errors), (1, 1), "{name}: {}", output.stderr);
        assert!(!output.stderr.contains("trapped"), "{name}: {}", output.stderr);
        let named = format!("public.{}", &made[..made.find('(').unwrap_or(made.len())]);
        let cure = format!("REVOKE CREATE ON SCHEMA public FROM PUBLIC, {}", role.name);
        for said in [&kind.to_lowercase(), &named, &role.name, &cure, "drop or move it"] {
            assert!(output.stderr.contains(said), "{name}: no {said} in {}", output.stderr);
        }
        narrow.batch_execute(&format!("DROP {kind} public.{name}")).await.unwrap();
        assert_eq!(site.count("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace").await, 0);
    }
    let output = site.cli(&["migrate"]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    drop(narrow);
    role.drop().await;
}

#[tokio::test]
async fn a_superuser_who_migrates_leaves_them_to_the_owner_of_the_tables() {
    let site = Site::new().await;
    let (owner, role) = (Role::narrow(&site).await, Role::narrow(&site).await);
    without_these_functions(&site).await;
    let own = format!(
        "GRANT CREATE ON SCHEMA public TO {0}; ALTER TABLE events OWNER TO {0}; ALTER TABLE attempts OWNER TO {0}",
        owner.name
    );
    owner.sql.batch_execute(&own).await.unwrap();
    assert_eq!(site.cli(&["migrate", "--grant-to", &role.name]).await.code, 0);
    let theirs = format!(
        "SELECT count(*) FROM pg_proc WHERE proowner = '{}'::regrole
         AND proname IN ('make_events_partition', 'make_attempts_partition', 'make_partition', 'raise_webhook_revision')",
        owner.name
    );
    assert_eq!(site.count(&theirs).await, 4);
    let strays = format!(
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND NOT relispartition AND relnamespace = 'public'::regnamespace
         AND relowner <> '{}'::regrole",
        owner.name
    );
    assert_eq!(site.count(&strays).await, 0, "tables belong to another role than the owner of the events");
    owner.sql.batch_execute("ALTER TABLE dropped_partitions OWNER TO CURRENT_USER").await.unwrap();
    site.doctor().await.assert("rights", "fails", &["ALTER TABLE public.dropped_partitions OWNER TO", &owner.name]);
    // An owner who gives the tables to another role, but not the functions, is warned.
    owner.sql.batch_execute("ALTER TABLE events OWNER TO CURRENT_USER").await.unwrap();
    let url = role.url(&site).await;
    let site = site.env("DATABASE_URL", &url);
    let report = site.doctor().await;
    report.assert(
        "rights",
        "fails",
        &["make_events_partition belongs to", "ALTER FUNCTION public.make_events_partition(integer)"],
    );
    let back = format!("REASSIGN OWNED BY {} TO CURRENT_USER", owner.name);
    owner.sql.batch_execute(&back).await.unwrap();
    role.drop().await;
    owner.drop().await;
}

#[tokio::test]
async fn what_somebody_else_has_put_there_before_is_not_taken_over() {
    let site = Site::new().await;
    let role = Role::narrow(&site).await;
    without_these_functions(&site).await;
    let squat = "CREATE FUNCTION make_events_partition(days_ahead integer) RETURNS void LANGUAGE sql AS ''";
    role.sql.batch_execute(&format!("GRANT CREATE ON SCHEMA public TO {}", role.name)).await.unwrap();
    servers::connect(&role.url(&site).await).await.batch_execute(squat).await.unwrap();
    let output = site.cli(&["migrate"]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("make_events_partition\" already exists"), "{}", output.stderr);
    role.drop().await;
    assert_eq!(site.cli(&["migrate"]).await.code, 0);
}

#[tokio::test]
async fn a_worker_makes_partitions_with_the_schema_of_the_release_before() {
    let site = Site::new().await;
    without_these_functions(&site).await;
    with_todays_partitions_only(&site).await;
    let _worker = site.worker().await;
    wait_until("they are made", async || days_ahead(&site).await == 14).await;
}

/// Turns the schema back to that of the last release without these functions.
async fn without_these_functions(site: &Site) {
    site.sql().await.batch_execute(&back_to(8)).await.unwrap();
}

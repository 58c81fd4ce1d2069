//! A migration that is killed, wherever that is, is finished by the next one.

use serde_json::json;

use super::schema_file;
use crate::support::{Site, wait_until};

/// Stops a migration: when the history has reached `version`, the session waits after its n-th DDL statement for the holder
/// of the advisory lock 1818. `statements` is n.
const STOP: &str = "
    CREATE SCHEMA stop;
    CREATE TABLE stop.moment (version integer, statements bigint);
    CREATE SEQUENCE stop.counted;
    CREATE FUNCTION stop.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF to_regclass('public.refinery_schema_history') IS NULL THEN RETURN; END IF;
        IF (SELECT coalesce(max(version), 0) FROM public.refinery_schema_history) = (SELECT version FROM stop.moment)
            AND nextval('stop.counted') = (SELECT statements FROM stop.moment)
        THEN PERFORM pg_advisory_xact_lock(1818); END IF;
    END $$;
    CREATE EVENT TRIGGER stop ON ddl_command_end EXECUTE FUNCTION stop.wait()";

const STOPPED: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND objid = 1818
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The version of the newest migration.
fn newest() -> i32 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/migrations");
    i32::try_from(std::fs::read_dir(folder).unwrap().count()).unwrap()
}

/// What becomes of the server's part of a migration whose process was killed.
#[derive(Clone, Copy)]
enum Then {
    /// It ends in the middle of its statement.
    Terminated,
    /// It goes on to the end of what it was sent.
    LeftAlone,
}

async fn kill_at(site: &Site, (version, statements, then): (i32, i64, Then)) {
    let holder = site.another_sql().await;
    let set = format!(
        "SELECT pg_advisory_lock(1818), setval('stop.counted', 1, false);
         DELETE FROM stop.moment; INSERT INTO stop.moment VALUES ({version}, {statements})"
    );
    holder.batch_execute(&set).await.unwrap();
    let mut replica = site.launch(&["migrate"]).start();
    wait_until("the migration waits at the chosen statement", async || site.count(STOPPED).await == 1).await;
    replica.kill9();
    replica.wait().await;
    let end = match then {
        Then::Terminated => "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND objid = 1818",
        Then::LeftAlone => "SELECT pg_advisory_unlock(1818)",
    };
    holder.batch_execute(end).await.unwrap();
}

#[tokio::test]
async fn a_migration_killed_at_any_moment_is_finished_by_the_next_with_the_same_schema() {
    let site = Site::unmigrated().await;
    site.another_sql().await.batch_execute(STOP).await.unwrap();
    let moments = [
        // The history was made, and nothing else.
        (0, 1, Then::Terminated),
        // In the middle of V1, V4 and V9.
        (0, 8, Then::LeftAlone),
        (3, 1, Then::Terminated),
        (8, 4, Then::LeftAlone),
        // All migrations are done, one partition was made, and the next one is not attached yet.
        (newest(), 3, Then::Terminated),
    ];
    for moment in moments {
        kill_at(&site, moment).await;
    }
    site.another_sql().await.batch_execute("DROP EVENT TRIGGER stop; DROP SCHEMA stop CASCADE").await.unwrap();
    site.json(&["migrate"]).await;
    assert_eq!(site.json(&["migrate"]).await["applied"], json!([]));
    site.doctor().await.assert("schema", "ok", &[]);
    site.doctor().await.assert("partitions", "ok", &[]);
    if let Some(made) = schema_file::of(&site).await {
        assert_eq!(made, schema_file::in_docs());
    }
}

//! Several processes that migrate at once make one schema. A process that finds no schema, or an old one, says so or goes on.

use crate::support::older_schema::back_to;
use crate::support::replica::ATTACHED;
use crate::support::{Replica, Site, eventually, wait_until};

fn migrate(site: &Site) -> Replica {
    site.launch(&["migrate"]).start()
}

/// Waits until all have ended well, and returns the output of those that have applied something.
async fn all_end_well(replicas: &mut [Replica]) -> Vec<String> {
    for replica in replicas.iter_mut() {
        assert_eq!(replica.wait().await.code(), Some(0), "{}", replica.log());
    }
    let said = replicas.iter().map(Replica::stdout);
    said.filter(|text| text.contains("applied")).collect()
}

/// Checks that each version is in the history once, and that the schema works.
async fn is_migrated(site: &Site) {
    let versions = "SELECT count(*) FROM refinery_schema_history";
    let different = "SELECT count(DISTINCT version) FROM refinery_schema_history";
    assert_eq!(site.count(versions).await, site.count(different).await);
    assert!(site.count(versions).await > 0);
    for table in ["webhooks", "events", "attempts", "pending_deliveries", "closed_deliveries"] {
        assert_eq!(site.count(&format!("SELECT count(*) FROM {table}")).await, 0);
    }
    site.worker().await;
}

#[tokio::test]
async fn eight_replicas_that_migrate_at_once_make_one_schema() {
    let site = Site::unmigrated().await;
    let mut replicas: Vec<_> = (0..8).map(|_| migrate(&site)).collect();
    assert_eq!(all_end_well(&mut replicas).await.len(), 1, "one does the work");
    is_migrated(&site).await;
}

#[tokio::test]
async fn a_replica_killed_in_the_middle_leaves_the_work_to_the_others() {
    let site = Site::unmigrated().await;
    let locker = site.another_sql().await;
    // The migration can make the tables, but must wait before it makes the function after them.
    locker.batch_execute("BEGIN; LOCK TABLE pg_proc IN SHARE MODE").await.unwrap();
    let mut first = migrate(&site);
    // Autovacuum, which may wait for the table too, asks for another lock.
    let stuck = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pg_proc'::regclass
                 AND mode = 'RowExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("the first is in the middle", async || site.count(stuck).await == 1).await;
    let mut others: Vec<_> = (0..7).map(|_| migrate(&site)).collect();
    let queued = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND query LIKE 'SELECT pg_try_advisory_lock%'";
    wait_until("the others wait", async || site.count(queued).await == 7).await;
    first.kill9();
    first.wait().await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(all_end_well(&mut others).await.len(), 1, "one does the work");
    is_migrated(&site).await;
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let site = Site::new().await;
    let again = site.json(&["migrate"]).await;
    assert_eq!(again["applied"], serde_json::json!([]));
    is_migrated(&site).await;
}

#[tokio::test]
async fn a_worker_on_a_bare_database_says_what_to_do_and_comes_up_when_it_is_done() {
    let site = Site::unmigrated().await;
    let mut worker = site.launch(&["worker"]).start();
    worker.wait_for_log("penr-webhooks migrate").await;
    assert_eq!(migrate(&site).wait().await.code(), Some(0));
    eventually("the worker comes up", async || worker.log().contains(ATTACHED).then_some(())).await;
    assert!(worker.is_running(), "the worker ended after it had come up");
}

#[tokio::test]
async fn an_api_goes_on_when_a_database_without_the_newest_migration_takes_over() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let path = customer.create_at("https://example.com/hook").await;
    // As on a standby that has not received the migration.
    let log = format!("{path}/deliveries");
    assert_eq!(customer.get(&log).await.status, 200);
    site.sql().await.batch_execute(&back_to(10)).await.unwrap();
    for read in [&path, &log] {
        wait_until("the API reads it again", async || customer.get(read).await.status == 200).await;
    }
}

#[tokio::test]
async fn a_command_on_a_bare_database_says_what_to_do() {
    let site = Site::unmigrated().await;
    let output = site.cli(&["webhooks", "list", "--account", "acc_1"]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("penr-webhooks migrate"), "{}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1);
}

//! `doctor` names what is wrong with Postgres, its settings, the schema and the secrets in it.

use super::*;

#[tokio::test]
async fn a_database_that_is_down_fails_and_the_rest_is_checked() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.postgres_address()).await;
    proxy.refuse(true).await;
    let report = site.postgres_through(&proxy.addr()).doctor().await;
    report.assert("database", "fails", &["DATABASE_URL", "refused"]);
    report.assert_skipped(&OF_DATABASE);
    report.assert("broker", "ok", &[]);
    report.assert("round_trip", "ok", &[]);
    assert_eq!(report.code, 1);
}

#[tokio::test]
async fn who_keeps_dead_rows_from_being_removed_is_named() {
    let site = Site::new().await;
    site.doctor().await.assert("snapshots", "ok", &[]);
    let backup = site.another_sql().await;
    backup
        .batch_execute("SET application_name = 'nightly backup'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .await
        .unwrap();
    site.doctor().await.assert("snapshots", "ok", &["nightly backup", "keeps old rows from being removed"]);
    let mut worker = site.worker().await;
    wait_until("it is measured", async || worker.metric("oldest_transaction_seconds").await > 0.0).await;
}

#[tokio::test]
async fn an_address_that_cannot_be_read_is_not_shown() {
    let output =
        Site::new().await.env("DATABASE_URL", "postgres://user:hunter2@localhost/db?sslmode=x").cli(&["doctor"]).await;
    assert!(output.stdout.contains("fails  database          DATABASE_URL cannot be used"), "{}", output.stdout);
    assert!(![output.stdout, output.stderr].concat().contains("hunter2"));
}

#[tokio::test]
async fn a_bare_database_is_to_be_migrated() {
    let report = Site::unmigrated().await.doctor().await;
    report.assert("database", "ok", &["PostgreSQL"]);
    report.assert("schema", "fails", &["there is none", "penr-webhooks migrate"]);
    report.assert_skipped(&["rights", "search_path", "retention", "partitions", "locks", "secrets"]);
    assert_eq!(report.code, 1);
}

#[tokio::test]
async fn an_older_schema_fails_and_a_newer_one_serves() {
    let site = Site::new().await;
    let sql = site.sql().await;
    let newest = site.count("SELECT max(version)::bigint FROM refinery_schema_history").await;
    sql.batch_execute(
        "DELETE FROM refinery_schema_history WHERE version = (SELECT max(version) FROM refinery_schema_history)",
    )
    .await
    .unwrap();
    let report = site.doctor().await;
    let versions = format!("version {}, this program needs {newest}", newest - 1);
    report.assert("schema", "fails", &[&versions, "penr-webhooks migrate"]);
    assert_eq!(report.code, 1);
    sql.batch_execute(
        "INSERT INTO refinery_schema_history SELECT version + 100, name, applied_on, checksum FROM refinery_schema_history",
    )
    .await
    .unwrap();
    let report = site.doctor().await;
    report.assert("schema", "ok", &["newer"]);
    report.assert("secrets", "ok", &[]);
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn missing_partitions_are_found_before_their_day_and_on_it() {
    let site = Site::new().await;
    let drop = |table: &str, day: i32| {
        format!(
            "DO $$ BEGIN EXECUTE 'DROP TABLE {table}_'
             || to_char((now() AT TIME ZONE 'UTC')::date + {day}, 'YYYYMMDD'); END $$"
        )
    };
    site.sql().await.batch_execute(&drop("attempts", 2)).await.unwrap();
    let report = site.doctor().await;
    report.assert("partitions", "warns", &["today and 1 days ahead only", "penr-webhooks migrate"]);
    assert_eq!(report.code, 0);
    site.sql().await.batch_execute(&drop("events", 0)).await.unwrap();
    let report = site.doctor().await;
    report.assert("partitions", "fails", &["today's are missing", "penr-webhooks migrate"]);
    assert_eq!(report.code, 1);
    assert_eq!(site.cli(&["migrate"]).await.code, 0);
    site.doctor().await.assert("partitions", "ok", &["7 days ahead"]);
}

#[tokio::test]
async fn a_database_that_may_forget_what_was_committed_is_warned_about() {
    let site = Site::new().await;
    set_for_all(&site, "synchronous_commit = off").await;
    let report = site.doctor().await;
    report.assert("durability", "warns", &["synchronous_commit"]);
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn a_read_only_database_fails() {
    let site = Site::new().await;
    set_for_all(&site, "default_transaction_read_only = on").await;
    let report = site.doctor().await;
    report.assert("database", "fails", &["read-only", "primary"]);
    assert_eq!(report.code, 1);
}

/// Sets it for all sessions of the site's database that begin from now on.
async fn set_for_all(site: &Site, setting: &str) {
    let set = format!("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {setting}', current_database()); END $$");
    site.sql().await.batch_execute(&set).await.unwrap();
}

#[tokio::test]
async fn webhooks_whose_key_is_missing_or_wrong_are_counted() {
    let site = Site::new().await;
    for _ in 0..2 {
        site.create_webhook("acc_1", "https://hooks.example.com/", &["content.published"]).await;
    }
    let webhook = site.create_webhook("acc_1", "https://hooks.example.com/", &["content.published"]).await;
    let site = site.set("security.encryption_keys", &encryption_key("k2"));
    let report = site.doctor().await;
    report.assert("secrets", "fails", &["3 webhooks need the key `k1`", "security.encryption_keys"]);
    assert_eq!(report.code, 1);
    let wrong = encryption_key("k1");
    let site = site.set("security.encryption_keys", &wrong);
    let output = site.cli(&["doctor"]).await;
    assert!(output.stdout.contains("the secrets or headers of 3 webhooks do not decrypt"), "{}", output.stdout);
    let key = wrong.split_once(':').unwrap().1;
    assert!(![&output.stdout[..], &output.stderr].concat().contains(key));
    let damage = "UPDATE webhooks SET secret = '\\x00' WHERE id = $1::text::uuid";
    site.sql().await.execute(damage, &[&webhook.id]).await.unwrap();
    site.doctor().await.assert("secrets", "fails", &["the secrets or headers of 3 webhooks do not decrypt"]);
}

//! Expired partitions are dropped by the role that owns them. If no worker has that role, a job of the owner does it.

use super::*;

/// Adds old partitions to both tables.
async fn with_expired_days(site: &Site, count: i32) {
    let create = format!(
        "DO $$ BEGIN FOR n IN 1 .. {count} LOOP
            EXECUTE format('CREATE TABLE events_202002%s PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                10 + n, date '2020-02-10' + n, date '2020-02-11' + n);
            EXECUTE format('CREATE TABLE attempts_202002%s PARTITION OF attempts FOR VALUES FROM (%L) TO (%L)',
                10 + n, date '2020-02-10' + n || ' 00:00:00+00', date '2020-02-11' + n || ' 00:00:00+00');
        END LOOP; END $$"
    );
    site.sql().await.batch_execute(&create).await.unwrap();
}

async fn expired(site: &Site) -> i64 {
    site.count("SELECT count(*) FROM pg_class WHERE relname ~ '^(events|attempts)_2020' AND relkind = 'r'").await
}

#[tokio::test]
async fn where_workers_own_nothing_the_owners_job_drops_what_has_expired() {
    let site = Site::new().await;
    let role = Role::with_rights(&site).await;
    with_expired_days(&site, 4).await;
    let old = "INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
        VALUES (gen_random_uuid(), gen_random_uuid(), '2019-12-31', gen_random_uuid(), 'exhausted', 10)";
    site.sql().await.batch_execute(old).await.unwrap();
    let owner = site.database_url().to_owned();
    let site = role.used_by(site).await;
    // A worker that drops nothing neither waits for the lock of those that drop, nor takes it.
    role.sql.batch_execute("SELECT pg_advisory_lock(x'70656e7264726f70'::bigint)").await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log("partitions past their retention are not dropped here").await;
    assert_eq!(worker.log().matches("penr-webhooks migrate --retention").count(), 1, "{}", worker.log());
    let closed = "SELECT count(*) FROM closed_deliveries";
    wait_until("its own part is done", async || site.count(closed).await == 0).await;
    assert!(!worker.log().contains("trying again every minute") && expired(&site).await == 8, "{}", worker.log());
    site.doctor().await.assert("retention", "warns", &["4 days", "migrate --retention"]);
    assert_eq!(site.json(&["migrate", "--check"]).await["missing"], json!([]), "it may look");
    let output = site.cli(&["migrate", "--retention"]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("does not own the tables"), "{}", output.stderr);
    role.sql.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    let site = site.env("DATABASE_URL", &owner);
    let dropped = site.json(&["migrate", "--retention"]).await;
    assert_eq!((dropped["dropped"].as_array().unwrap().len(), &dropped["left"]), (6, &json!(2)), "{dropped}");
    assert_eq!(expired(&site).await, 2);
    drop(worker);
    role.drop().await;
}

#[tokio::test]
async fn the_owners_job_does_not_migrate() {
    let site = Site::unmigrated().await;
    let output = site.cli(&["migrate", "--retention"]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("run `penr-webhooks migrate` first"), "{}", output.stderr);
    let output = site.cli(&["migrate", "--retention", "--grant-to", "x"]).await;
    assert_eq!(output.code, 2);
}

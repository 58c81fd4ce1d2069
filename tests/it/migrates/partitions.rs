//! Each day has a partition: it is made ahead, dropped after its retention, and kept while a delivery needs it.

use uuid::Uuid;

use crate::support::{Site, wait_until};

const OLD_DAY: &str = "2020-02-29";

const PARTITIONS: &str = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                          WHERE i.inhparent = to_regclass($1::text) ORDER BY c.relname";

async fn partitions(site: &Site, table: &str) -> Vec<String> {
    let rows = site.sql().await.query(PARTITIONS, &[&table]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The partitions from yesterday to a week ahead, by Postgres's clock.
async fn expected(site: &Site, table: &str) -> Vec<String> {
    let days = "SELECT $1::text || '_' || to_char((now() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD')
                FROM generate_series(-1, 7) AS n ORDER BY n";
    let rows = site.sql().await.query(days, &[&table]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Adds the partitions of a day that is long past the retention.
async fn with_old_partitions(site: &Site) {
    let create = "
        CREATE TABLE events_20200229 PARTITION OF events FOR VALUES FROM ('2020-02-29') TO ('2020-03-01');
        CREATE TABLE attempts_20200229 PARTITION OF attempts
            FOR VALUES FROM ('2020-02-29 00:00:00+00') TO ('2020-03-01 00:00:00+00');";
    site.sql().await.batch_execute(create).await.unwrap();
}

/// Adds a delivery of an event of the old day that is due in the far future.
async fn with_an_old_delivery(site: &Site) {
    let key = Uuid::new_v4();
    let webhook = site.create_webhook("acc_1", "https://example.com/", &["content.created"]).await.id;
    let insert = format!(
        "INSERT INTO events (day, key, account_id, event_id, event_type, body)
         VALUES ('{OLD_DAY}', '{key}', 'acc_1', 'evt_1', 'content.created', '{{}}');
         INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
         VALUES ('{key}', '{webhook}', 1, '{OLD_DAY}', '{key}', 'retry', 1, now() + interval '1 year')"
    );
    site.sql().await.batch_execute(&insert).await.unwrap();
}

#[tokio::test]
async fn they_reach_from_yesterday_to_a_week_from_now() {
    let site = Site::unmigrated().await;
    site.json(&["migrate"]).await;
    for table in ["events", "attempts"] {
        assert_eq!(partitions(&site, table).await, expected(&site, table).await);
    }
}

#[tokio::test]
async fn a_worker_makes_those_that_are_missing() {
    let site = Site::new().await;
    let last = expected(&site, "attempts").await.pop().unwrap();
    site.sql().await.batch_execute(&format!("DROP TABLE {last}")).await.unwrap();
    let _worker = site.worker().await;
    let complete = async || partitions(&site, "attempts").await == expected(&site, "attempts").await;
    wait_until("the missing one is there", complete).await;
}

#[tokio::test]
async fn those_past_retention_are_dropped() {
    let site = Site::new().await;
    with_old_partitions(&site).await;
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    for table in ["events", "attempts"] {
        assert_eq!(partitions(&site, table).await, expected(&site, table).await);
    }
    assert_eq!(site.count("SELECT count(*) FROM pg_class WHERE relname LIKE '%20200229%'").await, 0);
}

#[tokio::test]
async fn those_past_retention_are_dropped_however_the_tables_are_read() {
    let site = Site::new().await;
    with_old_partitions(&site).await;
    // With this plan PostgreSQL reads the names of all tables before it knows which are partitions.
    let plan = "DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET enable_nestloop = off', current_database());
        EXECUTE format('ALTER DATABASE %I SET enable_indexscan = off', current_database());
        EXECUTE format('ALTER DATABASE %I SET enable_bitmapscan = off', current_database());
    END $$";
    site.sql().await.batch_execute(plan).await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    assert_eq!(partitions(&site, "events").await, expected(&site, "events").await);
}

#[tokio::test]
async fn one_that_a_waiting_delivery_needs_is_kept_until_that_is_done() {
    let site = Site::new().await;
    with_old_partitions(&site).await;
    with_an_old_delivery(&site).await;
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    assert!(partitions(&site, "events").await.contains(&"events_20200229".to_owned()));
    assert!(!partitions(&site, "attempts").await.contains(&"attempts_20200229".to_owned()));
    // A killed worker's session may keep the lock of those that drop for a moment, and the next worker would wait a minute.
    worker.terminate();
    worker.wait().await;
    site.sql().await.batch_execute("DELETE FROM pending_deliveries").await.unwrap();
    let mut next = site.worker().await;
    next.wait_for_log("retention ended").await;
    assert_eq!(partitions(&site, "events").await, expected(&site, "events").await);
}

#[tokio::test]
async fn closed_deliveries_go_with_their_events() {
    let site = Site::new().await;
    with_old_partitions(&site).await;
    let insert = format!(
        "INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
         SELECT gen_random_uuid(), gen_random_uuid(), day, gen_random_uuid(), 'exhausted', 10
         FROM unnest(ARRAY['{OLD_DAY}', (now() AT TIME ZONE 'UTC')::date]::date[]) AS day"
    );
    site.sql().await.batch_execute(&insert).await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    let old = format!("SELECT count(*) FROM closed_deliveries WHERE event_day = '{OLD_DAY}'");
    assert_eq!(site.count(&old).await, 0);
    assert_eq!(site.count("SELECT count(*) FROM closed_deliveries").await, 1);
}

#[tokio::test]
async fn dropping_that_was_interrupted_is_taken_up_again() {
    let site = Site::new().await;
    with_old_partitions(&site).await;
    let (reader, detacher) = (site.another_sql().await, site.another_sql().await);
    reader.batch_execute("BEGIN; SELECT FROM events").await.unwrap();
    let waiting = tokio::spawn(async move {
        detacher.batch_execute("ALTER TABLE events DETACH PARTITION events_20200229 CONCURRENTLY").await
    });
    let pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
    wait_until("the detaching waits for the reader", async || site.count(pending).await == 1).await;
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND query LIKE 'ALTER TABLE events DETACH%'";
    site.sql().await.execute(cancel, &[]).await.unwrap();
    assert!(waiting.await.unwrap().is_err(), "it was cancelled");
    reader.batch_execute("ROLLBACK").await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    assert_eq!(site.count(pending).await, 0);
    assert_eq!(partitions(&site, "events").await, expected(&site, "events").await);
}

//! Partitions that operators attach, detach or keep are left alone.

use super::*;

#[tokio::test]
async fn tables_that_were_detached_by_somebody_else_or_never_were_partitions_are_kept() {
    let site = Site::new().await;
    with_past_days(&site, 50..=51).await;
    let (archive, expired) = (partition(&site, "attempts", -50).await, partition(&site, "attempts", -51).await);
    let keep = format!("ALTER TABLE attempts DETACH PARTITION {archive}; CREATE TABLE events_20200101 (x integer)");
    site.sql().await.batch_execute(&keep).await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    assert!(!exists(&site, &expired).await);
    assert!(exists(&site, &archive).await && exists(&site, "events_20200101").await);
}

#[tokio::test]
async fn what_retention_detached_and_did_not_come_to_drop_is_dropped() {
    let site = Site::new().await;
    with_past_days(&site, 50..=50).await;
    let detached = partition(&site, "attempts", -50).await;
    marked(&site, &detached).await;
    let detach = format!("ALTER TABLE attempts DETACH PARTITION {detached}");
    site.sql().await.batch_execute(&detach).await.unwrap();
    let _worker = site.worker().await;
    wait_until("it is dropped", async || !exists(&site, &detached).await).await;
}

#[tokio::test]
async fn partitions_of_an_operators_own_break_nothing_and_the_doctor_names_them() {
    let site = Site::new().await;
    with_past_days(&site, 50..=50).await;
    let own = "CREATE TABLE events_default PARTITION OF events DEFAULT;
               CREATE TABLE attempts_default PARTITION OF attempts DEFAULT;
               CREATE TABLE events_of_2019 PARTITION OF events FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
               CREATE TABLE attempts_before PARTITION OF attempts FOR VALUES FROM (MINVALUE) TO ('2020-01-01 00:00:00+00')";
    site.sql().await.batch_execute(own).await.unwrap();
    let webhook = webhook(&site).await;
    let delivery = closed_delivery(&site, &webhook, 0).await;
    closed_delivery(&site, &webhook, 0).await;
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    assert!(!exists(&site, &partition(&site, "events", -50).await).await);
    site.json(&["webhooks", "resend", &webhook, &delivery]).await;
    let recovered = site.json(&["webhooks", "recover", &webhook, "--since", "1h"]).await;
    assert_eq!(recovered["recovering"], 1, "{recovered}");
    assert_eq!(
        site.count("SELECT count(*) FROM pg_class WHERE relname IN ('events_of_2019', 'attempts_before')").await,
        2
    );
    let report = site.doctor().await;
    report.assert("partitions", "warns", &["attempts_default", "events_default"]);
    drop(worker);
    // Without its own partition, the DEFAULT partition would take the rows of this day.
    let ahead = partition(&site, "attempts", 6).await;
    site.sql().await.batch_execute(&format!("DROP TABLE {ahead}")).await.unwrap();
    assert_eq!(site.cli(&["migrate"]).await.code, 0);
    assert!(is_attached(&site, &ahead).await);
}

#[tokio::test]
async fn a_day_that_an_operators_partition_covers_needs_none_of_ours() {
    let site = Site::new().await;
    let (ours, day) = (partition(&site, "events", 6).await, "(now() AT TIME ZONE 'UTC')::date + ");
    let cover = format!(
        "DO $$ BEGIN EXECUTE format('CREATE TABLE operators PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
            {day} 6, {day} 9); END $$"
    );
    let sql = site.sql().await;
    let later = partition(&site, "events", 7).await;
    sql.batch_execute(&format!("DROP TABLE {ours}; DROP TABLE {later}; {cover}")).await.unwrap();
    assert_eq!(site.cli(&["migrate"]).await.code, 0);
    site.doctor().await.assert("partitions", "ok", &["7 days ahead"]);
}

#[tokio::test]
async fn with_a_default_partition_a_reader_of_one_table_keeps_none_of_the_other_and_is_named() {
    let site = Site::new().await;
    with_past_days(&site, 50..=51).await;
    let own = "CREATE TABLE events_default PARTITION OF events DEFAULT;
               CREATE TABLE attempts_default PARTITION OF attempts DEFAULT";
    site.sql().await.batch_execute(own).await.unwrap();
    let reader = long_reader(&site, "events").await;
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    worker.wait_for_log("partitions past their retention are not dropped").await;
    assert!(worker.log().contains("lock timeout"), "{}", worker.log());
    assert_eq!([past(&site, "events").await, past(&site, "attempts").await], [2, 0]);
    reader.batch_execute("ROLLBACK").await.unwrap();
}

/// Marks a partition as retention does.
pub(super) async fn marked(site: &Site, partition: &str) {
    let mark = format!(
        "DO $$ BEGIN EXECUTE format('COMMENT ON TABLE {partition} IS %L',
            'penr-webhooks: past its retention, to be dropped, ' || '{partition}'::regclass::oid); END $$"
    );
    site.sql().await.batch_execute(&mark).await.unwrap();
}

#[tokio::test]
async fn a_mark_is_worth_nothing_on_another_table_and_is_taken_back_when_the_retention_is_longer() {
    let site = Site::new().await.set("retention.events", "60d").set("retention.attempts", "60d");
    with_past_days(&site, 70..=71).await;
    with_past_days(&site, 50..=50).await;
    let (kept, saved) = (partition(&site, "events", -50).await, partition(&site, "attempts", -70).await);
    let restored = partition(&site, "events", -71).await;
    marked(&site, &kept).await;
    let save = format!("ALTER TABLE attempts DETACH PARTITION {saved}");
    marked(&site, &saved).await;
    site.sql().await.batch_execute(&format!("{save}; COMMENT ON TABLE {saved} IS NULL")).await.unwrap();
    marked(&site, &restored).await;
    // A table as restored from a dump: with the comment, but another OID.
    let restore = format!(
        "ALTER TABLE events DETACH PARTITION {restored}; ALTER TABLE {restored} RENAME TO dumped;
         CREATE TABLE {restored} (LIKE dumped);
         DO $$ BEGIN EXECUTE format('COMMENT ON TABLE {restored} IS %L', obj_description('dumped'::regclass)); END $$;
         DROP TABLE dumped"
    );
    site.sql().await.batch_execute(&restore).await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log("retention ended").await;
    assert!(exists(&site, &saved).await && exists(&site, &restored).await && is_attached(&site, &kept).await);
    let mark = "SELECT count(*) FROM pg_description WHERE description LIKE 'penr-webhooks:%' AND objoid = ";
    assert_eq!(site.count(&format!("{mark}'{kept}'::regclass")).await, 0);
}

#[tokio::test]
async fn closed_deliveries_are_deleted_with_their_events_whatever_older_partitions_there_are() {
    let site = Site::new().await;
    let own = "CREATE TABLE events_before PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
               CREATE TABLE events_of_may PARTITION OF events FOR VALUES FROM ('2026-05-01') TO ('2026-06-01')";
    site.sql().await.batch_execute(own).await.unwrap();
    let webhook = webhook(&site).await;
    let close = format!(
        "INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
         SELECT gen_random_uuid(), '{webhook}', day::date, gen_random_uuid(), 'exhausted', 10
         FROM unnest(array['2019-12-31', '2020-01-01', '2026-05-31', '2026-06-01', now()::date::text]) AS day"
    );
    site.sql().await.batch_execute(&close).await.unwrap();
    let _worker = site.worker().await;
    let days = "SELECT count(*) FROM closed_deliveries";
    wait_until("the two are deleted whose day has no partition", async || site.count(days).await == 3).await;
    let gone = format!("{days} WHERE event_day IN ('2020-01-01', '2026-06-01')");
    assert_eq!(site.count(&gone).await, 0);
}

#[tokio::test]
async fn a_day_that_an_operators_partition_covers_in_part_is_reported() {
    let site = Site::new().await;
    let (ours, day) = (partition(&site, "attempts", 2).await, "(now() AT TIME ZONE 'UTC')::date");
    let cover = format!(
        "DROP TABLE {ours};
         DO $$ BEGIN EXECUTE format('CREATE TABLE operators PARTITION OF attempts FOR VALUES FROM (%L) TO (%L)',
            {day} + 2 || ' 06:00:00+00', {day} + 2 || ' 18:00:00+00'); END $$"
    );
    site.sql().await.batch_execute(&cover).await.unwrap();
    let output = site.cli(&["migrate"]).await;
    let said = format!("a partition covers part of the day of {ours}");
    assert!(output.code == 1 && output.stderr.contains(&said), "{}", output.stderr);
    site.doctor().await.assert("partitions", "warns", &["1 days ahead"]);
}

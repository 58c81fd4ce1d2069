//! What operators attach, detach and keep is theirs.

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
    let interrupted = format!(
        "COMMENT ON TABLE {detached} IS 'penr-webhooks: past its retention, to be dropped';
         ALTER TABLE attempts DETACH PARTITION {detached}"
    );
    site.sql().await.batch_execute(&interrupted).await.unwrap();
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
    // A day ahead that the default partition would otherwise take.
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

//! Partitions are made ahead and dropped after their retention while others read and write, and only our own are dropped.
//! However long the log is kept, a statement reads only the days that it needs.

use uuid::Uuid;

use crate::support::*;

mod deliveries;
mod long_log;
mod operators;

const DETACHING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'ALTER TABLE %.attempts DETACH%'
        AND state = 'active' AND wait_event_type = 'Lock'";

/// Adds partitions of days before today to both tables.
async fn with_past_days(site: &Site, days: std::ops::RangeInclusive<i32>) {
    let (first, last) = days.into_inner();
    let create = format!(
        "DO $$ DECLARE day date; BEGIN
            FOR n IN {first} .. {last} LOOP
                day := (now() AT TIME ZONE 'UTC')::date - n;
                EXECUTE format('CREATE TABLE %I PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                    to_char(day, '\"events_\"YYYYMMDD'), day, day + 1);
                EXECUTE format('CREATE TABLE %I PARTITION OF attempts FOR VALUES FROM (%L) TO (%L)',
                    to_char(day, '\"attempts_\"YYYYMMDD'), day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            END LOOP;
        END $$"
    );
    site.sql().await.batch_execute(&create).await.unwrap();
}

/// The name of a day's partition, counted from today.
async fn partition(site: &Site, table: &str, day: i32) -> String {
    let name = "SELECT $1::text || to_char((now() AT TIME ZONE 'UTC')::date + $2::integer, '_YYYYMMDD')";
    site.sql().await.query_one(name, &[&table, &day]).await.unwrap().get(0)
}

async fn is_attached(site: &Site, partition: &str) -> bool {
    let attached = format!("SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass('{partition}')");
    site.count(&attached).await == 1
}

async fn exists(site: &Site, table: &str) -> bool {
    site.count(&format!("SELECT count(*) FROM pg_class WHERE relname = '{table}'")).await == 1
}

/// The number of a table's partitions of days before yesterday.
async fn past(site: &Site, table: &str) -> i64 {
    let before = partition(site, table, -1).await;
    let count = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = ";
    site.count(&format!("{count} '{table}'::regclass AND c.relname < '{before}'")).await
}

/// Adds a delivery that was closed `age` days ago, with its event and one attempt of that day, and returns its id.
async fn closed_delivery(site: &Site, webhook: &str, age: i32) -> String {
    let id = Uuid::new_v4().to_string();
    let insert = format!(
        "INSERT INTO events (day, key, account_id, event_id, event_type, body)
         VALUES ((now() AT TIME ZONE 'UTC')::date - {age}, '{id}', 'acc_1', 'evt_1', 'content.created', '{{}}');
         INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
             http_status, duration_ms, error, created_at)
         VALUES ('{id}', '{webhook}', '{id}', (now() AT TIME ZONE 'UTC')::date - {age}, '{id}', 'evt_1',
             'content.created', 'event', 1, 500, 1, 'http_status', now() - interval '{age} days');
         INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
         VALUES ('{id}', '{webhook}', (now() AT TIME ZONE 'UTC')::date - {age}, '{id}', 'exhausted', 10)"
    );
    site.sql().await.batch_execute(&insert).await.unwrap();
    id
}

async fn webhook(site: &Site) -> String {
    site.create_webhook("acc_1", "http://127.0.0.1:9999/", &["content.created"]).await.id
}

/// Opens a transaction that has read this table.
async fn long_reader(site: &Site, table: &str) -> tokio_postgres::Client {
    let reader = site.another_sql().await;
    reader.batch_execute(&format!("BEGIN; SELECT FROM {table} LIMIT 1")).await.unwrap();
    reader
}

#[tokio::test]
async fn a_long_reader_of_an_expired_partition_holds_up_neither_resending_nor_making_partitions() {
    let site = Site::new().await;
    let delivery = closed_delivery(&site, &webhook(&site).await, 0).await;
    with_past_days(&site, 60..=60).await;
    let ahead = partition(&site, "attempts", 7).await;
    site.sql().await.batch_execute(&format!("DROP TABLE {ahead}")).await.unwrap();
    let reader = long_reader(&site, "attempts").await;
    let mut worker = site.worker().await;
    wait_until("the detaching waits for the reader", async || site.count(DETACHING).await == 1).await;
    assert!(is_attached(&site, &ahead).await, "it was made beside the reader");
    let webhook = site.sql().await.query_one("SELECT id::text FROM webhooks", &[]).await.unwrap().get::<_, String>(0);
    let resent = site.launch(&["webhooks", "resend", &webhook, &delivery]).set("database.statement_timeout", "20s");
    let mut resent = resent.start();
    assert!(resent.wait().await.success(), "{}", resent.log());
    assert!(!site.log(&webhook).await.is_empty());
    reader.batch_execute("ROLLBACK").await.unwrap();
    worker.wait_for_log("retention ended").await;
    wait_until("both are gone", async || past(&site, "attempts").await + past(&site, "events").await == 0).await;
}

#[tokio::test]
async fn a_worker_killed_while_it_detaches_leaves_no_session_behind() {
    let site = Site::new().await;
    with_past_days(&site, 60..=60).await;
    let _reader = long_reader(&site, "attempts").await;
    let worker = site.worker().await;
    wait_until("the detaching waits for the reader", async || site.count(DETACHING).await == 1).await;
    worker.kill9();
    let sessions = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'penr-webhooks'";
    wait_until("the killed worker's sessions end", async || site.count(sessions).await == 0).await;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(site.count(held).await, 0);
}

#[tokio::test]
async fn what_retention_has_marked_cannot_be_sent_again() {
    let site = Site::new().await;
    let webhook = webhook(&site).await;
    let delivery = closed_delivery(&site, &webhook, 1).await;
    let yesterday = partition(&site, "events", -1).await;
    // As while the partition is being detached.
    operators::marked(&site, &yesterday).await;
    let resent = site.cli(&["webhooks", "resend", &webhook, &delivery]).await;
    assert!(resent.code == 1 && resent.stderr.contains("no longer kept"), "{}", resent.stderr);
    let recovered = site.json(&["webhooks", "recover", &webhook, "--since", "1h"]).await;
    assert_eq!([&recovered["recovering"], &recovered["not_recoverable"]], [0, 1], "{recovered}");
}

#[tokio::test]
async fn a_session_that_holds_the_lock_is_logged_and_counted() {
    let site = Site::new().await;
    with_past_days(&site, 60..=60).await;
    let ahead = partition(&site, "attempts", 7).await;
    site.sql().await.batch_execute(&format!("DROP TABLE {ahead}")).await.unwrap();
    // A worker of an older release holds this lock while it detaches a partition.
    let other = site.another_sql().await;
    other.batch_execute(&format!("SELECT pg_advisory_lock({})", 0x7065_6e72_7061_7274_i64)).await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log("partitions past their retention are not dropped").await;
    assert!(is_attached(&site, &ahead).await, "partitions ahead are made all the same");
    let address = worker.logged("operations address", "address").await;
    let metrics = http::get(&address, "/metrics").await.text();
    assert!(metrics.contains("penr_webhooks_upkeep_failures_total{reason=\"locked\"} 1\n"), "{metrics}");
    assert!(metrics.contains("penr_webhooks_partitions_ahead 8\n"), "{metrics}");
}

#[tokio::test]
async fn at_most_three_days_of_a_table_are_dropped_at_once() {
    let site = Site::new().await;
    with_past_days(&site, 60..=69).await;
    for left in [7, 4] {
        let mut worker = site.worker().await;
        worker.wait_for_log("retention ended").await;
        assert_eq!([past(&site, "events").await, past(&site, "attempts").await], [left, left]);
        // A killed worker's session may keep the lock of those that drop for a moment, and the next worker would wait a minute.
        worker.terminate();
        worker.wait().await;
        // The limit is shared: a worker that starts soon afterwards drops nothing more.
        let mut next = site.worker().await;
        next.wait_for_log("more partitions are past their retention").await;
        assert_eq!([past(&site, "events").await, past(&site, "attempts").await], [left, left]);
        next.terminate();
        next.wait().await;
        let later = "UPDATE dropped_partitions SET chosen_at = chosen_at - interval '2 hours'";
        site.sql().await.execute(later, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn an_api_makes_partitions_too() {
    let site = Site::new().await;
    let ahead = partition(&site, "events", 5).await;
    site.sql().await.batch_execute(&format!("DROP TABLE {ahead}")).await.unwrap();
    let _api = site.api().await;
    wait_until("it is made", async || is_attached(&site, &ahead).await).await;
}

#[tokio::test]
async fn making_partitions_lets_readers_and_writers_go_on() {
    let site = Site::new().await;
    let days = [partition(&site, "attempts", 6).await, partition(&site, "events", 6).await];
    for day in &days {
        site.sql().await.batch_execute(&format!("DROP TABLE {day}")).await.unwrap();
    }
    let webhook = webhook(&site).await;
    let _readers = [long_reader(&site, "attempts").await, long_reader(&site, "events").await];
    let writer = site.another_sql().await;
    writer.batch_execute("BEGIN").await.unwrap();
    closed_delivery(&site, &webhook, 0).await;
    // As `migrate` and the workers of an older release call the function.
    let make = "SET lock_timeout = '20s'; SELECT make_partitions(7)";
    site.another_sql().await.batch_execute(make).await.unwrap();
    for day in &days {
        assert!(is_attached(&site, day).await, "{day}");
    }
}

#[tokio::test]
async fn a_partition_is_made_as_its_table_is() {
    let site = Site::new().await;
    let shape = "SELECT count(DISTINCT shape) FROM (
        SELECT c.oid, string_agg(concat_ws(' ', a.attname, a.atttypid, a.attnotnull, a.attstorage, a.attcompression), ','
                   ORDER BY a.attnum)
            || (SELECT string_agg(regexp_replace(pg_get_indexdef(x.indexrelid), '.* USING', ''), ','
                       ORDER BY regexp_replace(pg_get_indexdef(x.indexrelid), '.* USING', ''))
                    || count(*) FILTER (WHERE EXISTS (SELECT FROM pg_inherits WHERE inhrelid = x.indexrelid)
                                           OR c.relkind = 'p')
                FROM pg_index x WHERE x.indrelid = c.oid) AS shape
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relname ~ '^TABLE(_[0-9]{8})?$' GROUP BY c.oid
    ) AS shapes";
    for table in ["events", "attempts"] {
        assert_eq!(site.count(&shape.replace("TABLE", table)).await, 1, "{table}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_reported_and_the_other_days_are_made() {
    let site = Site::new().await;
    let (taken, free) = (partition(&site, "attempts", 3).await, partition(&site, "attempts", 4).await);
    let take = format!("DROP TABLE {taken}; DROP TABLE {free}; CREATE TABLE {taken} (x integer)");
    site.sql().await.batch_execute(&take).await.unwrap();
    let mut worker = site.worker().await;
    worker.wait_for_log(&format!("{taken} is not a partition of attempts")).await;
    assert!(is_attached(&site, &free).await);
    assert!(!is_attached(&site, &taken).await && exists(&site, &taken).await);
    let output = site.cli(&["migrate"]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains(&format!("{taken} is not a partition of attempts")), "{}", output.stderr);
}

#[tokio::test]
async fn a_partition_lies_where_its_table_does_and_belongs_to_its_owner() {
    let site = Site::new().await;
    let (ahead, role) = (partition(&site, "events", 6).await, format!("owner_{}", Uuid::new_v4().simple()));
    let sql = site.another_sql().await;
    let space = format!("space_{}", Uuid::new_v4().simple());
    // PostgreSQL 14 has no tablespace without a directory of its own.
    let spaces = site.count("SELECT current_setting('server_version_num')::bigint").await >= 150_000;
    if spaces {
        sql.batch_execute("SET allow_in_place_tablespaces = on").await.unwrap();
        sql.batch_execute(&format!("CREATE TABLESPACE {space} LOCATION ''")).await.unwrap();
        sql.batch_execute(&format!("ALTER TABLE events SET TABLESPACE {space}")).await.unwrap();
    }
    let own = format!(
        "DROP TABLE {ahead}; CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}; ALTER TABLE events OWNER TO {role}"
    );
    sql.batch_execute(&own).await.unwrap();
    sql.batch_execute("SELECT make_partitions(7)").await.unwrap();
    let same = format!(
        "SELECT count(DISTINCT (relowner, reltablespace)) FROM pg_class
         WHERE oid IN ('events'::regclass, '{ahead}'::regclass)"
    );
    let same = site.count(&same).await;
    // Roles and tablespaces belong to the whole server.
    sql.batch_execute(&format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"))
        .await
        .unwrap();
    if spaces {
        let back =
            format!("ALTER TABLE events SET TABLESPACE pg_default; ALTER TABLE {ahead} SET TABLESPACE pg_default");
        sql.batch_execute(&back).await.unwrap();
        sql.batch_execute(&format!("DROP TABLESPACE {space}")).await.unwrap();
    }
    assert_eq!(same, 1);
}

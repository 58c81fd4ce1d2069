//! Our tables may be in any schema. A schema with another product's tables is refused before anything is changed in it.

use serde_json::json;

use crate::support::older_schema::back_to;
use crate::support::*;

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

/// The number of relations and functions in `public`.
const OF_PUBLIC: &str = "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)";

/// The tables of another product that uses the same library for its migrations, and some of our names.
const ANOTHER_PRODUCT: &str = "
    CREATE TABLE refinery_schema_history (version integer PRIMARY KEY, name text, applied_on text, checksum text);
    INSERT INTO refinery_schema_history VALUES (1, 'initial', '2026-01-01T00:00:00Z', '1'), (12, 'other', '', 'x');
    CREATE TABLE events (x integer); CREATE VIEW webhooks AS SELECT 1 AS x";

/// The database's URL with this search path.
fn within_schema(site: &Site, schema: &str) -> String {
    format!("{}?options=-csearch_path%3D{schema}", site.database_url())
}

/// Runs a command in a schema, which must succeed.
async fn json_in(site: &Site, schema: &str, arguments: &[&str]) -> serde_json::Value {
    let mut replica =
        site.launch(&[arguments, &["--json"]].concat()).env("DATABASE_URL", &within_schema(site, schema)).start();
    assert!(replica.wait().await.success(), "{}", replica.log());
    serde_json::from_str(&replica.stdout()).unwrap()
}

#[tokio::test]
async fn everything_works_in_a_schema_of_its_own_beside_another_product() {
    let site = Site::unmigrated().await;
    site.sql().await.batch_execute(&format!("{ANOTHER_PRODUCT}; CREATE SCHEMA \"Own\"")).await.unwrap();
    let before = site.count(OF_PUBLIC).await;
    let url = within_schema(&site, "%22Own%22,public");
    let site = site.env("DATABASE_URL", &url);
    assert!(!site.json(&["migrate"]).await["applied"].as_array().unwrap().is_empty());
    let (receiver, _) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.next().await;
    wait_until("it is recorded", async || site.count("SELECT count(*) FROM \"Own\".attempts").await == 1).await;
    let report = site.doctor().await;
    for check in ["schema", "rights", "retention", "partitions", "locks", "secrets"] {
        report.assert(check, "ok", &[]);
    }
    assert_eq!(site.json(&["migrate"]).await["applied"], json!([]));
    assert_eq!(site.count(OF_PUBLIC).await, before, "nothing was made in `public`");
    let others = "SELECT count(*) FROM pg_proc WHERE pronamespace = '\"Own\"'::regnamespace AND prosecdef
        AND proconfig = ARRAY['search_path=pg_catalog, \"Own\", pg_temp']";
    assert_eq!(site.count(others).await, 2);
}

#[tokio::test]
async fn a_role_may_have_the_schema_of_its_name_and_tables_stay_where_they_are() {
    let site = Site::new().await;
    let user = "DO $$ BEGIN EXECUTE format('CREATE SCHEMA %I', current_user); END $$";
    site.sql().await.batch_execute(user).await.unwrap();
    // This schema now comes first on the search path.
    assert_eq!(site.json(&["migrate"]).await["applied"], json!([]));
    site.doctor().await.assert("schema", "ok", &[]);
    let made = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace";
    assert_eq!(site.count(made).await, 0);
}

#[tokio::test]
async fn two_installations_in_one_database_do_not_disturb_each_other() {
    let site = Site::unmigrated().await;
    let sql = site.another_sql().await;
    sql.batch_execute("CREATE SCHEMA one; CREATE SCHEMA two").await.unwrap();
    for schema in ["one", "two"] {
        assert!(!json_in(&site, schema, &["migrate"]).await["applied"].as_array().unwrap().is_empty());
        let expired = "CREATE TABLE SCHEMA.attempts_20200229 PARTITION OF SCHEMA.attempts
            FOR VALUES FROM ('2020-02-29 00:00:00+00') TO ('2020-03-01 00:00:00+00')";
        sql.batch_execute(&expired.replace("SCHEMA", schema)).await.unwrap();
    }
    // The first installation waits for a reader: neither the retention nor the migrations of the second wait for that.
    let reader = site.another_sql().await;
    reader.batch_execute("BEGIN; SELECT FROM one.attempts").await.unwrap();
    let url = within_schema(&site, "one");
    let mut waiting = site.launch(&["migrate", "--retention"]).env("DATABASE_URL", &url).start();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE 'ALTER TABLE %.attempts DETACH%'";
    wait_until("the detaching waits for the reader", async || site.count(waits).await == 1).await;
    assert_eq!(json_in(&site, "two", &["migrate", "--retention"]).await["dropped"], json!(["attempts_20200229"]));
    assert_eq!(json_in(&site, "two", &["migrate"]).await["applied"], json!([]));
    reader.batch_execute("ROLLBACK").await.unwrap();
    // The first installation may have given up the wait before the reader ended, so its retention runs once more.
    waiting.wait().await;
    json_in(&site, "one", &["migrate", "--retention"]).await;
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'attempts_20200229'";
    assert_eq!(site.count(left).await, 0);
}

#[tokio::test]
async fn partitions_are_made_for_the_first_installation_on_the_path_also_if_it_is_of_the_release_before() {
    let site = Site::unmigrated().await;
    let sql = site.another_sql().await;
    sql.batch_execute("CREATE SCHEMA one; CREATE SCHEMA two").await.unwrap();
    for schema in ["one", "two"] {
        json_in(&site, schema, &["migrate"]).await;
    }
    sql.batch_execute(&format!("SET search_path = two; {}; RESET search_path", back_to(8))).await.unwrap();
    let tomorrow = "SELECT to_char((now() AT TIME ZONE 'UTC')::date + 1, '\"events_\"YYYYMMDD')";
    let tomorrow: String = sql.query_one(tomorrow, &[]).await.unwrap().get(0);
    sql.batch_execute(&format!("DROP TABLE one.{tomorrow}, two.{tomorrow}")).await.unwrap();
    let url = within_schema(&site, "two,one");
    let _worker = site.launch(&["worker"]).env("DATABASE_URL", &url).start_worker().await;
    let made =
        format!("SELECT count(*) FROM pg_class WHERE relname = '{tomorrow}' AND relnamespace = 'two'::regnamespace");
    wait_until("its partition is made", async || site.count(&made).await == 1).await;
}

#[tokio::test]
async fn another_products_history_is_refused_at_once_by_all_and_left_as_it_is() {
    let site = Site::unmigrated().await;
    site.sql().await.batch_execute(ANOTHER_PRODUCT).await.unwrap();
    let before = site.count(OF_PUBLIC).await;
    refused(&site, &["migrate", "worker", "api", "run"], "migrations of another product (V12__other)").await;
    assert_eq!(site.count(OF_PUBLIC).await, before);
}

#[tokio::test]
async fn another_products_table_is_refused_before_anything_is_made() {
    let site = Site::unmigrated().await;
    site.sql().await.batch_execute("CREATE TABLE events (x integer)").await.unwrap();
    refused(&site, &["migrate"], "a table events of another product").await;
    assert_eq!(site.count(OF_PUBLIC).await, 1);
}

#[tokio::test]
async fn another_products_table_that_would_be_taken_for_ours_is_refused() {
    let site = Site::new().await;
    let shop = "CREATE SCHEMA shop; CREATE TABLE shop.webhooks (x integer)";
    site.sql().await.batch_execute(shop).await.unwrap();
    let url = within_schema(&site, "shop,public");
    let site = site.env("DATABASE_URL", &url);
    for command in ["migrate", "worker"] {
        let output = site.cli(&[command]).await;
        assert_eq!(output.code, 1, "{command}");
        let said = "the schema shop holds a table webhooks of another product and comes before public";
        assert!(output.stderr.contains(said), "{}", output.stderr);
    }
    let url = within_schema(&site, "public,shop");
    assert_eq!(site.env("DATABASE_URL", &url).json(&["migrate"]).await["applied"], json!([]));
}

/// Checks that each of these commands ends with one line that says this and what to do, and that the doctor says it too.
async fn refused(site: &Site, commands: &[&str], said: &str) {
    let mut all: Vec<_> = commands.iter().map(|command| site.launch(&[command]).start()).collect();
    for replica in &mut all {
        assert_eq!(replica.wait().await.code(), Some(1), "{}", replica.log());
        let log = replica.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{log}");
        for said in [said, "the schema public", "CREATE SCHEMA penr_webhooks"] {
            assert!(errors[0].contains(said), "no {said} in {}", errors[0]);
        }
        assert!(!log.contains("cannot make partitions"), "nothing is done before: {log}");
    }
    let report = site.doctor().await;
    report.assert("schema", "fails", &[said, "CREATE SCHEMA penr_webhooks"]);
}

#[tokio::test]
async fn a_search_path_that_leads_nowhere_is_told_at_once() {
    let site = Site::unmigrated().await;
    let url = within_schema(&site, "nowhere");
    let output = site.env("DATABASE_URL", &url).cli(&["migrate"]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("search path names no schema"), "{}", output.stderr);
}

//! The granted rights are enough, and a missing one is named.

use std::time::{Duration, Instant};

use super::*;

#[tokio::test]
async fn a_role_that_owns_nothing_makes_the_partitions_of_the_days_ahead() {
    let site = Site::new().await;
    let role = Role::with_rights(&site).await;
    with_todays_partitions_only(&site).await;
    let site = role.used_by(site).await;
    let worker = site.worker().await;
    wait_until("they are made", async || days_ahead(&site).await == 14).await;
    let report = site.doctor().await;
    report.assert("rights", "ok", &[&role.name, "owns nothing"]);
    report.assert("retention", "ok", &["migrate --retention"]);
    assert_eq!(errors(&worker), [""; 0]);
    drop(worker);
    role.drop().await;
}

#[tokio::test]
async fn a_role_that_owns_nothing_does_all_daily_work() {
    let site = Site::new().await.set("retry.schedule", r#"["10ms"]"#);
    let role = Role::with_rights(&site).await;
    let site = role.used_by(site).await;
    let receiver = Receiver::start().await;
    // Together these need every statement of a worker: a retry, an end without success, a cancelled delivery.
    receiver.script([Reply::status(500), Reply::status(500), Reply::status(500)]);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("it is exhausted", async || site.count("SELECT count(*) FROM closed_deliveries").await == 1).await;
    let delivery = site.log(&webhook.id).await[0]["delivery_id"].as_str().unwrap().to_owned();
    site.json(&["webhooks", "resend", &webhook.id, &delivery]).await;
    receiver.wait_for(4).await;
    wait_until("it is recorded", async || site.log(&webhook.id).await.len() == 4).await;
    site.json(&["webhooks", "recover", &webhook.id, "--since", "1h"]).await;
    site.json(&["webhooks", "update", &webhook.id, "--active", "false"]).await;
    let api = site.api().await;
    let customer = api.customer(ACCOUNT);
    customer.patch(&format!("/v1/webhooks/{}", webhook.id), &json!({"active": true})).await;
    let path = format!("/v1/webhooks/{}/recover", webhook.id);
    assert_eq!(customer.post(&path, &json!({"since": "2026-01-01T00:00:00Z"})).await.status, 202);
    let path = format!("/v1/webhooks/{}/stats?window=24h", webhook.id);
    assert_eq!(customer.get(&path).await.status, 200);
    assert_eq!(customer.delete(&format!("/v1/webhooks/{}", webhook.id)).await.status, 204);
    assert_eq!(errors(&worker), [""; 0]);
    assert!(!worker.log().contains("permission denied"), "{}", worker.log());
    drop((worker, api));
    role.drop().await;
}

#[tokio::test]
async fn the_doctor_names_missing_rights_and_the_command_that_gives_them() {
    let site = Site::new().await;
    let role = Role::with_all_rows(&site).await;
    let site = role.used_by(site).await;
    let command = format!("penr-webhooks migrate --grant-to {}", role.name);
    let report = site.doctor().await;
    report.assert("rights", "fails", &["EXECUTE on make_events_partition", "make_attempts_partition", &command]);
    role.sql.batch_execute(&format!("REVOKE INSERT, SELECT ON attempts FROM {}", role.name)).await.unwrap();
    site.doctor().await.assert("rights", "fails", &["SELECT, INSERT on attempts", &command]);
    role.sql.batch_execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC").await.unwrap();
    let report = site.doctor().await;
    report.assert("schema", "fails", &["no USAGE on the schema public", &command]);
    report.assert_nowhere("not available");
    role.drop().await;
}

#[tokio::test]
async fn a_worker_that_lacks_a_right_says_so_once_and_waits_without_losing_anything() {
    let site = Site::new().await;
    let role = Role::with_rights(&site).await;
    role.sql.batch_execute(&format!("REVOKE INSERT ON attempts FROM {}", role.name)).await.unwrap();
    let (site, receiver) = (role.used_by(site).await, Receiver::start().await);
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    site.publish_many(3, ACCOUNT, TYPE, json!({})).await;
    worker.wait_for_log_times("cannot record, holding the results", 3).await;
    assert!(!worker.is_ready().await);
    let told = errors(&worker);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("permission denied for table attempts") && told[0].contains("migrate --grant-to ROLE"));
    assert!(!worker.log().contains("not available"), "{}", worker.log());
    role.sql.batch_execute(&format!("GRANT INSERT ON attempts TO {}", role.name)).await.unwrap();
    wait_until("all are recorded", async || site.count("SELECT count(*) FROM attempts").await == 3).await;
    assert_eq!(receiver.count(), 3);
    wait_until("it is ready", async || worker.is_ready().await).await;
    drop(worker);
    role.drop().await;
}

#[tokio::test]
async fn a_role_that_owns_nothing_sends_to_a_webhook_with_a_pace_and_a_missing_right_is_told() {
    let site = Site::new().await;
    let role = Role::with_rights(&site).await;
    let (site, receiver) = (role.used_by(site).await, Receiver::start().await);
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let pace = format!("UPDATE webhooks SET max_per_second = 20 WHERE id = '{}'", webhook.id);
    site.sql().await.batch_execute(&pace).await.unwrap();
    let mut worker = site.worker().await;
    site.publish_many(10, ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(10).await;
    assert_eq!(errors(&worker), [""; 0]);
    role.sql.batch_execute(&format!("REVOKE UPDATE ON paces FROM {}", role.name)).await.unwrap();
    site.publish_many(10, ACCOUNT, TYPE, json!({})).await;
    worker.wait_for_log_times("cannot take grants for webhooks that have a pace", 2).await;
    let told = errors(&worker);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("permission denied for table paces") && told[0].contains("migrate --grant-to ROLE"));
    role.sql.batch_execute(&format!("GRANT UPDATE ON paces TO {}", role.name)).await.unwrap();
    receiver.wait_for(20).await;
    worker.wait_for_log("the database takes what waited").await;
    drop(worker);
    role.drop().await;
}

#[tokio::test]
async fn a_worker_that_may_not_make_partitions_says_so_and_delivers_meanwhile() {
    let site = Site::new().await;
    let role = Role::with_all_rows(&site).await;
    with_todays_partitions_only(&site).await;
    let (site, receiver) = (role.used_by(site).await, Receiver::start().await);
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    worker.wait_for_log("cannot make partitions ahead").await;
    let told = errors(&worker);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("permission denied for function make_events_partition"), "{told:?}");
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.next().await;
    drop(worker);
    role.drop().await;
}

#[tokio::test]
async fn an_owner_of_one_schema_is_not_stopped_by_another_products_history_behind_it() {
    let site = Site::unmigrated().await;
    let role = Role::narrow(&site).await;
    let theirs = "REVOKE USAGE ON SCHEMA public FROM PUBLIC;
        CREATE TABLE public.refinery_schema_history (version integer PRIMARY KEY, name text, applied_on text, checksum text);
        CREATE SCHEMA own AUTHORIZATION";
    role.sql.batch_execute(&format!("{theirs} {}", role.name)).await.unwrap();
    let url = format!("{}?options=-csearch_path%3Down,public", role.url(&site).await);
    let site = site.env("DATABASE_URL", &url);
    let applied = site.json(&["migrate"]).await["applied"].clone();
    assert_ne!(applied, json!([]));
    role.sql.batch_execute("GRANT USAGE ON SCHEMA public TO PUBLIC").await.unwrap();
    assert_eq!(site.json(&["migrate"]).await["applied"], json!([]));
    // Also at the first installation.
    role.sql
        .batch_execute(&format!("DROP SCHEMA own CASCADE; CREATE SCHEMA own AUTHORIZATION {}", role.name))
        .await
        .unwrap();
    assert_eq!(site.json(&["migrate"]).await["applied"], applied);
    role.drop().await;
}

#[tokio::test]
async fn a_role_that_may_not_migrate_gets_an_error_at_once() {
    let site = Site::unmigrated().await;
    let role = Role::narrow(&site).await;
    let site = role.used_by(site).await;
    let started = Instant::now();
    let output = site.cli(&["migrate"]).await;
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert_eq!(output.code, 1);
    for said in ["permission denied for schema public", "as the owner of the tables"] {
        assert!(output.stderr.contains(said), "{}", output.stderr);
    }
    assert!(!output.stderr.contains("not available"), "{}", output.stderr);
    role.drop().await;
}

#[tokio::test]
async fn the_name_of_a_role_is_only_a_name() {
    let site = Site::new().await;
    let name = format!(r#"Na""me; DROP TABLE attempts; -- {}"#, &Uuid::new_v4().simple().to_string()[..8]);
    let role = Role::named(&site, &name).await;
    let said = name.replace(r#""""#, r#"""#);
    // Several processes may grant at the same time.
    let mut replicas = [0; 3].map(|_| site.launch(&["migrate", "--grant-to", &said]).start());
    for replica in &mut replicas {
        assert_eq!(replica.wait().await.code(), Some(0));
        let log = replica.log();
        assert!(log.lines().all(|line| line.contains("\"DEBUG\"")), "{log}");
    }
    let allowed =
        "SELECT count(*) FROM pg_roles WHERE rolname = $1 AND has_table_privilege(rolname, 'attempts', 'INSERT')";
    let allowed: i64 = site.sql().await.query_one(allowed, &[&said]).await.unwrap().get(0);
    assert_eq!(allowed, 1);
    role.drop().await;
    let output = site.cli(&["migrate", "--grant-to", "nobody"]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("PostgreSQL has no role nobody"), "{}", output.stderr);
}

#[tokio::test]
async fn a_worker_that_may_not_say_that_it_is_there_says_so_once_and_works() {
    let site = Site::new().await;
    let role = Role::with_rights(&site).await;
    role.sql.batch_execute(&format!("REVOKE INSERT ON processes FROM {}", role.name)).await.unwrap();
    let (site, receiver) = (role.used_by(site).await, Receiver::start().await);
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.wait_for(1).await;
    worker.wait_for_log("cannot write this process's row").await;
    let told = errors(&worker);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("permission denied for table processes") && told[0].contains("migrate --grant-to ROLE"));
    role.sql.batch_execute(&format!("GRANT INSERT ON processes TO {}", role.name)).await.unwrap();
    worker.wait_for_log("other processes see this one again").await;
    drop(worker);
    role.drop().await;
}

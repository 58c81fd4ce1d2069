//! What docs/runbooks.md tells operators to do, done step by step.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::support::settings::encryption_key;
use crate::support::*;

const ACCOUNT: &str = "acc_42";
const TYPE: &str = "content.published";
const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

/// PostgreSQL's own program of the server's version; `None` where this machine has none.
async fn program(site: &Site, name: &str) -> Option<PathBuf> {
    let version: String = site.sql().await.query_one("SHOW server_version_num", &[]).await.unwrap().get(0);
    let path = PathBuf::from(format!("/usr/lib/postgresql/{}/bin/{name}", version.parse::<i32>().unwrap() / 10_000));
    if !path.exists() {
        eprintln!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path)
}

/// Runs a program, which must succeed and say nothing.
async fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command:?}: {} {said}", output.status);
}

#[tokio::test]
async fn a_restored_backup_sends_what_waited_and_shows_the_log() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let (Some(pg_dump), Some(pg_restore)) = (program(&site, "pg_dump").await, program(&site, "pg_restore").await)
    else {
        return;
    };
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    receiver.always(Reply::status(503));
    let mut worker = site.worker().await;
    let mut events = Vec::new();
    for number in 0..3 {
        events.push(site.publish(ACCOUNT, TYPE, json!({ "number": number })).await);
        receiver.next().await;
    }
    wait_until("all wait for their retries", async || site.count(PENDING).await == 3).await;
    worker.terminate();
    assert!(worker.wait().await.success());
    let backup = site.folder().join("penr.dump");
    succeeds(Command::new(pg_dump).args(["--format=custom", "--file"]).arg(&backup).arg(site.database_url())).await;

    let restored = Site::unmigrated().await;
    let database = format!("--dbname={}", restored.database_url());
    succeeds(Command::new(pg_restore).args(["--exit-on-error", &database]).arg(&backup)).await;
    // The hour is over.
    restored.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    receiver.always(Reply::status(200));
    let site = site.env("DATABASE_URL", restored.database_url());
    site.doctor().await.assert("schema", "ok", &[]);
    site.doctor().await.assert("secrets", "ok", &[]);
    let worker = site.worker().await;
    for _ in &events {
        let request = receiver.next().await;
        assert!(events.iter().any(|id| id == request.header("webhook-id")), "{request:?}");
        assert_eq!(request.header("x-webhook-attempt"), "2");
        assert_eq!(request.verify(&webhook.secret), Verdict { hex: true, standard: true });
    }
    wait_until("nothing waits any more", async || restored.count(PENDING).await == 0).await;
    assert_eq!(restored.count("SELECT count(*) FROM attempts").await, 6);
    site.publish(ACCOUNT, TYPE, json!({})).await;
    receiver.next().await;
    // Partitions are made as before.
    assert_eq!(site.json(&["migrate"]).await, json!({ "applied": [] }));
    assert_eq!(worker.warnings(), [""; 0]);
}

#[tokio::test]
async fn after_the_encryption_key_was_lost_new_secrets_are_enough_to_send_again() {
    let site = Site::new().await.set("security.encryption_keys", &encryption_key("lost"));
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let site = site.set("security.encryption_keys", &encryption_key("new"));
    let _worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the event waits", async || site.count(PENDING).await == 1).await;
    site.doctor().await.assert("secrets", "fails", &["1 webhooks need the key `lost`"]);
    // As the runbook has it.
    let fresh = site.json(&["webhooks", "secret", &webhook.id, "--regenerate", "--grace", "0s"]).await;
    site.json(&["webhooks", "update", &webhook.id, "--no-headers"]).await;
    site.doctor().await.assert("secrets", "ok", &[]);
    let request = receiver.next().await;
    assert_eq!(request.header("webhook-id"), event);
    let verdict = request.verify(fresh["secret"].as_str().unwrap());
    assert_eq!(verdict, Verdict { hex: true, standard: true });
}

#[tokio::test]
async fn a_day_that_is_archived_before_retention_drops_it_can_be_read_elsewhere() {
    let site = Site::new().await;
    let (Some(pg_dump), Some(pg_restore)) = (program(&site, "pg_dump").await, program(&site, "pg_restore").await)
    else {
        return;
    };
    let (receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let _worker = site.worker().await;
    let event = site.publish(ACCOUNT, TYPE, json!({ "number": 7 })).await;
    receiver.next().await;
    wait_until("the attempt is in the log", async || site.log(&webhook.id).await.len() == 1).await;
    let days = "SELECT 'events_' || to_char(day, 'YYYYMMDD'), 'attempts_' || to_char(a.created_at AT TIME ZONE 'UTC', 'YYYYMMDD')
        FROM events, attempts a";
    let days = site.sql().await.query_one(days, &[]).await.unwrap();
    let (events, attempts): (String, String) = (days.get(0), days.get(1));
    let archive = site.folder().join("day.dump");
    let tables = [format!("--table={events}"), format!("--table={attempts}")];
    succeeds(
        Command::new(pg_dump).args(["--format=custom", "--file"]).arg(&archive).args(&tables).arg(site.database_url()),
    )
    .await;

    let elsewhere = Site::unmigrated().await;
    let database = format!("--dbname={}", elsewhere.database_url());
    // The tables alone, which are no partitions there.
    succeeds(Command::new(pg_restore).args(["--exit-on-error", &database]).args(&tables).arg(&archive)).await;
    let read = format!(
        "SELECT e.event_id, convert_from(e.body, 'UTF8'), a.http_status
         FROM {events} e JOIN {attempts} a ON a.event_key = e.key"
    );
    let row = elsewhere.sql().await.query_one(&read, &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, i32>(2)), (event, 200));
    assert!(row.get::<_, String>(1).contains(r#""number":7"#));
}

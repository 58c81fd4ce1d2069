//! `accounts erase`: of one account everything goes, of the others nothing.

use serde_json::json;

use super::{ACCOUNT, NOBODY, TYPE};
use crate::support::*;

const OTHER: &str = "acc_43";

/// Rows of each kind that are not the other account's.
const OURS: [&str; 7] = [
    "SELECT count(*) FROM webhooks WHERE account_id <> 'acc_43'",
    "SELECT count(*) FROM events WHERE account_id <> 'acc_43'",
    "SELECT count(*) FROM attempts WHERE webhook_id NOT IN (SELECT id FROM webhooks WHERE account_id = 'acc_43')",
    "SELECT count(*) FROM pending_deliveries
     WHERE webhook_id NOT IN (SELECT id FROM webhooks WHERE account_id = 'acc_43')",
    "SELECT count(*) FROM closed_deliveries
     WHERE webhook_id NOT IN (SELECT id FROM webhooks WHERE account_id = 'acc_43')",
    "SELECT count(*) FROM notices WHERE body LIKE '%acc_42%'",
    "SELECT count(*) FROM kept_answers WHERE account_id = 'acc_42'",
];

#[tokio::test]
async fn an_erased_account_leaves_nothing_and_gets_nothing() {
    // The command waits as long as an attempt may take.
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#).set("sender.timeout", "200ms");
    let site = site.set("sender.body_timeout", "200ms");
    let patient = || site.launch(&["worker"]).set("sender.timeout", "20s").start_worker();
    let (receiver, kept) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let (_gone, deleted) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let (other_receiver, other) = site.subscriber(OTHER, &[TYPE]).await;
    receiver.script([Reply::status(503), Reply::status(200)]);
    let worker = patient().await;
    for account in [ACCOUNT, ACCOUNT, OTHER] {
        site.publish(account, TYPE, json!({})).await;
    }
    let attempts = "SELECT count(*) FROM attempts";
    wait_until("all attempts are in the log", async || site.count(attempts).await == 5).await;
    drop(worker);
    // A webhook that was deleted before has log rows that no row of `webhooks` leads to.
    assert_eq!(site.cli(&["webhooks", "delete", &deleted.id]).await.code, 0);
    let closed = format!(
        "INSERT INTO closed_deliveries (id, webhook_id, event_day, event_key, reason, attempts_made)
         SELECT gen_random_uuid(), '{}', day, key, 'exhausted', 1 FROM events LIMIT 1",
        kept.id
    );
    site.sql().await.execute(&closed, &[]).await.unwrap();
    let notice =
        format!("INSERT INTO notices (id, kind, body) VALUES ('{NOBODY}', 'x', '{{\"account_id\":\"{ACCOUNT}\"}}')");
    site.sql().await.execute(&notice, &[]).await.unwrap();
    let answer = "INSERT INTO kept_answers (account_id, key, request, envelope)
                  VALUES ('acc_42', 'k', '', '')";
    site.sql().await.execute(answer, &[]).await.unwrap();
    // It waits at the broker.
    site.publish(ACCOUNT, TYPE, json!({})).await;

    let rows = json!({"webhooks": 1, "events": 2, "attempts": 4, "pending_deliveries": 1, "closed_deliveries": 1,
        "kept_answers": 1});
    let erase = ["accounts", "erase", ACCOUNT];
    assert_eq!(site.json(&erase).await, json!({"account_id": ACCOUNT, "erased": false, "rows": rows}));
    let dry = site.cli(&erase).await;
    assert!(dry.stdout.contains("nothing was erased") && dry.stdout.contains("4"), "{}", dry.stdout);
    let counts = async || futures_util::future::join_all(OURS.map(|sql| site.count(sql))).await;
    assert_eq!(counts().await, [1, 2, 4, 1, 1, 1, 1]);
    let erased = site.json(&[&erase[..], &["--yes"]].concat()).await;
    assert_eq!(erased, json!({"account_id": ACCOUNT, "erased": true, "rows": rows}));
    assert_eq!(counts().await, [0; 7]);

    let (before, other_before) = (receiver.requests().len(), other_receiver.requests().len());
    let _worker = patient().await;
    site.publish(OTHER, TYPE, json!({})).await;
    wait_until("the other account is served", async || other_receiver.requests().len() > other_before).await;
    wait_until("nothing waits at the broker", async || site.queue_depth(site.worker_queue()).await == 0).await;
    assert_eq!((receiver.requests().len(), counts().await), (before, vec![0; 7]));
    wait_until("the other account's log is whole", async || site.log(&other.id).await.len() == 2).await;
}

#[tokio::test]
async fn what_is_recorded_just_before_the_webhooks_go_is_erased_too() {
    let site = Site::new().await.set("sender.timeout", "200ms").set("sender.body_timeout", "200ms");
    let (_receiver, _webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    wait_until("the attempt is in the log", async || site.count("SELECT count(*) FROM attempts").await == 1).await;
    drop(worker);
    // As a worker would whose database was slow: a result, an event, and the answer to a customer's request.
    let late = "CREATE TABLE late_events AS SELECT * FROM events;
        CREATE TABLE late_attempts AS SELECT * FROM attempts;
        CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO events SELECT * FROM late_events;
            INSERT INTO attempts SELECT * FROM late_attempts WHERE webhook_id = OLD.id;
            INSERT INTO kept_answers (account_id, key, request, envelope) VALUES (OLD.account_id, 'k', '', '');
            RETURN OLD;
        END $$;
        CREATE TRIGGER late BEFORE DELETE ON webhooks FOR EACH ROW EXECUTE FUNCTION late()";
    site.sql().await.batch_execute(late).await.unwrap();
    let erased = site.json(&["accounts", "erase", ACCOUNT, "--yes"]).await;
    let twice = json!({"webhooks": 1, "events": 2, "attempts": 2, "pending_deliveries": 0, "closed_deliveries": 0,
        "kept_answers": 1});
    assert_eq!(erased["rows"], twice);
    for sql in OURS {
        assert_eq!(site.count(sql).await, 0, "{sql}");
    }
}

/// Writes deliveries of a webhook that is not there, as one leaves that was deleted while they were parked. Their event is one
/// of the account, or none that is kept.
async fn leave(site: &Site, table: &str, account: Option<&str>, rows: i64) -> uuid::Uuid {
    let webhook = uuid::Uuid::now_v7();
    add(site, table, webhook, account, rows, "0 seconds").await;
    webhook
}

async fn add(site: &Site, table: &str, webhook: uuid::Uuid, account: Option<&str>, rows: i64, age: &str) {
    let event = match account {
        Some(account) => format!("(SELECT day, key FROM events WHERE account_id = '{account}' LIMIT 1)"),
        None => "(SELECT current_date AS day, gen_random_uuid() AS key)".to_owned(),
    };
    let (columns, values) = match table {
        "pending_deliveries" => ("activation, trigger, due_at", "1, 'event', now()"),
        _ => ("reason, closed_at", "'cancelled', now()"),
    };
    let sql = format!(
        "INSERT INTO {table} (id, webhook_id, event_day, event_key, attempts_made, {columns})
         SELECT gen_random_uuid(), '{webhook}', day, key, 0, {values} - interval '{age}'
         FROM {event} AS event CROSS JOIN generate_series(1, {rows})"
    );
    site.sql().await.execute(&sql, &[]).await.unwrap();
}

#[tokio::test]
async fn a_webhook_that_was_deleted_before_is_found_by_deliveries_that_were_never_attempted() {
    let site = Site::new().await.set("sender.timeout", "200ms").set("sender.body_timeout", "200ms");
    let (_receiver, webhook) = site.subscriber(ACCOUNT, &[TYPE]).await;
    let (_other_receiver, _other) = site.subscriber(OTHER, &[TYPE]).await;
    let worker = site.worker().await;
    for account in [ACCOUNT, OTHER] {
        site.publish(account, TYPE, json!({})).await;
    }
    let attempts = "SELECT count(*) FROM attempts";
    wait_until("all attempts are in the log", async || site.count(attempts).await == 2).await;
    drop(worker);
    leave(&site, "pending_deliveries", Some(ACCOUNT), 1).await;
    leave(&site, "closed_deliveries", Some(ACCOUNT), 1).await;
    // The events of its newer deliveries are gone: the oldest one tells whose it was.
    let old = leave(&site, "closed_deliveries", None, 1200).await;
    add(&site, "closed_deliveries", old, Some(ACCOUNT), 1, "1 day").await;
    // More than one statement counts or deletes, all closed at one moment.
    add(&site, "closed_deliveries", webhook.id.parse().unwrap(), Some(ACCOUNT), 4500, "0 seconds").await;
    // Not ours, or nobody knows whose.
    let others = [
        leave(&site, "pending_deliveries", Some(OTHER), 1).await,
        leave(&site, "closed_deliveries", Some(OTHER), 1).await,
        leave(&site, "closed_deliveries", None, 1).await,
    ];

    let rows = json!({"webhooks": 1, "events": 1, "attempts": 1, "pending_deliveries": 1, "closed_deliveries": 5702,
        "kept_answers": 0});
    let erase = ["accounts", "erase", ACCOUNT];
    assert_eq!(site.json(&erase).await["rows"], rows);
    assert_eq!(site.json(&[&erase[..], &["--yes"]].concat()).await["rows"], rows);
    let left = "SELECT webhook_id FROM pending_deliveries UNION ALL SELECT webhook_id FROM closed_deliveries";
    let left = site.sql().await.query(left, &[]).await.unwrap();
    let mut left: Vec<uuid::Uuid> = left.iter().map(|row| row.get(0)).collect();
    left.sort_unstable();
    // Made in this order, and so sorted.
    assert_eq!(left, others);
}

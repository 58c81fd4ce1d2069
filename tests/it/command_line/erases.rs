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
    let answer = "INSERT INTO kept_answers (account_id, key, request, answer, webhook_id, secret)
                  VALUES ('acc_42', 'k', '', '', gen_random_uuid(), '')";
    site.sql().await.execute(answer, &[]).await.unwrap();
    // It waits at the broker.
    site.publish(ACCOUNT, TYPE, json!({})).await;

    let rows = json!({"webhooks": 1, "events": 2, "attempts": 4, "pending_deliveries": 1, "closed_deliveries": 1});
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

//! A synchronous standby that is away: commits wait for it without end, and no more sessions than the pool has wait there.

use serde_json::json;

use super::{ATTEMPTS, impatient, stayed_attached};
use crate::support::*;

/// What `database.pool_size` is by default.
const POOL_SIZE: i64 = 8;

const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penr-webhooks'";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// Has commits wait for a standby of this name, or for none.
async fn wait_for_standby(servers: &PrivateServers, name: &str) {
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    servers.psql(&["--command", &set]).await;
    servers.psql(&["--command", "SELECT pg_reload_conf()"]).await;
}

#[tokio::test]
async fn a_synchronous_standby_that_is_away_costs_no_more_sessions_than_the_pools_have() {
    let servers = PrivateServers::start().await;
    let site = impatient(Site::on(&servers).await).set("database.statement_timeout", "1s");
    let ledger = Ledger::open(site.set("retry.schedule", r#"["1ms", "1ms"]"#)).await;
    let worker = ledger.site.worker().await;
    let api = ledger.site.api_of(ledger.site.launch(&["api"]).set("api.database_timeout", "1s")).await;
    let customer = api.customer("acc_1");
    let path = format!("/v1/webhooks/{}", ledger.webhook.id);
    wait_until("the API answers", async || customer.get(&path).await.status == 200).await;
    wait_for_standby(&servers, "nobody").await;
    let mut most = 0;
    // Failures and successes in turn, so that the webhook's row changes.
    ledger.receiver.script((0..20).map(|at| Reply::status(if at % 2 == 0 { 500 } else { 200 })));
    for at in 0..3 * POOL_SIZE {
        ledger.publish(2).await;
        // Of an account each, so that none waits for another's lock.
        let webhook = json!({ "name": "A test's", "url": ledger.receiver.url(), "events": ["content.created"] });
        let refused = api.customer(&format!("acc_{at}_of_many")).post("/v1/webhooks", &webhook).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        // Questions need no commit and find a connection.
        assert_eq!(customer.get(&path).await.status, 200);
        most = most.max(ledger.count(SESSIONS).await);
    }
    assert!(ledger.count(WAITING).await > 2, "nothing waits for the standby");
    assert!(most <= 2 * (POOL_SIZE + 1), "{most} sessions");
    wait_for_standby(&servers, "").await;
    ledger.wait_until_done().await;
    let change = json!({ "name": "Another" });
    wait_until("the API writes", async || customer.patch(&path, &change).await.status == 200).await;
    assert!(stayed_attached(&worker));
    let doubled = "SELECT count(*) FROM (SELECT FROM attempts GROUP BY delivery_id, attempt HAVING count(*) > 1) AS d";
    assert_eq!(ledger.count(doubled).await, 0);
    assert_eq!(ledger.count(ATTEMPTS).await, i64::try_from(ledger.receiver.count()).unwrap());
    drop(api);
    ledger.close(vec![worker]).await.assert_sound(0);
}

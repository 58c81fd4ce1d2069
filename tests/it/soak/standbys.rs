//! A synchronous standby that is away: commits wait for it without end, and no more sessions than the pool has wait there.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::*;
use crate::survives_postgres::{ATTEMPTS, impatient, stayed_attached};

/// What `database.pool_size` is by default.
const POOL_SIZE: i64 = 8;
const BURSTS: i64 = 4;

/// The API's `DATABASE_URL` names its application, so that its sessions are counted apart from the worker's.
const OF_API: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'the operator''s'";
const OF_WORKER: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penr-webhooks'";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// Has commits wait for a standby of this name, or for none.
async fn wait_for_standby(servers: &PrivateServers, name: &str) {
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'");
    servers.psql(&["--command", &set]).await;
    servers.psql(&["--command", "SELECT pg_reload_conf()"]).await;
}

#[tokio::test]
#[ignore = "takes servers of its own"]
async fn a_synchronous_standby_that_is_away_costs_no_more_sessions_than_the_pools_have() {
    let servers = PrivateServers::start().await;
    let site = impatient(Site::on(&servers).await).set("database.statement_timeout", "1s");
    let ledger = Ledger::open(site.set("retry.schedule", r#"["1ms", "1ms"]"#)).await;
    let worker = ledger.site.worker().await;
    let named = format!("{}?application_name=the%20operator's", ledger.site.database_url());
    let launch = ledger.site.launch(&["api"]).set("api.database_timeout", "1s").env("DATABASE_URL", &named);
    let api = ledger.site.api_of(launch).await;
    let customer = api.customer("acc_1");
    let path = format!("/v1/webhooks/{}", ledger.webhook.id);
    wait_until("the API answers", async || customer.get(&path).await.status == 200).await;
    let webhook = json!({ "name": "A test's", "url": ledger.receiver.url(), "events": ["content.created"] });
    let another = api.customer("acc_2");
    let other = another.post("/v1/webhooks", &webhook).await.json()["id"].as_str().unwrap().to_owned();
    let other = format!("/v1/webhooks/{other}");
    wait_for_standby(&servers, "nobody").await;
    let third = api.customer("acc_3");
    wait_until("commits wait", async || third.post("/v1/webhooks", &webhook).await.status == 503).await;
    assert_eq!(another.delete(&other).await.status, 503);
    let mut most = (0, 0);
    // Failures and successes in turn, so that the webhook's row changes.
    ledger.receiver.script((0..20).map(|at| Reply::status(if at % 2 == 0 { 500 } else { 200 })));
    for burst in 0..BURSTS {
        ledger.publish(4).await;
        // All at once, each of an account of its own, so that none waits for another's lock.
        let create = async |at| {
            let refused = api.customer(&format!("acc_{burst}_{at}")).post("/v1/webhooks", &webhook).await;
            assert_eq!(refused.status, 503, "{}", refused.text());
        };
        join_all((0..2 * POOL_SIZE).map(create)).await;
        // A read needs no commit, and finds a free connection.
        assert_eq!(customer.get(&path).await.status, 200);
        most = (most.0.max(ledger.count(OF_API).await), most.1.max(ledger.count(OF_WORKER).await));
    }
    // The deletion must not be visible yet: it would be if the wait for the standby had been cancelled.
    assert_eq!(another.get(&other).await.status, 200);
    assert!(ledger.count(WAITING).await > 2, "nothing waits for the standby");
    assert!(most.0 <= POOL_SIZE + 1 && most.1 <= POOL_SIZE + 1, "{most:?} sessions");
    wait_for_standby(&servers, "").await;
    ledger.wait_until_done().await;
    let change = json!({ "name": "Another" });
    wait_until("the API writes", async || customer.patch(&path, &change).await.status == 200).await;
    assert_eq!(another.get(&other).await.status, 404);
    assert!(stayed_attached(&worker), "the worker gave its messages back");
    let doubled = "SELECT count(*) FROM (SELECT FROM attempts GROUP BY delivery_id, attempt HAVING count(*) > 1) AS d";
    assert_eq!(ledger.count(doubled).await, 0);
    assert_eq!(ledger.count(ATTEMPTS).await, i64::try_from(ledger.receiver.count()).unwrap());
    drop(api);
    ledger.close(vec![worker]).await.assert_sound(0);
}

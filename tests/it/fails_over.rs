//! A standby takes over from its primary under load: no confirmed event is lost or sent twice, and workers and the API continue
//! by themselves.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

/// Workers and the API must continue within this time after the promotion.
pub const SOON: Duration = Duration::from_secs(10);
const PREFETCH: usize = 50;

/// A ledger on a primary whose commits wait for the standby.
pub async fn replicated(commit: &str) -> (Replicated, Ledger) {
    let servers = Replicated::start().await;
    // A claim whose answer is lost with the primary is due again after its lease. A claim that a worker has is sent again if
    // the fail-over takes longer than the lease.
    let ledger = Ledger::under_load(Site::on(&servers).await.set("worker.lease", "40s"), PREFETCH).await;
    servers.synchronous(commit).await;
    (servers, ledger)
}

/// One of the API's customers, who changes a webhook again and again.
pub struct Caller {
    pub api: Api,
    customer: Customer,
    webhook: String,
}

impl Caller {
    pub async fn of(launch: Launch, site: &Site) -> Self {
        let api = site.api_of(launch).await;
        let customer = api.customer("acc_2");
        let webhook = eventually("the API takes a webhook", async || {
            let webhook = json!({ "name": "A", "url": "http://127.0.0.1:9999/", "events": ["content.created"] });
            let answer = customer.post("/v1/webhooks", &webhook).await;
            (answer.status == 201).then(|| format!("/v1/webhooks/{}", answer.json()["id"].as_str().unwrap()))
        })
        .await;
        Self { api, customer, webhook }
    }

    /// Returns once a change has succeeded.
    pub async fn change(&self) {
        let change = json!({ "name": "Another" });
        wait_until("the API writes", async || self.customer.patch(&self.webhook, &change).await.status == 200).await;
    }
}

/// The times from the promotion, which is now, until a worker has recorded an attempt that began after it, and until the API has
/// written.
pub async fn gone_on_after(promoted: Instant, ledger: &Ledger, caller: &Caller) -> [Duration; 2] {
    let worker = async {
        let now = ledger.count("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").await;
        let begun = format!("SELECT count(*) FROM attempts WHERE created_at > to_timestamp({now} / 1000.0)");
        wait_until("an attempt begun after the promotion is recorded", async || ledger.count(&begun).await > 0).await;
        promoted.elapsed()
    };
    let api = async {
        caller.change().await;
        promoted.elapsed()
    };
    let (worker, api) = tokio::join!(worker, api);
    [worker, api]
}

/// Waits until one of our commits waits for the standby, or all waiting work is done.
pub async fn wait_for_a_commit_that_waits(servers: &Replicated, worker: &Replica) {
    let (primary, taken) = (servers.primary().await, "the database takes what waited");
    let waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
    wait_until("a commit waits for the standby", async || {
        worker.log().contains(taken) || !primary.query(waiting, &[]).await.unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_the_primary_alone_has_is_not_acked_and_work_continues_after_a_fail_over_under_load() {
    let (servers, ledger) = replicated("remote_apply").await;
    let launch = |way, command: &str| servers.launch(&ledger.site, way, &[command]);
    let worker = launch(Way::MovingAddress, "worker").start_worker().await;
    let caller = Caller::of(launch(Way::MovingAddress, "api"), &ledger.site).await;
    let fail_over = async {
        servers.stop_standby().await;
        wait_for_a_commit_that_waits(&servers, &worker).await;
        // After its restart the primary shows everything that it had written, although the standby has nothing of it.
        servers.lose_primary(Loss::Killed).await;
        servers.restart_primary().await;
        wait_for_a_commit_that_waits(&servers, &worker).await;
        servers.lose_primary(Loss::Killed).await;
        servers.restart_standby().await;
        // This worker has the standby's own address, and waits for the promotion.
        let beside = launch(Way::Standby, "worker").start_worker().await;
        servers.promote().await;
        (gone_on_after(Instant::now(), &ledger, &caller).await, beside)
    };
    let ([recorded, written], beside) = ledger.publish_during(100, fail_over).await;
    // Among other tests; `make soak` measures on a quiet machine.
    let most = 2 * SOON;
    assert!(recorded < most && written < most, "{recorded:?}, {written:?}");
    ledger.close(vec![worker, beside]).await.assert_sound(0);
}

//! A cluster loses nodes: a worker connects to another node at once, and reports when its queue has no quorum.

use crate::support::cluster::NODES;
use crate::support::*;

#[tokio::test]
async fn a_worker_goes_to_another_node_at_once_and_says_when_its_queue_has_no_quorum() {
    let cluster = Cluster::start().await;
    let site = Site::on(&cluster).await.env("AMQP_URL", cluster.urls()).set("amqp.connect_timeout", "2s");
    let ledger = Ledger::open(site).await;
    let mut worker = ledger.site.worker().await;
    let killed = cluster.node_of(&worker).await;
    let [one, another] = [1, 2].map(|next| {
        let at = NODES.iter().position(|node| *node == killed).unwrap();
        NODES[(at + next) % NODES.len()]
    });
    cluster.ask_at(one).await;
    ledger.publish(5).await;
    ledger.wait_until_done().await;
    cluster.kill(killed).await;
    ledger.publish_until_confirmed().await;
    ledger.wait_until_done().await;
    worker.wait_for_log_times(replica::ATTACHED, 2).await;
    wait_until("it is ready", async || worker.readyz().await == (200, false)).await;
    // Now one of three nodes works.
    cluster.pause(another).await;
    let told = wait_until("it says so", async || worker.readyz().await == (503, true));
    let (report, ()) = tokio::join!(ledger.site.doctor(), told);
    report.assert("worker_queue", "fails", &["no quorum", "quorum_status"]);
    report.assert("broker", "warns", &["Connection refused", "no answer"]);
    wait_until("the metric says so", async || worker.metric("queue_without_quorum").await == 1.0).await;
    cluster.resume(another).await;
    wait_until("it is ready again", async || worker.readyz().await == (200, false)).await;
    ledger.publish_until_confirmed().await;
    ledger.wait_until_done().await;
    wait_until("the metric says so", async || worker.metric("queue_without_quorum").await == 0.0).await;
}

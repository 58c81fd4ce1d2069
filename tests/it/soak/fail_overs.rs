//! Every way in which a primary fails, with every way in which processes find the new primary.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::duration_or;
use crate::fails_over::{Caller, SOON, gone_on_after, replicated, wait_for_a_commit_that_waits};
use crate::support::*;

const EVENTS_PER_SECOND: usize = 300;
/// The time that the tool which promotes the standby takes to notice that the primary is gone.
const NOTICED_AFTER: Duration = Duration::from_secs(10);
const NOTICED_SOON: Duration = Duration::from_secs(1);
/// A worker that waited for its statements to time out, 10 s after they began, would go on later than this after a
/// fail-over that was noticed soon.
const BEFORE_ANY_TIMEOUT: Duration = Duration::from_secs(8);

async fn every_fail_over(way: Way) {
    for (loss, commit) in [(Loss::Killed, "on"), (Loss::Frozen, "remote_apply"), (Loss::Demoted, "on")] {
        fail_over(way, loss, NOTICED_AFTER, commit).await;
    }
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_fail_over_through_an_address_that_moves_loses_nothing_and_is_gone_on_with() {
    every_fail_over(Way::MovingAddress).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_fail_over_through_a_name_whose_address_changes_loses_nothing_and_is_gone_on_with() {
    standby::install_name_wrapper().await;
    every_fail_over(Way::MovingName).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_fail_over_through_several_hosts_loses_nothing_and_is_gone_on_with() {
    every_fail_over(Way::SeveralHosts).await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_primary_replaced_just_after_it_fell_silent_is_left_for_where_its_address_moves() {
    fail_over(Way::MovingAddress, Loss::Frozen, NOTICED_SOON, "on").await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_primary_replaced_just_after_it_fell_silent_is_left_for_the_new_address_of_its_name() {
    standby::install_name_wrapper().await;
    fail_over(Way::MovingName, Loss::Frozen, NOTICED_SOON, "on").await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_primary_replaced_just_after_it_fell_silent_is_left_for_another_of_several_hosts() {
    fail_over(Way::SeveralHosts, Loss::Frozen, NOTICED_SOON, "on").await;
}

/// How long after the promotion all workers were ready.
async fn ready_after(promoted: Instant, workers: &mut [Replica]) -> Duration {
    for worker in workers {
        wait_until("the worker is ready", async || worker.is_ready().await).await;
    }
    promoted.elapsed()
}

/// One fail-over under load, with a ledger: two workers and the API find the new primary in this way.
async fn fail_over(way: Way, loss: Loss, noticed_after: Duration, commit: &str) {
    let duration = duration_or(60);
    let (servers, ledger) = replicated(commit).await;
    let worker = async || servers.launch(&ledger.site, way, &["worker"]).start_worker().await;
    let mut workers = vec![worker().await, worker().await];
    let caller = Caller::of(servers.launch(&ledger.site, way, &["api"]), &ledger.site).await;
    let newer = Receiver::start().await;
    let faults = async {
        let began = Instant::now();
        tokio::time::sleep(duration / 8).await;
        let lost = Instant::now();
        servers.lose_primary(loss).await;
        tokio::time::sleep_until((lost + noticed_after).into()).await;
        servers.promote().await;
        let promoted = Instant::now();
        let (gone_on, ready) =
            tokio::join!(gone_on_after(promoted, &ledger, &caller), ready_after(promoted, &mut workers));
        // A worker that still read from the old primary would not find this webhook, and would ack its events undelivered.
        ledger.site.create_webhook("acc_1", &newer.url(), &["content.created"]).await;
        let known_from = ledger.published() + EVENTS_PER_SECOND;
        if loss == Loss::Frozen {
            servers.thaw_primary().await;
            // For this time both servers act as the primary.
            tokio::time::sleep(Duration::from_secs(4)).await;
            servers.lose_primary(Loss::Demoted).await;
        }
        tokio::time::sleep_until((began + duration).into()).await;
        (gone_on, ready, known_from)
    };
    let ([worker, api], ready, known_from) = ledger.publish_during(EVENTS_PER_SECOND, faults).await;
    let of_newer = ledger.published_since(known_from);
    ledger.wait_until_done().await;
    wait_until("the newer webhook has its events", async || {
        let requests = newer.requests();
        let received: HashSet<&str> = requests.iter().map(|request| request.event_id()).collect();
        of_newer.iter().all(|id| received.contains(id.as_str()))
    })
    .await;
    let (events, requests) = (ledger.published(), ledger.receiver.count());
    let report = ledger.close(workers).await;
    println!(
        "soak fail-over {way:?} {loss:?} noticed after {noticed_after:?} {commit}: {events} events, {requests} requests; {}; after the promotion \
         a worker recorded within {worker:.1?}, all were ready within {ready:.1?}, the API wrote within {api:.1?}",
        report.summary()
    );
    report.assert_sound(0);
    assert!(worker < SOON && ready < SOON && api < SOON, "{worker:?}, {ready:?}, {api:?}");
    assert!(noticed_after > NOTICED_SOON || worker < BEFORE_ANY_TIMEOUT, "{worker:?}");
    drop(caller);
}

#[tokio::test]
#[ignore = "takes servers of its own"]
async fn a_server_that_an_operator_keeps_from_writing_for_a_while_is_written_to_afterwards() {
    let servers = Replicated::start().await;
    let ledger = Ledger::open(Site::on(&servers).await).await;
    let mut worker = ledger.site.worker().await;
    let mut caller = Caller::of(ledger.site.launch(&["api"]), &ledger.site).await;
    ledger.publish(20).await;
    ledger.wait_until_done().await;
    let primary = servers.primary().await;
    let keep = async |change: &str| {
        for statement in [change, "SELECT pg_reload_conf()"] {
            primary.batch_execute(statement).await.unwrap();
        }
    };
    keep("ALTER SYSTEM SET default_transaction_read_only = on").await;
    ledger.publish(20).await;
    for replica in [&mut worker, &mut caller.api.replica] {
        replica.wait_for_log("the database refuses writes").await;
    }
    keep("ALTER SYSTEM RESET default_transaction_read_only").await;
    let lifted = Instant::now();
    caller.change().await;
    ledger.wait_until_done().await;
    assert!(lifted.elapsed() < SOON, "{:?}", lifted.elapsed());
    assert_eq!(worker.log().matches(replica::ATTACHED).count(), 1, "the worker gave its messages back");
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
#[ignore = "takes servers of its own"]
async fn an_event_whose_webhook_only_a_restarted_primary_has_lost_waits_for_the_fail_over() {
    let (servers, ledger) = replicated("on").await;
    let launch = |command| servers.launch(&ledger.site, Way::MovingAddress, &[command]);
    let worker = launch("worker").start_worker().await;
    let caller = Caller::of(launch("api"), &ledger.site).await;
    let (receiver, owner) = (Receiver::start().await, caller.api.customer("acc_3"));
    let webhook = owner.create_at(&receiver.url()).await;
    servers.stop_standby().await;
    assert_eq!(owner.send("DELETE", &webhook, &json!({})).await.status, 503);
    // After this restart every session sees the deletion, though the standby still has the webhook.
    servers.lose_primary(Loss::Killed).await;
    servers.restart_primary().await;
    let left = "SELECT FROM webhooks WHERE account_id = 'acc_3'";
    assert!(ledger.site.another_sql().await.query(left, &[]).await.unwrap().is_empty());
    let event = ["publish", "--account", "acc_3", "--type", "content.created", "--data", "{}"];
    assert_eq!(ledger.site.cli(&event).await.code, 0);
    wait_for_a_commit_that_waits(&servers, &worker).await;
    servers.lose_primary(Loss::Killed).await;
    servers.restart_standby().await;
    servers.promote().await;
    receiver.wait_for(1).await;
}

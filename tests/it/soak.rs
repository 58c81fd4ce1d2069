//! Minutes of faults under load, and large backlogs. Run with `make soak`; each test prints the report of its ledger.

mod cut_off;
mod fail_overs;
mod memory;
mod nodes;
mod scaling;
mod standbys;
mod upgrades;
mod wal;

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval_at};

use crate::support::*;
use crate::survives_kills::{PREFETCH, kill_over_and_over, short_leases};

/// How long each test runs that kills workers, the broker or Postgres.
fn duration() -> Duration {
    duration_or(180)
}

fn duration_or(seconds: u64) -> Duration {
    let seconds = std::env::var("PENR_SOAK_SECONDS").map_or(seconds, |text| text.parse().expect("seconds"));
    Duration::from_secs(seconds)
}

/// Closes the ledger, prints its report and checks it.
async fn close(name: &str, faults: usize, ledger: Ledger, workers: Vec<Replica>, duplicates_allowed: usize) {
    ledger.wait_until_done().await;
    let (events, requests) = (ledger.published(), ledger.receiver.count());
    let report = ledger.close(workers).await;
    println!("soak {name}: {faults} faults, {events} events, {requests} requests; {}", report.summary());
    report.assert_sound(duplicates_allowed);
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn workers_killed_for_minutes_lose_nothing() {
    let ledger = Ledger::under_load(short_leases(Site::new().await), PREFETCH).await;
    let (kills, workers) = kill_over_and_over(&ledger, Instant::now() + duration()).await;
    close("kills of workers", kills, ledger, workers, kills * PREFETCH).await;
}

/// Kills a server again and again, for as long as events are published, and returns how often.
async fn kill_server_over_and_over(servers: &PrivateServers, server: &str, end: Instant) -> usize {
    let period = Duration::from_secs(20);
    let mut ticks = interval_at((Instant::now() + period / 2).into(), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kills = 0;
    while ticks.tick().await.into_std() < end {
        servers.kill(server).await;
        servers.restart(server).await;
        kills += 1;
    }
    kills
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_broker_killed_for_minutes_loses_nothing_confirmed() {
    let servers = PrivateServers::start().await;
    let ledger = Ledger::under_load(Site::on(&servers).await, PREFETCH).await;
    let mut workers = vec![ledger.site.worker().await, ledger.site.worker().await];
    // An orderly restart before the first kill: RabbitMQ may lose a queue that was declared shortly before a kill.
    servers.restart("rabbitmq").await;
    for worker in &mut workers {
        worker.wait_for_log_times(replica::ATTACHED, 2).await;
    }
    let end = Instant::now() + duration();
    let kill = kill_server_over_and_over(&servers, "rabbitmq", end);
    let (kills, ()) = tokio::join!(kill, ledger.publish_until(end));
    // One more for each kill: RabbitMQ may have stored an event whose confirm was lost.
    close("kills of the broker", kills, ledger, workers, kills * (2 * PREFETCH + 1)).await;
    assert_eq!(servers.protocol_errors().await, [""; 0]);
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_postgres_killed_for_minutes_loses_nothing() {
    let servers = PrivateServers::start().await;
    // A claim whose answer is lost with the server is due again after its lease.
    let site = short_leases(Site::on(&servers).await).set("worker.lease", "15s");
    let ledger = Ledger::under_load(site, PREFETCH).await;
    let workers = vec![ledger.site.worker().await, ledger.site.worker().await];
    let end = Instant::now() + duration();
    let kill = kill_server_over_and_over(&servers, "postgres", end);
    let (kills, ()) = tokio::join!(kill, ledger.publish_until(end));
    close("kills of Postgres", kills, ledger, workers, kills * PREFETCH).await;
    assert_eq!(servers.protocol_errors().await, [""; 0]);
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_backlog_of_100_000_events_is_drained_though_a_worker_is_killed() {
    const EVENTS: usize = 100_000;
    let ledger = Ledger::open(short_leases(Site::new().await)).await;
    ledger.site.worker().await.kill9();
    ledger.publish(EVENTS).await;
    let began = Instant::now();
    let mut workers = vec![ledger.site.worker().await, ledger.site.worker().await];
    ledger.wait_for_growth("SELECT count(*) FROM attempts", EVENTS / 2).await;
    workers[0].kill9();
    workers[0] = ledger.site.worker().await;
    ledger.wait_until_done().await;
    println!("soak backlog: drained within {:?}", began.elapsed());
    // The default of `worker.max_in_flight`.
    close("backlog", 1, ledger, workers, 500).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn eight_workers_make_each_of_10_000_due_attempts_once() {
    const EVENTS: usize = 10_000;
    // A busy machine answers late: no attempt may time out, and no lease end, for that.
    let site = Site::new().await.set("sender.timeout", "60s").set("worker.lease", "10m");
    let site = site.set("retry.schedule", r#"["1h", "1h"]"#).set("worker.probe_after", "1000000");
    let ledger = Ledger::open(site).await;
    ledger.receiver.always(Reply::status(503));
    let mut workers = vec![ledger.site.worker().await];
    ledger.publish(EVENTS).await;
    ledger.wait_for_growth("SELECT count(*) FROM pending_deliveries", EVENTS).await;
    for _ in 1..8 {
        workers.push(ledger.site.worker().await);
    }
    ledger.receiver.always(Reply::status(200));
    ledger.site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    ledger.wait_until_done().await;
    assert_eq!(ledger.receiver.count(), 2 * EVENTS);
    assert_eq!(ledger.count("SELECT count(*) FROM attempts").await, 2 * EVENTS as i64);
    close("due attempts", 0, ledger, workers, 0).await;
}

#[test]
#[ignore = "takes minutes"]
fn random_events_leave_no_delivery_lost_doubled_or_stuck() {
    let cases = crate::model::run_random_cases(1, duration_or(600));
    println!("soak model: {cases} sequences");
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn behind_a_proxy_with_the_usual_idle_time_no_request_fails_for_a_connection_that_closes() {
    crate::rolls_out::at_the_edge_of_idle("75s", "10s", "60s", &[Duration::from_secs(10), Duration::from_secs(60)])
        .await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn very_many_generated_requests_get_no_answer_that_is_not_described() {
    crate::api::schemathesis::run(500, None).await;
}

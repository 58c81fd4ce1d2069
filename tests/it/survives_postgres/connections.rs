//! Too few connections: a task that gets none waits for one, and nothing is sent twice because of it.

use std::time::{Duration, Instant};

use super::{ATTEMPTS, CANNOT_RECORD};
use super::{held_in_flight, impatient, ledger_behind_a_proxy, patient, stayed_attached, wait_for_blocked_sessions};
use crate::support::*;

/// Connection limits do not apply to superusers, so the worker needs a role of its own.
const A_ROLE: &str = "
    CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 1 IN ROLE pg_read_all_data, pg_write_all_data";

async fn limit(ledger: &Ledger, connections: usize) {
    let limit = format!("ALTER ROLE few CONNECTION LIMIT {connections}");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'few'";
    ledger.site.sql().await.batch_execute(&format!("{limit}; {end}")).await.unwrap();
}

#[tokio::test]
async fn a_postgres_with_too_many_clients_is_waited_for() {
    let servers = PrivateServers::postgres().await;
    let ledger = Ledger::open(impatient(Site::on(&servers).await)).await;
    ledger.site.sql().await.batch_execute(A_ROLE).await.unwrap();
    let mut url = url::Url::parse(ledger.site.database_url()).unwrap();
    url.set_username("few").unwrap();
    url.set_password(Some("few")).unwrap();
    let mut worker = ledger.site.launch(&["worker"]).env("DATABASE_URL", url.as_str()).start_worker().await;
    // All tasks share the only connection.
    ledger.publish(50).await;
    ledger.wait_until_done().await;
    let gate = held_in_flight(&ledger, 20).await;
    limit(&ledger, 0).await;
    gate.open();
    worker.wait_for_log("53300").await;
    wait_until("it is not ready", async || !worker.is_ready().await).await;
    limit(&ledger, 2).await;
    ledger.wait_until_done().await;
    assert!(stayed_attached(&worker));
    assert_eq!(ledger.count(ATTEMPTS).await, 70);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn results_wait_while_other_questions_have_all_connections() {
    let site = Site::new().await.set("database.pool_size", "2").set("database.connect_timeout", "2s");
    let ledger = Ledger::open(patient(site)).await;
    let mut worker = ledger.site.worker().await;
    let gate = held_in_flight(&ledger, 20).await;
    let locker = ledger.site.another_sql().await;
    // The look-up and the reading of due deliveries have a connection each.
    locker.batch_execute("BEGIN; LOCK TABLE webhooks, pending_deliveries").await.unwrap();
    ledger.publish(5).await;
    wait_for_blocked_sessions(&ledger, 2).await;
    gate.open();
    worker.wait_for_log(CANNOT_RECORD).await;
    assert!(worker.is_ready().await);
    locker.batch_execute("ROLLBACK").await.unwrap();
    ledger.wait_until_done().await;
    assert!(stayed_attached(&worker));
    assert_eq!(ledger.count(ATTEMPTS).await, 25);
    assert!(!worker.log().contains("waiting for the database"), "the database was available all the time");
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn connections_that_all_fall_silent_do_not_each_cost_a_wait() {
    const CONNECTIONS: usize = 5;
    let site = Site::new().await;
    let proxy = Proxy::to(site.postgres_address()).await;
    let through = site.database_url_through(&proxy.addr());
    let launch = site.launch(&["api"]).env("DATABASE_URL", &through);
    let api = site.api_of(launch.set("api.database_timeout", "2s").set("api.request_timeout", "5s")).await;
    let customer = api.customer("acc_1");
    let webhook = customer.create_at("http://127.0.0.1:9999/").await;
    // Each request that waits for the table has a connection of its own.
    let locker = site.another_sql().await;
    locker.batch_execute("BEGIN; LOCK TABLE webhooks").await.unwrap();
    let get = || customer.get(&webhook);
    // Several crowds, since a slow machine may give up the first requests before it has opened connections for the last.
    wait_until("each of a crowd has a connection", async || {
        tokio::join!(get(), get(), get(), get(), get());
        proxy.live() >= CONNECTIONS
    })
    .await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    proxy.mute_open();
    let mut refused = 0;
    while get().await.status != 200 {
        refused += 1;
        // The first statement waits for an answer on a silent connection, and the next one, on a slow machine, for a new
        // connection.
        assert!(refused < CONNECTIONS, "every connection cost a request");
    }
}

#[tokio::test]
async fn statements_whose_server_was_replaced_are_given_up_long_before_their_time_is_over() {
    let site = Site::new().await.set("database.statement_timeout", "100s");
    let (ledger, proxy, worker) = ledger_behind_a_proxy(site).await;
    ledger.publish(20).await;
    ledger.wait_until_done().await;
    // The server that answers on the same address then does not have the sessions of the silent connections.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'penr-webhooks'";
    proxy.mute_open();
    ledger.site.sql().await.batch_execute(end).await.unwrap();
    let silent = Instant::now();
    ledger.publish(20).await;
    ledger.wait_until_done().await;
    assert!(silent.elapsed() < Duration::from_secs(80), "{:?}", silent.elapsed());
    ledger.close(vec![worker]).await.assert_sound(0);
}

//! A PgBouncer before Postgres: in session mode everything works, in any other mode nothing starts and the log says why.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::*;

const SESSION: (&str, &str) = ("pool_mode", "session");
const TRANSACTION: (&str, &str) = ("pool_mode", "transaction");
const NOT_KEPT: &str = "lends its sessions for a transaction or a statement only";

#[tokio::test]
async fn all_works_behind_a_pooler_in_session_mode() {
    let ledger = Ledger::open(Site::new().await.set("retry.schedule", r#"["1ms"]"#)).await;
    let pooler = Pooler::before(&ledger.site, &[SESSION, ("server_reset_query", "DISCARD ALL")]).await;
    let through = ledger.site.database_url_through(&pooler.address());
    let site = &ledger.site;
    let run = async |arguments: &[&str]| {
        let mut command = site.launch(arguments).env("DATABASE_URL", &through).start();
        assert_eq!(command.wait().await.code(), Some(0), "{arguments:?}: {}{}", command.stdout(), command.log());
        command.stdout()
    };
    assert!(run(&["migrate"]).await.contains("up to date"));
    assert!(run(&["doctor"]).await.lines().any(|line| line.starts_with("ok     database")));
    let mut worker = site.launch(&["worker"]).env("DATABASE_URL", &through).start_worker().await;
    let launch = site.launch(&["api"]).set("api.database_timeout", "5s");
    let mut api = site.api_of(launch.env("DATABASE_URL", &through)).await;
    ledger.receiver.script([Reply::status(500), Reply::status(200)]);
    ledger.publish(20).await;
    ledger.wait_until_done().await;
    let customer = api.customer("acc_1");
    let path = format!("/v1/webhooks/{}", ledger.webhook.id);
    assert_eq!(customer.patch(&path, &json!({ "name": "Another" })).await.status, 200);
    let since = ["webhooks", "recover", &ledger.webhook.id, "--since", "1h"];
    assert_eq!(run(&since).await, "recovering 0 deliveries\n");
    for replica in [&mut worker, &mut api.replica] {
        wait_until("it is ready", async || replica.is_ready().await).await;
        assert!(!replica.log().contains("waiting for the database"), "{}", replica.log());
    }
    drop(api);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_small_pool_is_shared_without_an_outage() {
    let site = Site::new().await.set("database.connect_timeout", "10s");
    let ledger = Ledger::open(site).await;
    let pooler = Pooler::before(&ledger.site, &[SESSION, ("default_pool_size", "2")]).await;
    let through = ledger.site.database_url_through(&pooler.address());
    let worker = ledger.site.launch(&["worker"]).env("DATABASE_URL", &through).start_worker().await;
    for _ in 0..5 {
        ledger.publish(200).await;
        ledger.wait_until_done().await;
    }
    assert!(!worker.log().contains("waiting for the database"), "{}", worker.log());
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// Checks that none of these commands starts, and that each says why in one line.
async fn assert_refused(commands: &[&str], settings: &[(&str, &str)], reason: &str) {
    let site = Site::new().await;
    let pooler = Pooler::before(&site, settings).await;
    let site = site.postgres_through(&pooler.address());
    let report = site.doctor().await;
    report.assert("database", "fails", &[reason, "pool_mode = session"]);
    assert_eq!(report.code, 1);
    for command in commands {
        let mut replica = site.launch(&[*command]).start();
        assert_eq!(replica.wait().await.code(), Some(2), "{command} {settings:?}: {}", replica.log());
        let log = replica.log();
        let told = log.lines().filter(|line| line.contains("sessions cannot be used") && !line.contains("DEBUG"));
        let told: Vec<_> = told.collect();
        let [line] = told[..] else { panic!("{command} {settings:?}: {log}") };
        // The worker and the API in `run` set different times: one may be lent a session that the other has just set.
        let is_told = line.contains(reason) || *command == "run" && line.contains("statement_timeout was set to");
        assert!(line.starts_with("error: ") && is_told && line.contains("pool_mode = session"), "{log}");
    }
}

#[tokio::test]
async fn a_pooler_in_another_mode_is_refused_at_once() {
    tokio::join!(
        assert_refused(&["migrate", "worker", "api", "run"], &[TRANSACTION], NOT_KEPT),
        assert_refused(&["worker"], &[TRANSACTION, ("default_pool_size", "1")], NOT_KEPT),
        assert_refused(&["worker"], &[("pool_mode", "statement")], NOT_KEPT),
    );
}

#[tokio::test]
async fn a_pooler_is_refused_whichever_session_it_lends_and_a_setting_that_is_lost_is_named() {
    // The pooler has no second session to compare with.
    let lost = [
        TRANSACTION,
        ("server_reset_query", "DISCARD ALL"),
        ("server_reset_query_always", "1"),
        ("max_client_conn", "1"),
    ];
    tokio::join!(
        assert_refused(&["worker"], &[TRANSACTION, ("server_round_robin", "1"), ("min_pool_size", "2")], NOT_KEPT),
        assert_refused(&["worker"], &lost, "and is 0: something before PostgreSQL drops what a session sets"),
    );
}

#[tokio::test]
async fn a_worker_notices_that_its_pooler_was_switched_to_another_mode_and_back() {
    let ledger = Ledger::open(Site::new().await).await;
    let pooler = Pooler::before(&ledger.site, &[SESSION]).await;
    let through = ledger.site.database_url_through(&pooler.address());
    let mut worker = ledger.site.launch(&["worker"]).env("DATABASE_URL", &through).start_worker().await;
    ledger.publish(20).await;
    ledger.wait_until_done().await;
    pooler.set(&[TRANSACTION]);
    ledger.publish(20).await;
    let told = |worker: &Replica| worker.log().lines().any(|line| line.contains("WARN") && line.contains(NOT_KEPT));
    let publishing = async {
        while !told(&worker) {
            ledger.publish(5).await;
        }
    };
    within("the worker logs that sessions are lent", PATIENCE, publishing).await;
    wait_until("it is not ready", async || !worker.is_ready().await).await;
    pooler.set(&[SESSION]);
    ledger.wait_until_done().await;
    wait_until("it is ready", async || worker.is_ready().await).await;
    let outages = worker.log_lines().into_iter().filter(|line| line["message"] == "waiting for the database");
    // Until it is noticed, a statement on a session without our settings may fail in any way.
    let mut outages = outages.map(|line| line.to_string()).skip_while(|line| !line.contains(NOT_KEPT));
    assert_eq!(outages.find(|line| !line.contains(NOT_KEPT)), None);
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn an_api_with_one_session_works_and_does_so_again_once_its_pooler_is_switched_back() {
    let site = Ledger::open(Site::new().await.set("database.connect_timeout", "1s")).await.site;
    // The readiness check uses the other session.
    let two = ("default_pool_size", "2");
    let pooler = Pooler::before(&site, &[SESSION, two]).await;
    let through = site.database_url_through(&pooler.address());
    let mut api = site.api_of(site.launch(&["api"]).env("DATABASE_URL", &through)).await;
    wait_until("it is ready", async || api.replica.is_ready().await).await;
    let customer = api.customer("acc_1");
    let answered = async |status: u16| {
        let answers = join_all((0..4).map(|_| customer.get("/v1/webhooks"))).await;
        answers.iter().all(|answer| answer.status == status)
    };
    wait_until("it answers", async || answered(200).await).await;
    // An API that is still starting would end with the error that follows.
    wait_until("it has started", async || api.replica.metric("partitions_ahead").await > 0.0).await;
    pooler.set(&[TRANSACTION, two]);
    wait_until("the API answers 503", async || answered(503).await).await;
    pooler.set(&[SESSION, two]);
    wait_until("it answers again", async || answered(200).await).await;
}

//! `doctor` says who works here: which processes were seen, who else consumes, and whether all find room at PostgreSQL.

use super::*;

#[tokio::test]
async fn processes_of_another_version_are_named_and_the_connections_of_all_are_added_up() {
    let site = Site::new().await;
    let (mut worker, mut api) = (site.worker().await, site.api().await);
    let seen = "SELECT count(*) FROM processes";
    wait_until("both are seen", async || site.count(seen).await == 2).await;
    let report = site.doctor().await;
    report.assert("processes", "ok", &["seen: 1 api, 1 worker", env!("CARGO_PKG_VERSION")]);
    report.assert("consumers", "ok", &["1 consume", "1 workers are seen"]);
    report.assert("connections", "ok", &["the 2 processes that are seen take up to 22"]);

    let id = worker.logged("worker starts", "process_id").await;
    let older =
        format!("UPDATE processes SET version = '0.0.9', figures = '{{\"connections\": 9000}}' WHERE id = '{id}'");
    // The worker writes its figures again within seconds, but not its version.
    site.sql().await.batch_execute(&older).await.unwrap();
    let report = site.doctor().await;
    report.assert("processes", "warns", &["worker 0.0.9 on", "upgrade"]);
    let many = "INSERT INTO processes (id, role, version, host, figures)
        VALUES (gen_random_uuid(), 'api', '0.0.9', 'b', '{\"connections\": 9000}')";
    site.sql().await.batch_execute(many).await.unwrap();
    site.doctor().await.assert(
        "connections",
        "warns",
        &["the 3 processes that are seen take up to", "max_connections"],
    );
    for process in [&mut worker, &mut api.replica] {
        process.terminate();
        assert!(process.wait().await.success());
    }
}

#[tokio::test]
async fn a_consumer_that_is_nobodys_is_told() {
    let site = Site::new().await;
    let _worker = site.worker().await;
    let seen = "SELECT count(*) FROM processes";
    wait_until("it is seen", async || site.count(seen).await == 1).await;
    let mut stranger = site.own_amqp().await;
    let _consumer = stranger.consume(site.worker_queue(), "stranger").await.unwrap();
    let report = site.doctor().await;
    report.assert("consumers", "warns", &["2 consume", "1 more than workers", "list_consumers"]);
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn without_the_table_or_a_server_who_works_here_is_not_known() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.refuse(true).await;
    let report = site.amqp_through(&proxy.addr()).doctor().await;
    report.assert("processes", "ok", &["none was seen"]);
    report.assert_skipped(&["consumers"]);
    let report = Site::unmigrated().await.doctor().await;
    report.assert_skipped(&OF_PROCESSES);
}

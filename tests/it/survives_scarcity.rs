//! When memory, file descriptors or address space run short on the worker's machine, or nobody reads its log, the worker slows
//! down and goes on, or says in one line what is too little.

use crate::support::*;

#[tokio::test]
async fn a_worker_without_file_descriptors_blames_no_receiver_and_recovers() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#).set("retry.internal_delay", "200ms");
    let ledger = Ledger::open(site.set("sender.timeout", "60s").set("worker.lease", "10m")).await;
    let gate = Gate::default();
    ledger.receiver.always(Reply::status(200).held_by(&gate));
    let worker = ledger.site.launch(&["worker"]).under(&["prlimit", "--nofile=64"]).start_worker().await;
    ledger.publish(200).await;
    ledger.wait_for_count("SELECT sign(count(*))::bigint FROM attempts WHERE error = 'internal'", 1).await;
    gate.open();
    ledger.wait_until_done().await;
    assert!(ledger.receiver.requests().iter().all(|request| request.attempt() == 1), "it cost a delivery an attempt");
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// The first socket that such an attempt opens is for its DNS question.
#[tokio::test]
async fn a_worker_without_file_descriptors_blames_no_receiver_behind_a_name() {
    let names = NameServer::start(|_, _| Says::addresses(&["127.0.0.1"]).with_ttl(0)).await;
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#).set("retry.internal_delay", "200ms");
    let site = site.set("sender.timeout", "30s").set("sender.dns_servers", &format!("[\"{}\"]", names.address()));
    let site = site.set("worker.lease", "10m").set("sender.idle_connections_per_host", "0");
    let (gate, receiver) = (Gate::default(), Receiver::start().await);
    receiver.always(Reply::status(200).held_by(&gate));
    let url = format!("http://hooks.example.com:{}/hook", receiver.address().port());
    site.create_webhook("acc_named", &url, &["content.created"]).await;
    let mut worker = site.launch(&["worker"]).under(&["prlimit", "--nofile=64"]).start_worker().await;
    site.publish_many(200, "acc_named", "content.created", serde_json::json!({})).await;
    worker.wait_for_log("no name server answers or can be asked").await;
    gate.open();
    receiver.wait_for(200).await;
    assert!(receiver.requests().iter().all(|request| request.attempt() == 1), "it cost a delivery an attempt");
    assert_eq!(site.count("SELECT count(*) FROM attempts WHERE error <> 'internal'").await, 0);
    drop(worker);
}

#[tokio::test]
async fn a_worker_whose_log_nobody_reads_delivers_and_stops_all_the_same() {
    let ledger = Ledger::open(Site::new().await).await;
    ledger.site.worker().await.kill9();
    // More lines than a pipe and the writer's own buffer hold.
    let worker = ledger.site.launch(&["worker"]).set("log.filter", "trace").with_blocked_log().start();
    ledger.publish(3_000).await;
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn memory_is_bounded_by_what_may_be_in_hand_however_many_large_events_wait() {
    const EVENTS: usize = 400;
    const DATA_BYTES: usize = 100 * 1024;
    const GROWTH_KIB: u64 = 48 * 1024;
    let site = Site::new().await.set("retry.schedule", r#"["1h", "1h"]"#).set("worker.batch", "10");
    let ledger = Ledger::open(site.set("worker.prefetch", "20").set("worker.max_in_flight", "20")).await;
    ledger.receiver.always(Reply::status(503));
    let worker = ledger.site.worker().await;
    let before = worker.memory_kib();
    ledger.publish_large(EVENTS, DATA_BYTES).await;
    ledger.wait_for_count("SELECT count(*) FROM pending_deliveries", EVENTS as i64).await;
    // Once more, now read from the database.
    ledger.receiver.always(Reply::status(200));
    ledger.site.sql().await.batch_execute("UPDATE pending_deliveries SET due_at = now()").await.unwrap();
    ledger.wait_until_done().await;
    let peak = worker.peak_memory_kib();
    assert!(peak < before + GROWTH_KIB, "{peak} KiB at the peak, {before} KiB before");
}

const SMALL: &str = "--as=314572800";
const FOUR_GIB: &str = "--as=4294967296";

#[tokio::test]
async fn four_gibibytes_of_address_space_do_for_a_worker_and_any_other_command() {
    let ledger = Ledger::open(Site::new().await).await;
    let many = |launch: Launch| launch.under(&["prlimit", FOUR_GIB]).env("TOKIO_WORKER_THREADS", "64");
    let worker = many(ledger.site.launch(&["worker"])).start_worker().await;
    ledger.publish(20).await;
    let mut token = many(ledger.site.launch(&["token", "--account", "acc_1"])).start();
    assert_eq!(token.wait().await.code(), Some(0), "{}", token.log());
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn too_little_address_space_or_too_few_threads_are_named_in_one_line() {
    let site = Site::new().await;
    for command in [&["worker"][..], &["token", "--account", "acc_1"]] {
        let mut refused = site.launch(command).under(&["prlimit", SMALL]).start();
        assert_eq!(refused.wait().await.code(), Some(1));
        let said = refused.log();
        assert!(said.starts_with("error: the address space is limited to 300 MiB"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let mut unusable = site.launch(&["worker"]).env("TOKIO_WORKER_THREADS", "0").start();
    assert_eq!(unusable.wait().await.code(), Some(2));
    assert!(unusable.log().starts_with("error: TOKIO_WORKER_THREADS must be a number"), "{}", unusable.log());
}

//! The operations address answers whether a process lives (`/livez`), what it can do now (`/readyz`) and what it has done so
//! far (`/metrics`). `penr-webhooks ready` asks it.

use crate::support::http::{get, metric};
use crate::support::*;

/// The operations address of a process.
struct Operations(String);

impl Operations {
    async fn of(worker: &mut Replica) -> Self {
        Self(worker.logged("operations address", "address").await)
    }

    async fn ready(&self) -> (u16, String) {
        let answer = get(&self.0, "/readyz").await;
        (answer.status, answer.text())
    }

    async fn wait_until_ready(&self) {
        wait_until("it is ready", async || self.ready().await.0 == 200).await;
    }

    async fn metric(&self, name: &str) -> f64 {
        metric(&self.0, name).await
    }
}

#[tokio::test]
async fn a_worker_lives_before_it_is_ready_and_says_what_is_missing() {
    let site = Site::new().await;
    let (broker, postgres) = (Proxy::to(site.amqp_address()).await, Proxy::to(site.postgres_address()).await);
    broker.refuse(true).await;
    let site = site.amqp_through(&broker.addr()).postgres_through(&postgres.addr());
    let mut worker = site.launch(&["worker"]).start();
    let operations = Operations::of(&mut worker).await;
    let alive = get(&operations.0, "/livez").await;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((alive.status, alive.text()), (200, format!("alive\nversion: {version}\n")));
    wait_until("only the consumer is missing", async || {
        operations.ready().await == (503, "consumer: not ready\ndatabase: ready\n".to_owned())
    })
    .await;
    broker.refuse(false).await;
    operations.wait_until_ready().await;
    assert_eq!(operations.metric("consumer_attached").await, 1.0);
    postgres.refuse(true).await;
    postgres.cut().await;
    wait_until("the database is missing", async || {
        operations.ready().await == (503, "consumer: ready\ndatabase: not ready\n".to_owned())
    })
    .await;
    wait_until("the metric says that the worker waits for the database", async || {
        operations.metric("database_waiting").await == 1.0
    })
    .await;
    postgres.refuse(false).await;
    operations.wait_until_ready().await;
    wait_until("it waits no longer", async || operations.metric("database_waiting").await == 0.0).await;
    assert_eq!(get(&operations.0, "/livez").await.status, 200);
}

#[tokio::test]
async fn a_lost_broker_is_seen_in_readiness_in_the_metrics_and_in_two_lines_of_the_log() {
    let site = Site::new().await;
    let broker = Proxy::to(site.amqp_address()).await;
    let site = site.amqp_through(&broker.addr());
    let mut worker = site.worker().await;
    let operations = Operations::of(&mut worker).await;
    operations.wait_until_ready().await;
    broker.refuse(true).await;
    broker.cut().await;
    wait_until("it is not ready", async || operations.ready().await.0 == 503).await;
    wait_until("the metric says so", async || operations.metric("consumer_attached").await == 0.0).await;
    let is_counted = async || get(&operations.0, "/metrics").await.text().contains("penr_webhooks_queue_messages{");
    wait_until("no old count of its queue is shown", async || !is_counted().await).await;
    wait_until("it tries again", async || operations.metric("consumer_losses_total").await >= 4.0).await;
    broker.refuse(false).await;
    operations.wait_until_ready().await;
    let told = |text: &str| {
        let lines = worker.log_lines().into_iter();
        lines.filter(|line| line["level"] != "DEBUG" && line["message"] == text).count()
    };
    // The log of another process is read somewhat later than it is written.
    wait_until("the log says that the consumer is attached again", async || told("consumer attached") == 2).await;
    assert_eq!(told("lost the broker, connecting again"), 1);
}

#[tokio::test]
async fn what_a_worker_does_is_counted() {
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#);
    let ledger = Ledger::open(site).await;
    ledger.receiver.script([Reply::status(200), Reply::status(503), Reply::status(410)]);
    let mut worker = ledger.site.worker().await;
    let operations = Operations::of(&mut worker).await;
    for _ in 0..3 {
        let before = ledger.receiver.count();
        ledger.publish(1).await;
        ledger.receiver.wait_for(before + 1).await;
    }
    ledger.site.publish_message(&ledger.site.message("no event")).await;
    ledger.site.wait_for_dead_letters(1).await;
    wait_until("all is recorded", async || operations.metric("recorded_total").await == 3.0).await;
    let of_queue = format!("events_total{{queue=\"{}\"}}", ledger.site.worker_queue());
    let expected: [(&str, f64); 7] = [
        (&of_queue, 3.0),
        ("dead_letters_total{reason=\"not_json\"}", 1.0),
        ("attempts_total{outcome=\"success\",event_type=\"content.created\"}", 1.0),
        ("attempts_total{outcome=\"http_status\",event_type=\"content.created\"}", 2.0),
        ("attempt_duration_seconds_count", 3.0),
        // The last one's delivery, and that of the second one, which waited for its retry.
        ("closed_total{reason=\"disabled\"}", 2.0),
        ("in_flight", 0.0),
    ];
    for (name, value) in expected {
        wait_until(&format!("{name} is {value}"), async || operations.metric(name).await == value).await;
    }
}

#[tokio::test]
async fn a_process_that_serves_customers_is_ready_for_them_while_the_broker_is_away() {
    let site = Site::new().await;
    let (broker, postgres) = (Proxy::to(site.amqp_address()).await, Proxy::to(site.postgres_address()).await);
    broker.refuse(true).await;
    let site = site.amqp_through(&broker.addr()).postgres_through(&postgres.addr());
    let mut both = site.launch(&["run"]).start();
    let operations = Operations::of(&mut both).await;
    let of_role = async |role: &str| {
        let answer = get(&operations.0, &format!("/readyz?role={role}")).await;
        (answer.status, answer.text())
    };
    let mut probe = site.settings().clone();
    // As in a health check of a container: the address is all that is set.
    ["DATABASE_URL", "AMQP_URL"].iter().for_each(|variable| probe.remove_env(variable));
    ["security.encryption_keys", "api.jwt_secret"].iter().for_each(|setting| probe.unset(setting));
    probe.set("ops.listen", &operations.0);
    let asks = async |arguments: &[&str]| {
        let output = cli::run(&probe, site.folder(), &[&["ready"], arguments].concat()).await;
        (output.code, output.stdout, output.stderr)
    };
    wait_until("the API is ready", async || operations.ready().await.0 == 200).await;
    let away = "consumer: away\ndatabase: ready\n".to_owned();
    assert_eq!(operations.ready().await, (200, away.clone()));
    assert_eq!(asks(&[]).await, (0, away, String::new()));
    let not_ready = "consumer: not ready\ndatabase: ready\n".to_owned();
    assert_eq!(of_role("worker").await, (503, not_ready.clone()));
    assert_eq!(asks(&["--role", "worker"]).await, (1, not_ready, "error: not ready\n".to_owned()));
    assert_eq!(of_role("api").await, (200, "database: ready\n".to_owned()));
    assert_eq!(asks(&["--role", "api", "--json"]).await.1, "{\"lines\":[\"database: ready\"],\"ready\":true}\n");
    postgres.refuse(true).await;
    postgres.cut().await;
    wait_until("the API is not ready without the database", async || operations.ready().await.0 == 503).await;
    assert_eq!(of_role("api").await, (503, "database: not ready\n".to_owned()));
    both.kill9();
    both.wait().await;
    let (code, _, complaint) = asks(&[]).await;
    let nobody = format!("error: no answer on ops.listen ({}): Connection refused", operations.0);
    assert!(code == 1 && complaint.starts_with(&nobody), "{code} {complaint}");
}

#[tokio::test]
async fn a_probe_for_a_role_that_the_process_does_not_have_is_refused() {
    let site = Site::new().await;
    let mut api = site.launch(&["api"]).start();
    let operations = Operations::of(&mut api).await;
    let answer = get(&operations.0, "/readyz?role=worker").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (404, "this process is the API alone, it has no role worker\n")
    );
    assert_eq!(get(&operations.0, "/readyz?role=x").await.status, 400);
    let site = site.set("ops.listen", &operations.0);
    let output = site.cli(&["ready", "--role", "worker"]).await;
    assert_eq!((output.code, output.stderr.contains("it has no role worker")), (2, true), "{}", output.stderr);
    let site = site.set("ops.listen", "127.0.0.1:0");
    let output = site.cli(&["ready"]).await;
    assert_eq!((output.code, output.stderr.contains("ops.listen has port 0")), (2, true), "{}", output.stderr);
    // A listener that accepts the connection and stays silent.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = site.set("ops.listen", &mute.local_addr().unwrap().to_string());
    let began = std::time::Instant::now();
    assert_eq!(site.cli(&["ready"]).await.code, 1);
    // The command gives up after 3 s; without that it would wait for ever.
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}

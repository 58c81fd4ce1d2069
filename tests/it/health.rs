//! The operations address tells the platform what a worker can do now and has done so far.

use crate::support::http::{get, metric};
use crate::support::*;

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
    let mut worker = site.launch(&["worker"]).set("database.connect_timeout", "1s").start();
    let operations = Operations::of(&mut worker).await;
    assert_eq!(get(&operations.0, "/livez").await.status, 200);
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
    wait_until("it waits", async || operations.metric("database_waiting").await == 1.0).await;
    postgres.refuse(false).await;
    operations.wait_until_ready().await;
    assert_eq!(operations.metric("database_waiting").await, 0.0);
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
    assert_eq!(operations.metric("consumer_attached").await, 0.0);
    wait_until("it tries again", async || operations.metric("consumer_losses_total").await >= 4.0).await;
    broker.refuse(false).await;
    operations.wait_until_ready().await;
    let told = |text: &str| {
        let lines = worker.log_lines().into_iter();
        lines.filter(|line| line["level"] != "DEBUG" && line["message"] == text).count()
    };
    // Its connection was cut, and then refused.
    assert_eq!(told("lost the broker, connecting again"), 2);
    assert_eq!(told("consumer attached"), 2);
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
    ledger.site.publish_raw(&ledger.site.message("no event")).await;
    ledger.site.wait_for_dead_letters(1).await;
    wait_until("all is recorded", async || operations.metric("recorded_total").await == 3.0).await;
    let expected = [
        ("events_total", 3.0),
        ("dead_letters_total{reason=\"not_json\"}", 1.0),
        ("attempts_total{outcome=\"success\"}", 1.0),
        ("attempts_total{outcome=\"http_status\"}", 2.0),
        ("attempt_duration_seconds_count", 3.0),
        ("closed_total{reason=\"disabled\"}", 1.0),
        ("in_flight", 0.0),
    ];
    for (name, value) in expected {
        assert_eq!(operations.metric(name).await, value, "{name}");
    }
    let text = get(&operations.0, "/metrics").await;
    assert!(text.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    assert!(text.text().ends_with("# EOF\n"));
}

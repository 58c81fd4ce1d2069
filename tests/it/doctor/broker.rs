//! `doctor` names what is wrong with RabbitMQ and with what is declared there, and leaves nothing behind.

use lapin::ExchangeKind;

use super::*;

#[tokio::test]
async fn a_broker_that_is_down_fails_and_the_rest_is_checked() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.refuse(true).await;
    let report = site.amqp_through(&proxy.addr()).doctor().await;
    report.assert("broker", "fails", &["AMQP_URL", "refused"]);
    report.assert_skipped(&OF_BROKER);
    report.assert("schema", "ok", &[]);
    assert_eq!(report.code, 1);
}

#[tokio::test]
async fn of_several_addresses_those_that_do_not_serve_are_named() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.refuse(true).await;
    let nowhere = site.amqp_url().replace("/%2f", "/nowhere");
    let closed = site.amqp_url_through(&proxy.addr());
    let all = [&closed, &nowhere, site.amqp_url()].join(",");
    let report = site.env("AMQP_URL", &all).doctor().await;
    let says =
        [&format!("{}: Connection refused; ", proxy.addr()), "at ", "NOT_ALLOWED", "nowhere", "correct AMQP_URL"];
    report.assert("broker", "warns", &says);
    report.assert("round_trip", "ok", &[]);
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn an_address_that_cannot_be_read_is_to_be_corrected() {
    let report = Site::new().await.env("AMQP_URL", "amqp://user:hunter2@localhost:5672/").doctor().await;
    report.assert("broker", "fails", &["AMQP_URL cannot be used: it names the empty virtual host", "correct it"]);
    report.assert_nowhere("is it up");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let site = Site::new().await;
    let mut url = Url::parse(site.amqp_url()).unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let site_address = site.amqp_address();
    let output = site.env("AMQP_URL", url.as_str()).cli(&["doctor"]).await;
    let line = output.stdout.lines().find(|line| line.starts_with("fails  broker")).unwrap();
    assert_eq!(line.matches("Login was refused").count(), 1, "{line}");
    assert!(line.contains(&format!("{}: ACCESS_REFUSED", site_address)), "{line}");
    assert!(![output.stdout, output.stderr].concat().contains("hunter2"));
}

#[tokio::test]
async fn what_nobody_has_declared_yet_is_no_failure_and_is_not_declared() {
    let site = Site::new().await;
    for _ in 0..2 {
        let report = site.doctor().await;
        let names = [site.events_exchange(), site.notices_exchange(), site.worker_queue(), site.dead_queue()];
        report.assert("topology", "warns", &[&names[..], &["the first worker declares it"]].concat());
        report.assert("worker_queue", "warns", &["not declared yet"]);
        report.assert("dead_letters", "warns", &["not declared yet"]);
        report.assert("round_trip", "ok", &[]);
        assert_eq!(report.code, 0);
    }
    assert!(site.own_amqp().await.depth(site.worker_queue()).await.is_err());
}

#[tokio::test]
async fn a_queue_with_another_argument_fails_and_is_kept() {
    let site = Site::new().await;
    // The broker would take a killed worker for a consumer for a while.
    let mut worker = site.worker().await;
    worker.terminate();
    assert!(worker.wait().await.success());
    assert_eq!(site.publish_message(&site.message_to_queue("precious")).await, Fate::Confirmed);
    let site = site.set("queue.delivery_limit", "7");
    let report = site.doctor().await;
    report.assert("topology", "fails", &["inequivalent arg 'x-delivery-limit'", site.worker_queue()]);
    report.assert("worker_queue", "warns", &["1 events wait, 0 workers", "start a worker"]);
    report.assert("round_trip", "ok", &[]);
    assert_eq!(report.code, 1);
    assert_eq!(site.queue_depth(site.worker_queue()).await, 1);
}

#[tokio::test]
async fn everything_that_is_declared_otherwise_is_named_at_once() {
    let site = Site::new().await;
    site.own_amqp().await.declare_exchange(site.events_exchange(), ExchangeKind::Direct).await.unwrap();
    site.own_amqp().await.declare_queue(site.dead_queue(), &[]).await.unwrap();
    let report = site.doctor().await;
    let words =
        ["inequivalent arg 'type'", site.events_exchange(), "inequivalent arg 'x-queue-type'", site.dead_queue()];
    report.assert("topology", "fails", &words);
    site.own_amqp()
        .await
        .declare_exchange(site.events_exchange(), ExchangeKind::Direct)
        .await
        .expect("it is as it was");
}

#[tokio::test]
async fn dead_letters_are_counted_and_stay() {
    let site = Site::new().await;
    let _worker = site.worker().await;
    site.publish_message(&site.message("no event")).await;
    let dead = site.dead_queue();
    wait_until("it is dead", async || site.queue_depth(dead).await == 1).await;
    let report = site.doctor().await;
    report.assert("dead_letters", "warns", &["1 wait", "penr-webhooks dead-letters list"]);
    assert_eq!(report.code, 0);
    assert_eq!(site.queue_depth(dead).await, 1);
}

#[tokio::test]
async fn a_dead_queue_that_is_missing_while_workers_consume_fails() {
    let site = Site::new().await;
    let worker = site.worker().await;
    // A running worker would declare the queue again.
    worker.pause();
    site.delete_dead_queue().await;
    let report = site.doctor().await;
    report.assert("topology", "fails", &["missing although workers consume", site.dead_queue()]);
    report.assert("worker_queue", "ok", &["1 workers consume"]);
    report.assert("dead_letters", "fails", &["missing although workers consume"]);
    assert_eq!(report.code, 1);
}

#[tokio::test]
async fn nothing_is_left_behind_at_the_broker() {
    let servers = PrivateServers::broker().await;
    let site = Site::on(&servers).await;
    drop(site.worker().await);
    let listed = async |what: &str| {
        let mut names: Vec<String> = servers.ctl(&["-q", what, "name"]).await.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let before = [listed("list_queues").await, listed("list_exchanges").await];
    assert_eq!(site.doctor().await.code, 0);
    let connections = async || servers.ctl(&["-q", "list_connections", "client_properties"]).await;
    wait_until("no connection is left", async || !connections().await.contains("doctor")).await;
    assert_eq!([listed("list_queues").await, listed("list_exchanges").await], before);
}

#[tokio::test]
async fn a_broker_in_alarm_fails_the_round_trip_alone() {
    let servers = PrivateServers::broker().await;
    let site = Site::on(&servers).await.set("amqp.connect_timeout", "5s");
    drop(site.worker().await);
    // A low limit of memory would be noticed some time later only.
    servers.ctl(&["eval", "rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})."]).await;
    let report = site.doctor().await;
    report.assert("broker", "ok", &[]);
    report.assert("topology", "ok", &[]);
    report.assert("round_trip", "fails", &["no answer", "alarms"]);
    assert_eq!(report.code, 1);
}

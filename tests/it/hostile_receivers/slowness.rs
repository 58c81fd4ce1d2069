//! The time of a whole attempt is bounded, whichever part of it the receiver draws out.

use std::time::Duration;

use tokio::net::TcpListener;

use super::connections::Greeter;
use super::stage::{MARK, Row, Stage, rows};
use crate::support::{Configure, FullBacklog, Receiver, Reply, Site, wait_until};

const TIMEOUT: &str = "4s";
const STEP: Duration = Duration::from_millis(250);

async fn stage() -> Stage {
    Stage::open(Site::new().await.set("sender.timeout", TIMEOUT)).await
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_a_timeout_however_busy_the_connection_is() {
    let stage = stage().await;
    let hint = format!("HTTP/1.1 102 Processing\r\nX: {MARK}\r\n\r\n");
    let often = Duration::from_millis(20);
    let table = vec![
        ("silence", Reply::silence(), "timeout response_timeout"),
        ("half a head", Reply::raw("HTTP/1.1 200 OK\r\nX: receiver-was-here").then_hang(), "timeout"),
        ("a byte of the head at a time", Reply::drip(format!("HTTP/1.1 200 OK\r\nX: {MARK}\r\n\r\n"), STEP), "timeout"),
        ("102 for ever", Reply::endless("", hint.as_str(), often), "timeout"),
        (
            "103 for ever without a pause",
            Reply::endless("", hint.replace("102", "103").repeat(100), Duration::ZERO),
            "timeout",
        ),
        ("100 and then silence", Reply::raw("HTTP/1.1 100 Continue\r\n\r\n").then_hang(), "timeout"),
        ("the answer late", Reply::status(200).after(Duration::from_secs(10)), "timeout"),
    ];
    stage.play(rows(table).await).await;
    stage.close().await;
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_in_time_is_no_slow_answer() {
    let stage = stage().await;
    let backlog = FullBacklog::new().await;
    let deaf = Receiver::start_without_reading().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mute_url = format!("https://{}/hook", mute.local_addr().expect("it is bound"));
    // A server's first record, announced with more bytes than will ever come.
    let slow = Greeter::start(Reply::drip([b"\x16\x03\x03\x40\0".to_vec(), vec![2; 1000]].concat(), STEP)).await;
    let table = vec![
        Row::at_url("a full backlog", backlog.url(), "connect connect_timeout"),
        Row::at_url("a receiver that reads nothing", deaf.url(), "timeout response_timeout"),
        Row::at_url("a TLS server that never shakes hands", mute_url, "connect connect_timeout"),
        Row::at_url("a TLS server that shakes hands for ever", slow.url("https"), "connect connect_timeout"),
    ];
    stage.play(table).await;
    drop((backlog, deaf, mute, slow));
    stage.close().await;
}

#[tokio::test]
async fn an_answer_that_is_always_too_late_ends_in_exhaustion_under_one_id_and_fresh_signatures() {
    let site = Site::new().await.set("sender.timeout", "2s").set("retry.schedule", r#"["1100ms", "1100ms"]"#);
    let site = site.set("retry.jitter", "0.0");
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(200).after(Duration::from_secs(8)));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let _worker = site.worker().await;
    let event = site.publish("acc_1", "content.created", 1.into()).await;
    wait_until("the delivery is exhausted", async || {
        site.count("SELECT count(*) FROM closed_deliveries WHERE reason = 'exhausted' AND attempts_made = 3").await == 1
    })
    .await;
    let attempts = site.attempts(&webhook).await;
    assert!(attempts.iter().all(|attempt| attempt.verdict() == "timeout"));
    let requests = receiver.wait_for(3).await;
    assert_eq!(requests.iter().map(|request| request.attempt()).collect::<Vec<_>>(), [1, 2, 3]);
    for (before, request) in requests.iter().zip(&requests[1..]) {
        assert!(before.timestamp() < request.timestamp());
        assert_ne!(before.header("webhook-signature"), request.header("webhook-signature"));
    }
    for request in &requests {
        assert_eq!(request.event_id(), event);
        assert!(request.verify(&webhook.secret).is_genuine());
    }
}

#[tokio::test]
async fn a_receiver_that_keeps_one_worker_thread_busy_does_not_hold_up_another() {
    let stage = stage().await;
    let flood = Reply::endless("", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000), Duration::ZERO);
    let loud = Receiver::start().await;
    loud.always(flood);
    let quiet = Receiver::start().await;
    let loud_webhook = stage.site.create_webhook("acc_loud", &loud.url(), &["content.created"]).await;
    let quiet_webhook = stage.site.create_webhook("acc_quiet", &quiet.url(), &["content.created"]).await;
    stage.site.publish("acc_loud", "content.created", 1.into()).await;
    loud.wait_for(1).await;
    stage.site.publish("acc_quiet", "content.created", 1.into()).await;
    assert_eq!(stage.site.wait_for_attempts(&quiet_webhook, 1).await[0].verdict(), "ok 200");
    assert_eq!(stage.site.wait_for_attempts(&loud_webhook, 1).await[0].verdict(), "timeout");
}

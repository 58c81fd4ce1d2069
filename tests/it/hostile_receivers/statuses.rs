//! The status decides about success; nothing else in the answer changes what the worker does.

use super::stage::{MARK, Stage, rows};
use crate::support::{Configure, Receiver, Reply, Site, wait_until};

const TAKEN: [u16; 7] = [200, 201, 202, 204, 206, 226, 299];
const TRIED_AGAIN: [u16; 25] = [
    300, 301, 304, 307, 400, 401, 403, 404, 405, 407, 408, 409, 421, 422, 425, 426, 429, 451, 500, 502, 503, 504, 511,
    600, 999,
];
/// No status of HTTP, which has three digits, the first of which is not 0.
const NO_STATUS: [u16; 3] = [0, 99, 1000];

#[tokio::test]
async fn two_hundreds_succeed_and_every_other_status_is_tried_again() {
    let stage = Stage::open(Site::new().await).await;
    let taken = TAKEN.map(|status| (status, format!("ok {status}")));
    let tried_again = TRIED_AGAIN.map(|status| (status, format!("http_status {status}")));
    let no_status = NO_STATUS.map(|status| (status, "protocol".to_owned()));
    let table = taken.into_iter().chain(tried_again).chain(no_status);
    let replies = table.map(|(status, verdict)| (status, Reply::body(status, MARK), verdict));
    let played = stage.play(rows(replies).await).await;
    for row in &played {
        let first = &row.attempts[0];
        assert_eq!(first.wait_seconds.is_some(), first.error.is_some(), "{}: a failure is followed up", row.name);
    }
    stage.close().await;
}

#[tokio::test]
async fn a_receiver_that_asks_for_more_than_the_event_is_not_obeyed() {
    let stage = Stage::open(Site::new().await).await;
    let with = |status, lines: &[&str]| Reply::with_headers(status, lines);
    let upgrade = ["Connection: upgrade", "Upgrade: websocket"];
    let table = vec![
        ("switches protocols", with(101, &upgrade), "http_status 101"),
        ("asks for a password", with(401, &["WWW-Authenticate: Basic realm=receiver-was-here"]), "http_status 401"),
        ("poses as a proxy", with(407, &["Proxy-Authenticate: Basic realm=receiver-was-here"]), "http_status 407"),
        ("wants an upgrade", with(426, &upgrade), "http_status 426"),
        ("wants https from now on", with(200, &["Strict-Transport-Security: max-age=99999999"]), "ok 200"),
        ("wants its cookies and caches cleared", with(200, &["Clear-Site-Data: \"*\""]), "ok 200"),
    ];
    let played = stage.play(rows(table).await).await;
    for row in &played {
        for request in row.receiver.as_ref().expect("every row has one").requests() {
            assert_eq!(request.method, "POST", "{}", row.name);
            for refused in ["authorization", "proxy-authorization", "upgrade", "cookie"] {
                assert_eq!(request.head.header(refused), None, "{}", row.name);
            }
        }
    }
    stage.close().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_never_called_again() {
    let site = Site::new().await.set("retry.schedule", r#"["50ms"]"#);
    let receiver = Receiver::start().await;
    receiver.always(Reply::body(410, MARK));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    wait_until("the webhook is switched off", async || site.webhook(&webhook.id).await["active"] == false).await;
    assert_eq!(site.webhook(&webhook.id).await["disabled_reason"], "gone");
    let attempts = site.attempts(&webhook).await;
    assert_eq!(attempts.iter().map(|attempt| attempt.verdict()).collect::<Vec<_>>(), ["http_status 410"]);
    assert_eq!(attempts[0].wait_seconds, None);
    assert_eq!(site.count("SELECT count(*) FROM pending_deliveries").await, 0);
    assert!(!worker.log().contains(MARK));
}

#[tokio::test]
async fn cookies_are_never_sent_back_to_whoever_set_them() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let cookies: Vec<String> = (0..100).map(|n| format!("Set-Cookie: c{n}=receiver-was-here; Path=/")).collect();
    let cookies: Vec<&str> = cookies.iter().map(String::as_str).collect();
    // One hundred headers are the most an answer may have, and the reply has one of its own.
    receiver.always(Reply::with_headers(200, &cookies[..99]));
    let first = site.create_webhook("acc_1", &receiver.url_at("/one"), &["content.created"]).await;
    let other = site.create_webhook("acc_2", &receiver.url_at("/two"), &["content.created"]).await;
    let worker = site.worker().await;
    for (account, webhook) in [("acc_1", &first), ("acc_1", &first), ("acc_2", &other)] {
        let before = site.attempts(webhook).await.len();
        site.publish(account, "content.created", 1.into()).await;
        let attempts = site.wait_for_attempts(webhook, before + 1).await;
        assert!(attempts.iter().all(|attempt| attempt.verdict() == "ok 200"));
    }
    for request in receiver.requests() {
        assert_eq!(request.head.header("cookie"), None, "{}", request.path);
    }
    assert!(!worker.log().contains(MARK));
}

#[tokio::test]
async fn a_receiver_that_fails_every_other_time_gets_each_event_by_its_second_attempt() {
    let site = Site::new().await.set("retry.schedule", r#"["50ms", "1h"]"#);
    let receiver = Receiver::start().await;
    receiver.script([500, 200, 500, 200].map(Reply::status));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let _worker = site.worker().await;
    for round in 1..=2 {
        site.publish("acc_1", "content.created", round.into()).await;
        let attempts = site.wait_for_attempts(&webhook, 2 * round).await;
        let made: Vec<(i32, String)> = attempts.iter().map(|a| (a.attempt, a.verdict())).skip(2 * round - 2).collect();
        assert_eq!(made, [(1, "http_status 500".to_owned()), (2, "ok 200".to_owned())]);
    }
}

#[tokio::test]
async fn a_receiver_that_answers_by_user_agent_sees_ours() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let known = |agent: &str| agent.starts_with("penr-webhooks/");
    receiver.answer(move |request| Reply::status(if known(request.header("user-agent")) { 200 } else { 403 }));
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    assert_eq!(site.wait_for_attempts(&webhook, 1).await[0].verdict(), "ok 200");
}

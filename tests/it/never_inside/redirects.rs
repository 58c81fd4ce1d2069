//! Neither a receiver's answer nor the environment redirects a request.

use super::canary::Canary;
use crate::support::{Authority, Configure, Receiver, Reply, Site};

/// Answers that ask a client to go elsewhere, in every known way.
fn invitations(target: &str) -> Vec<Reply> {
    let locations = [300, 301, 302, 303, 304, 305, 307, 308, 200, 201, 202, 204, 404, 500, 503].map(|status| {
        let location = format!("Location: {target}");
        Reply::with_headers(status, &[&location, "Retry-After: 0"])
    });
    let authority = target.trim_start_matches("http:").trim_start_matches('/').trim_end_matches("/hook");
    let others = [
        format!("Refresh: 0; url={target}"),
        format!("Content-Location: {target}"),
        format!("Alt-Svc: http/1.1=\"{authority}\"; ma=86400"),
        format!("Link: <{target}>; rel=preload"),
        format!("Location: //{authority}/hook"),
        format!("Location: \\\\{authority}\\hook"),
        format!("Report-To: {{\"endpoints\":[{{\"url\":\"{target}\"}}],\"max_age\":1}}"),
        format!("SourceMap: {target}"),
    ];
    let others = others.iter().flat_map(|line| [200, 302, 503].map(|status| Reply::with_headers(status, &[line])));
    let body = Reply::body(302, format!("<meta http-equiv=refresh content='0; url={target}'>"));
    let hint = Reply::raw(format!(
        "HTTP/1.1 103 Early Hints\r\nLink: <{target}>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    ));
    locations.into_iter().chain(others).chain([body, hint]).collect()
}

#[tokio::test]
async fn a_receiver_cannot_send_a_request_elsewhere() {
    let site = Site::new().await.set("retry.schedule", r#"["20ms", "1h"]"#).set("worker.probe_after", "1000");
    let (beside, inside) = (Canary::beside().await, Canary::inside().await);
    let receiver = Receiver::start().await;
    let replies: Vec<Reply> = invitations(&beside.url()).into_iter().chain(invitations(&inside.url())).collect();
    let events = replies.len();
    receiver.answer(move |request| replies[request.json()["data"].as_u64().expect("a number") as usize].clone());
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let _worker = site.worker().await;
    for event in 0..events {
        site.publish("acc_1", "content.created", event.into()).await;
    }
    let attempts = site.wait_for_attempts(&webhook, events).await;
    assert!(attempts.iter().any(|attempt| attempt.verdict() == "http_status 302"));
    receiver.wait_for(events).await;
    beside.assert_untouched().await;
    inside.assert_untouched().await;
    let others = receiver.requests().into_iter().filter(|request| request.method != "POST" || request.path != "/hook");
    assert_eq!(others.count(), 0);
}

#[tokio::test]
async fn proxies_named_in_the_environment_are_not_used() {
    let canary = Canary::beside().await;
    let mut site = Site::new().await;
    let proxy = format!("http://127.0.0.1:{}", canary.port());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "SOCKS_PROXY"] {
        site = site.env(name, &proxy).env(&name.to_lowercase(), &proxy);
    }
    let site = site.env("NO_PROXY", "").env("no_proxy", "");
    let receiver = Receiver::start().await;
    let plain = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let untrusted = Receiver::start_tls(Authority::new().identity().server_config()).await;
    let secure = site.create_webhook("acc_1", &untrusted.url(), &["content.created"]).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    assert_eq!(site.wait_for_attempts(&plain, 1).await[0].verdict(), "ok 200");
    assert_eq!(site.wait_for_attempts(&secure, 1).await[0].verdict(), "tls");
    canary.assert_untouched().await;
}

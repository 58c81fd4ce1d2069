//! What the log keeps of an answer: enough to find the request in the receiver's own logs, never a cookie, and no part of a body
//! where the operator wants none.

use serde_json::{Value, json};

use crate::support::*;

/// The log rows of tests that are sent to a receiver that answers so.
async fn rows<const N: usize>(site: &Site, answers: [&str; N]) -> [Value; N] {
    let receiver = Receiver::start().await;
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let mut rows = Vec::new();
    for answer in answers {
        receiver.always(Reply::raw(answer).then_close());
        let sent = site.cli(&["webhooks", "test", &webhook.id, "--json"]).await;
        rows.push(serde_json::from_str(&sent.stdout).unwrap());
    }
    rows.try_into().expect("one for each")
}

#[tokio::test]
async fn an_answer_is_kept_with_its_lines_and_the_headers_that_help_and_without_its_body_if_the_operator_wants_so() {
    const FAILURE: &str = "HTTP/1.1 403 Forbidden\r\nServer: cloudflare\r\nCF-Ray: 8f-FRA\r\nCf-Mitigated: challenge\r\n\
        Set-Cookie: session=secret\r\nX-Powered-By: PHP\r\nContent-Length: 14\r\n\r\n{\r\n\t\"no\": 1\r\n}";
    const SUCCESS: &str = "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\n\r\nok";
    let long = format!("HTTP/1.1 200 OK\r\nX-Request-Id: r-1\r\nContent-Length: 2000\r\n\r\n{}", "é".repeat(1000));
    let site = Site::new().await;
    let [failed, succeeded, cut] = rows(&site, [FAILURE, SUCCESS, &long]).await;
    let headers = json!({"CF-Ray": "8f-FRA", "Cf-Mitigated": "challenge", "Server": "cloudflare"});
    assert_eq!(failed["response_headers"], headers);
    assert_eq!(failed["response_snippet"], "{\n\t\"no\": 1\n}");
    assert_eq!((&failed["response_truncated"], &failed["error_detail"]), (&json!(false), &Value::Null));
    assert_eq!((&succeeded["response_headers"], &succeeded["response_snippet"]), (&json!({}), &json!("ok")));
    assert_eq!((&cut["response_truncated"], &cut["response_headers"]), (&json!(true), &json!({"X-Request-Id": "r-1"})));
    // Null takes no room in the log.
    let empty = "SELECT count(*) FROM attempts WHERE response_headers IS NULL AND response_truncated IS NULL";
    assert_eq!(site.count(empty).await, 1);

    let site = site.set("sender.keep_snippets", "false");
    let [failed, cut] = rows(&site, [FAILURE, &long]).await;
    assert_eq!((&failed["response_headers"], &failed["response_snippet"]), (&headers, &Value::Null));
    assert_eq!((&cut["response_snippet"], &cut["response_truncated"]), (&Value::Null, &json!(false)));
}

#[tokio::test]
async fn a_cause_that_only_a_newer_release_knows_is_null_in_every_answer() {
    let site = Site::new().await;
    let api = site.api().await;
    let customer = api.customer("acc_1");
    let closed = ClosedPort::new();
    let webhook = site.create_webhook("acc_1", &closed.url(), &["content.created"]).await;
    site.cli(&["webhooks", "test", &webhook.id]).await;
    let list = format!("/v1/webhooks/{}/deliveries", webhook.id);
    let causes = async || {
        let row = async |path: &str| customer.get(path).await.json()["data"][0].clone();
        [
            row(&list).await["error_detail"].clone(),
            row(&format!("{list}?view=deliveries")).await["last_error_detail"].clone(),
            row("/v1/webhooks?include=activity").await["activity"]["last_error_detail"].clone(),
        ]
    };
    assert_eq!(causes().await, ["refused"; 3]);
    site.sql().await.execute("UPDATE attempts SET error_detail = 'quic_timeout'", &[]).await.unwrap();
    assert_eq!(causes().await, [Value::Null, Value::Null, Value::Null]);
}

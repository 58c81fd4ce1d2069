//! Nothing is sent to a receiver without a valid certificate, and the log names TLS as the error.

use super::connections::Greeter;
use super::stage::{MARK, Row, Stage, rows};
use crate::support::{Authority, Configure, Flaw, Receiver, Reply, Site};

async fn trusting(authority: &Authority) -> Stage {
    let site = Site::new().await;
    let file = authority.trust_file(site.folder());
    Stage::open(site.env("SSL_CERT_FILE", file.to_str().expect("a path of ASCII"))).await
}

async fn row(name: &str, config: rustls::ServerConfig, verdict: &'static str) -> (Row, Receiver) {
    let receiver = Receiver::start_tls(config).await;
    (Row::at_url(name, receiver.url(), verdict), receiver)
}

#[tokio::test]
async fn an_invalid_certificate_is_a_tls_failure_and_its_receiver_gets_no_request() {
    let authority = Authority::new();
    let stage = trusting(&authority).await;
    let flaw = |flaw| authority.flawed_identity(flaw).server_config();
    let mut h2_only = authority.identity().server_config();
    h2_only.alpn_protocols = vec![b"h2".to_vec()];
    let (rows, receivers): (Vec<Row>, Vec<Receiver>) = [
        row("expired", flaw(Flaw::Expired), "tls certificate_expired").await,
        row("not yet valid", flaw(Flaw::NotYetValid), "tls certificate_other").await,
        row("for another host", flaw(Flaw::WrongHost), "tls certificate_name").await,
        row("signed by itself", flaw(Flaw::SelfSigned), "tls certificate_issuer").await,
        row("signed by an unknown authority", Authority::new().identity().server_config(), "tls certificate_issuer")
            .await,
        row("HTTP/2 alone", h2_only, "tls http2_only").await,
        row("other ciphers", authority.identity().server_config_of_other_ciphers(), "tls no_common_cipher").await,
    ]
    .into_iter()
    .unzip();
    stage.play(rows).await;
    for receiver in &receivers {
        receiver.wait_for_failed_handshakes(2).await;
        assert_eq!(receiver.count(), 0, "{}", receiver.url());
    }
    stage.close().await;
}

#[tokio::test]
async fn a_valid_certificate_is_trusted_unless_its_chain_is_huge_or_the_server_demands_one_of_us() {
    let authority = Authority::new();
    let stage = trusting(&authority).await;
    let good = Receiver::start_tls(authority.identity().server_config()).await;
    let mut long = authority.identity();
    let copies = 1_000_000 / long.chain[0].len();
    long.chain.extend(vec![long.chain[0].clone(); copies]);
    let asking = authority.identity().server_config_for_clients_of(&Authority::new());
    let (long, _long) = row("a chain of 1 MB", long.server_config(), "tls").await;
    // The refusal comes after the handshake, and may be lost when the connection is reset behind it.
    let (asking, _asking) = row("a client certificate demanded", asking, "tls or protocol").await;
    let mut table = rows([("no TLS", Reply::status(200), "ok 200")]).await;
    table.extend([Row::at("good", good, "ok 200"), long, asking]);
    stage.play(table).await;
    stage.close().await;
}

#[tokio::test]
async fn a_server_of_an_old_version_of_tls_has_no_cipher_in_common_with_us() {
    let stage = trusting(&Authority::new()).await;
    // A fatal alert, protocol_version, as OpenSSL sends it.
    let alert = Greeter::start(Reply::raw(*b"\x15\x03\x01\0\x02\x02\x46").then_close()).await;
    // A ServerHello with TLS 1.0 and TLS_RSA_WITH_AES_128_CBC_SHA.
    let hello = [&b"\x16\x03\x01\0\x2a\x02\0\0\x26\x03\x01"[..], &[7; 32], b"\0\0\x2f\0"].concat();
    let hello = Greeter::start(Reply::raw(hello)).await;
    stage
        .play(vec![
            Row::at_url("an alert", alert.url("https"), "tls no_common_cipher"),
            Row::at_url("TLS 1.0", hello.url("https"), "tls no_common_cipher"),
        ])
        .await;
    stage.close().await;
}

#[tokio::test]
async fn http_and_https_taken_for_each_other_fail_without_an_answer() {
    let authority = Authority::new();
    let stage = trusting(&authority).await;
    let secure = Receiver::start_tls(authority.identity().server_config()).await;
    let (leaving, resetting) = (Greeter::leaving().await, Greeter::resetting().await);
    let plain = Greeter::start(Reply::body(400, MARK)).await;
    stage
        .play(vec![
            Row::at_url("https at an http server", plain.url("https"), "tls not_tls"),
            Row::at_url("http at an https server", secure.url().replacen("https:", "http:", 1), "protocol not_http"),
            Row::at_url("a close within the handshake", leaving.url("https"), "tls tls_other"),
            Row::at_url("a reset within the handshake", resetting.url("https"), "tls tls_other"),
        ])
        .await;
    assert_eq!(secure.count(), 0);
    stage.close().await;
}

#[tokio::test]
async fn an_invalid_certificate_causes_no_line_of_a_library_in_the_log() {
    let receiver = Receiver::start_tls(Authority::new().identity().server_config()).await;
    let site = Site::new().await.set("log.filter", "info");
    let webhook = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let sent = site.cli(&["webhooks", "test", &webhook.id]).await;
    assert!([&sent.stdout[..], &sent.stderr].concat().contains("tls"), "{}{}", sent.stdout, sent.stderr);
    let ours = |line: &str| line.starts_with("error: ") || line.contains(r#""target":"penr_webhooks"#);
    assert!(sent.stderr.lines().all(ours), "{}", sent.stderr);
}

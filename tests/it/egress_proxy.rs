//! Through a forward proxy (`sender.proxy`) requests reach their receivers as without one. The proxy is not asked for addresses
//! that must not be called. A proxy that fails costs no delivery an attempt.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::*;

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

/// Gives names 127.0.0.1, the only private address that the site permits, except those that begin with `inside`. The names
/// with `translated` get an IPv6 address that stands for an IPv4 address, as from a DNS64.
async fn names() -> NameServer {
    NameServer::start(|name, _| match name.split('.').next() {
        Some("inside") => Says::addresses(&["127.0.0.2"]),
        Some("inside-translated") => Says::addresses(&["64:ff9b::7f00:1"]),
        Some("translated") => Says::addresses(&["64:ff9b::5db8:d822"]),
        _ => Says::addresses(&["127.0.0.1"]),
    })
    .await
}

async fn behind(proxy: &ForwardProxy, names: &NameServer) -> Site {
    let site = Site::new().await.set("sender.dns_servers", &format!("[\"{}\"]", names.address()));
    let site = site.set("sender.proxy", &proxy.url()).set("retry.internal_delay", "100ms");
    site.set("retry.schedule", r#"["100ms", "1h"]"#).set("retry.jitter", "0.0")
}

async fn named(site: &Site, name: &str, port: u16) -> Webhook {
    site.create_webhook(ACCOUNT, &format!("http://{name}:{port}/hook"), &[TYPE]).await
}

async fn verdicts(site: &Site, webhook: &Webhook, count: usize) -> Vec<String> {
    site.wait_for_attempts(webhook, count).await.iter().take(count).map(LoggedAttempt::verdict).collect()
}

#[tokio::test]
async fn requests_go_through_the_proxy_and_what_must_not_be_called_is_not_asked_of_it() {
    let (proxy, names) = (ForwardProxy::start().await, names().await);
    let authority = Authority::new();
    let secure = Receiver::start_tls(authority.identity().server_config()).await;
    let plain = Receiver::start().await;
    let site = behind(&proxy, &names).await;
    let trusted = authority.trust_file(site.folder());
    let credentials = site.folder().join("credentials");
    std::fs::write(&credentials, "penr:s3cret:word\n").unwrap();
    let site = site.env("SSL_CERT_FILE", trusted.to_str().unwrap());
    let site = site.env("PENR_WEBHOOKS__SENDER__PROXY_CREDENTIALS_FILE", credentials.to_str().unwrap());
    let tunnelled = site.create_webhook(ACCOUNT, &secure.url(), &[TYPE]).await;
    let forwarded = named(&site, "hooks.example.com", plain.address().port()).await;
    let inside = named(&site, "inside.example.com", plain.address().port()).await;
    let translated = named(&site, "translated.example.com", plain.address().port()).await;
    let inside_translated = named(&site, "inside-translated.example.com", plain.address().port()).await;
    let untrusted = Receiver::start_tls(Authority::new().identity().server_config()).await;
    let forged = site.create_webhook(ACCOUNT, &untrusted.url(), &[TYPE]).await;
    let closed = ClosedPort::new();
    let unreached = site.create_webhook(ACCOUNT, &closed.url().replace("http://", "https://"), &[TYPE]).await;
    let wanting = Receiver::start().await;
    wanting.always(Reply::status(407));
    let wants_credentials = named(&site, "wanting.example.com", wanting.address().port()).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, 1.into()).await;

    assert_eq!(verdicts(&site, &tunnelled, 1).await, ["ok 200"]);
    assert_eq!(verdicts(&site, &forwarded, 1).await, ["ok 200"]);
    assert_eq!(verdicts(&site, &inside, 2).await, ["blocked_address", "blocked_address"]);
    assert_eq!(verdicts(&site, &translated, 1).await, ["ok 200"], "the IPv4 address inside is public");
    assert_eq!(verdicts(&site, &inside_translated, 1).await, ["blocked_address"], "allow_networks has 127.0.0.1 alone");
    assert_eq!(verdicts(&site, &forged, 1).await, ["tls"], "a receiver's certificate is checked all the same");
    assert_eq!(verdicts(&site, &unreached, 1).await, ["connect"], "a receiver that the proxy cannot reach has failed");
    assert_eq!(
        verdicts(&site, &wants_credentials, 1).await,
        ["http_status 407"],
        "the receiver answered 407, not the proxy"
    );

    let port = plain.address().port();
    let asked = proxy.asked();
    assert!(asked.contains(&format!("POST http://hooks.example.com:{port}/hook HTTP/1.1")), "{asked:?}");
    assert!(asked.contains(&format!("CONNECT {} HTTP/1.1", secure.address())), "{asked:?}");
    assert!(!asked.iter().any(|line| line.contains("inside")), "{asked:?}");
    let basic = format!("Basic {}", STANDARD.encode("penr:s3cret:word"));
    assert!(proxy.heads().iter().all(|head| head.header("proxy-authorization") == Some(&basic)));
    for request in [&secure.requests()[0], &plain.requests()[0]] {
        assert!(!format!("{request:?}").to_lowercase().contains("proxy-"), "{request:?}");
    }
    assert!(!worker.log().contains("s3cret") && !worker.log().contains(&basic));
}

#[tokio::test]
async fn a_proxy_may_speak_tls_itself() {
    let (proxy, names) = (ForwardProxy::start().await, names().await);
    let authority = Authority::new();
    let front = TlsFront::to(proxy.address(), authority.identity().server_config()).await;
    let secure = Receiver::start_tls(authority.identity().server_config()).await;
    let plain = Receiver::start().await;
    let site = behind(&proxy, &names).await.set("sender.proxy", &format!("https://{}", front.addr()));
    let trusted = authority.trust_file(site.folder());
    let site = site.env("SSL_CERT_FILE", trusted.to_str().unwrap());
    let forwarded = named(&site, "hooks.example.com", plain.address().port()).await;
    let tunnelled = site.create_webhook(ACCOUNT, &secure.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, 1.into()).await;
    for webhook in [&forwarded, &tunnelled] {
        assert_eq!(verdicts(&site, webhook, 1).await, ["ok 200"]);
    }
    assert_eq!(proxy.asked().len(), 2);
}

#[tokio::test]
async fn a_proxy_that_refuses_us_or_is_gone_costs_no_attempt() {
    let port = ReservedPort::new();
    let (proxy, names) = (ForwardProxy::start_at(&port).await, names().await);
    proxy.refuse(Some(407));
    let authority = Authority::new();
    let secure = Receiver::start_tls(authority.identity().server_config()).await;
    let plain = Receiver::start().await;
    let site = behind(&proxy, &names).await;
    let trusted = authority.trust_file(site.folder());
    let site = site.env("SSL_CERT_FILE", trusted.to_str().unwrap());
    let forwarded = named(&site, "hooks.example.com", plain.address().port()).await;
    let tunnelled = site.create_webhook(ACCOUNT, &secure.url(), &[TYPE]).await;
    let mut worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, 1.into()).await;
    let own = ["internal", "internal"];
    assert_eq!(verdicts(&site, &forwarded, 2).await, own);
    assert_eq!(verdicts(&site, &tunnelled, 2).await, own);
    worker.wait_for_log("sender.proxy_credentials").await;

    drop(proxy);
    worker.wait_for_log("sender.proxy does not answer").await;
    let _proxy = ForwardProxy::start_at(&port).await;
    plain.wait_for(1).await;
    secure.wait_for(1).await;
    assert!(plain.requests()[0].attempt() == 1 && secure.requests()[0].attempt() == 1, "it cost an attempt");
    assert_eq!(site.count("SELECT count(*) FROM attempts WHERE error <> 'internal'").await, 0);
}

#[tokio::test]
async fn a_proxy_that_takes_no_connection_is_our_failure_and_a_slow_receiver_behind_it_is_not() {
    let (proxy, names) = (ForwardProxy::start().await, names().await);
    let slow = Receiver::start().await;
    slow.always(Reply::silence());
    let site = behind(&proxy, &names).await.set("sender.timeout", "4s");
    let webhook = named(&site, "hooks.example.com", slow.address().port()).await;
    let worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, 1.into()).await;
    assert_eq!(verdicts(&site, &webhook, 1).await, ["timeout"]);
    worker.kill9();

    let mute = FullBacklog::new().await;
    let site = site.set("sender.proxy", mute.url().trim_end_matches("/hook"));
    let other = named(&site, "mute.example.com", slow.address().port()).await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, 2.into()).await;
    assert_eq!(verdicts(&site, &other, 1).await, ["internal"]);
}

#[tokio::test]
async fn a_receiver_behind_a_proxy_that_takes_no_connection_is_no_slow_one_although_the_look_up_took_long() {
    let proxy = ForwardProxy::start().await;
    // The look-up ends with three fifths of its time, since no query for an IPv6 address is answered.
    let names = NameServer::start(|_, _| Says::addresses(&["127.0.0.1"]).silent_for_ipv6()).await;
    let authority = Authority::new();
    let slow = Receiver::start_tls(authority.identity_for(&["slow.example.com"]).server_config()).await;
    slow.always(Reply::silence());
    let nobody = FullBacklog::new().await;
    let site = behind(&proxy, &names).await.set("sender.timeout", "3s").set("sender.dns_timeout", "2s");
    let trusted = authority.trust_file(site.folder());
    let site = site.env("SSL_CERT_FILE", trusted.to_str().unwrap());
    let secure = async |url: String, name: &str| {
        site.create_webhook(ACCOUNT, &url.replace("http:", "https:").replace("127.0.0.1", name), &[TYPE]).await
    };
    let unconnected = secure(nobody.url(), "nobody.example.com").await;
    let silent = secure(slow.url(), "slow.example.com").await;
    let _worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, 1.into()).await;
    assert_eq!(site.wait_for_attempts(&unconnected, 1).await[0].cause(), "connect connect_timeout");
    assert_eq!(site.wait_for_attempts(&silent, 1).await[0].cause(), "timeout response_timeout");
}

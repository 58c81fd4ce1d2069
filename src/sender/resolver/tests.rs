use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{MAX_ADDRESSES, ResolveError, Resolver, ResolverSettings};
use crate::address::AddressPolicy;
use name_server::{NameServer, Says};

#[path = "../../../tests/it/support/name_server.rs"]
mod name_server;

const HOST: &str = "hooks.example.com";
const PUBLIC: &str = "93.184.216.34";
const PUBLIC_V6: &str = "2606:4700:4700::1111";

fn resolver(server: &NameServer) -> Resolver {
    resolver_with(server, ResolverSettings::default(), AddressPolicy::default())
}

fn resolver_with(server: &NameServer, settings: ResolverSettings, policy: AddressPolicy) -> Resolver {
    Resolver::with_name_servers(&[server.address()], settings, policy).expect("a resolver")
}

fn within(timeout: Duration) -> ResolverSettings {
    ResolverSettings { timeout, ..ResolverSettings::default() }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address of the test")).collect()
}

#[tokio::test]
async fn a_public_name_gives_its_addresses_of_both_families() {
    let server = NameServer::start(|_, _| Says::addresses(&[PUBLIC, PUBLIC_V6])).await;
    let found = resolver(&server).addresses(HOST).await.expect("public addresses");
    assert_eq!(found, ips(&[PUBLIC, PUBLIC_V6]));
    assert_eq!(server.names(), [format!("{HOST}.")], "asked for the absolute name alone");
}

#[tokio::test]
async fn a_name_with_an_underscore_resolves() {
    let server = NameServer::start(|_, _| Says::addresses(&[PUBLIC])).await;
    resolver(&server).addresses("my_hooks.example.com").await.expect("a public address");
}

#[tokio::test]
async fn one_refused_answer_refuses_the_whole_name() {
    for refused in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "fd00::1", "::1", "::ffff:8.8.8.8", "64:ff9b::a00:1"] {
        let server = NameServer::start(move |_, _| Says::addresses(&[PUBLIC, PUBLIC_V6, refused])).await;
        let error = resolver(&server).addresses(HOST).await.expect_err(refused);
        assert!(matches!(error, ResolveError::Blocked), "{refused}: {error:?}");
        assert!(!format!("{error} {error:?}").contains(refused));
    }
}

#[tokio::test]
async fn a_refused_address_is_found_behind_the_ones_that_are_used() {
    let many: Vec<String> = (1..=30).map(|last| format!("93.184.216.{last}")).collect();
    let reply = move |refused: &[&str]| {
        let all: Vec<&str> = many.iter().map(String::as_str).chain(refused.iter().copied()).collect();
        Says::addresses(&all)
    };
    let server =
        NameServer::start(move |name, _| reply(if name.starts_with("bad") { &["10.0.0.1"] } else { &[] })).await;
    let resolver = resolver(&server);
    assert_eq!(resolver.addresses("good.example.com").await.expect("public addresses").len(), MAX_ADDRESSES);
    assert!(matches!(resolver.addresses("bad.example.com").await, Err(ResolveError::Blocked)));
}

#[tokio::test]
async fn a_name_that_is_rebound_to_a_private_address_is_refused_from_then_on() {
    let server =
        NameServer::start(|_, asked| Says::addresses(if asked == 0 { &[PUBLIC] } else { &["127.0.0.1"] }).with_ttl(0))
            .await;
    let resolver = resolver(&server);
    assert_eq!(resolver.addresses(HOST).await.expect("public at first"), ips(&[PUBLIC]));
    for _ in 0..2 {
        assert!(matches!(resolver.addresses(HOST).await, Err(ResolveError::Blocked)));
    }
}

#[tokio::test]
async fn an_answer_is_asked_for_once_while_it_lives() {
    let server = NameServer::start(|_, _| Says::addresses(&[PUBLIC, PUBLIC_V6]).with_ttl(60)).await;
    let resolver = resolver(&server);
    for _ in 0..5 {
        resolver.addresses(HOST).await.expect("public addresses");
    }
    assert_eq!(server.queries(), 2, "one for each family");
}

#[tokio::test]
async fn an_alias_of_a_private_name_is_refused() {
    let server = NameServer::start(|name, _| {
        if name.starts_with("hooks") { Says::alias("db.example.net.") } else { Says::addresses(&["10.0.0.1"]) }
    })
    .await;
    assert!(matches!(resolver(&server).addresses(HOST).await, Err(ResolveError::Blocked)));
}

#[tokio::test]
async fn a_name_without_an_address_fails() {
    for reply in [Says::no_such_name(), Says::addresses(&[]), Says::refused()] {
        let server = NameServer::start(move |_, _| reply.clone()).await;
        let error = resolver(&server).addresses(HOST).await.expect_err("no address");
        assert!(matches!(error, ResolveError::Failed(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_name_server_that_never_answers_ends_in_a_timeout() {
    let server = NameServer::start(|_, _| Says::silence()).await;
    let resolver = resolver_with(&server, within(Duration::from_millis(300)), AddressPolicy::default());
    let started = Instant::now();
    assert!(matches!(resolver.addresses(HOST).await, Err(ResolveError::Timeout)));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_family_that_is_never_answered_leaves_the_other_usable() {
    let server = NameServer::start(|_, _| Says::addresses(&[PUBLIC]).silent_for_ipv6()).await;
    let resolver = resolver_with(&server, within(Duration::from_millis(900)), AddressPolicy::default());
    assert_eq!(resolver.addresses(HOST).await.expect("the IPv4 address"), ips(&[PUBLIC]));
}

#[tokio::test]
async fn a_lookup_beyond_the_limit_waits_for_its_turn() {
    let server = NameServer::start(
        |name, _| {
            if name.starts_with("slow") { Says::silence() } else { Says::addresses(&[PUBLIC]) }
        },
    )
    .await;
    let settings = ResolverSettings { max_lookups: 1, ..within(Duration::from_millis(900)) };
    let resolver = resolver_with(&server, settings, AddressPolicy::default());
    let slow = async { (resolver.addresses("slow.example.com").await, Instant::now()) };
    let quick = async { (resolver.addresses("quick.example.com").await, Instant::now()) };
    let ((slow, slow_ended), (quick, quick_ended)) = tokio::join!(slow, quick);
    slow.expect_err("never answered");
    quick.expect("answered in its turn");
    assert!(slow_ended <= quick_ended);
}

#[tokio::test]
async fn the_name_servers_of_any_system_can_be_used() {
    Resolver::system(ResolverSettings::default(), AddressPolicy::default()).expect("a resolver");
}

fn client(resolver: Resolver) -> reqwest::Client {
    // Fails when another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().dns_resolver(Arc::new(resolver)).build().expect("a client")
}

/// Everything the error and its sources say.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(|error| format!("{error} ")).collect::<String>() + &format!("{error:?}")
}

#[tokio::test]
async fn a_refused_name_is_recognised_in_the_error_of_a_failed_request() {
    let server = NameServer::start(|_, _| Says::addresses(&[PUBLIC, "10.11.12.13"])).await;
    let request = client(resolver(&server)).post(format!("http://{HOST}:8080/")).send();
    let error = request.await.expect_err("refused").without_url();
    assert!(matches!(ResolveError::within(&error), Some(ResolveError::Blocked)), "{error:?}");
    let text = chain(&error);
    assert!(!text.contains("10.11") && !text.contains(PUBLIC), "{text}");
}

#[tokio::test]
async fn a_timeout_is_recognised_in_the_error_of_a_failed_request() {
    let server = NameServer::start(|_, _| Says::silence()).await;
    let resolver = resolver_with(&server, within(Duration::from_millis(200)), AddressPolicy::default());
    let error = client(resolver).post(format!("http://{HOST}/")).send().await.expect_err("no answer");
    assert!(matches!(ResolveError::within(&error), Some(ResolveError::Timeout)), "{error:?}");
}

#[tokio::test]
async fn a_request_goes_to_a_vetted_address_at_the_port_of_the_url() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = receiver.local_addr().expect("bound").port();
    let answering = tokio::spawn(answer_once(receiver));

    let server = NameServer::start(|_, _| Says::addresses(&["127.0.0.1"])).await;
    let allowed = AddressPolicy::new(vec!["127.0.0.0/8".parse().expect("a network")], Vec::new());
    let client = client(resolver_with(&server, ResolverSettings::default(), allowed));
    let response = client.post(format!("http://{HOST}:{port}/")).send().await.expect("an answer");
    assert_eq!(response.status(), 204);
    answering.await.expect("answered");
}

async fn answer_once(receiver: TcpListener) {
    let (mut stream, _peer): (_, SocketAddr) = receiver.accept().await.expect("a connection");
    let mut request = [0; 1024];
    let _read = stream.read(&mut request).await.expect("a request");
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("answered");
}

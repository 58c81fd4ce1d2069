use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::hosts_file::HostsFile;
use super::{MAX_ADDRESSES, NameServers, ResolvConf, ResolveError, Resolver, ResolverSettings, within_reach};
use crate::address::AddressPolicy;
use crate::webhook::{AllowedHosts, UrlPolicy};
use name_server::{NameServer, Says};

#[path = "../../../tests/it/support/name_server.rs"]
mod name_server;

const HOST: &str = "hooks.example.com";
const PUBLIC: &str = "93.184.216.34";
const PUBLIC_V6: &str = "2606:4700:4700::1111";

fn resolver(server: &NameServer) -> Resolver {
    resolver_with(server, ResolverSettings::default(), UrlPolicy::default())
}

fn resolver_with(server: &NameServer, settings: ResolverSettings, policy: UrlPolicy) -> Resolver {
    Resolver::with_name_servers(&[server.address()], settings, policy).expect("a resolver")
}

fn within(timeout: Duration) -> ResolverSettings {
    ResolverSettings { timeout, ..ResolverSettings::default() }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address of the test")).collect()
}

fn allowing(networks: &[&str], hosts: &[&str]) -> UrlPolicy {
    let networks = networks.iter().map(|network| network.parse().expect("a network of the test")).collect();
    let allowed_hosts = AllowedHosts::parse(hosts).expect("hosts of the test");
    UrlPolicy { addresses: AddressPolicy::new(networks, Vec::new()), allowed_hosts, ..UrlPolicy::default() }
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
async fn a_dns64_gives_what_is_public_inside() {
    let server = NameServer::start(|_, _| Says::addresses(&["64:ff9b::5db8:d822"])).await;
    assert_eq!(resolver(&server).addresses(HOST).await.expect("a public address"), ips(&["64:ff9b::5db8:d822"]));
    let inside = NameServer::start(|_, _| Says::addresses(&["64:ff9b::a00:1"])).await;
    let resolver = resolver_with(&inside, ResolverSettings::default(), allowing(&["10.0.0.0/8", "64:ff9b::/96"], &[]));
    let error = resolver.addresses(HOST).await.expect_err("a private address inside");
    assert!(matches!(error, ResolveError::Blocked), "{error:?}");
}

#[tokio::test]
async fn the_hosts_file_knows_the_names_that_the_operator_allows_and_no_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hosts");
    let text = format!("172.17.0.1 host.docker.internal\n127.0.0.1 {HOST} receiver\n10.0.0.1 listed\n");
    std::fs::write(&path, text).expect("a file");
    let server = NameServer::start(|name, _| match name {
        "listed." => Says::no_such_name(),
        _ => Says::addresses(&["172.18.0.9"]),
    })
    .await;
    let policy = allowing(&["172.16.0.0/12"], &["host.docker.internal", "receiver", "other"]);
    let servers = NameServers::given(&[server.address()], ResolverSettings::default()).expect("a client");
    let resolver = Resolver::knowing(servers, ResolverSettings::default(), policy, HostsFile(path));
    let found = |name| {
        let resolver = resolver.clone();
        async move { resolver.addresses(name).await }
    };
    assert_eq!(found("host.docker.internal").await.expect("an address of the file"), ips(&["172.17.0.1"]));
    assert_eq!(server.queries(), 0);
    assert_eq!(found("other").await.expect("an address of the DNS"), ips(&["172.18.0.9"]));
    assert_eq!(found(HOST).await.expect("an address of the DNS"), ips(&["172.18.0.9"]));
    assert_eq!(server.names(), [format!("{HOST}."), "other.".to_owned()], "asked for absolute names alone");
    let blocked = found("receiver").await.expect_err("its address is not allowed");
    assert!(matches!(blocked, ResolveError::Blocked), "{blocked:?}");
    let unknown = found("listed").await.expect_err("not allowed, and not in the DNS");
    assert!(matches!(unknown, ResolveError::Failed(_)), "{unknown:?}");
}

#[tokio::test]
async fn one_refused_answer_refuses_the_whole_name() {
    for refused in [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "fd00::1",
        "::1",
        "::ffff:8.8.8.8",
        "64:ff9b::a00:1",
        "64:ff9b:1::808:808",
    ] {
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
async fn name_servers_that_answer_nothing_are_our_failure() {
    let server = NameServer::start(|_, _| Says::silence()).await;
    let resolver = resolver_with(&server, within(Duration::from_millis(300)), UrlPolicy::default());
    let started = Instant::now();
    assert!(matches!(resolver.addresses(HOST).await, Err(ResolveError::NoNameServer)));
    // Without our limit the resolver library would wait 5 s for an answer.
    assert!(started.elapsed() < Duration::from_millis(4500));
}

#[tokio::test]
async fn a_zone_whose_servers_never_answer_is_its_customers_failure_and_a_crowd_of_them_costs_few_questions() {
    let server = NameServer::start(|name, _| if name == "." { Says::addresses(&[]) } else { Says::silence() }).await;
    // A fifth of the time is for the question that the name server answers.
    let resolver = resolver_with(&server, within(Duration::from_secs(3)), UrlPolicy::default());
    let crowd = (0..50).map(|number| {
        let resolver = resolver.clone();
        async move { resolver.addresses(&format!("hooks{number}.example.com")).await }
    });
    for found in futures_util::future::join_all(crowd).await {
        assert!(matches!(found, Err(ResolveError::Timeout)), "{found:?}");
    }
    let asked_for_the_root = server.questions().iter().filter(|(name, _)| name == ".").count();
    assert!((1..=3).contains(&asked_for_the_root), "{asked_for_the_root}");
}

#[tokio::test]
async fn a_name_server_that_cannot_ask_anybody_is_our_failure_and_one_broken_zone_is_not() {
    let server = NameServer::start(|_, _| Says::failed()).await;
    assert!(matches!(resolver(&server).addresses(HOST).await, Err(ResolveError::NoNameServer)));
    let server = NameServer::start(|name, _| if name == "." { Says::addresses(&[]) } else { Says::failed() }).await;
    assert!(matches!(resolver(&server).addresses(HOST).await, Err(ResolveError::Failed(_))));
}

#[tokio::test]
async fn a_name_server_that_cannot_even_be_asked_is_our_failure() {
    // Sending to the broadcast address is an I/O error, as without a route or a file descriptor.
    let nobody = "255.255.255.255:53".parse().expect("an address");
    let resolver =
        Resolver::with_name_servers(&[nobody], within(Duration::from_secs(5)), UrlPolicy::default()).expect("set up");
    assert!(matches!(resolver.addresses(HOST).await, Err(ResolveError::NoNameServer)));
}

/// A resolv.conf of a test. Its name servers are on this machine, at the port of `server`.
struct File {
    folder: tempfile::TempDir,
    port: u16,
}

impl File {
    fn beside(server: &NameServer) -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), port: server.address().port() }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.folder.path().join("resolv.conf"), text).expect("written");
    }

    fn resolver(&self) -> Resolver {
        let file = ResolvConf { path: self.folder.path().join("resolv.conf"), port: self.port };
        Resolver::of_file(file, within(Duration::from_millis(250)), UrlPolicy::default()).expect("a resolver")
    }
}

#[tokio::test]
async fn an_odd_line_of_resolv_conf_costs_no_name_server() {
    let server = NameServer::start_on("127.0.0.2", |_, _| Says::addresses(&[PUBLIC])).await;
    let file = File::beside(&server);
    file.write("search bad..name\noptions timeout:x\nnameserver 127.0.0.2\nnameserver 300.0.0.1\n");
    assert_eq!(file.resolver().addresses(HOST).await.expect("a public address"), ips(&[PUBLIC]));
}

#[tokio::test]
async fn resolv_conf_is_read_again_when_it_changes_and_until_then_the_failure_is_ours() {
    let server = NameServer::start_on("127.0.0.2", |_, _| Says::addresses(&[PUBLIC])).await;
    let file = File::beside(&server);
    let missing = file.resolver();
    let found = missing.addresses(HOST).await;
    assert!(matches!(found, Err(ResolveError::NoNameServer)), "{found:?}");
    file.write("");
    let empty = file.resolver();
    file.write("nameserver 127.0.0.3\n");
    let wrong = file.resolver();
    file.write("nameserver 127.0.0.2\n");
    for resolver in [missing, empty, wrong] {
        // Whoever asked meanwhile got an answer about ourselves.
        while let Err(error) = resolver.addresses(HOST).await {
            assert!(matches!(error, ResolveError::NoNameServer), "{error:?}");
        }
    }
    let in_use = file.resolver();
    file.write("");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    in_use.addresses("other.example.com").await.expect("the server that was named last is still asked");
}

#[test]
fn a_family_in_which_this_machine_has_no_address_is_left_out() {
    let loopback: IpAddr = [127, 0, 0, 1].into();
    // Without an interface a link-local address leads nowhere.
    let nowhere: IpAddr = "fe80::1".parse().expect("an address");
    assert_eq!(within_reach(vec![nowhere, loopback]).ok(), Some(vec![loopback]));
    assert!(matches!(within_reach(vec![nowhere]), Err(ResolveError::Unreachable)));
}

#[tokio::test]
async fn a_family_that_is_never_answered_leaves_the_other_usable() {
    let server = NameServer::start(|_, _| Says::addresses(&[PUBLIC]).silent_for_ipv6()).await;
    let resolver = resolver_with(&server, within(Duration::from_millis(900)), UrlPolicy::default());
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
    let resolver = resolver_with(&server, settings, UrlPolicy::default());
    let (slow, quick) = tokio::join!(resolver.addresses("slow.example.com"), resolver.addresses("quick.example.com"));
    slow.expect_err("never answered");
    quick.expect("answered in its turn");
    let questions = server.questions();
    let last_slow = questions.iter().rposition(|(name, _)| name.starts_with("slow"));
    let first_quick = questions.iter().position(|(name, _)| name.starts_with("quick"));
    assert!(last_slow < first_quick, "{questions:?}");
}

#[tokio::test]
async fn a_lookup_that_gets_no_turn_is_our_failure() {
    let server = NameServer::start(|name, _| if name == "." { Says::addresses(&[]) } else { Says::silence() }).await;
    let settings = ResolverSettings { max_lookups: 1, ..within(Duration::from_millis(500)) };
    let resolver = resolver_with(&server, settings, UrlPolicy::default());
    let (first, second) =
        tokio::join!(resolver.addresses("first.example.com"), resolver.addresses("second.example.com"));
    assert!(matches!(first, Err(ResolveError::Timeout)), "{first:?}");
    assert!(matches!(second, Err(ResolveError::NoTurn)), "{second:?}");
}

#[tokio::test]
async fn the_name_servers_of_any_system_can_be_used() {
    Resolver::system(ResolverSettings::default(), UrlPolicy::default()).expect("a resolver");
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
    let server = NameServer::start(|name, _| if name == "." { Says::addresses(&[]) } else { Says::silence() }).await;
    let resolver = resolver_with(&server, within(Duration::from_millis(500)), UrlPolicy::default());
    let error = client(resolver).post(format!("http://{HOST}/")).send().await.expect_err("no answer");
    assert!(matches!(ResolveError::within(&error), Some(ResolveError::Timeout)), "{error:?}");
}

#[tokio::test]
async fn a_request_goes_to_a_vetted_address_at_the_port_of_the_url() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = receiver.local_addr().expect("bound").port();
    let answering = tokio::spawn(answer_once(receiver));

    let server = NameServer::start(|_, _| Says::addresses(&["127.0.0.1"])).await;
    let client = client(resolver_with(&server, ResolverSettings::default(), allowing(&["127.0.0.0/8"], &[])));
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

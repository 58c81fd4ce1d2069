//! `AMQP_URL` as operators write it: several nodes, IPv6, own certificate authorities, and mistakes.

use std::fs;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::*;
use crate::support::{cli, tls};

/// A site whose queues are declared.
async fn declared() -> Site {
    let site = Site::new().await.set("amqp.connect_timeout", "15s");
    drop(site.worker().await);
    site
}

/// Runs a command that connects to this URL. Returns whether it succeeds, and its stderr.
async fn reach_through(site: &Site, url: &str, settings: &[(&str, &str)]) -> (bool, String) {
    let mut given = site.settings().clone();
    given.env("AMQP_URL", url);
    given.set("log.filter", "warn");
    settings.iter().for_each(|(name, value)| given.set(name, value));
    let output = cli::run(&given, site.folder(), &["dead-letters", "list"]).await;
    (output.code == 0, output.stderr)
}

#[track_caller]
fn assert_says((reached, said): (bool, String), all: &[&str]) {
    assert!(!reached, "the command reached the broker");
    assert!(all.iter().all(|text| said.contains(text)), "no {all:?} in {said:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[tokio::test]
async fn addresses_that_refuse_or_stay_silent_leave_time_for_the_next() {
    let site = declared().await;
    let (closed, silent) = (Proxy::to(site.amqp_address()).await, Proxy::to(site.amqp_address()).await);
    closed.refuse(true).await;
    silent.pause();
    let [closed_url, silent_url] = [&closed, &silent].map(|proxy| site.amqp_url_through(&proxy.addr()));
    let url = format!("{closed_url},{silent_url} , {}", site.amqp_url());
    assert_eq!(reach_through(&site, &url, &[]).await, (true, String::new()));
    let said = reach_through(&site, &format!("{silent_url}\n{closed_url}"), &[("amqp.connect_timeout", "4s")]).await;
    let (closed, silent) = (closed.addr(), silent.addr());
    assert_says(said, &[&format!("the broker is not available: {silent}: no answer; {closed}: Connection refused\n")]);
}

#[tokio::test]
async fn a_worker_goes_over_to_the_address_that_serves_and_back() {
    let ledger = Ledger::open(Site::new().await).await;
    let (one, other) = (Proxy::to(ledger.site.amqp_address()).await, Proxy::to(ledger.site.amqp_address()).await);
    let url = [&one, &other].map(|proxy| ledger.site.amqp_url_through(&proxy.addr())).join(",");
    let mut worker = ledger.site.launch(&["worker"]).env("AMQP_URL", &url).start_worker().await;
    ledger.publish(5).await;
    ledger.wait_until_done().await;
    for (gone, there) in [(&one, &other), (&other, &one)] {
        there.refuse(false).await;
        gone.refuse(true).await;
        // The worker may use the other address already.
        let was_used = gone.live() > 0;
        gone.cut().await;
        ledger.publish(5).await;
        ledger.wait_until_done().await;
        wait_until("one connection is left", async || (gone.live(), there.live()) == (0, 1)).await;
        if was_used {
            worker.wait_for_log(&format!("the broker is not available: {}: ", gone.addr())).await;
        }
    }
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// Forwards `[::1]:port` to `target`, and returns that address and the task. Nothing listens at the port on 127.0.0.1. `None` on
/// a machine without IPv6.
async fn over_ipv6(target: String) -> Option<(String, JoinSet<()>)> {
    let listener = TcpListener::bind("[::1]:0").await.ok()?;
    let address = listener.local_addr().expect("it is bound").to_string();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&target).await.expect("the server is up");
            connections.spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    Some((address, serving))
}

#[tokio::test]
async fn an_ipv6_address_is_reached_also_with_tls() {
    let site = declared().await;
    let Some((address, _serving)) = over_ipv6(site.amqp_address()).await else { return };
    let url = site.amqp_url().replacen(&site.amqp_address(), &address, 1);
    assert_eq!(reach_through(&site, &url, &[]).await, (true, String::new()));
    let authority = Authority::new();
    let file = authority.trust_file(site.folder()).display().to_string();
    let front = TlsFront::to(site.amqp_address(), authority.identity_for(&["::1"]).server_config()).await;
    let Some((address, _serving)) = over_ipv6(front.addr()).await else { return };
    let url = site.amqp_url().replacen(&site.amqp_address(), &address, 1).replacen("amqp://", "amqps://", 1);
    assert_eq!(reach_through(&site, &url, &[("amqp.ca_file", &file)]).await, (true, String::new()));
    let elsewhere = url.replacen(&address, &front.addr(), 1);
    let said = reach_through(&site, &elsewhere, &[("amqp.ca_file", &file)]).await;
    assert_says(said, &["its certificate is refused: the host is not among its", &front.addr()]);
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_authorities_of_a_file() {
    let site = declared().await;
    let (authority, other) = (Authority::new(), Authority::new());
    let ours = authority.trust_file(site.folder()).display().to_string();
    let others = site.folder().join("others.pem").display().to_string();
    fs::rename(other.trust_file(tempfile::tempdir_in(site.folder()).unwrap().path()), &others).unwrap();
    let empty = site.folder().join("empty.pem").display().to_string();
    fs::write(&empty, "no certificate").unwrap();
    let front = async |identity: tls::Identity| {
        let front = TlsFront::to(site.amqp_address(), identity.server_config()).await;
        let url = site.amqp_url_through(&front.addr()).replacen("amqp://", "amqps://", 1);
        (front, url)
    };
    let (_good, good) = front(authority.identity()).await;
    let (_expired, expired) = front(authority.flawed_identity(Flaw::Expired)).await;
    assert_eq!(reach_through(&site, &good, &[("amqp.ca_file", &ours)]).await, (true, String::new()));
    let refused = "its certificate is refused: ";
    let unknown = [refused, "no trusted authority has signed it: name yours with amqp.ca_file"];
    assert_says(reach_through(&site, &good, &[("amqp.ca_file", &others)]).await, &unknown);
    assert_says(reach_through(&site, &good, &[]).await, &unknown);
    assert_says(reach_through(&site, &expired, &[("amqp.ca_file", &ours)]).await, &[refused, "expired"]);
    let plain = site.amqp_url().replacen("amqp://", "amqps://", 1);
    assert_says(reach_through(&site, &plain, &[("amqp.ca_file", &ours)]).await, &["it does not speak TLS"]);
    for (url, file, says) in [
        (&good, "/none", "amqp.ca_file names /none, which cannot be read"),
        (&good, &empty, "which holds no certificate"),
        (&site.amqp_url().to_owned(), &ours, "no address begins with amqps://"),
    ] {
        assert_says(reach_through(&site, url, &[("amqp.ca_file", file)]).await, &["AMQP_URL cannot be used: ", says]);
    }
}

#[tokio::test]
async fn an_address_that_refuses_us_is_logged_although_another_serves() {
    let site = declared().await;
    let nowhere = site.amqp_url().replace("/%2f", "/nowhere");
    let gone = Proxy::to(site.amqp_address()).await;
    gone.refuse(true).await;
    let url = format!("{nowhere},{},{}", site.amqp_url_through(&gone.addr()), site.amqp_url());
    // Each process begins with an address of its own choice.
    let told = eventually("one begins with the address that is wrong", async || {
        let (reached, said) = reach_through(&site, &url, &[]).await;
        assert!(reached, "{said}");
        said.contains("NOT_ALLOWED").then_some(said)
    })
    .await;
    assert!(told.contains("WARN") && told.contains("another one does") && !told.contains(&gone.addr()), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

const SECRET: &str = "hunter2";

#[tokio::test]
async fn no_error_shows_a_password() {
    let site = Site::new().await;
    let amqp = site.amqp_address();
    let password = url::Url::parse(site.amqp_url()).unwrap().password().unwrap().to_owned();
    let of_broker = [
        // Two addresses, divided or encoded wrongly.
        format!("amqp://u:{SECRET}@{amqp}/%2f amqp://u:{SECRET}@{amqp}/%2f"),
        format!("amqp://u:{SECRET}@{amqp}/%2f;amqp://u:{SECRET}@{amqp}/%2f"),
        site.amqp_url().replace("/%2f", "/%2f%20amqp%3A%2F%2Fu%3Ahunter2%40b%2F%252f"),
        site.amqp_url().replace("/%2f", &format!("/{password}")),
        site.amqp_url().replace("/%2f", &format!("/u:{password}")),
        format!("amqp://u:1234#{SECRET}@{amqp}/%2f"),
        format!("amqps://u:{SECRET}@{amqp}/%2f"),
    ];
    let start = |command: &str, url: &String| (site.launch(&[command]).env("AMQP_URL", url).start(), url.clone());
    let doctors = of_broker.iter().map(|url| start("doctor", url));
    for (mut process, url) in doctors.chain(of_broker.iter().map(|url| start("worker", url))).collect::<Vec<_>>() {
        wait_until("it says what is wrong", async || {
            let ended = !process.is_running();
            ended || process.log().contains("lost the broker")
        })
        .await;
        let said = [process.stdout(), process.log()].concat();
        assert!(!said.contains(SECRET) && !said.contains(&password), "{url}: {said}");
        assert!(said.contains("AMQP_URL") || said.contains("the broker is not available"), "{said}");
    }
    let password = url::Url::parse(site.database_url()).unwrap().password().unwrap().to_owned();
    let mut url = url::Url::parse(site.database_url()).unwrap();
    url.set_path(&format!("no {password}"));
    let said = site.env("DATABASE_URL", url.as_str()).cli(&["doctor"]).await;
    let said = [said.stdout, said.stderr].concat();
    assert!(said.contains("\"no [secret]\" does not exist") && !said.contains(&password), "{said}");
}

//! Connections to receivers are kept for the next request, for a limited time and in a limited number, and no delivery fails
//! because a kept connection was closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::bad_input;
use crate::support::*;

const TYPE: &str = "content.created";
const ACCOUNT: &str = "acc_kept";

/// One case: a receiver with a script that gets two events, one after the other.
struct Row {
    name: &'static str,
    receiver: Receiver,
    webhook: Webhook,
    /// The expected result of each event's attempt.
    verdicts: [&'static str; 2],
    /// The number of the connection on which each request is expected.
    connections: Vec<usize>,
}

struct Table {
    site: Site,
    rows: Vec<Row>,
}

impl Table {
    async fn add(
        &mut self,
        receiver: Receiver,
        script: impl IntoIterator<Item = Reply>,
        row: (&'static str, [&'static str; 2], &[usize]),
    ) {
        let (name, verdicts, connections) = row;
        receiver.script(script);
        let webhook = self.site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
        self.rows.push(Row { name, receiver, webhook, verdicts, connections: connections.to_vec() });
    }

    async fn play(self) {
        for count in 1..=2 {
            self.site.publish(ACCOUNT, TYPE, count.into()).await;
            for row in &self.rows {
                self.site.wait_for_attempts(&row.webhook, count).await;
            }
        }
        for row in self.rows {
            let attempts = self.site.attempts(&row.webhook).await;
            let verdicts: Vec<String> = attempts.iter().map(LoggedAttempt::verdict).collect();
            assert_eq!(verdicts, row.verdicts, "{}", row.name);
            let requests = row.receiver.requests();
            let connections: Vec<usize> = requests.iter().map(|request| request.connection).collect();
            assert_eq!(connections, row.connections, "{}", row.name);
            if let [_, ended, again] = &requests[..] {
                assert_eq!(
                    ended.head.headers, again.head.headers,
                    "{}: the second request is not the same as the first",
                    row.name
                );
                assert_eq!(ended.body, again.body, "{}", row.name);
            }
        }
    }
}

#[tokio::test]
async fn a_request_whose_kept_connection_ends_is_made_once_more_as_the_same_attempt() {
    let authority = Authority::new();
    let site = Site::new().await.set("retry.schedule", r#"["1h"]"#).set("sender.idle_timeout", "60s");
    let trusted = authority.trust_file(site.folder());
    let site = site.env("SSL_CERT_FILE", trusted.to_str().expect("a path of ASCII"));
    let worker = site.worker().await;
    let mut table = Table { site, rows: Vec::new() };
    let ok = || Reply::body(200, "ok");
    let half = || Reply::raw("HTTP/1.1 200 Scripted\r\nContent-Le");
    let endings = [
        ("closed without an answer", Reply::close()),
        ("reset without an answer", Reply::reset()),
        ("closed within a head", half().then_close()),
        ("reset within a head", half().then_reset()),
    ];
    for (name, ending) in endings {
        table.add(Receiver::start().await, [ok(), ending], (name, ["ok 200"; 2], &[1, 1, 2])).await;
    }
    let encrypted = Receiver::start_tls(authority.identity().server_config()).await;
    table.add(encrypted, [ok(), Reply::close()], ("closed under TLS", ["ok 200"; 2], &[1, 1, 2])).await;

    let script = [ok(), Reply::close(), Reply::close()];
    table
        .add(Receiver::start().await, script, ("the second connection ends, too", ["ok 200", "protocol"], &[1, 1, 2]))
        .await;
    let script = [Reply::close()];
    table
        .add(
            Receiver::start().await,
            script,
            ("a fresh connection ends: no second request", ["protocol", "ok 200"], &[1, 2]),
        )
        .await;
    let script = [ok(), Reply::raw("HTTP/1.1 200 Scripted\r\nContent-Length: 5\r\n\r\nhe").then_close()];
    table
        .add(Receiver::start().await, script, ("closed within a body, after a whole head", ["ok 200"; 2], &[1, 1]))
        .await;
    // Its pace counts requests, and a second one has no grant.
    let script = [ok(), Reply::close()];
    let paced = ("a webhook with a pace: no second request", ["ok 200", "protocol"], &[1, 1][..]);
    table.add(Receiver::start().await, script, paced).await;
    let webhook = &table.rows.last().expect("it was added").webhook.id;
    table.site.json(&["webhooks", "update", webhook, "--max-per-second", "1000"]).await;
    let script = [ok(), Reply::raw("nonsense\r\n\r\n")];
    table.add(Receiver::start().await, script, ("an answer that is no HTTP", ["ok 200", "protocol"], &[1, 1])).await;
    table.play().await;
    drop(worker);
}

#[tokio::test]
async fn a_busy_receiver_that_moves_is_found_at_its_new_address() {
    let before = Receiver::start().await;
    let after = Receiver::start_at(SocketAddr::new([127, 0, 0, 2].into(), before.address().port())).await;
    let moved = Arc::new(AtomicBool::new(false));
    let has_moved = moved.clone();
    let names = NameServer::start(move |_, _| match has_moved.load(Ordering::SeqCst) {
        false => Says::addresses(&["127.0.0.1"]).with_ttl(0),
        true => Says::addresses(&["127.0.0.2"]).with_ttl(0),
    })
    .await;
    let site = Site::new().await.set("sender.dns_servers", &format!("[\"{}\"]", names.address()));
    let site = site.set("sender.allow_networks", r#"["127.0.0.0/30"]"#).set("sender.max_connection_age", "1s");
    let worker = site.worker().await;
    let url = format!("http://hooks.example.com:{}/hook", before.address().port());
    site.create_webhook(ACCOUNT, &url, &[TYPE]).await;
    site.publish(ACCOUNT, TYPE, json!({})).await;
    before.wait_for(1).await;
    moved.store(true, Ordering::SeqCst);
    // Each request comes soon enough to find the connection of the one before still open.
    let mut sent = 1;
    wait_until("the new address is called", async || {
        site.publish(ACCOUNT, TYPE, json!({})).await;
        sent += 1;
        wait_until("each event arrives", async || before.count() + after.count() == sent).await;
        after.count() > 0
    })
    .await;
    assert_eq!(before.connections(), 1);
    // The HTTP client may have begun to open one more that it did not need.
    assert!((1..=2).contains(&after.connections()), "{}", after.connections());
    drop(worker);
}

#[tokio::test]
async fn open_connections_are_bounded_however_many_hosts_there_are() {
    const HOSTS: usize = 60;
    const KEPT: usize = 10;
    let mut receivers = Vec::new();
    for _ in 0..HOSTS {
        receivers.push(Receiver::start().await);
    }
    let ports: Vec<u16> = receivers.iter().map(|receiver| receiver.address().port()).collect();
    let urls: Vec<String> = receivers.iter().map(Receiver::url).collect();
    let site = Site::new().await.set("sender.max_idle_connections", &KEPT.to_string());
    let site = bad_input::crowds::with_webhooks(site.set("sender.idle_timeout", "60s"), &urls).await;
    let worker = site.worker().await;
    for events in 1..=3 {
        site.publish(bad_input::ACCOUNT, bad_input::TYPE, json!({})).await;
        let all = i64::try_from(events * HOSTS).expect("few");
        wait_until("all have got it", async || site.count("SELECT count(*) FROM attempts").await == all).await;
        wait_until("no more connections are open than may be kept", async || worker.connections_to(&ports) <= KEPT)
            .await;
    }
    // One look may miss a socket: the kernel shows its table in pieces, and other sockets come and go meanwhile.
    wait_until("as many connections are kept as may be", async || worker.connections_to(&ports) == KEPT).await;
    let opened: usize = receivers.iter().map(Receiver::connections).sum();
    assert!(opened <= 3 * HOSTS - KEPT, "{opened} connections were opened: too few requests used a kept one");
    assert_eq!(site.count("SELECT count(*) FROM attempts WHERE error IS NOT NULL").await, 0);
}

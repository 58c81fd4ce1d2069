//! Connections that break, are reused, or carry data that no request asked for. An idle connection that breaks costs no
//! attempt, and such data is never taken for the answer to the next request.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::stage::{MARK, Row, Stage};
use crate::support::{
    Authority, ClosedPort, Configure, Gate, LoggedAttempt, PATIENCE, Receiver, Reply, Site, Webhook, within,
};

/// A server that waits for no request: it sends a greeting, or closes each connection at once.
pub struct Greeter {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Greeter {
    pub async fn start(greeting: Reply) -> Self {
        Self::serve(move |stream| greet(stream, greeting.clone())).await
    }

    /// Closes before anything is sent.
    pub async fn leaving() -> Self {
        Self::serve(async |stream: TcpStream| drop(stream)).await
    }

    /// Closes with a reset.
    pub async fn resetting() -> Self {
        Self::serve(async |stream: TcpStream| drop(stream.set_zero_linger())).await
    }

    async fn serve<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, accepting }
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/hook", self.address)
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn greet(mut stream: TcpStream, greeting: Reply) {
    if greeting.say(&mut stream).await.is_ok() {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

#[tokio::test]
async fn a_connection_that_fails_is_distinguished_from_an_answer_that_fails() {
    let site = Site::new().await.set("sender.allow_networks", r#"["127.0.0.1/32", "224.0.0.1/32"]"#);
    let stage = Stage::open(site).await;
    let closed = ClosedPort::new();
    let resetting = Greeter::resetting().await;
    let leaving = Greeter::leaving().await;
    let banner = Greeter::start(Reply::raw(format!("SSH-2.0-{MARK}\r\n"))).await;
    let early = Greeter::start(Reply::body(299, MARK)).await;
    stage
        .play(vec![
            Row::at_url("a closed port", closed.url(), "connect refused"),
            // No TCP connection can be made to a multicast address.
            Row::at_url("an address without a route", "http://224.0.0.1:9999/hook".to_owned(), "connect unreachable"),
            Row::at_url("a reset at once", resetting.url("http"), "protocol closed_early"),
            Row::at_url("a close at once", leaving.url("http"), "protocol closed_early"),
            Row::at_url("a banner before the request", banner.url("http"), "protocol or connect"),
            // The client cannot tell whether the data came before or after its request.
            Row::at_url("an answer before the request", early.url("http"), "ok 299 or protocol or connect"),
        ])
        .await;
    drop((closed, resetting, leaving, banner, early));
    stage.close().await;
}

/// Sends two events one after the other to one receiver. Returns the outcomes of both, and the second's snippet.
async fn two_events(stage: &Stage, receiver: &Receiver, between: impl AsyncFnOnce()) -> [String; 3] {
    let site = &stage.site;
    let webhook: Webhook =
        site.create_webhook(&receiver.address().to_string(), &receiver.url(), &["content.created"]).await;
    site.publish(&webhook.account, "content.created", 1.into()).await;
    let first = site.wait_for_attempts(&webhook, 1).await.remove(0);
    between().await;
    site.publish(&webhook.account, "content.created", 2.into()).await;
    let second = site.wait_for_attempts(&webhook, 2).await.remove(1);
    [first.verdict(), second.verdict(), second.snippet.unwrap_or_default()]
}

#[tokio::test]
async fn a_connection_that_is_closed_while_idle_costs_no_attempt() {
    let stage = Stage::open(Site::new().await.set("sender.idle_timeout", "60s")).await;
    let receiver = Receiver::start().await;
    receiver.always(Reply::body(200, "own"));
    let [first, second, _] = two_events(&stage, &receiver, async || receiver.cut()).await;
    assert_eq!([first, second], ["ok 200", "ok 200"]);
    assert_eq!(receiver.connections(), 2);

    let kept = Receiver::start().await;
    two_events(&stage, &kept, async || {}).await;
    assert_eq!(kept.connections(), 1, "one that stays open is used again");
}

#[tokio::test]
async fn an_answer_to_no_request_is_never_taken_for_the_next_ones() {
    let stage = Stage::open(Site::new().await.set("sender.idle_timeout", "60s")).await;
    let pushed = format!("HTTP/1.1 299 Scripted\r\nContent-Length: 17\r\n\r\n{MARK}");
    let head = |line: &str| format!("HTTP/1.1 200 Scripted\r\n{line}\r\n\r\n");
    let first = [
        ("behind an empty answer", Reply::raw(head("Content-Length: 0") + &pushed)),
        ("behind a body", Reply::raw(head("Content-Length: 2") + "ok" + &pushed)),
        ("behind the last chunk", Reply::raw(head("Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\n\r\n" + &pushed)),
        (
            "behind a body that is longer than the cap",
            Reply::raw(head("Content-Length: 9000") + &"x".repeat(9000) + &pushed),
        ),
        ("as the body of a 204", Reply::raw(format!("HTTP/1.1 204 Scripted\r\n\r\n{pushed}"))),
        ("a little later", Reply::endless(head("Content-Length: 0"), pushed.as_str(), Duration::from_millis(50))),
        ("in part", Reply::raw(head("Content-Length: 0") + "HTTP/1.1 299 Scr").then_hang()),
    ];
    for (name, reply) in first {
        let receiver = Receiver::start().await;
        receiver.script([reply]);
        receiver.always(Reply::body(200, "own"));
        let [_, second, snippet] = two_events(&stage, &receiver, async || {}).await;
        assert_eq!([second.as_str(), &snippet], ["ok 200", "own"], "{name}");
        assert_eq!(receiver.connections(), 2, "{name}: the connection cannot be trusted any more");
    }
    stage.close().await;
}

/// A TLS receiver behind a listener whose connections the test forwards, or leaves without an answer.
struct Fronted {
    stage: Stage,
    receiver: Receiver,
    front: TcpListener,
    webhook: Webhook,
}

impl Fronted {
    async fn open(site: Site) -> Self {
        let (stage, receiver) = trusting(site, &Authority::new()).await;
        let front = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://{}/hook", front.local_addr().expect("it is bound"));
        let webhook = stage.site.create_webhook("acc_1", &url, &["content.created"]).await;
        Self { stage, receiver, front, webhook }
    }

    /// Publishes an event, and forwards its connection until the task is aborted.
    async fn forward_first_event(&self) -> JoinHandle<std::io::Result<(u64, u64)>> {
        self.stage.site.publish("acc_1", "content.created", 1.into()).await;
        let (first, _) = within("the first connection", PATIENCE, self.front.accept()).await.expect("a connection");
        forward(first, self.receiver.address())
    }

    /// Publishes an event, and returns its connection, whose handshake has begun.
    async fn begin_second_event(&self) -> TcpStream {
        self.stage.site.publish("acc_1", "content.created", 2.into()).await;
        let (mut second, _) =
            within("the second connection", PATIENCE, self.front.accept()).await.expect("a connection");
        second.read_u8().await.expect("the beginning of a handshake");
        second
    }
}

fn forward(mut client: TcpStream, target: SocketAddr) -> JoinHandle<std::io::Result<(u64, u64)>> {
    tokio::spawn(async move {
        let mut server = TcpStream::connect(target).await?;
        copy_bidirectional(&mut client, &mut server).await
    })
}

#[tokio::test]
async fn a_handshake_that_no_request_waits_for_any_more_is_given_up() {
    let fronted = Fronted::open(Site::new().await).await;
    let Fronted { stage, receiver, webhook, .. } = &fronted;
    let gate = Gate::default();
    receiver.script([Reply::status(200).held_by(&gate)]);

    let forwarding = fronted.forward_first_event().await;
    receiver.wait_for(1).await;
    let mut second = fronted.begin_second_event().await;
    // The second request gets the first one's connection; the connection that was opened for it stays unused.
    gate.open();
    let attempts = stage.site.wait_for_attempts(webhook, 2).await;
    assert!(attempts.iter().all(|attempt| attempt.verdict() == "ok 200"));
    let _ = within("the second connection is given up", PATIENCE, second.read_to_end(&mut Vec::new())).await;
    forwarding.abort();
}

#[tokio::test]
async fn an_answer_that_does_not_come_on_a_connection_that_was_handed_over_is_a_slow_one() {
    let fronted = Fronted::open(Site::new().await.set("sender.timeout", "3s")).await;
    let Fronted { stage, receiver, webhook, .. } = &fronted;
    let gate = Gate::default();
    receiver.script([Reply::status(200).held_by(&gate), Reply::silence()]);

    let forwarding = fronted.forward_first_event().await;
    receiver.wait_for(1).await;
    let _second = fronted.begin_second_event().await;
    // The second request gets the first one's connection, while its own is still being opened.
    gate.open();
    let attempts = stage.site.wait_for_attempts(webhook, 2).await;
    assert_eq!(receiver.count(), 2);
    let mut causes: Vec<String> = attempts.iter().take(2).map(LoggedAttempt::cause).collect();
    causes.sort();
    assert_eq!(causes, ["ok 200", "timeout response_timeout"]);
    forwarding.abort();
}

#[tokio::test]
async fn a_second_connection_that_does_not_come_about_in_time_is_no_slow_answer() {
    let fronted = Fronted::open(Site::new().await.set("sender.timeout", "3s")).await;
    let Fronted { stage, receiver, webhook, .. } = &fronted;
    // Connecting begins only then, and its own time-out would come after that of the attempt.
    receiver.script([Reply::status(200), Reply::close().after(Duration::from_millis(600))]);

    let forwarding = fronted.forward_first_event().await;
    assert_eq!(stage.site.wait_for_attempts(webhook, 1).await[0].cause(), "ok 200");
    stage.site.publish("acc_1", "content.created", 2.into()).await;
    // The system takes the second connection, but nobody answers on it.
    let attempts = stage.site.wait_for_attempts(webhook, 2).await;
    assert_eq!(receiver.count(), 2, "the second request went out on the first connection");
    assert_eq!(attempts[1].cause(), "connect connect_timeout");
    forwarding.abort();
}

/// A stage on this site that trusts the authority, and a receiver with a certificate of it.
async fn trusting(site: Site, authority: &Authority) -> (Stage, Receiver) {
    let receiver = Receiver::start_tls(authority.identity().server_config()).await;
    let site = site.set("sender.idle_timeout", "60s");
    let file = authority.trust_file(site.folder());
    (Stage::open(site.env("SSL_CERT_FILE", file.to_str().expect("a path of ASCII"))).await, receiver)
}

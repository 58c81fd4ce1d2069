//! A scripted receiver: keeps every request exactly as it came, and answers as the test says.

mod connection;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::reply::{Gate, Reply};
use super::request::Request;
use super::wait::{PATIENCE, within};

type Answer = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    connections: usize,
    begun: usize,
    requests: usize,
    unfinished: usize,
    failed_handshakes: usize,
}

struct Shared {
    origin: String,
    tls: Option<TlsAcceptor>,
    requests: Mutex<Vec<Arc<Request>>>,
    script: Mutex<VecDeque<Reply>>,
    answer: Mutex<Answer>,
    early: Mutex<Option<Reply>>,
    reading: Gate,
    cuts: watch::Sender<()>,
    counts: watch::Sender<Counts>,
}

pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
    taken: Mutex<usize>,
}

impl Receiver {
    /// Answers 200 until told otherwise.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::listening(listener, None)
    }

    /// As `start`, at this address.
    pub async fn start_at(address: SocketAddr) -> Self {
        Self::listening(TcpListener::bind(address).await.expect("a free port"), None)
    }

    /// As `start`, on a listener that exists already.
    pub fn on(listener: TcpListener) -> Self {
        Self::listening(listener, None)
    }

    /// As `start`, on https.
    pub async fn start_tls(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::listening(listener, Some(Arc::new(config).into()))
    }

    /// Takes little into its buffers and reads nothing beyond a request's first bytes until `let_it_read`.
    pub async fn start_without_reading() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let receiver = Self::listening(socket.listen(1024).expect("it is bound"), None);
        receiver.shared.reading.close();
        receiver
    }

    fn listening(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            origin: format!("{scheme}://{address}"),
            tls,
            requests: Mutex::default(),
            script: Mutex::default(),
            answer: Mutex::new(Arc::new(|_| Reply::status(200))),
            early: Mutex::default(),
            reading: Gate::default(),
            cuts: watch::Sender::default(),
            counts: watch::Sender::default(),
        });
        shared.reading.open();
        let accepting = tokio::spawn(connection::accept(listener, shared.clone()));
        Self { address, shared, accepting, taken: Mutex::new(0) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        self.url_at("/hook")
    }

    pub fn url_at(&self, path: &str) -> String {
        format!("{}{path}", self.shared.origin)
    }

    /// Answers the next requests with these replies, one each, before the standing reply.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.script.lock().unwrap().extend(replies);
    }

    /// Sets the standing reply: what every request gets once the script is used up.
    pub fn always(&self, reply: Reply) {
        self.answer(move |_| reply.clone());
    }

    /// The standing reply as a function of the request.
    pub fn answer(&self, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *self.shared.answer.lock().unwrap() = Arc::new(answer);
    }

    /// Answers each request after its head, with the body unread. Such requests are not kept.
    pub fn answer_early(&self, reply: Reply) {
        *self.shared.early.lock().unwrap() = Some(reply);
    }

    /// Closes all connections, also in the middle of a request.
    pub fn cut(&self) {
        self.shared.cuts.send_replace(());
    }

    pub fn let_it_read(&self) {
        self.shared.reading.open();
    }

    /// All complete requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Those sent to one path, for receivers that serve several webhooks.
    pub fn requests_at(&self, path: &str) -> Vec<Arc<Request>> {
        let mut requests = self.requests();
        requests.retain(|request| request.path == path);
        requests
    }

    pub fn count(&self) -> usize {
        self.shared.counts.borrow().requests
    }

    /// Connections opened so far.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().connections
    }

    /// Requests of which only a part came before the connection ended.
    pub fn unfinished(&self) -> usize {
        self.shared.counts.borrow().unfinished
    }

    /// Connections that ended before their TLS handshake was complete.
    pub fn failed_handshakes(&self) -> usize {
        self.shared.counts.borrow().failed_handshakes
    }

    /// Waits for that many complete requests in all, and returns all there are.
    pub async fn wait_for(&self, count: usize) -> Vec<Arc<Request>> {
        self.until(&format!("{count} requests arrive"), |counts| counts.requests >= count).await;
        self.requests()
    }

    /// The next request that `next` has not returned yet.
    pub async fn next(&self) -> Arc<Request> {
        let index = {
            let mut taken = self.taken.lock().unwrap();
            *taken += 1;
            *taken - 1
        };
        self.until("the next request arrives", |counts| counts.requests > index).await;
        self.requests()[index].clone()
    }

    pub async fn wait_for_connections(&self, count: usize) {
        self.until(&format!("{count} connections are opened"), |counts| counts.connections >= count).await;
    }

    /// Waits until the first bytes of that many requests have come.
    pub async fn wait_for_begun(&self, count: usize) {
        self.until(&format!("{count} requests begin"), |counts| counts.begun >= count).await;
    }

    pub async fn wait_for_unfinished(&self, count: usize) {
        self.until(&format!("{count} requests break off"), |counts| counts.unfinished >= count).await;
    }

    pub async fn wait_for_failed_handshakes(&self, count: usize) {
        self.until(&format!("{count} handshakes fail"), |counts| counts.failed_handshakes >= count).await;
    }

    async fn until(&self, what: &str, reached: impl Fn(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        let _ = within(&format!("{what} at {}", self.address), PATIENCE, counts.wait_for(|now| reached(now))).await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn count<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        let mut result = None;
        self.counts.send_modify(|counts| result = Some(change(counts)));
        result.expect("send_modify calls its closure")
    }
}

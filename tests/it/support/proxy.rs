//! A TCP proxy that a test puts between a process and a server, to make their connections slow, silent or broken.
//! The proxy buffers 16 KiB per direction at most; the sender keeps what does not fit.

mod connection;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::reserved_port::ReservedPort;
use super::wait::{PATIENCE, wait_until, within};

const BUFFER_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone)]
struct Rules {
    to_server: Flow,
    to_client: Flow,
    refusing: bool,
    /// The server's first piece of a connection waits this long.
    greeting_delay: Duration,
    cut_off_before: Option<&'static str>,
    /// On the first connections, up to this count, nothing gets through.
    mute: usize,
}

/// How data flows in one direction.
#[derive(Debug, Clone, Copy)]
struct Flow {
    held: bool,
    /// Every piece waits this long before it goes on, one after the other.
    delay: Duration,
    piece_bytes: usize,
}

impl Default for Flow {
    fn default() -> Self {
        Self { held: false, delay: Duration::ZERO, piece_bytes: BUFFER_BYTES }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Close,
    Reset,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToServer,
    ToClient,
}

struct Shared {
    target: watch::Sender<String>,
    rules: watch::Sender<Rules>,
    endings: watch::Sender<Ending>,
    listening: watch::Sender<bool>,
    opened: AtomicUsize,
    live: AtomicUsize,
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to a server's `host:port`.
    pub async fn to(target: impl ToString) -> Self {
        // Its own also while it refuses connections.
        let port = ReservedPort::new();
        let address = port.address();
        let rules = Rules {
            to_server: Flow::default(),
            to_client: Flow::default(),
            refusing: false,
            greeting_delay: Duration::ZERO,
            cut_off_before: None,
            mute: 0,
        };
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target.to_string()),
            rules: watch::Sender::new(rules),
            endings: watch::Sender::new(Ending::Close),
            listening: watch::Sender::new(true),
            opened: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            bytes_to_server: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
        });
        let listener = port.listen().await;
        let accepting = tokio::spawn(connection::accept(port, listener, shared.clone()));
        Self { address, shared, accepting }
    }

    /// `host:port`.
    pub fn addr(&self) -> String {
        self.address.to_string()
    }

    /// Nothing gets through any more, in either direction; new connections are accepted and stay silent.
    pub fn pause(&self) {
        self.pause_to_server();
        self.pause_to_client();
    }

    pub fn pause_to_server(&self) {
        self.change(|rules| rules.to_server.held = true);
    }

    pub fn pause_to_client(&self) {
        self.change(|rules| rules.to_client.held = true);
    }

    /// Everything flows again, beginning with what was held.
    pub fn resume(&self) {
        self.change(|rules| {
            rules.to_server.held = false;
            rules.to_client.held = false;
        });
    }

    /// Nothing gets through any more on the connections that are open, as when a new server has taken over the address of
    /// one that is frozen; new ones work.
    pub fn mute_open(&self) {
        let opened = self.opened();
        self.change(|rules| rules.mute = opened);
    }

    /// Each piece of up to 16 KiB waits this long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.trickle(BUFFER_BYTES, delay);
    }

    /// The server's first answer on each connection waits this long, as with a server whose login is slow.
    pub fn delay_greetings(&self, delay: Duration) {
        self.change(|rules| rules.greeting_delay = delay);
    }

    /// The next client that sends this text is cut off before the server has it, and the server does not learn of it: its
    /// side of that connection stays open, as when a link breaks or a host loses its power.
    pub fn cut_off_before(&self, text: &'static str) {
        self.change(|rules| rules.cut_off_before = Some(text));
    }

    /// Pieces of this size, one per `every`, in both directions: a byte a second, or a cut in the middle of a frame.
    pub fn trickle(&self, piece_bytes: usize, every: Duration) {
        self.change(|rules| {
            for flow in [&mut rules.to_server, &mut rules.to_client] {
                flow.piece_bytes = piece_bytes;
                flow.delay = every;
            }
        });
    }

    /// Closes all connections in good order (FIN on both sides), and returns when it is done.
    pub async fn cut(&self) {
        self.end_all(Ending::Close).await;
    }

    /// Breaks all connections (RST on both sides), and returns when it is done.
    pub async fn reset(&self) {
        self.end_all(Ending::Reset).await;
    }

    /// Refuses new connections from here on; open ones stay.
    pub async fn refuse(&self, refusing: bool) {
        self.change(|rules| rules.refusing = refusing);
        let mut listening = self.shared.listening.subscribe();
        let obeyed = listening.wait_for(|listening| *listening != refusing);
        let _ = within("the proxy opens or closes its port", PATIENCE, obeyed).await;
    }

    /// New connections go to another server's `host:port` from here on; open ones stay.
    pub fn move_to(&self, target: impl ToString) {
        self.shared.target.send_replace(target.to_string());
    }

    /// Connections opened so far.
    pub fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::SeqCst)
    }

    pub fn bytes_to_server(&self) -> u64 {
        self.shared.bytes_to_server.load(Ordering::SeqCst)
    }

    pub fn bytes_to_client(&self) -> u64 {
        self.shared.bytes_to_client.load(Ordering::SeqCst)
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.shared.rules.send_modify(change);
    }

    async fn end_all(&self, ending: Ending) {
        let opened = self.opened();
        self.shared.endings.send_replace(ending);
        // Connections opened meanwhile stay open.
        wait_until("the proxy's connections have ended", async || self.live() + opened <= self.opened()).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Rules {
    fn flow(&self, direction: Direction) -> Flow {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }
}

impl Shared {
    fn bytes(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.bytes_to_server,
            Direction::ToClient => &self.bytes_to_client,
        }
    }
}

//! A connection to the broker that ends with its owner, however the owner ends and whatever the broker does.
//!
//! The AMQP library keeps a connection in a thread of its own until the broker agrees to its end. One that is only
//! dropped while the broker does not answer therefore lives on, and once the broker answers again, a consumer that was
//! asked for on it is handed events that nobody settles. A link also holds the connection's socket, and shuts it down.
//!
//! The socket is opened here, and the library is only given it: of a connection that it cannot open itself, the library
//! leaves a task behind that never ends.

use std::io::{Error, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::join_all;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::address::{Address, Node};
use super::nodes::{self, Peer, Search, Unserved};
use super::readable::{self, Readable, Reading};
use super::{MAX_FRAME_BYTES, QueueError, name, read_address};
use crate::config::Amqp;
use crate::{error_chain, rotation};

/// For the broker's agreement to an end. Without it the socket is shut down.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Of the time for opening a connection, what finding a node may take: whoever waits is told which nodes were tried, and
/// not only that time ran out.
const FOR_FINDING: f64 = 0.95;

/// What a connection is for. The broker shows it to its operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Consumer,
    Publisher,
    DeadLetters,
    Doctor,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Publisher => "publisher",
            Self::DeadLetters => "dead letters",
            Self::Doctor => "doctor",
        }
    }

    /// A worker's messages are not looked at: it would take the time that reading takes once more.
    fn reading(self) -> Reading {
        match self {
            Self::DeadLetters => Reading::Mended,
            Self::Consumer | Self::Publisher | Self::Doctor => Reading::AsIs,
        }
    }
}

/// An open connection. The only way to open one.
pub(super) struct Link {
    connection: Connection,
    patience: Duration,
    /// Whom it leads to.
    pub(super) peer: Arc<Peer>,
    // Dropped after the connection: its socket is shut down at the latest then.
    _socket: Socket,
}

impl Link {
    /// Opens a connection for one purpose to whichever node serves. After a refused login the URL is read again from its
    /// file, if it has one. All tries together take no longer than `amqp.connect_timeout`.
    pub(super) async fn open(settings: &Amqp, purpose: Purpose) -> Result<Self, QueueError> {
        let deadline = Instant::now() + settings.connect_timeout.mul_f64(FOR_FINDING);
        bounded(settings.connect_timeout, "connecting", async {
            let used = settings.url_from.newest_or(&settings.url);
            let address = read_address(settings, &used)?;
            let refused = match search(settings, &address, purpose, deadline).await?.among(address.nodes()).await {
                Err(failure) if failure.is_of_login() => failure,
                opened_or_not => return opened_or_not.map_err(QueueError::from),
            };
            match rotation::read_again(&settings.url_from, &used, Address::read).await {
                Some((_, address)) => {
                    let search = search(settings, &address, purpose, deadline).await?;
                    search.among(address.nodes()).await.map_err(QueueError::from)
                }
                None => Err(refused.into()),
            }
        })
        .await
    }

    /// A connection to each node, or why there is none: for whoever looks at all of them.
    pub(super) async fn open_each(
        settings: &Amqp,
        purpose: Purpose,
    ) -> Result<Vec<(Node, Result<Self, Unserved>)>, QueueError> {
        let deadline = Instant::now() + settings.connect_timeout.mul_f64(FOR_FINDING);
        let address = read_address(settings, &settings.url_from.newest_or(&settings.url))?;
        let search = &search(settings, &address, purpose, deadline).await?;
        let open = |node: &Node| {
            let node = node.clone();
            async move {
                let opened = search.among(std::slice::from_ref(&node)).await;
                (node, opened)
            }
        };
        Ok(join_all(address.nodes().iter().map(open)).await)
    }

    /// The caller bounds the wait.
    pub(super) async fn log_in(peer: Peer, settings: &Amqp, purpose: Purpose) -> lapin::Result<Self> {
        let mut uri = peer.node.uri.clone();
        uri.query.frame_max = Some(MAX_FRAME_BYTES);
        uri.query.heartbeat = Some(u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX));
        let shown = format!("penr-webhooks {}", purpose.name());
        let properties = ConnectionProperties::default().with_connection_name(shown.into());
        let (connection, socket) = connect(&peer, uri, properties, purpose.reading()).await?;
        Ok(Self { connection, patience: settings.connect_timeout, peer: peer.into(), _socket: socket })
    }

    /// Whom the broker knows us as.
    pub(super) fn user(&self) -> &str {
        &self.peer.node.uri.authority.userinfo.username
    }

    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        self.answer("opening a channel", self.connection.create_channel()).await
    }

    /// How long an answer is waited for: `amqp.connect_timeout`.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// The broker's answer, as long as it comes within `amqp.connect_timeout`.
    pub(super) async fn answer<T, E>(
        &self,
        doing: &'static str,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, QueueError>
    where
        QueueError: From<E>,
    {
        bounded(self.patience, doing, answer).await.map_err(|error| self.failed(error))
    }

    /// Names the node that an error is about, once. The next connection is tried at the others first: this node may take
    /// connections and yet not serve.
    pub(super) fn failed(&self, error: QueueError) -> QueueError {
        match error {
            QueueError::Unavailable(cause) if !cause.is::<OfNode>() => {
                self.peer.try_last();
                QueueError::Unavailable(cause.context(OfNode(self.peer.node.to_string())))
            }
            error @ (QueueError::NoQuorum | QueueError::NoLeader(_)) => {
                self.peer.try_last();
                error
            }
            error => error,
        }
    }

    /// What happens to the connection from here on.
    pub(super) fn events(&self) -> impl Stream<Item = Event> + Send + 'static {
        self.connection.events_listener()
    }

    /// Ends it politely, so that the broker does not log a lost connection; without the broker if that does not answer.
    pub(super) async fn close(self) -> Result<(), QueueError> {
        bounded(CLOSE_TIMEOUT, "closing", self.connection.close(200, name("done"))).await
    }
}

/// Which node an error is about: `host:port`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OfNode(String);

/// Why the broker is not available, whichever of its nodes said so.
pub(super) fn reason_of_any_node(error: &QueueError) -> String {
    let reason = error_chain(error);
    match error {
        QueueError::Unavailable(cause) => match cause.downcast_ref() {
            Some(OfNode(node)) => reason.replacen(&format!("{node}: "), "", 1),
            None => reason,
        },
        _ => reason,
    }
}

/// The broker's answer, or an error that says what was waited for.
pub(super) async fn bounded<T, E>(
    limit: Duration,
    doing: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, QueueError>
where
    QueueError: From<E>,
{
    Ok(timeout(limit, answer).await.map_err(|_| QueueError::silence(doing))??)
}

/// Whoever looks for a node. What encrypts is made anew, since files of authorities change; nobody waits for a disk.
async fn search<'a>(
    settings: &'a Amqp,
    address: &Address,
    purpose: Purpose,
    deadline: Instant,
) -> Result<Search<'a>, QueueError> {
    let (address, ca_file) = (address.clone(), settings.ca_file.clone());
    let tls = match address.is_encrypted() {
        true => spawn_blocking(move || nodes::encryption(&address, &ca_file)).await,
        false => Ok(Ok(None)),
    };
    let tls = tls.map_err(anyhow::Error::from).flatten().map_err(QueueError::Unavailable)?;
    Ok(Search { settings, tls, purpose, deadline })
}

async fn connect(
    peer: &Peer,
    uri: AMQPUri,
    properties: ConnectionProperties,
    reading: Reading,
) -> lapin::Result<(Connection, Socket)> {
    let runtime = lapin::runtime::default_runtime()?;
    let stream = AsyncTcpStream::connect(&runtime, peer.ip).await?;
    // Dropped with this future, it ends an attempt that is still under way in the library's thread.
    let AsyncTcpStream::Plain(tcp) = &stream else { return Err(Error::from(ErrorKind::Unsupported).into()) };
    let socket = Socket(Arc::new(tcp.get_ref().as_fd().try_clone_to_owned()?.into()));
    let stream = AsyncTcpStream::Plain(Readable::new(peer.secured(stream).await?, reading));
    // The library's thread owns this closure, and drops it with the socket when the connection ends.
    let handed_over = (Mutex::new(Some(stream)), socket.clone());
    let hand_over = async move |_, _| {
        // All of it by name, so that the closure holds the socket, too.
        let (stream, _socket) = &handed_over;
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        // We have the library open no connection twice.
        Ok(stream.ok_or_else(|| Error::from(ErrorKind::NotConnected))?)
    };
    let connection = Connection::connector(uri, readable::runtime(), hand_over, properties).await?;
    Ok((connection, socket))
}

/// A second descriptor of the library's socket, which is shut down as soon as one of its holders is dropped: the link, or
/// the library's thread.
#[derive(Clone)]
struct Socket(Arc<TcpStream>);

impl Drop for Socket {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UrlSource;
    use crate::secret::SecretText;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    fn settings(listener: &TcpListener) -> Amqp {
        let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
        let connect_timeout = Duration::from_millis(100);
        Amqp {
            url: SecretText::new(url),
            url_from: UrlSource::default(),
            ca_file: String::new(),
            management: None,
            connect_timeout,
            heartbeat: Duration::from_secs(10),
        }
    }

    /// What the client sends until its socket ends.
    async fn all_of(listener: &TcpListener) -> Vec<u8> {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut sent = Vec::new();
        timeout(Duration::from_secs(10), socket.read_to_end(&mut sent)).await.expect("the socket ends").unwrap();
        sent
    }

    #[tokio::test]
    async fn an_attempt_without_an_answer_ends_its_socket() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(&mute);
        let (opened, sent) = tokio::join!(Link::open(&settings, Purpose::Doctor), all_of(&mute));
        assert!(matches!(opened, Err(QueueError::Unavailable(_))));
        assert_eq!(sent, b"AMQP\0\0\x09\x01");
    }

    async fn wait_until_no_task_is_left() {
        let tasks = tokio::runtime::Handle::current().metrics();
        let none = async {
            while tasks.num_alive_tasks() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), none).await.expect("all tasks end");
    }

    #[tokio::test]
    async fn an_attempt_that_is_refused_leaves_no_task() {
        let gone = settings(&TcpListener::bind("127.0.0.1:0").await.unwrap());
        for _ in 0..3 {
            assert!(matches!(Link::open(&gone, Purpose::Doctor).await, Err(QueueError::Unavailable(_))));
        }
        wait_until_no_task_is_left().await;
    }

    #[tokio::test]
    async fn an_attempt_without_an_answer_or_with_a_hangup_leaves_no_task() {
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = settings(&peer);
        let (mute, _socket) = tokio::join!(Link::open(&settings, Purpose::Doctor), peer.accept());
        let hang_up = async { drop(peer.accept().await) };
        let (hung_up, ()) = tokio::join!(Link::open(&settings, Purpose::Doctor), hang_up);
        assert!(mute.is_err() && hung_up.is_err());
        wait_until_no_task_is_left().await;
    }

    #[tokio::test]
    async fn an_attempt_that_is_dropped_ends_its_socket() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Amqp { connect_timeout: Duration::from_secs(600), ..settings(&mute) };
        let given_up = timeout(Duration::from_millis(100), Link::open(&settings, Purpose::Doctor));
        let (given_up, _) = tokio::join!(given_up, all_of(&mute));
        assert!(given_up.is_err());
    }
}

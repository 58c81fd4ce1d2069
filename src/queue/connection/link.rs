//! An open connection to the broker. It ends with its owner, however the owner ends and whatever the broker does.
//!
//! The AMQP library runs a connection in a thread of its own until the broker agrees to close it. A connection that is merely
//! dropped while the broker does not answer would live on: once the broker answers again, a consumer requested on it would
//! receive events that nobody settles. A link therefore also holds the connection's socket, and shuts the socket down.
//!
//! The link opens the socket itself and hands it to the library: of a connection that the library cannot open itself, it
//! leaves a task behind that never ends.

use std::io::{Error, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::time::timeout;

use super::frames::MAX_FRAME_BYTES;
use super::nodes::Peer;
use super::stream::{self, BrokerStream, Unreadable};
use crate::config::Amqp;
use crate::error_chain;
use crate::queue::convert::name;
use crate::queue::error::QueueError;

/// How long the broker has to agree to a close. Then the socket is shut down.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection is for. The broker shows it to its operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Purpose {
    Consumer,
    Publisher,
    DeadLetters,
    /// Counts queues while no consumer is attached.
    Counting,
    Doctor,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Publisher => "publisher",
            Self::DeadLetters => "dead letters",
            Self::Counting => "queue counter",
            Self::Doctor => "doctor",
        }
    }

    /// A worker's messages are not checked: that would take as long again as reading them.
    fn unreadable(self) -> Unreadable {
        match self {
            Self::DeadLetters => Unreadable::Repaired,
            Self::Consumer | Self::Publisher | Self::Counting | Self::Doctor => Unreadable::EndsConnection,
        }
    }
}

/// An open connection.
pub(in crate::queue) struct Link {
    connection: Connection,
    answer_timeout: Duration,
    pub(in crate::queue) peer: Arc<Peer>,
    // Declared after the connection, so that it is dropped later: the socket is shut down then at the latest.
    _socket: Socket,
}

impl Link {
    /// Opens a connection to this peer. The caller bounds the wait.
    pub(super) async fn log_in(peer: Peer, settings: &Amqp, purpose: Purpose) -> lapin::Result<Self> {
        let mut uri = peer.node.uri.clone();
        uri.query.frame_max = Some(MAX_FRAME_BYTES);
        uri.query.heartbeat = Some(u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX));
        let shown = format!("penr-webhooks {}", purpose.name());
        let properties = ConnectionProperties::default().with_connection_name(shown.into());
        let (connection, socket) = open(&peer, uri, properties, purpose.unreadable()).await?;
        Ok(Self { connection, answer_timeout: settings.connect_timeout, peer: peer.into(), _socket: socket })
    }

    /// The user name with which we logged in.
    pub(in crate::queue) fn user(&self) -> &str {
        &self.peer.node.uri.authority.userinfo.username
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// [`QueueError::Unavailable`] if the broker opens none within `amqp.connect_timeout`.
    pub(in crate::queue) async fn channel(&self) -> Result<Channel, QueueError> {
        self.answer("opening a channel", self.connection.create_channel()).await
    }

    /// How long we wait for an answer: `amqp.connect_timeout`.
    pub(in crate::queue) fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    /// Waits for the broker's answer, at most for `amqp.connect_timeout`. `doing` names the request in the error.
    ///
    /// # Errors
    ///
    /// The error of `answer`, or [`QueueError::Unavailable`] if the time is over.
    pub(in crate::queue) async fn answer<T, E>(
        &self,
        doing: &'static str,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, QueueError>
    where
        QueueError: From<E>,
    {
        bounded(self.answer_timeout, doing, answer).await.map_err(|error| self.blamed(error))
    }

    /// Adds the node's name to an error of its node, once. The next connection tries other nodes first: this one may accept
    /// connections and yet not serve.
    pub(in crate::queue) fn blamed(&self, error: QueueError) -> QueueError {
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

    /// The connection's events from here on, among them the error that ends it.
    pub(in crate::queue) fn events(&self) -> impl Stream<Item = Event> + Send + 'static {
        self.connection.events_listener()
    }

    /// Closes the connection by the protocol, so that the broker does not log a lost connection. If the broker does not
    /// answer within 2 seconds, the socket is shut down.
    ///
    /// # Errors
    ///
    /// [`QueueError::Unavailable`] if the broker did not answer. The connection has ended all the same.
    pub(in crate::queue) async fn close(self) -> Result<(), QueueError> {
        bounded(CLOSE_TIMEOUT, "closing", self.connection.close(200, name("done"))).await
    }
}

/// The node that an error is about: `host:port`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OfNode(String);

/// The reason without the name of the node: the same reason of another node is then no news.
pub(in crate::queue) fn reason_without_node(error: &QueueError) -> String {
    let reason = error_chain(error);
    match error {
        QueueError::Unavailable(cause) => match cause.downcast_ref() {
            Some(OfNode(node)) => reason.replacen(&format!("{node}: "), "", 1),
            None => reason,
        },
        _ => reason,
    }
}

/// Waits for the broker's answer, at most for `limit`. `doing` names the request in the error.
pub(in crate::queue) async fn bounded<T, E>(
    limit: Duration,
    doing: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, QueueError>
where
    QueueError: From<E>,
{
    Ok(timeout(limit, answer).await.map_err(|_| QueueError::silence(doing))??)
}

async fn open(
    peer: &Peer,
    uri: AMQPUri,
    properties: ConnectionProperties,
    unreadable: Unreadable,
) -> lapin::Result<(Connection, Socket)> {
    let runtime = lapin::runtime::default_runtime()?;
    let stream = AsyncTcpStream::connect(&runtime, peer.ip).await?;
    let AsyncTcpStream::Plain(tcp) = &stream else { return Err(Error::from(ErrorKind::Unsupported).into()) };
    // If this future is dropped, the socket is dropped too, which ends the attempt in the library's thread.
    let socket = Socket(Arc::new(tcp.get_ref().as_fd().try_clone_to_owned()?.into()));
    let stream = AsyncTcpStream::Plain(BrokerStream::new(peer.encrypted(stream).await?, unreadable));
    // The library's thread owns the closure below, and drops it with the socket when the connection ends.
    let handed_over = (Mutex::new(Some(stream)), socket.clone());
    let hand_over = async move |_, _| {
        // Both are named here, so that the closure captures the socket, too.
        let (stream, _socket) = &handed_over;
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The library reconnects only if it is told to, so it asks once.
        Ok(stream.ok_or_else(|| Error::from(ErrorKind::NotConnected))?)
    };
    let connection = Connection::connector(uri, stream::runtime(), hand_over, properties).await?;
    Ok((connection, socket))
}

/// A second descriptor of the library's socket. The socket is shut down as soon as either holder is dropped: the link, or the
/// library's thread.
#[derive(Clone)]
struct Socket(Arc<TcpStream>);

impl Drop for Socket {
    fn drop(&mut self) {
        // Fails if the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

//! A connection to the broker that ends with its owner, however the owner ends and whatever the broker does.
//!
//! The AMQP library keeps a connection in a thread of its own until the broker agrees to its end. One that is only
//! dropped while the broker does not answer therefore lives on, and once the broker answers again, a consumer that was
//! asked for on it is handed events that nobody settles. A link also holds the connection's socket, and shuts it down.

use std::io::{Error, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::Stream;
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{MAX_FRAME_BYTES, QueueError, address, name};
use crate::config::Amqp;

/// For the broker's agreement to an end. Without it the socket is shut down.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An open connection. The only way to open one.
pub(super) struct Link {
    connection: Connection,
    patience: Duration,
    // Dropped after the connection: its socket is shut down at the latest then.
    _socket: Socket,
}

impl Link {
    /// Opens a connection for one purpose, which the broker shows to its operators.
    pub(super) async fn open(settings: &Amqp, purpose: &str) -> Result<Self, QueueError> {
        let mut uri = address(settings)?;
        uri.query.frame_max = Some(MAX_FRAME_BYTES);
        uri.query.heartbeat = Some(u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX));
        let properties =
            ConnectionProperties::default().with_connection_name(format!("penr-webhooks {purpose}").into());
        let patience = settings.connect_timeout;
        // Dropped with this future, it ends an attempt that is still under way in the library's thread.
        let socket = Socket::default();
        let connection = bounded(patience, "connecting", connect(uri, properties, socket.clone())).await?;
        Ok(Self { connection, patience, _socket: socket })
    }

    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        self.answer("opening a channel", self.connection.create_channel()).await
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
        bounded(self.patience, doing, answer).await
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

/// The broker's answer, or an error that says what was waited for.
pub(super) async fn bounded<T, E>(
    limit: Duration,
    doing: &'static str,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, QueueError>
where
    QueueError: From<E>,
{
    let late = || format!("no answer while {doing}");
    Ok(timeout(limit, answer).await.with_context(late).map_err(QueueError::Unavailable)??)
}

async fn connect(uri: AMQPUri, properties: ConnectionProperties, socket: Socket) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    // The library's thread owns this closure, and drops it with the socket when the connection ends.
    let own = runtime.clone();
    let open = async move |uri: AMQPUri, _| {
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
        let opening = async {
            let stream = plain.connect_async(&own).await?;
            if let AsyncTcpStream::Plain(tcp) = &stream {
                socket.hold(tcp.get_ref().as_fd().try_clone_to_owned()?.into())?;
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, TLSConfig::default()).await,
            }
        };
        let opened = socket.0.ended.run_until_cancelled(opening).await;
        Ok(opened.unwrap_or_else(|| Err(given_up()))?)
    };
    Connection::connector(uri, runtime, open, properties).await
}

/// A socket that is shut down as soon as one of its holders is dropped: the link, or the library's thread.
#[derive(Default, Clone)]
struct Socket(Arc<Held>);

#[derive(Default)]
struct Held {
    ended: CancellationToken,
    /// A second descriptor of the library's socket.
    tcp: Mutex<Option<TcpStream>>,
}

impl Socket {
    fn hold(&self, tcp: TcpStream) -> Result<(), Error> {
        let mut held = self.0.tcp.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.ended.is_cancelled() {
            return Err(given_up());
        }
        *held = Some(tcp);
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.ended.cancel();
        let held = self.0.tcp.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tcp) = held {
            // It may have ended already.
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::ConnectionAborted, "nobody waits for this connection any more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretText;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    fn settings(listener: &TcpListener) -> Amqp {
        let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
        let connect_timeout = Duration::from_millis(100);
        Amqp { url: SecretText::new(url), connect_timeout, heartbeat: Duration::from_secs(10) }
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
        let (opened, sent) = tokio::join!(Link::open(&settings, "test"), all_of(&mute));
        assert!(matches!(opened, Err(QueueError::Unavailable(_))));
        assert_eq!(sent, b"AMQP\0\0\x09\x01");
    }

    #[tokio::test]
    async fn an_attempt_that_is_dropped_ends_its_socket() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Amqp { connect_timeout: Duration::from_secs(600), ..settings(&mute) };
        let given_up = timeout(Duration::from_millis(100), Link::open(&settings, "test"));
        let (given_up, _) = tokio::join!(given_up, all_of(&mute));
        assert!(given_up.is_err());
    }
}

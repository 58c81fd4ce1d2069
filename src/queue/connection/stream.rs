//! The bytes of a connection, between TLS and the AMQP library. All of them pass through [`NestingLimit`], and where the
//! connection asks for it through [`Repair`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::AsyncTcpStream;

use super::nesting::NestingLimit;
use super::repair::Repair;

const READ_BYTES: usize = 64 * 1024;

type PlainOrTls = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A stream to the broker, without TLS for its reader.
pub(super) struct BrokerStream {
    stream: PlainOrTls,
    nesting: NestingLimit,
    repairing: Option<Repairing>,
}

/// What happens to a message whose properties the AMQP library cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The library ends the connection.
    EndsConnection,
    /// Its properties are replaced by readable ones.
    Repaired,
}

/// The buffers of a stream that is repaired.
struct Repairing {
    repair: Repair,
    /// What was read from the broker.
    chunk: Box<[u8]>,
    /// Whole frames for the library.
    repaired: Vec<u8>,
    /// How many bytes of `repaired` the library has read.
    taken: usize,
}

impl BrokerStream {
    pub(super) fn new(stream: PlainOrTls, unreadable: Unreadable) -> Self {
        let repairing = (unreadable == Unreadable::Repaired).then(|| Repairing {
            repair: Repair::default(),
            chunk: vec![0; READ_BYTES].into(),
            repaired: Vec::new(),
            taken: 0,
        });
        Self { stream, nesting: NestingLimit::default(), repairing }
    }
}

impl AsyncRead for BrokerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, nesting, repairing } = self.get_mut();
        let Some(Repairing { repair, chunk, repaired, taken }) = repairing else {
            let came = ready!(Pin::new(stream).poll_read(cx, buffer))?;
            nesting.apply(&mut buffer[..came]);
            return Poll::Ready(Ok(came));
        };
        while *taken == repaired.len() {
            (*taken, *repaired) = (0, Vec::new());
            let came = ready!(Pin::new(&mut *stream).poll_read(cx, chunk))?;
            if came == 0 {
                return Poll::Ready(Ok(0));
            }
            nesting.apply(&mut chunk[..came]);
            repair.repair(&chunk[..came], repaired);
        }
        let next = &repaired[*taken..];
        let fits = next.len().min(buffer.len());
        buffer[..fits].copy_from_slice(&next[..fits]);
        *taken += fits;
        Poll::Ready(Ok(fits))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.repairing.is_none() {
            let Self { stream, nesting, .. } = self.get_mut();
            let came = ready!(Pin::new(stream).poll_read_vectored(cx, buffers))?;
            let mut left = came;
            for buffer in buffers {
                let filled = left.min(buffer.len());
                nesting.apply(&mut buffer[..filled]);
                left -= filled;
            }
            return Poll::Ready(Ok(came));
        }
        match buffers.iter_mut().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.poll_read(cx, buffer),
            None => Poll::Ready(Ok(0)),
        }
    }
}

impl AsyncWrite for BrokerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// The AMQP library's runtime for connections over a [`BrokerStream`]. Except for the type of the stream, all of it is tokio's.
pub(super) fn runtime() -> Runtime<RuntimeParts<Tokio, BrokerReactor>> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), BrokerReactor(tokio)))
}

#[derive(Clone)]
pub(super) struct BrokerReactor(Tokio);

impl fmt::Debug for BrokerReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BrokerReactor")
    }
}

impl Reactor for BrokerReactor {
    type TcpStream = BrokerStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async { Ok(BrokerStream::new(AsyncTcpStream::Plain(connecting.await?), Unreadable::EndsConnection)) }
    }
}

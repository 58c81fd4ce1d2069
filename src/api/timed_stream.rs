//! Times slow callers out. Reading or writing fails, and the connection closes, when a caller does not read an answer in
//! time, sends no request for too long, or does not finish a request head that it has begun.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::connections::{Busy, Connection};

/// A stream whose caller has bounded time.
pub(super) struct TimedStream<S> {
    stream: S,
    timeouts: CallerTimeouts,
    connection: Arc<Connection>,
    /// Set while written bytes wait for the caller to read. Reading a few of them does not prolong the time.
    unread: Option<Unread>,
    /// Set while the connection waits for a complete head.
    waiting: Option<Waiting>,
}

/// How long a caller may take for each step.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallerTimeouts {
    /// To begin a request head, from the opening of the connection or from the answer before.
    pub(super) idle: Duration,
    /// From a head's first byte to its end.
    pub(super) head: Duration,
    /// To read an answer.
    pub(super) answer: Duration,
}

struct Waiting {
    since: Instant,
    head_has_begun: bool,
    until: Pin<Box<Sleep>>,
}

struct Unread {
    until: Pin<Box<Sleep>>,
    _busy: Busy,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, timeouts: CallerTimeouts, connection: Arc<Connection>) -> Self {
        Self { stream, timeouts, connection, unread: None, waiting: None }
    }

    /// Whether the caller is too late with a head. `bytes` is the number of bytes that were just read.
    fn is_late(&mut self, cx: &mut Context<'_>, bytes: usize) -> bool {
        let CallerTimeouts { idle, head, .. } = self.timeouts;
        let Some(since) = self.connection.waiting_since() else {
            self.waiting = None;
            return false;
        };
        if self.waiting.as_ref().is_none_or(|waiting| waiting.since != since) {
            self.waiting = Some(Waiting { since, head_has_begun: false, until: Box::pin(sleep(idle)) });
        }
        let Some(waiting) = &mut self.waiting else { return false };
        if bytes > 0 && !waiting.head_has_begun {
            waiting.head_has_begun = true;
            waiting.until = Box::pin(sleep(head));
        }
        bytes == 0 && waiting.until.as_mut().poll(cx).is_ready()
    }

    fn unread(&mut self) -> &mut Unread {
        let begin = || Unread { until: Box::pin(sleep(self.timeouts.answer)), _busy: self.connection.busy() };
        self.unread.get_or_insert_with(begin)
    }

    /// The result of writing `offered` bytes: an error if the caller has not read earlier ones in time.
    fn or_timed_out(
        &mut self,
        cx: &mut Context<'_>,
        offered: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) if bytes < offered => {
                self.unread();
                written
            }
            Poll::Ready(_) => {
                self.unread = None;
                written
            }
            Poll::Pending => {
                ready!(self.unread().until.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_timed_out(cx, bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.or_timed_out(cx, slices.iter().map(|slice| slice.len()).sum(), written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let late = self.is_late(cx, buffer.filled().len() - before);
        match read {
            Poll::Pending if late => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::connections::Connections;
    use super::*;

    const WITHIN: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(60);

    async fn timed<S>(stream: S) -> TimedStream<S> {
        with(CallerTimeouts { idle: LONG, head: LONG, answer: WITHIN }, stream).await
    }

    async fn with<S>(timeouts: CallerTimeouts, stream: S) -> TimedStream<S> {
        TimedStream::new(stream, timeouts, Connections::new(1).open().await)
    }

    #[tokio::test]
    async fn a_heads_time_begins_with_its_first_byte_and_no_further_byte_gives_it_more() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = with(CallerTimeouts { idle: LONG, head: WITHIN, answer: LONG }, ours).await;
        // Before the first byte the idle time counts.
        assert!(tokio::time::timeout(2 * WITHIN, ours.read_u8()).await.is_err());
        let drops = async {
            loop {
                theirs.write_all(b"x").await.unwrap();
                sleep(WITHIN / 10).await;
            }
        };
        let (begun, mut head) = (Instant::now(), Vec::new());
        let read = tokio::select! {
            read = ours.read_to_end(&mut head) => read,
            () = drops => unreachable!("it drips for ever"),
        };
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= WITHIN, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_caller_who_sends_nothing_is_closed_and_being_answered_is_not_waiting() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = with(CallerTimeouts { idle: WITHIN, head: LONG, answer: LONG }, ours).await;
        theirs.write_all(b"x").await.unwrap();
        ours.read_u8().await.unwrap();
        let answering = ours.connection.busy();
        assert!(tokio::time::timeout(2 * WITHIN, ours.read_u8()).await.is_err());
        drop(answering);
        let idle = Instant::now();
        assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(idle.elapsed() >= WITHIN, "{:?}", idle.elapsed());
    }

    #[tokio::test]
    async fn a_caller_who_reads_an_answer_byte_by_byte_gets_no_more_time_for_it() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = timed(ours).await;
        let drops = async {
            loop {
                sleep(WITHIN / 10).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let written = tokio::select! {
            written = ours.write_all(&[0; 100]) => written,
            () = drops => unreachable!("it drips for ever"),
        };
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answer_that_was_read_leaves_the_next_its_whole_time() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = timed(ours).await;
        assert_eq!(ours.write(&[0; 20]).await.unwrap(), 16);
        assert!(ours.unread.is_some());
        theirs.read_exact(&mut [0; 16]).await.unwrap();
        ours.write_all(&[0; 4]).await.unwrap();
        assert!(ours.unread.is_none());
    }
}

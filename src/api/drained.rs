//! A connection whose caller goes on: one that leaves its answers lying for too long, asks nothing for too long, or does not
//! finish a head that it has begun, is an error, so that it closes.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::connections::{Busy, Connection};

pub(super) struct Drained<S> {
    stream: S,
    patience: Patience,
    connection: Arc<Connection>,
    /// While something lies that was not taken. A caller who takes it drop by drop gets no more time for it.
    lying: Option<Lying>,
    /// While the connection waits for a whole head.
    waiting: Option<Waiting>,
}

/// How long a caller may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// To begin with a head: from the opening of the connection, or the answer before.
    pub(super) idle: Duration,
    /// From a head's first byte to its end.
    pub(super) head: Duration,
    /// To take an answer.
    pub(super) answer: Duration,
}

struct Waiting {
    since: Instant,
    head_has_begun: bool,
    until: Pin<Box<Sleep>>,
}

struct Lying {
    until: Pin<Box<Sleep>>,
    _busy: Busy,
}

impl<S> Drained<S> {
    pub(super) fn new(stream: S, patience: Patience, connection: Arc<Connection>) -> Self {
        Self { stream, patience, connection, lying: None, waiting: None }
    }

    /// Whether the caller has taken too long for a head, after an attempt to read that brought so many bytes.
    fn is_late(&mut self, cx: &mut Context<'_>, bytes: usize) -> bool {
        let Patience { idle, head, .. } = self.patience;
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

    fn lying(&mut self) -> &mut Lying {
        let begin = || Lying { until: Box::pin(sleep(self.patience.answer)), _busy: self.connection.busy() };
        self.lying.get_or_insert_with(begin)
    }

    /// What became of an attempt to write `offered` bytes.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        offered: usize,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) if bytes < offered => {
                self.lying();
                written
            }
            Poll::Ready(_) => {
                self.lying = None;
                written
            }
            Poll::Pending => {
                ready!(self.lying().until.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Drained<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, bytes.len(), written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, slices.iter().map(|slice| slice.len()).sum(), written)
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

impl<S: AsyncRead + Unpin> AsyncRead for Drained<S> {
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

    async fn drained<S>(stream: S) -> Drained<S> {
        with(Patience { idle: LONG, head: LONG, answer: WITHIN }, stream).await
    }

    async fn with<S>(patience: Patience, stream: S) -> Drained<S> {
        Drained::new(stream, patience, Connections::new(1).open().await)
    }

    #[tokio::test]
    async fn a_heads_time_begins_with_its_first_byte_and_no_further_byte_gives_it_more() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = with(Patience { idle: LONG, head: WITHIN, answer: LONG }, ours).await;
        // As long as nothing has come, it is idle.
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
    async fn one_that_asks_nothing_is_closed_and_being_answered_is_not_waiting() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = with(Patience { idle: WITHIN, head: LONG, answer: LONG }, ours).await;
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
    async fn a_caller_who_takes_an_answer_drop_by_drop_gets_no_more_time_for_it() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = drained(ours).await;
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
    async fn an_answer_that_was_taken_leaves_the_next_its_whole_time() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = drained(ours).await;
        assert_eq!(ours.write(&[0; 20]).await.unwrap(), 16);
        assert!(ours.lying.is_some());
        theirs.read_exact(&mut [0; 16]).await.unwrap();
        ours.write_all(&[0; 4]).await.unwrap();
        assert!(ours.lying.is_none());
    }
}

//! A connection whose caller takes its answers: one that leaves them lying for too long is an error, so that it closes.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::connections::{Busy, Connection};

pub(super) struct Drained<S> {
    stream: S,
    within: Duration,
    connection: Arc<Connection>,
    /// While something lies that was not taken. A caller who takes it drop by drop gets no more time for it.
    lying: Option<Lying>,
}

struct Lying {
    until: Pin<Box<Sleep>>,
    _busy: Busy,
}

impl<S> Drained<S> {
    pub(super) fn new(stream: S, within: Duration, connection: Arc<Connection>) -> Self {
        Self { stream, within, connection, lying: None }
    }

    fn lying(&mut self) -> &mut Lying {
        let begin = || Lying { until: Box::pin(sleep(self.within)), _busy: self.connection.busy() };
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
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::connections::Connections;
    use super::*;

    const WITHIN: Duration = Duration::from_millis(200);

    async fn drained<S>(stream: S) -> Drained<S> {
        Drained::new(stream, WITHIN, Connections::new(1).open().await)
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

//! How a scripted receiver answers: well, badly, slowly, for ever, or not at all.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

/// Holds replies until it is opened. Closed at first.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub fn close(&self) {
        self.0.send_replace(false);
    }

    pub async fn pass(&self) {
        let mut state = self.0.subscribe();
        state.wait_for(|open| *open).await.expect("self keeps the sender");
    }
}

/// Built by a constructor and refined by methods: `Reply::status(200).held_by(&gate).then_close()`.
#[derive(Debug, Clone)]
pub struct Reply {
    gate: Option<Gate>,
    delay: Duration,
    words: Words,
    pub(super) then: Then,
}

#[derive(Debug, Clone)]
enum Words {
    At(Vec<u8>),
    Drip { bytes: Vec<u8>, every: Duration },
    Endless { start: Vec<u8>, again: Vec<u8>, every: Duration },
}

/// What happens to the connection after the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    KeepAlive,
    /// It stays open, but nothing is read or written any more.
    Hang,
    Close,
    Reset,
}

impl Reply {
    /// An empty answer.
    pub fn status(status: u16) -> Self {
        let length = if matches!(status, 204 | 304) { "" } else { "Content-Length: 0\r\n" };
        Self::raw(format!("HTTP/1.1 {status} Scripted\r\n{length}\r\n"))
    }

    pub fn body(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::raw([head.as_bytes(), body].concat())
    }

    /// An empty answer with headers: `"Retry-After: 5"`.
    pub fn with_headers(status: u16, headers: &[&str]) -> Self {
        let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        Self::raw(format!("HTTP/1.1 {status} Scripted\r\nContent-Length: 0\r\n{lines}\r\n"))
    }

    /// These bytes, whatever they are.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::saying(Words::At(bytes.into()))
    }

    /// One byte at a time, each in a segment of its own.
    pub fn drip(bytes: impl Into<Vec<u8>>, every: Duration) -> Self {
        Self::saying(Words::Drip { bytes: bytes.into(), every })
    }

    /// `start` once, then `again` over and over until the client leaves.
    pub fn endless(start: impl Into<Vec<u8>>, again: impl Into<Vec<u8>>, every: Duration) -> Self {
        Self::saying(Words::Endless { start: start.into(), again: again.into(), every })
    }

    /// No answer; the connection stays.
    pub fn silence() -> Self {
        Self { then: Then::Hang, ..Self::raw("") }
    }

    /// No answer; the connection is closed.
    pub fn close() -> Self {
        Self::raw("").then_close()
    }

    /// No answer; the connection is reset.
    pub fn reset() -> Self {
        Self::raw("").then_reset()
    }

    fn saying(words: Words) -> Self {
        Self { gate: None, delay: Duration::ZERO, words, then: Then::KeepAlive }
    }

    /// Not before the gate opens.
    pub fn held_by(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn then_close(mut self) -> Self {
        self.then = Then::Close;
        self
    }

    pub fn then_reset(mut self) -> Self {
        self.then = Then::Reset;
        self
    }

    pub fn then_hang(mut self) -> Self {
        self.then = Then::Hang;
        self
    }

    /// Writes the reply and leaves the connection's end to the caller.
    pub async fn say(&self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        tokio::time::sleep(self.delay).await;
        match &self.words {
            Words::At(bytes) => write(stream, bytes).await,
            Words::Drip { bytes, every } => {
                for byte in bytes {
                    write(stream, &[*byte]).await?;
                    tokio::time::sleep(*every).await;
                }
                Ok(())
            }
            Words::Endless { start, again, every } => {
                write(stream, start).await?;
                loop {
                    write(stream, again).await?;
                    tokio::time::sleep(*every).await;
                }
            }
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

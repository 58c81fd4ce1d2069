//! A small AMQP 0-9-1 client that sends and reads any bytes where the protocol has strings, which lapin rightly refuses to
//! do: for spoilt messages only. One channel, one request at a time, confirms on; after an error, open another one.
//! Source: AMQP 0-9-1 specification, and RabbitMQ's extensions `confirm.select` and `basic.nack`. A pair of numbers is a
//! method by its class and its index there: `(60, 80)` is `basic.ack`.

mod frame;
mod message;

use std::io::{Error, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use url::Url;

use super::amqp::Fate;
use frame::{Method, Writer};
pub use message::{Letter, RawMessage, Table};

/// Room for a frame's head and end within the negotiated size.
const FRAME_OVERHEAD: usize = 8;

const CONNECTION: u16 = 0;
const CHANNEL: u16 = 1;

pub struct RawAmqp {
    stream: BufStream<TcpStream>,
    frame_max: usize,
}

impl RawAmqp {
    pub async fn connect(url: &str) -> Result<Self> {
        let url = Url::parse(url).map_err(Error::other)?;
        let host = url.host_str().ok_or_else(|| Error::other("an AMQP URL without a host"))?;
        let stream = TcpStream::connect((host, url.port().unwrap_or(5672))).await?;
        stream.set_nodelay(true)?;
        let stream = BufStream::with_capacity(65_536, 65_536, stream);
        let mut amqp = Self { stream, frame_max: 4096 };
        amqp.shake_hands(&url).await?;
        amqp.call(Writer::method(20, 10).short(b""), (20, 11)).await?;
        amqp.call(Writer::method(85, 10).byte(0), (85, 11)).await?;
        Ok(amqp)
    }

    async fn shake_hands(&mut self, url: &Url) -> Result<()> {
        self.stream.write_all(b"AMQP\0\0\x09\x01").await?;
        self.stream.flush().await?;
        self.expect((10, 10)).await?;
        let plain = format!("\0{}\0{}", url.username(), url.password().unwrap_or_default());
        let start_ok = Writer::method(10, 11).long(b"").short(b"PLAIN").long(plain.as_bytes()).short(b"en_US");
        self.send(CONNECTION, start_ok).await?;
        let tune = self.expect((10, 30)).await?;
        let mut arguments = tune.arguments();
        let (channels, frame_max) = (arguments.u16(), arguments.u32());
        self.frame_max = frame_max as usize;
        // No heartbeats: a test's connection may idle as long as it likes.
        self.send(CONNECTION, Writer::method(10, 31).u16(channels).u32(frame_max).u16(0)).await?;
        let vhost = url.path().trim_start_matches('/').replace("%2f", "/").replace("%2F", "/");
        let vhost = if vhost.is_empty() { "/" } else { &vhost };
        self.send(CONNECTION, Writer::method(10, 40).short(vhost.as_bytes()).short(b"").byte(0)).await?;
        self.expect((10, 41)).await.map(drop)
    }

    /// Publishes and waits for what the broker says. A returned message comes before its confirm.
    pub async fn publish(&mut self, message: &RawMessage) -> Result<Fate> {
        self.write_message(message).await?;
        self.stream.flush().await?;
        let mut fate = Fate::Confirmed;
        loop {
            let said = self.next_method().await?;
            match said.id {
                (60, 80) => return Ok(fate),
                (60, 120) => return Ok(Fate::Refused),
                (60, 50) => {
                    self.read_content().await?;
                    fate = Fate::Returned;
                }
                _ => return Err(said.unexpected()),
            }
        }
    }

    /// Takes the oldest message for good, if there is one.
    pub async fn take(&mut self, queue: &str) -> Result<Option<Letter>> {
        let get = Writer::method(60, 70).u16(0).short(queue.as_bytes()).byte(1);
        self.send(CHANNEL, get).await?;
        let answer = self.next_method().await?;
        match answer.id {
            (60, 71) => self.read_content().await.map(Some),
            (60, 72) => Ok(None),
            _ => Err(answer.unexpected()),
        }
    }

    async fn write_message(&mut self, message: &RawMessage) -> Result<()> {
        const MANDATORY: u8 = 1;
        let publish = Writer::method(60, 40).u16(0).short(message.exchange.as_bytes()).short(&message.routing_key);
        self.write_frame(CHANNEL, 1, &publish.byte(MANDATORY).bytes).await?;
        self.write_frame(CHANNEL, 2, &message.content_header()).await?;
        for part in message.body.chunks(self.frame_max - FRAME_OVERHEAD) {
            self.write_frame(CHANNEL, 3, part).await?;
        }
        Ok(())
    }

    /// Sends a request and returns its answer, which must be the one named.
    async fn call(&mut self, request: Writer, answer: (u16, u16)) -> Result<Method> {
        self.send(CHANNEL, request).await?;
        self.expect(answer).await
    }

    async fn send(&mut self, channel: u16, method: Writer) -> Result<()> {
        self.write_frame(channel, 1, &method.bytes).await?;
        self.stream.flush().await
    }

    async fn expect(&mut self, id: (u16, u16)) -> Result<Method> {
        let method = self.next_method().await?;
        if method.id == id { Ok(method) } else { Err(method.unexpected()) }
    }

    async fn next_method(&mut self) -> Result<Method> {
        let (kind, payload) = self.read_frame().await?;
        if kind == 1 { Ok(Method::parse(payload)) } else { Err(Error::other("a frame that is no method")) }
    }

    async fn read_content(&mut self) -> Result<Letter> {
        let (_, header) = self.read_frame().await?;
        let (size, mut letter) = Letter::parse(&header);
        while (letter.body.len() as u64) < size {
            let (_, part) = self.read_frame().await?;
            letter.body.extend(part);
        }
        Ok(letter)
    }

    async fn write_frame(&mut self, channel: u16, kind: u8, payload: &[u8]) -> Result<()> {
        assert!(payload.len() <= self.frame_max - FRAME_OVERHEAD, "{} bytes in one frame", payload.len());
        let head = Writer::default().byte(kind).u16(channel).u32(payload.len() as u32);
        self.stream.write_all(&head.bytes).await?;
        self.stream.write_all(payload).await?;
        self.stream.write_all(&[0xCE]).await
    }

    /// The next frame's kind and payload; heartbeats are skipped.
    async fn read_frame(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.stream.read_exact(&mut payload).await?;
            assert_eq!(payload.pop(), Some(0xCE), "a frame ends with 0xCE");
            if head[0] != 8 {
                return Ok((head[0], payload));
            }
        }
    }
}

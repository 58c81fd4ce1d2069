//! What tests ask a broker besides publishing.

use std::io::Result;

use super::frame::Writer;
use super::{Content, RawAmqp, Table};

/// Of `basic.reject`.
const REQUEUE: u8 = 1;

/// A message taken out of a queue.
#[derive(Debug)]
pub struct Taken {
    pub exchange: String,
    pub routing_key: Vec<u8>,
    pub redelivered: bool,
    pub content: Content,
}

impl RawAmqp {
    /// Takes the oldest message for good, if there is one.
    pub async fn take(&mut self, queue: &str) -> Result<Option<Taken>> {
        let get = Writer::method(60, 70).u16(0).short(queue.as_bytes()).byte(1);
        self.send(super::CHANNEL, get).await?;
        let answer = self.next_method().await?;
        match answer.id {
            (60, 71) => {
                let mut arguments = answer.arguments();
                let (_tag, redelivered) = (arguments.u64(), arguments.byte() == 1);
                let exchange = String::from_utf8_lossy(arguments.short()).into_owned();
                let routing_key = arguments.short().to_owned();
                let content = self.read_content().await?;
                Ok(Some(Taken { exchange, routing_key, redelivered, content }))
            }
            (60, 72) => Ok(None),
            _ => Err(answer.unexpected()),
        }
    }

    /// Takes the oldest message, as soon as there is one, and gives it back so that the broker counts it: from RabbitMQ 4.3 on
    /// it does not count a `nack`.
    pub async fn give_back(&mut self, queue: &str) -> Result<()> {
        loop {
            let get = Writer::method(60, 70).u16(0).short(queue.as_bytes()).byte(0);
            self.send(super::CHANNEL, get).await?;
            let answer = self.next_method().await?;
            match answer.id {
                (60, 71) => {
                    let tag = answer.arguments().u64();
                    self.read_content().await?;
                    return self.send(super::CHANNEL, Writer::method(60, 90).u64(tag).byte(REQUEUE)).await;
                }
                (60, 72) => {}
                _ => return Err(answer.unexpected()),
            }
        }
    }

    /// How many messages are ready in the queue; an error if it does not exist.
    pub async fn depth(&mut self, queue: &str) -> Result<u32> {
        let declare = Writer::method(50, 10).u16(0).short(queue.as_bytes()).byte(PASSIVE).long(b"");
        let declared = self.call(declare, (50, 11)).await?;
        let mut arguments = declared.arguments();
        arguments.short();
        Ok(arguments.u32())
    }

    /// Declares a durable queue with these arguments.
    pub async fn declare_queue(&mut self, queue: &str, arguments: &Table) -> Result<()> {
        let declare = Writer::method(50, 10).u16(0).short(queue.as_bytes()).byte(DURABLE).long(&arguments.0);
        self.call(declare, (50, 11)).await.map(drop)
    }

    /// Declares a queue that goes with this connection, and returns its name.
    pub async fn declare_own_queue(&mut self) -> Result<String> {
        let declare = Writer::method(50, 10).u16(0).short(b"").byte(EXCLUSIVE).long(b"");
        let declared = self.call(declare, (50, 11)).await?;
        Ok(String::from_utf8_lossy(declared.arguments().short()).into_owned())
    }

    pub async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let bind = Writer::method(50, 20).u16(0).short(queue.as_bytes()).short(exchange.as_bytes());
        self.call(bind.short(key.as_bytes()).byte(0).long(b""), (50, 21)).await.map(drop)
    }

    pub async fn purge(&mut self, queue: &str) -> Result<()> {
        let purge = Writer::method(50, 30).u16(0).short(queue.as_bytes()).byte(0);
        self.call(purge, (50, 31)).await.map(drop)
    }

    /// Deletes the queue with all that is in it; fine if there is none.
    pub async fn delete_queue(&mut self, queue: &str) -> Result<()> {
        let delete = Writer::method(50, 40).u16(0).short(queue.as_bytes()).byte(0);
        self.call(delete, (50, 41)).await.map(drop)
    }

    /// Declares a durable exchange.
    pub async fn declare_exchange(&mut self, exchange: &str, kind: &str) -> Result<()> {
        let declare = Writer::method(40, 10).u16(0).short(exchange.as_bytes()).short(kind.as_bytes());
        self.call(declare.byte(DURABLE).long(b""), (40, 11)).await.map(drop)
    }

    /// Deletes the exchange; fine if there is none.
    pub async fn delete_exchange(&mut self, exchange: &str) -> Result<()> {
        let delete = Writer::method(40, 20).u16(0).short(exchange.as_bytes()).byte(0);
        self.call(delete, (40, 21)).await.map(drop)
    }
}

const PASSIVE: u8 = 1;
const DURABLE: u8 = 2;
const EXCLUSIVE: u8 = 4;

//! An AMQP client for ordinary messages and queues: lapin on one channel with publisher confirms. After an error, open
//! another client. [`super::raw_amqp`] sends what lapin refuses to send.

use std::sync::OnceLock;

use async_rs::Runtime as AsyncRuntime;
use futures_util::future::try_join_all;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

pub use lapin::Result;

/// How many messages of a burst may wait for their confirms.
const UNCONFIRMED: usize = 500;

const PERSISTENT: u8 = 2;

/// What the broker did with a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Confirmed,
    /// No queue took it: every message is mandatory.
    Returned,
    Refused,
}

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Message {
    pub exchange: String,
    pub routing_key: String,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

impl Message {
    /// A persistent message to an exchange.
    pub fn to(exchange: &str, routing_key: &str, body: impl AsRef<[u8]>) -> Self {
        Self {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            body: body.as_ref().to_owned(),
            properties: BasicProperties::default().with_delivery_mode(PERSISTENT),
        }
    }

    /// Straight into a queue, past every exchange.
    pub fn into_queue(self, queue: &str) -> Self {
        Self { exchange: String::new(), routing_key: queue.to_owned(), ..self }
    }

    /// With another property: `.with(|properties| properties.with_priority(9))`.
    pub fn with(self, change: impl FnOnce(BasicProperties) -> BasicProperties) -> Self {
        Self { properties: change(self.properties), ..self }
    }

    pub fn with_id(self, id: &str) -> Self {
        self.with(|properties| properties.with_message_id(id.into()))
    }

    /// With this header and no other.
    pub fn with_header(self, name: &str, value: &str) -> Self {
        self.with(|properties| properties.with_headers(table(&[(name, value)])))
    }

    /// An event's JSON, as penr.ai's services write it.
    pub fn event_body(id: &str, event_type: &str, account: &str, data: &Value) -> Vec<u8> {
        let occurred_at = "2026-11-23T10:00:00Z";
        json!({"id": id, "type": event_type, "account_id": account, "occurred_at": occurred_at, "data": data})
            .to_string()
            .into_bytes()
    }
}

/// A message taken out of a queue.
#[derive(Debug)]
pub struct Taken {
    pub routing_key: String,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

impl Taken {
    /// Empty if there are none.
    pub fn headers(&self) -> FieldTable {
        self.properties.headers().clone().unwrap_or_default()
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.headers();
        let AMQPValue::LongString(text) = headers.inner().get(name)? else { return None };
        Some(text.to_string())
    }

    /// How often the broker has delivered it before.
    pub fn delivery_count(&self) -> i64 {
        match self.headers().inner().get("x-delivery-count") {
            None => 0,
            Some(AMQPValue::LongLongInt(count)) => *count,
            Some(AMQPValue::LongInt(count)) => (*count).into(),
            Some(other) => panic!("no count: {other:?}"),
        }
    }
}

pub struct Amqp {
    connection: Connection,
    channel: Channel,
}

impl Amqp {
    /// Without heartbeats: a test's connection may idle as long as it likes.
    pub async fn connect(url: &str) -> Result<Self> {
        let mut uri: AMQPUri = url.parse().expect("a broker's URL");
        uri.query.heartbeat = Some(0);
        let runtime = AsyncRuntime::tokio_with_handle(runtime().handle().clone());
        let connection = Connection::connect_uri_with_runtime(uri, ConnectionProperties::default(), runtime).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    pub fn is_usable(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Returns once the broker has closed the connection.
    pub async fn close(self) -> Result<()> {
        self.connection.close(200, "done".into()).await
    }

    /// Publishes and waits for what the broker says.
    pub async fn publish(&mut self, message: &Message) -> Result<Fate> {
        Ok(match self.send(message).await?.await? {
            Confirmation::Ack(None) => Fate::Confirmed,
            Confirmation::Ack(Some(_)) => Fate::Returned,
            Confirmation::Nack(_) => Fate::Refused,
            Confirmation::NotRequested => unreachable!("the channel has confirms"),
        })
    }

    /// Publishes without waiting for each; every single one must be confirmed, and none may be returned.
    pub async fn publish_burst(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let mut confirms = Vec::new();
            for message in messages.by_ref().take(UNCONFIRMED) {
                confirms.push(self.send(&message).await?);
            }
            let confirms = try_join_all(confirms).await?;
            assert!(confirms.iter().all(|confirm| *confirm == Confirmation::Ack(None)), "returned or refused");
        }
        Ok(())
    }

    async fn send(&self, message: &Message) -> Result<lapin::PublisherConfirm> {
        let (exchange, key) = (message.exchange.as_str().into(), message.routing_key.as_str().into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        self.channel.basic_publish(exchange, key, options, &message.body, message.properties.clone()).await
    }

    /// Takes the oldest message for good, if there is one.
    pub async fn take(&mut self, queue: &str) -> Result<Option<Taken>> {
        let got = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await?;
        Ok(got.map(|got| {
            let delivery = got.delivery;
            let routing_key = delivery.routing_key.to_string();
            Taken { routing_key, properties: delivery.properties, body: delivery.data }
        }))
    }

    /// Takes the oldest message, as soon as there is one, and rejects it into the queue, so that the broker counts a delivery:
    /// a `nack` is not counted from RabbitMQ 4.3 on.
    pub async fn give_back(&mut self, queue: &str) -> Result<()> {
        loop {
            let got = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await?;
            if let Some(got) = got {
                let tag = got.delivery.delivery_tag;
                return self.channel.basic_reject(tag, BasicRejectOptions { requeue: true }).await;
            }
        }
    }

    /// How many messages are ready in the queue; an error if it does not exist.
    pub async fn depth(&mut self, queue: &str) -> Result<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        Ok(self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count())
    }

    /// Declares a durable queue with these arguments.
    /// Consumes from a queue under this tag, as long as this client is open. What it gets goes back then.
    pub async fn consume(&mut self, queue: &str, tag: &str) -> Result<lapin::Consumer> {
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        self.channel.basic_consume(queue.into(), tag.into(), options, arguments).await
    }

    pub async fn declare_queue(&mut self, queue: &str, arguments: &[(&str, &str)]) -> Result<()> {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), durable, table(arguments)).await.map(drop)
    }

    /// Declares a queue that goes with this connection, and returns its name.
    pub async fn declare_own_queue(&mut self) -> Result<String> {
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        Ok(self.channel.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().to_string())
    }

    pub async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await
    }

    /// Deletes the queue with all that is in it; fine if there is none.
    pub async fn delete_queue(&mut self, queue: &str) -> Result<()> {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop)
    }

    /// Declares a durable exchange.
    pub async fn declare_exchange(&mut self, exchange: &str, kind: ExchangeKind) -> Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default()).await
    }

    /// Deletes the exchange; fine if there is none.
    pub async fn delete_exchange(&mut self, exchange: &str) -> Result<()> {
        self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await
    }
}

fn table(entries: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    table
}

/// Where lapin's tasks run. A test's own runtime ends with the test, before lapin has closed its connections.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("lapin").enable_all().build().expect("the machine has threads")
    })
}

//! The broker side of a site: publishing events and malformed messages, and looking into the queues.

use lapin::ExchangeKind;
use serde_json::Value;
use uuid::Uuid;

use super::amqp::{Amqp, Fate, Message, Result, Taken};
use super::raw_amqp::{Letter, RawAmqp, RawMessage};
use super::settings::Settings;
use super::site::Site;
use super::wait::{PATIENCE, eventually, wait_until, within};

#[derive(Debug, Clone)]
pub struct Names {
    pub events_exchange: String,
    pub worker_queue: String,
    pub dead_exchange: String,
    pub dead_queue: String,
    pub notices_exchange: String,
    pub unrouted_exchange: String,
    pub unrouted_queue: String,
    pub shards_exchange: String,
}

impl Names {
    pub fn with_suffix(suffix: &str) -> Self {
        Self {
            events_exchange: format!("penr.events.{suffix}"),
            worker_queue: format!("penr.webhooks.{suffix}"),
            dead_exchange: format!("penr.webhooks.dead.{suffix}"),
            dead_queue: format!("penr.webhooks.dead.{suffix}"),
            notices_exchange: format!("penr.webhooks.notices.{suffix}"),
            unrouted_exchange: format!("penr.events.unrouted.{suffix}"),
            unrouted_queue: format!("penr.events.unrouted.{suffix}"),
            shards_exchange: format!("penr.webhooks.shards.{suffix}"),
        }
    }

    /// The names of the default settings, for a broker of the test's own.
    pub fn usual() -> Self {
        Self {
            events_exchange: "penr.events".into(),
            worker_queue: "penr.webhooks".into(),
            dead_exchange: "penr.webhooks.dead".into(),
            dead_queue: "penr.webhooks.dead".into(),
            notices_exchange: "penr.webhooks.notices".into(),
            unrouted_exchange: "penr.events.unrouted".into(),
            unrouted_queue: "penr.events.unrouted".into(),
            shards_exchange: "penr.webhooks.shards".into(),
        }
    }

    pub fn write_to(&self, settings: &mut Settings) {
        settings.set("queue.events_exchange", &self.events_exchange);
        settings.set("queue.worker_queue", &self.worker_queue);
        settings.set("queue.dead_exchange", &self.dead_exchange);
        settings.set("queue.dead_queue", &self.dead_queue);
        settings.set("queue.notices_exchange", &self.notices_exchange);
        settings.set("queue.unrouted_exchange", &self.unrouted_exchange);
        settings.set("queue.unrouted_queue", &self.unrouted_queue);
        settings.set("queue.shards_exchange", &self.shards_exchange);
    }

    /// The second one of several worker queues. No test has a third.
    pub fn second_queue(&self) -> String {
        format!("{}.2", self.worker_queue)
    }

    /// Ignores errors: no other test uses these names.
    pub async fn delete_all(&self, amqp_url: &str) {
        let Ok(mut amqp) = Amqp::connect(amqp_url).await else { return };
        for queue in [&self.worker_queue, &self.dead_queue, &self.unrouted_queue, &self.second_queue()] {
            let _ = amqp.delete_queue(queue).await;
        }
        let Self { events_exchange, dead_exchange, notices_exchange, unrouted_exchange, shards_exchange, .. } = self;
        for exchange in [events_exchange, dead_exchange, notices_exchange, unrouted_exchange, shards_exchange] {
            let _ = amqp.delete_exchange(exchange).await;
        }
    }
}

impl Site {
    pub fn events_exchange(&self) -> &str {
        &self.names.events_exchange
    }

    pub fn worker_queue(&self) -> &str {
        &self.names.worker_queue
    }

    /// The second one of several worker queues.
    pub fn second_queue(&self) -> String {
        self.names.second_queue()
    }

    pub fn dead_exchange(&self) -> &str {
        &self.names.dead_exchange
    }

    pub fn dead_queue(&self) -> &str {
        &self.names.dead_queue
    }

    pub fn notices_exchange(&self) -> &str {
        &self.names.notices_exchange
    }

    pub fn unrouted_exchange(&self) -> &str {
        &self.names.unrouted_exchange
    }

    pub fn unrouted_queue(&self) -> &str {
        &self.names.unrouted_queue
    }

    /// Publishes an event that some queue must take, and returns its id once the broker has confirmed it.
    pub async fn publish(&self, account: &str, event_type: &str, data: Value) -> String {
        let id = new_event_id();
        let fate = self.publish_message(&self.event(&id, account, event_type, &data)).await;
        assert_eq!(fate, Fate::Confirmed, "the event reached no queue: is the worker's topology declared?");
        id
    }

    /// Publishes `count` events as fast as the broker confirms them, and returns their ids.
    pub async fn publish_many(&self, count: usize, account: &str, event_type: &str, data: Value) -> Vec<String> {
        let ids: Vec<String> = (0..count).map(|_| new_event_id()).collect();
        let events = ids.iter().map(|id| self.event(id, account, event_type, &data));
        let mut amqp = self.amqp().await.expect("RabbitMQ takes the connection");
        amqp.publish_burst(events).await.expect("the broker confirms every event");
        self.keep(amqp).await;
        ids
    }

    /// A well-formed event, to be published as it is or to be changed before.
    pub fn event(&self, id: &str, account: &str, event_type: &str, data: &Value) -> Message {
        let body = Message::event_body(id, event_type, account, data);
        Message::to(self.events_exchange(), event_type, body)
    }

    /// Any body to the events exchange under the routing key of a real type.
    pub fn message(&self, body: impl AsRef<[u8]>) -> Message {
        Message::to(self.events_exchange(), "content.created", body)
    }

    /// Any body straight into the worker queue, past the exchange.
    pub fn message_to_queue(&self, body: impl AsRef<[u8]>) -> Message {
        Message::to("", self.worker_queue(), body)
    }

    pub async fn publish_message(&self, message: &Message) -> Fate {
        self.try_publish(message).await.expect("the broker answers")
    }

    /// As `publish_message`, for tests in which the broker may be down.
    pub async fn try_publish(&self, message: &Message) -> Result<Fate> {
        let mut amqp = self.amqp().await?;
        let fate = within("the broker confirms", PATIENCE, amqp.publish(message)).await?;
        self.keep(amqp).await;
        Ok(fate)
    }

    /// Publishes any bytes where the protocol has strings.
    pub async fn publish_raw(&self, message: &RawMessage) -> Fate {
        within("the broker confirms", PATIENCE, self.raw_amqp().await.publish(message))
            .await
            .expect("the broker answers")
    }

    /// Takes all dead letters out of their queue, also those that lapin cannot read.
    pub async fn dead_letters(&self) -> Vec<Letter> {
        let mut amqp = self.raw_amqp().await;
        let mut letters = Vec::new();
        while let Some(letter) = amqp.take(self.dead_queue()).await.expect("the dead queue exists") {
            letters.push(letter);
        }
        letters
    }

    /// Waits until that many dead letters came, and takes all there are.
    pub async fn wait_for_dead_letters(&self, count: usize) -> Vec<Letter> {
        let there = async || self.queue_depth(self.dead_queue()).await as usize >= count;
        wait_until(&format!("{count} dead letters are there"), there).await;
        self.dead_letters().await
    }

    /// Messages ready in a queue; those a worker holds are not counted.
    pub async fn queue_depth(&self, queue: &str) -> u32 {
        let mut amqp = self.amqp().await.expect("RabbitMQ takes the connection");
        let depth = amqp.depth(queue).await.expect("the queue exists");
        self.keep(amqp).await;
        depth
    }

    /// Takes the oldest message that is ready in the worker queue for good, and returns how often it was delivered before.
    pub async fn take_delivery_count(&self) -> Option<i64> {
        let mut amqp = self.amqp().await.expect("RabbitMQ takes the connection");
        let taken = amqp.take(self.worker_queue()).await.expect("the queue exists");
        self.keep(amqp).await;
        taken.map(|taken| taken.delivery_count())
    }

    /// Deletes the worker queue with all that is in it.
    pub async fn delete_worker_queue(&self) {
        let mut amqp = self.amqp().await.expect("RabbitMQ takes the connection");
        amqp.delete_queue(self.worker_queue()).await.expect("the broker answers");
        self.keep(amqp).await;
    }

    /// Deletes where dead letters go: the exchange, and the queue with all that is in it.
    pub async fn delete_dead_queue(&self) {
        let mut amqp = self.amqp().await.expect("RabbitMQ takes the connection");
        amqp.delete_queue(self.dead_queue()).await.expect("the broker answers");
        amqp.delete_exchange(self.dead_exchange()).await.expect("the broker answers");
        self.keep(amqp).await;
    }

    /// Deletes the exchanges of events and of dead letters and declares them again, as an operator would: without bindings.
    pub async fn recreate_exchanges(&self) {
        let mut amqp = self.amqp().await.expect("RabbitMQ takes the connection");
        for (exchange, kind) in
            [(self.events_exchange(), ExchangeKind::Topic), (self.dead_exchange(), ExchangeKind::Fanout)]
        {
            amqp.delete_exchange(exchange).await.expect("the broker answers");
            amqp.declare_exchange(exchange, kind).await.expect("the broker answers");
        }
        self.keep(amqp).await;
    }

    /// Collects the notices published from now on.
    pub async fn notices(&self) -> Notices {
        let mut amqp = self.own_amqp().await;
        let queue = amqp.declare_own_queue().await.expect("the broker makes a queue");
        amqp.bind(&queue, self.notices_exchange(), "#").await.expect("the worker declared the exchange");
        Notices { amqp, queue }
    }

    /// A connection for one test's use, beside the one that the site keeps.
    pub async fn own_amqp(&self) -> Amqp {
        let connecting = Amqp::connect(self.amqp_url());
        within("RabbitMQ answers", PATIENCE, connecting).await.expect("RabbitMQ takes the connection")
    }

    async fn raw_amqp(&self) -> RawAmqp {
        let connecting = RawAmqp::connect(self.amqp_url());
        within("RabbitMQ answers", PATIENCE, connecting).await.expect("RabbitMQ takes the connection")
    }

    /// The site's connection, or a new one if the last broke.
    async fn amqp(&self) -> Result<Amqp> {
        if let Some(amqp) = self.amqp.lock().await.take()
            && amqp.is_usable()
        {
            return Ok(amqp);
        }
        within("RabbitMQ answers", PATIENCE, Amqp::connect(self.amqp_url())).await
    }

    async fn keep(&self, amqp: Amqp) {
        *self.amqp.lock().await = Some(amqp);
    }
}

pub struct Notices {
    amqp: Amqp,
    queue: String,
}

impl Notices {
    /// The next notice's kind (`webhook.disabled` …) and body.
    pub async fn next(&mut self) -> (String, Value) {
        let taken = self.take().await;
        (taken.routing_key, serde_json::from_slice(&taken.body).expect("notices are JSON"))
    }

    /// The message of the next notice.
    pub async fn take(&mut self) -> Taken {
        let Self { amqp, queue } = self;
        eventually("a notice is there", async || amqp.take(queue).await.expect("the broker answers")).await
    }
}

pub fn new_event_id() -> String {
    format!("evt_{}", Uuid::new_v4().simple())
}

//! Publishes with confirms: persistent, mandatory, and only done when the broker says so.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use uuid::Uuid;

use super::dead_letters::{DeadLetter, Headers, properties_again};
use super::link::{Link, Purpose};
use super::nodes::Peer;
use super::rights::Lack;
use super::{QueueError, is_missing, name};
use crate::config::{Amqp, Queue};

const PERSISTENT: u8 = 2;

/// Why a message is not with the broker, or not with a queue.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the message was routed to no queue: no queue is bound for it (workers declare theirs when they start)")]
    Unroutable,
    #[error("the exchange does not exist: a worker declares it when it starts")]
    NoExchange,
    #[error("the broker refused the message")]
    Refused,
    #[error("the broker did not confirm within {}", humantime::format_duration(*.0))]
    Unconfirmed(Duration),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl PublishError {
    /// Of what was to be published. An exchange that is not there, or not for this user, ends the channel.
    fn publishing(error: lapin::Error, lack: Lack) -> Self {
        if is_missing(&error) { Self::NoExchange } else { Self::Queue(QueueError::from(error).for_want_of(|| lack)) }
    }
}

pub(super) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(PERSISTENT)
}

/// A connection that publishes.
pub struct Publisher {
    link: Link,
    channel: Channel,
    confirm_timeout: Duration,
}

/// A message on its way to the broker.
pub struct Unconfirmed {
    confirm: PublisherConfirm,
    bound: Duration,
    /// What the publisher lacks if the broker refuses it.
    lack: Lack,
    peer: Arc<Peer>,
}

impl Publisher {
    pub async fn connect(amqp: &Amqp, queue: &Queue) -> Result<Self, PublishError> {
        let link = Link::open(amqp, Purpose::Publisher).await?;
        let channel = link.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        link.answer("asking for confirms", confirms).await?;
        Ok(Self { link, channel, confirm_timeout: queue.confirm_timeout })
    }

    /// Sends a JSON message; it counts only once it is confirmed.
    pub async fn send(
        &self,
        exchange: &str,
        routing_key: &str,
        message_id: &str,
        body: &[u8],
    ) -> Result<Unconfirmed, PublishError> {
        let properties = persistent().with_content_type(name("application/json")).with_message_id(name(message_id));
        self.publish(exchange, routing_key, properties, body).await
    }

    /// Sends a dead letter to one queue and to nobody who listens at an exchange.
    pub async fn send_again(
        &self,
        queue: &str,
        letter: &DeadLetter,
        headers: Headers,
    ) -> Result<Unconfirmed, PublishError> {
        let properties = properties_again(&letter.amqp, &letter.routing_key, headers);
        self.publish("", queue, properties, &letter.body).await
    }

    /// An error unless we may write to the default exchange now. What is sent there comes back, for no queue takes it.
    pub(super) async fn probe(&self) -> Result<(), PublishError> {
        let nobody = format!("penr-webhooks.nobody.{}", Uuid::new_v4());
        match self.publish("", &nobody, persistent(), b"").await?.confirmed().await {
            Ok(()) | Err(PublishError::Unroutable) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<Unconfirmed, PublishError> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let send = self.channel.basic_publish(name(exchange), name(routing_key), options, body, properties);
        // A broker in alarm stops reading: the send would wait as long as the alarm lasts.
        let sent = tokio::time::timeout(self.confirm_timeout, send).await;
        let sent = sent.map_err(|_| unconfirmed(self.confirm_timeout, &self.link.peer))?;
        let lack = Lack::publishing(self.link.user(), exchange);
        match sent {
            Ok(confirm) => {
                let peer = self.link.peer.clone();
                Ok(Unconfirmed { confirm, bound: self.confirm_timeout, lack, peer })
            }
            Err(error) => Err(PublishError::publishing(error, lack)),
        }
    }

    /// Closes politely, so that the broker does not log a lost connection.
    pub async fn close(self) {
        self.link.close().await.ok();
    }
}

/// The next publisher tries the other nodes first.
fn unconfirmed(bound: Duration, peer: &Peer) -> PublishError {
    peer.try_last();
    PublishError::Unconfirmed(bound)
}

impl Unconfirmed {
    /// Waits until the broker has the message in a queue.
    pub async fn confirmed(self) -> Result<(), PublishError> {
        let confirmation = tokio::time::timeout(self.bound, self.confirm).await;
        let confirmation = confirmation.map_err(|_| unconfirmed(self.bound, &self.peer))?;
        match confirmation.map_err(|error| PublishError::publishing(error, self.lack))? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(BasicReturnMessage { .. })) => Err(PublishError::Unroutable),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
        }
    }
}

//! Whether the broker has the plugin that spreads events over several worker queues.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::types::FieldTable;
use lapin::{Channel, Error, ErrorKind};
use uuid::Uuid;

use super::entities::{Entity, consistent_hash};
use crate::config::{Amqp, Queue};
use crate::queue::connection::connect::connect;
use crate::queue::connection::link::{Link, Purpose};
use crate::queue::convert::name;
use crate::queue::error::{QueueError, is_forbidden, is_missing, is_precondition_failed};

/// The broker's answer to the declaration of `entity`.
///
/// # Errors
///
/// [`QueueError::NoPlugin`] if it means that the broker does not know the type of the exchange. RabbitMQ before 4.0 ends the
/// connection by COMMAND_INVALID then. Newer ones close the channel by PRECONDITION_FAILED, as if the exchange had other
/// arguments; but it does not exist.
pub(super) async fn or_no_plugin(
    link: &Link,
    entity: &Entity,
    answer: lapin::Result<()>,
) -> Result<lapin::Result<()>, QueueError> {
    let Err(error) = &answer else { return Ok(answer) };
    if !entity.needs_plugin() {
        return Ok(answer);
    }
    let no_plugin = match error.kind() {
        kind if is_command_invalid(kind) => true,
        _ if is_precondition_failed(error) => {
            let channel = link.channel().await?;
            matches!(entity.check_exists(&channel).await, Err(error) if is_missing(&error))
        }
        _ => false,
    };
    if no_plugin { Err(QueueError::NoPlugin(entity.name.clone())) } else { Ok(answer) }
}

fn is_command_invalid(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::ProtocolError(amqp) if amqp.kind() == &AMQPErrorKind::Hard(AMQPHardError::COMMANDINVALID))
}

/// Whether the broker knows the type of the exchange that spreads events. Declares an exchange of that type, which the broker
/// deletes with the only queue that is bound to it, and the queue with the connection. `None`: this user may not try it.
///
/// The connection is one of its own: RabbitMQ before 4.0 ends it if it does not know the type.
///
/// # Errors
///
/// The broker cannot be reached, or does not answer.
pub(crate) async fn knows_shards(amqp: &Amqp, queue: &Queue) -> Result<Option<bool>, QueueError> {
    let link = connect(amqp, Purpose::Doctor).await?;
    let tried = async {
        let channel = link.channel().await?;
        let tried = link
            .answer("trying the type of an exchange", async { Ok::<_, QueueError>(try_type(&channel, queue).await) });
        match tried.await? {
            Ok(()) => Ok(Some(true)),
            Err(error) if is_forbidden(&error) => Ok(None),
            Err(error) if is_command_invalid(error.kind()) || is_precondition_failed(&error) => Ok(Some(false)),
            Err(error) => Err(error.into()),
        }
    };
    let found = tried.await;
    link.close().await.ok();
    found
}

async fn try_type(channel: &Channel, queue: &Queue) -> Result<(), Error> {
    // Rights on the worker queue are likely to cover this name, too.
    let own = name(&format!("{}.doctor.{}", queue.worker_queue, Uuid::new_v4()));
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(own.clone(), options, FieldTable::default()).await?;
    let options = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
    let (kind, arguments) = consistent_hash();
    channel.exchange_declare(own.clone(), kind, options, arguments).await?;
    channel.queue_bind(own.clone(), own, name("1"), QueueBindOptions::default(), FieldTable::default()).await
}

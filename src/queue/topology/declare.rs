//! Declares what a worker needs at the broker, and binds it. Declaring again changes nothing; other arguments are an error.

use lapin::Channel;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use uuid::Uuid;

use super::entities::{Entity, bindings, entities};
use super::rights::{MissingRights, listed};
use super::unchecked::UncheckedTopology;
use crate::config::Queue;
use crate::event::Catalogue;
use crate::queue::connection::link::Link;
use crate::queue::convert::name;
use crate::queue::error::{QueueError, is_forbidden, is_missing};

/// The broker's answer to a declaration or a binding.
pub(super) enum DeclareAnswer {
    Ok,
    /// What was to be used does not exist.
    Missing,
    /// This user lacks a right.
    Forbidden,
}

/// Declares and binds on one channel after another: the broker closes a channel when it refuses a request.
pub(super) struct Declarer<'a> {
    link: &'a Link,
    channel: Channel,
}

impl<'a> Declarer<'a> {
    pub(super) async fn begin(link: &'a Link) -> Result<Self, QueueError> {
        Ok(Self { link, channel: link.channel().await? })
    }

    /// Opens a new channel after a refusal.
    async fn sort(&mut self, answer: lapin::Result<()>) -> Result<DeclareAnswer, QueueError> {
        let refusal = match answer {
            Ok(()) => return Ok(DeclareAnswer::Ok),
            Err(error) if is_forbidden(&error) => DeclareAnswer::Forbidden,
            Err(error) if is_missing(&error) => DeclareAnswer::Missing,
            Err(error) => return Err(QueueError::of_declaration(error)),
        };
        self.channel = self.link.channel().await?;
        Ok(refusal)
    }

    async fn declare(&mut self, entity: &Entity<'_>) -> Result<DeclareAnswer, QueueError> {
        let answer = entity.declare(&self.channel).await;
        self.sort(answer).await
    }

    pub(super) async fn check_exists(&mut self, entity: &Entity<'_>) -> Result<DeclareAnswer, QueueError> {
        let answer = entity.check_exists(&self.channel).await;
        self.sort(answer).await
    }

    /// Binds both queues. AMQP has no request for whether a binding exists; binding again changes nothing. A binding that this
    /// user may not make is added to `unchecked`; one that is in `unchecked` already is not tried.
    pub(super) async fn bind_all(
        &mut self,
        queue: &Queue,
        catalogue: &Catalogue,
        unchecked: &mut UncheckedTopology,
    ) -> Result<DeclareAnswer, QueueError> {
        let types: Vec<&str> = catalogue.types().map(|event_type| event_type.as_str()).collect();
        for ((queue, exchange), keys) in bindings(queue).into_iter().zip([vec![""], types]) {
            for key in keys {
                if unchecked.has_binding(queue, exchange) {
                    break;
                }
                let options = QueueBindOptions::default();
                let bind =
                    self.channel.queue_bind(name(queue), name(exchange), name(key), options, FieldTable::default());
                let answer = bind.await;
                match self.sort(answer).await? {
                    DeclareAnswer::Ok => {}
                    DeclareAnswer::Forbidden => unchecked.add_binding(queue, exchange),
                    DeclareAnswer::Missing => return Ok(DeclareAnswer::Missing),
                }
            }
        }
        Ok(DeclareAnswer::Ok)
    }

    pub(super) async fn close(self) -> Result<(), QueueError> {
        Ok(self.channel.close(200, name("done")).await?)
    }
}

/// Declares and binds everything that a worker needs. What this user may not declare is fine if somebody else has declared
/// it: it is returned as unchecked. The channel may be used further.
///
/// # Errors
///
/// [`QueueError::Mismatch`] if something exists with other arguments, [`QueueError::Forbidden`] if something does not exist
/// and this user may not declare it.
pub(in crate::queue) async fn declare(
    link: &Link,
    queue: &Queue,
    catalogue: &Catalogue,
) -> Result<(Channel, UncheckedTopology), QueueError> {
    let mut declarer = Declarer::begin(link).await?;
    let mut unchecked = UncheckedTopology::of(link.user());
    let mut missing = Vec::new();
    for entity in entities(queue) {
        if let DeclareAnswer::Ok = declarer.declare(&entity).await? {
            continue;
        }
        match declarer.check_exists(&entity).await? {
            DeclareAnswer::Missing => missing.push(entity),
            DeclareAnswer::Ok => unchecked.add(&entity),
            // RabbitMQ 4.2.6 and 4.3.0 require configure for this check; later versions, any right on the entity.
            DeclareAnswer::Forbidden => {
                unchecked.add(&entity);
                unchecked.hidden.push(entity.name.to_owned());
            }
        }
    }
    if !missing.is_empty() {
        return Err(QueueError::Forbidden(undeclared(link.user(), &missing, queue)));
    }
    match declarer.bind_all(queue, catalogue, &mut unchecked).await? {
        DeclareAnswer::Missing => {
            Err(QueueError::Unavailable(anyhow::anyhow!("somebody deletes what was just declared")))
        }
        DeclareAnswer::Ok | DeclareAnswer::Forbidden => Ok((declarer.channel, unchecked)),
    }
}

fn undeclared(user: &str, missing: &[Entity<'_>], queue: &Queue) -> MissingRights {
    let shown: Vec<String> = missing.iter().map(ToString::to_string).collect();
    MissingRights {
        user: user.to_owned(),
        doing: format!("declare {}, which nobody has declared", listed(&shown)),
        needs: missing.iter().flat_map(|entity| entity.needs(queue)).collect(),
        or_else: ", or declare it",
    }
}

/// Adds the bindings that this user may not make to `unchecked`. Nothing changes: this removes bindings that do not exist,
/// for which RabbitMQ requires the same rights as for making one.
///
/// # Errors
///
/// The connection or channel has ended.
pub(in crate::queue) async fn note_unbindable(
    link: &Link,
    queue: &Queue,
    unchecked: &mut UncheckedTopology,
) -> Result<(), QueueError> {
    let mut declarer = Declarer::begin(link).await?;
    for (queue, exchange) in bindings(queue) {
        let no_binding = name(&format!("doctor.{}", Uuid::new_v4()));
        let unbind = declarer.channel.queue_unbind(name(queue), name(exchange), no_binding, FieldTable::default());
        let answer = unbind.await;
        if let DeclareAnswer::Forbidden = declarer.sort(answer).await? {
            unchecked.add_binding(queue, exchange);
        }
    }
    declarer.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_is_missing_with_its_arguments_and_the_rights_that_it_takes() {
        let queue = Queue::example();
        let [events, .., dead, worker] = entities(&queue);
        let said = undeclared("u", &[events, dead], &queue).to_string();
        let expected = "the user u may not declare the exchange events (durable, topic) and the queue dead.queue (durable, \
                        x-delivery-limit=1000000, x-queue-type=quorum), which nobody has declared: give it configure on \
                        ^(events|dead\\.queue)$, or declare it";
        assert_eq!(said, expected);
        let said = undeclared("u", &[worker], &queue).to_string();
        assert!(said.contains("x-dead-letter-exchange=dead, x-dead-letter-strategy=at-least-once"), "{said}");
        assert!(said.contains(r"configure on ^events\.queue$, write on ^dead$ and read on ^events\.queue$"), "{said}");
    }
}

//! Declares what a worker needs at the broker, and binds it. Declaring again changes nothing; other arguments are an error.

use lapin::Channel;
use lapin::options::{ExchangeBindOptions, ExchangeUnbindOptions, QueueBindOptions};
use lapin::types::FieldTable;
use uuid::Uuid;

use super::bindings::{Binding, Destination, Keys, Wanted, bindings, share, unrouted_binding};
use super::entities::Entity;
use super::part::Part;
use super::plugin::or_no_plugin;
use super::rights::{MissingRights, listed};
use super::unchecked::UncheckedTopology;
use crate::config::Queue;
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

    pub(super) async fn declare(&mut self, entity: &Entity) -> Result<DeclareAnswer, QueueError> {
        let answer = or_no_plugin(self.link, entity, entity.declare(&self.channel).await).await?;
        self.sort(answer).await
    }

    pub(super) async fn check_exists(&mut self, entity: &Entity) -> Result<DeclareAnswer, QueueError> {
        let answer = entity.check_exists(&self.channel).await;
        self.sort(answer).await
    }

    /// Makes the bindings that all consumers need. AMQP has no request for whether a binding exists; binding again changes
    /// nothing, and so does the removal of a binding that does not exist. What this user may not bind is added to `unchecked`;
    /// what is in `unchecked` already is not tried.
    pub(super) async fn bind_shared(
        &mut self,
        part: &Part,
        unchecked: &mut UncheckedTopology,
    ) -> Result<DeclareAnswer, QueueError> {
        let bindings = bindings(&part.queue);
        for binding in &bindings {
            let is_of_events = |binding: &&Binding| binding.from != part.queue.dead_exchange;
            let unknown = bindings.iter().filter(is_of_events).any(|binding| unchecked.has_binding(binding));
            if binding.wanted == Wanted::UnboundAtLast && unknown {
                // Nobody knows whether events have another way.
                continue;
            }
            if let DeclareAnswer::Missing = self.bind(binding, part, unchecked).await? {
                return Ok(DeclareAnswer::Missing);
            }
        }
        Ok(DeclareAnswer::Ok)
    }

    /// Gives the part's queue its share of the events, or takes it away. Only while the queue is consumed.
    pub(super) async fn bind_share(
        &mut self,
        part: &Part,
        unchecked: &mut UncheckedTopology,
    ) -> Result<DeclareAnswer, QueueError> {
        match share(&part.queue, &part.shard) {
            Some(binding) => self.bind(&binding, part, unchecked).await,
            None => Ok(DeclareAnswer::Ok),
        }
    }

    /// Makes a binding with one routing key.
    pub(super) async fn bind_key(&mut self, binding: &Binding, key: &str) -> Result<DeclareAnswer, QueueError> {
        let answer = request(&self.channel, binding, key).await;
        self.sort(answer).await
    }

    async fn bind(
        &mut self,
        binding: &Binding,
        part: &Part,
        unchecked: &mut UncheckedTopology,
    ) -> Result<DeclareAnswer, QueueError> {
        let keys: Vec<&str> = match binding.keys {
            Keys::One(key) => vec![key],
            Keys::EventTypes => part.catalogue.types().map(|event_type| event_type.as_str()).collect(),
        };
        for key in keys {
            if unchecked.has_binding(binding) {
                break;
            }
            match self.bind_key(binding, key).await? {
                DeclareAnswer::Ok => {}
                DeclareAnswer::Forbidden => unchecked.add_binding(binding),
                DeclareAnswer::Missing => return Ok(DeclareAnswer::Missing),
            }
        }
        Ok(DeclareAnswer::Ok)
    }

    pub(super) async fn close(self) -> Result<(), QueueError> {
        Ok(self.channel.close(200, name("done")).await?)
    }
}

async fn request(channel: &Channel, binding: &Binding, key: &str) -> lapin::Result<()> {
    let (to, from, key, none) = (name(binding.to.name()), name(&binding.from), name(key), FieldTable::default());
    match (&binding.to, binding.wanted) {
        (Destination::Queue(_), Wanted::Bound) => {
            channel.queue_bind(to, from, key, QueueBindOptions::default(), none).await
        }
        (Destination::Exchange(_), Wanted::Bound) => {
            channel.exchange_bind(to, from, key, ExchangeBindOptions::default(), none).await
        }
        (Destination::Queue(_), _) => channel.queue_unbind(to, from, key, none).await,
        (Destination::Exchange(_), _) => {
            channel.exchange_unbind(to, from, key, ExchangeUnbindOptions::default(), none).await
        }
    }
}

/// Declares and binds everything that a consumer needs before it begins. What this user may not declare is fine if somebody else has declared
/// it: it is returned as unchecked. The channel may be used further.
///
/// # Errors
///
/// [`QueueError::Mismatch`] if something exists with other arguments, [`QueueError::Forbidden`] if something does not exist
/// and this user may not declare it, [`QueueError::NoPlugin`] if the broker does not know the type of an exchange.
pub(in crate::queue) async fn declare(link: &Link, part: &Part) -> Result<(Channel, UncheckedTopology), QueueError> {
    let mut declarer = Declarer::begin(link).await?;
    let mut unchecked = UncheckedTopology::of(link.user());
    let mut missing = Vec::new();
    for entity in part.entities() {
        if let DeclareAnswer::Ok = declarer.declare(&entity).await? {
            continue;
        }
        match declarer.check_exists(&entity).await? {
            DeclareAnswer::Missing => missing.push(entity),
            DeclareAnswer::Ok => unchecked.add(&entity),
            // RabbitMQ 4.2.6 and 4.3.0 require configure for this check; later versions, any right on the entity.
            DeclareAnswer::Forbidden => {
                unchecked.add(&entity);
                unchecked.hidden.push(entity.name.clone());
            }
        }
    }
    if !missing.is_empty() {
        return Err(QueueError::Forbidden(undeclared(link.user(), &missing, &part.queue)));
    }
    match declarer.bind_shared(part, &mut unchecked).await? {
        DeclareAnswer::Missing => Err(deleted_meanwhile()),
        DeclareAnswer::Ok | DeclareAnswer::Forbidden => Ok((declarer.channel, unchecked)),
    }
}

/// Gives the part's queue its share of the events, now that it is consumed. On a channel of its own: a refusal closes it, and the
/// consumer's must stay.
///
/// # Errors
///
/// The connection or channel has ended, or somebody has deleted what is to be bound.
pub(in crate::queue) async fn join(
    link: &Link,
    part: &Part,
    unchecked: &mut UncheckedTopology,
) -> Result<(), QueueError> {
    if share(&part.queue, &part.shard).is_none() {
        return Ok(());
    }
    let mut declarer = Declarer::begin(link).await?;
    if let DeclareAnswer::Missing = declarer.bind_share(part, unchecked).await? {
        return Err(deleted_meanwhile());
    }
    declarer.close().await
}

fn deleted_meanwhile() -> QueueError {
    QueueError::Unavailable(anyhow::anyhow!("somebody deletes what was just declared"))
}

pub(super) fn undeclared(user: &str, missing: &[Entity], queue: &Queue) -> MissingRights {
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
    let shares: Vec<_> = queue.all_shards().filter_map(|shard| share(queue, &shard)).collect();
    note_unbindable_of(link, bindings(queue).into_iter().chain(shares), unchecked).await
}

/// As [`note_unbindable`], for the binding of the queue that keeps what no queue takes.
///
/// # Errors
///
/// The connection or channel has ended.
pub(in crate::queue) async fn note_unbindable_unrouted(
    link: &Link,
    queue: &Queue,
    unchecked: &mut UncheckedTopology,
) -> Result<(), QueueError> {
    note_unbindable_of(link, [unrouted_binding(queue)], unchecked).await
}

async fn note_unbindable_of(
    link: &Link,
    bindings: impl IntoIterator<Item = Binding>,
    unchecked: &mut UncheckedTopology,
) -> Result<(), QueueError> {
    let mut declarer = Declarer::begin(link).await?;
    for binding in bindings {
        let no_binding = format!("doctor.{}", Uuid::new_v4());
        let unbind = Binding { wanted: Wanted::Unbound, ..binding.clone() };
        if let DeclareAnswer::Forbidden = declarer.bind_key(&unbind, &no_binding).await? {
            unchecked.add_binding(&binding);
        }
    }
    declarer.close().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::topology::entities::entities;

    #[test]
    fn an_error_names_what_is_missing_with_its_arguments_and_the_rights_that_it_takes() {
        let queue = Queue::example();
        let mut entities = entities(&queue);
        let (worker, dead) = (entities.pop().unwrap(), entities.pop().unwrap());
        let said = undeclared("u", &[entities.swap_remove(0), dead], &queue).to_string();
        let expected = "the user u may not declare the exchange events (durable, topic) and the queue dead.queue (durable, \
                        x-delivery-limit=1000000, x-queue-type=quorum), which nobody has declared: give it configure on \
                        ^(events|dead\\.queue)$, or declare it";
        assert_eq!(said, expected);
        let said = undeclared("u", &[worker], &queue).to_string();
        assert!(said.contains("x-dead-letter-exchange=dead, x-dead-letter-strategy=at-least-once"), "{said}");
        assert!(said.contains(r"configure on ^events\.queue$, write on ^dead$ and read on ^events\.queue$"), "{said}");
    }
}

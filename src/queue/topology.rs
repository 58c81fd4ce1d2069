//! Declares what we need at the broker. Declaring again changes nothing; a difference is an error.
//!
//! A user that may not declare or bind goes on if somebody else has declared all of it; what could not be checked is told.

use std::convert::Infallible;
use std::fmt;
use std::time::{Duration, Instant};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use uuid::Uuid;

use super::link::Link;
use super::rights::{Lack, Names, Right, listed, needed};
use super::{QueueError, is_forbidden, is_missing, name};
use crate::config::Queue;
use crate::event::Catalogue;
use crate::metrics::Metrics;
use crate::reconnect::Outage;
use crate::{error_chain, millis};

/// Between two looks at what could be deleted without our consumer noticing.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two tries to declare what this user may not declare: the broker logs an error for each. What somebody else
/// declares is seen by the next look. So long, too, it does not look at what it may not look at.
const FORBIDDEN_AGAIN: Duration = Duration::from_secs(60);

/// An exchange or a queue that a worker needs.
pub(super) struct Thing<'a> {
    pub(super) name: &'a str,
    kind: Kind,
}

enum Kind {
    Exchange(ExchangeKind),
    Queue(FieldTable),
}

/// Exchanges first; and what dies finds its queue before anything can die.
pub(super) fn things(queue: &Queue) -> [Thing<'_>; 5] {
    let exchange = |name, kind| Thing { name, kind: Kind::Exchange(kind) };
    let queue_of = |name, arguments| Thing { name, kind: Kind::Queue(arguments) };
    [
        exchange(&queue.events_exchange, ExchangeKind::Topic),
        exchange(&queue.notices_exchange, ExchangeKind::Topic),
        exchange(&queue.dead_exchange, ExchangeKind::Fanout),
        queue_of(&queue.dead_queue, dead_arguments(queue)),
        queue_of(&queue.worker_queue, worker_arguments(queue)),
    ]
}

/// Queues, and the exchanges that they are bound to.
fn bound(queue: &Queue) -> [(&str, &str); 2] {
    [(&queue.dead_queue, &queue.dead_exchange), (&queue.worker_queue, &queue.events_exchange)]
}

impl Thing<'_> {
    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        self.ask(channel, false).await
    }

    /// Asks only whether it is there.
    pub(super) async fn look(&self, channel: &Channel) -> lapin::Result<()> {
        self.ask(channel, true).await
    }

    async fn ask(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        match &self.kind {
            Kind::Exchange(kind) => {
                let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(name(self.name), kind.clone(), options, FieldTable::default()).await
            }
            Kind::Queue(arguments) => {
                let options = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
                channel.queue_declare(name(self.name), options, arguments.clone()).await.map(drop)
            }
        }
    }

    fn is_queue(&self, name: &str) -> bool {
        self.name == name && matches!(self.kind, Kind::Queue(_))
    }

    /// Declaring a queue that has a dead-letter exchange needs rights on that, too.
    fn needs<'a>(&'a self, queue: &'a Queue) -> impl Iterator<Item = (Right, Names)> + 'a {
        let one = |name: &str| Names::One(name.to_owned());
        let dying = self.is_queue(&queue.worker_queue);
        let more = move || [(Right::Read, one(self.name)), (Right::Write, one(&queue.dead_exchange))];
        std::iter::once((Right::Configure, one(self.name))).chain(dying.then(more).into_iter().flatten())
    }
}

/// As an operator would declare it.
impl fmt::Display for Thing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Exchange(kind) => {
                write!(f, "the exchange {} (durable, {})", self.name, format!("{kind:?}").to_lowercase())
            }
            Kind::Queue(arguments) => {
                write!(f, "the queue {} (durable", self.name)?;
                for (key, value) in arguments.inner() {
                    match value {
                        AMQPValue::LongString(text) => write!(f, ", {key}={text}")?,
                        AMQPValue::LongLongInt(number) => write!(f, ", {key}={number}")?,
                        other => write!(f, ", {key}={other:?}")?,
                    }
                }
                f.write_str(")")
            }
        }
    }
}

fn worker_arguments(queue: &Queue) -> FieldTable {
    let mut arguments = quorum(queue.delivery_limit);
    let mut text = |key: &str, value: &str| {
        arguments.insert(key.into(), AMQPValue::LongString(value.into()));
    };
    text("x-dead-letter-exchange", &queue.dead_exchange);
    // Only with these two is a message not lost between the queues when the broker dies.
    text("x-dead-letter-strategy", "at-least-once");
    text("x-overflow", "reject-publish");
    arguments
}

/// Without a limit of its own RabbitMQ 4 would drop a dead letter that was looked at 20 times.
fn dead_arguments(queue: &Queue) -> FieldTable {
    quorum(queue.dead_delivery_limit)
}

fn quorum(delivery_limit: i64) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(delivery_limit));
    arguments
}

/// What this user may neither declare nor bind, so that nobody knows how it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unchecked {
    user: String,
    /// Exchanges and queues as they should be.
    things: Vec<String>,
    /// Queues, and the exchanges that they should be bound to.
    bindings: Vec<(String, String)>,
    needs: Vec<(Right, Names)>,
    /// Exchanges and queues that this user may not even look at.
    unseen: Vec<String>,
}

impl Unchecked {
    pub(super) fn of(user: &str) -> Self {
        Self { user: user.to_owned(), ..Self::default() }
    }

    pub(super) fn add(&mut self, thing: &Thing<'_>) {
        self.things.push(thing.to_string());
        self.needs.push((Right::Configure, Names::One(thing.name.to_owned())));
    }

    pub(super) fn add_binding(&mut self, queue: &str, exchange: &str) {
        self.bindings.push((queue.to_owned(), exchange.to_owned()));
        let needed = [(Right::Write, queue), (Right::Read, exchange)];
        self.needs.extend(needed.map(|(right, name)| (right, Names::One(name.to_owned()))));
    }

    fn has_binding(&self, queue: &str, exchange: &str) -> bool {
        self.bindings.iter().any(|(of, to)| of == queue && to == exchange)
    }

    pub fn is_empty(&self) -> bool {
        self.things.is_empty() && self.bindings.is_empty()
    }

    pub fn remedy(&self) -> String {
        let needed = needed(&self.needs);
        format!(
            "give it {needed}, or look yourself: without its dead-letter exchange a queue loses what is rejected, without its \
             bindings it gets nothing"
        )
    }
}

impl fmt::Display for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bindings: Vec<_> = self.bindings.iter().map(|(queue, exchange)| format!("{queue} to {exchange}")).collect();
        let declaring = (!self.things.is_empty()).then(|| format!("declare {}", listed(&self.things)));
        let binding = (!bindings.is_empty()).then(|| format!("bind {}", listed(&bindings)));
        let doing: Vec<String> = declaring.into_iter().chain(binding).collect();
        write!(f, "the user {} may not {}: whether all of it is so is not checked", self.user, doing.join(", nor "))
    }
}

/// What the broker says to a question.
enum Answer {
    Yes,
    Missing,
    Forbidden,
}

/// Asks on one channel after the other: the broker closes a channel when it says no.
struct Asking<'a> {
    link: &'a Link,
    channel: Channel,
}

impl<'a> Asking<'a> {
    async fn begin(link: &'a Link) -> Result<Self, QueueError> {
        Ok(Self { link, channel: link.channel().await? })
    }

    async fn note(&mut self, answer: lapin::Result<()>) -> Result<Answer, QueueError> {
        let no = match answer {
            Ok(()) => return Ok(Answer::Yes),
            Err(error) if is_forbidden(&error) => Answer::Forbidden,
            Err(error) if is_missing(&error) => Answer::Missing,
            Err(error) => return Err(QueueError::declaring(error)),
        };
        self.channel = self.link.channel().await?;
        Ok(no)
    }

    async fn declare(&mut self, thing: &Thing<'_>) -> Result<Answer, QueueError> {
        let answer = thing.declare(&self.channel).await;
        self.note(answer).await
    }

    async fn look(&mut self, thing: &Thing<'_>) -> Result<Answer, QueueError> {
        let answer = thing.look(&self.channel).await;
        self.note(answer).await
    }

    /// Whether they are bound cannot be asked. What is bound already stays as it is. What this user may not bind is added
    /// to `unchecked`, and not tried if it is there already.
    async fn bind_all(
        &mut self,
        queue: &Queue,
        catalogue: &Catalogue,
        unchecked: &mut Unchecked,
    ) -> Result<Answer, QueueError> {
        let types: Vec<&str> = catalogue.types().map(|event_type| event_type.as_str()).collect();
        for ((queue, exchange), keys) in bound(queue).into_iter().zip([vec![""], types]) {
            for key in keys {
                if unchecked.has_binding(queue, exchange) {
                    break;
                }
                let options = QueueBindOptions::default();
                let bind =
                    self.channel.queue_bind(name(queue), name(exchange), name(key), options, FieldTable::default());
                let answer = bind.await;
                match self.note(answer).await? {
                    Answer::Yes => {}
                    Answer::Forbidden => unchecked.add_binding(queue, exchange),
                    Answer::Missing => return Ok(Answer::Missing),
                }
            }
        }
        Ok(Answer::Yes)
    }
}

/// Declares and binds all of it. The channel may be used on, and what could not be checked is told.
pub(super) async fn declare(
    link: &Link,
    queue: &Queue,
    catalogue: &Catalogue,
) -> Result<(Channel, Unchecked), QueueError> {
    let mut asking = Asking::begin(link).await?;
    let mut unchecked = Unchecked::of(link.user());
    let mut missing = Vec::new();
    for thing in things(queue) {
        if let Answer::Yes = asking.declare(&thing).await? {
            continue;
        }
        match asking.look(&thing).await? {
            Answer::Missing => missing.push(thing),
            Answer::Yes => unchecked.add(&thing),
            // RabbitMQ 4.2.6 and 4.3.0 want configure for a look; later ones, any right on the thing.
            Answer::Forbidden => {
                unchecked.add(&thing);
                unchecked.unseen.push(thing.name.to_owned());
            }
        }
    }
    if !missing.is_empty() {
        return Err(QueueError::Forbidden(undeclared(link.user(), &missing, queue)));
    }
    match asking.bind_all(queue, catalogue, &mut unchecked).await? {
        Answer::Missing => Err(QueueError::Unavailable(anyhow::anyhow!("somebody deletes what was just declared"))),
        Answer::Yes | Answer::Forbidden => Ok((asking.channel, unchecked)),
    }
}

fn undeclared(user: &str, missing: &[Thing<'_>], queue: &Queue) -> Lack {
    let shown: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Lack {
        user: user.to_owned(),
        doing: format!("declare {}, which nobody has declared", listed(&shown)),
        needs: missing.iter().flat_map(|thing| thing.needs(queue)).collect(),
        or_else: ", or declare it",
    }
}

/// Adds the bindings that this user may not make. Nothing is changed: RabbitMQ asks for the same rights when somebody
/// removes a binding, also one that is not there.
pub(super) async fn note_unbindable(link: &Link, queue: &Queue, unchecked: &mut Unchecked) -> Result<(), QueueError> {
    let mut asking = Asking::begin(link).await?;
    for (queue, exchange) in bound(queue) {
        let nobodys = name(&format!("doctor.{}", Uuid::new_v4()));
        let unbind = asking.channel.queue_unbind(name(queue), name(exchange), nobodys, FieldTable::default());
        let answer = unbind.await;
        if let Answer::Forbidden = asking.note(answer).await? {
            unchecked.add_binding(queue, exchange);
        }
    }
    Ok(asking.channel.close(200, name("done")).await?)
}

/// Declares again what somebody deletes while we consume: without the dead queue, rejected messages stay in the worker
/// queue for ever. The end of the worker queue itself ends the consumer.
pub(super) async fn keep_declared(
    link: &Link,
    queue: &Queue,
    catalogue: &Catalogue,
    mut unchecked: Unchecked,
    metrics: &Metrics,
) -> Infallible {
    let mut failing = Outage::default();
    let mut forbidden = None;
    let mut all_looked_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if all_looked_at.elapsed() >= FORBIDDEN_AGAIN {
            all_looked_at = Instant::now();
            unchecked.unseen.clear();
        }
        let in_vain = forbidden.is_some_and(|since: Instant| since.elapsed() < FORBIDDEN_AGAIN);
        match declare_missing(link, queue, catalogue, &mut unchecked, in_vain).await {
            Ok(Found::Forbidden) => {}
            Ok(found) => {
                forbidden = None;
                metrics.rights_missing.set(0);
                if let Some(failed) = failing.end() {
                    tracing::info!(failed_ms = millis(failed), "all is declared at the broker");
                }
                if let Found::Missing = found {
                    tracing::warn!("an exchange or the dead queue was deleted at the broker; declared it again");
                }
            }
            Err(error) if error.is_away() => {
                // The consumer tells, whose connection this is.
                tracing::debug!(error = error_chain(&error), "the connection ended in the middle of a look");
            }
            Err(error) => {
                let reason = error_chain(&error);
                let news = failing.is_news(&reason);
                if let QueueError::Forbidden(_) = error {
                    forbidden = Some(Instant::now());
                    metrics.rights_missing.set(1);
                    if news {
                        tracing::error!(
                            error = reason,
                            "somebody deleted at the broker what the worker may not declare"
                        );
                    }
                } else if news {
                    tracing::warn!(error = reason, "cannot look whether all is still declared, or declare it again");
                }
            }
        }
    }
}

enum Found {
    All,
    /// Something was, and is declared again.
    Missing,
    /// Something still is, and it was not tried to declare it.
    Forbidden,
}

/// Without a bound of its own: it delays nobody, and a second question to a queue that does not answer the first one
/// would only be one more channel that waits. The connection's end ends it.
async fn declare_missing(
    link: &Link,
    queue: &Queue,
    catalogue: &Catalogue,
    unchecked: &mut Unchecked,
    in_vain: bool,
) -> Result<Found, QueueError> {
    let mut asking = Asking::begin(link).await?;
    if let Answer::Missing = look(&mut asking, queue, catalogue, unchecked).await? {
        if in_vain {
            asking.channel.close(200, name("done")).await?;
            return Ok(Found::Forbidden);
        }
        (asking.channel, *unchecked) = declare(link, queue, catalogue).await?;
        asking.channel.close(200, name("done")).await?;
        return Ok(Found::Missing);
    }
    asking.channel.close(200, name("done")).await?;
    Ok(Found::All)
}

/// Asks for each of them, and binds them: who deletes an exchange or a queue and creates it anew between two looks has lost
/// its bindings.
async fn look(
    asking: &mut Asking<'_>,
    queue: &Queue,
    catalogue: &Catalogue,
    unchecked: &mut Unchecked,
) -> Result<Answer, QueueError> {
    for thing in things(queue).iter().filter(|thing| !thing.is_queue(&queue.worker_queue)) {
        if unchecked.unseen.iter().any(|unseen| unseen == thing.name) {
            continue;
        }
        match asking.look(thing).await? {
            Answer::Yes => {}
            Answer::Forbidden => unchecked.unseen.push(thing.name.to_owned()),
            Answer::Missing => return Ok(Answer::Missing),
        }
    }
    asking.bind_all(queue, catalogue, unchecked).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue {
            events_exchange: "events".into(),
            worker_queue: "events.queue".into(),
            dead_exchange: "dead".into(),
            dead_queue: "dead.queue".into(),
            notices_exchange: "notices".into(),
            delivery_limit: 100,
            dead_delivery_limit: 1_000,
            confirm_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn what_is_missing_is_said_as_an_operator_would_declare_it_with_the_rights_that_it_needs() {
        let queue = queue();
        let [events, .., dead, worker] = things(&queue);
        let said = undeclared("u", &[events, dead], &queue).to_string();
        let expected = "the user u may not declare the exchange events (durable, topic) and the queue dead.queue (durable, \
                        x-delivery-limit=1000, x-queue-type=quorum), which nobody has declared: give it configure on \
                        ^(events|dead\\.queue)$, or declare it";
        assert_eq!(said, expected);
        let said = undeclared("u", &[worker], &queue).to_string();
        assert!(said.contains("x-dead-letter-exchange=dead, x-dead-letter-strategy=at-least-once"), "{said}");
        assert!(said.contains(r"configure on ^events\.queue$, write on ^dead$ and read on ^events\.queue$"), "{said}");
    }

    #[test]
    fn what_is_not_checked_is_said_with_what_could_be_lost() {
        let queue = queue();
        let mut unchecked = Unchecked::of("u");
        assert!(unchecked.is_empty());
        unchecked.add(&things(&queue)[2]);
        let said = unchecked.to_string();
        assert_eq!(
            said,
            "the user u may not declare the exchange dead (durable, fanout): whether all of it is so is not checked"
        );
        unchecked.add_binding("events.queue", "events");
        assert!(unchecked.has_binding("events.queue", "events") && !unchecked.has_binding("dead.queue", "events"));
        assert!(unchecked.to_string().contains(", nor bind events.queue to events:"), "{unchecked}");
        let remedy = unchecked.remedy();
        assert!(remedy.starts_with(r"give it configure on ^dead$, write on ^events\.queue$ and read on ^events$, or"));
        assert!(remedy.contains("loses what is rejected"), "{remedy}");
    }
}

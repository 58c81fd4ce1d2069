//! How many messages and consumers a queue has.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::connection::connect::connect;
use super::connection::link::{Link, Purpose};
use super::convert::name;
use super::error::{QueueError, is_forbidden, is_missing};
use super::topology::part::Part;
use crate::config::{Amqp, Queue};
use crate::metrics::{Metrics, QueueLabel};

/// Between two counts of the queues.
const EVERY: Duration = Duration::from_secs(10);
/// Between two questions about a queue that does not exist: the broker logs each as an error.
const MISSING_AGAIN: Duration = Duration::from_secs(60);

/// How many messages wait in a queue, and how many consumers it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Messages that no consumer has.
    pub(crate) messages: u32,
    pub(crate) consumers: u32,
}

/// Asks by a passive declaration, which changes nothing.
///
/// # Errors
///
/// NOT_FOUND if there is no such queue. The broker then closes the channel.
pub(super) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<Depth> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(name(queue), options, FieldTable::default()).await?;
    Ok(Depth { messages: queue.message_count(), consumers: queue.consumer_count() })
}

/// Keeps the metrics of the dead queue and of all worker queues, also of those that this worker does not take: nobody else may be
/// there to count them. The consumer that watches what all share does so, as long as its connection is open. Then the metrics are
/// removed: what other workers count may be much less by now.
pub(super) async fn keep_counted(link: &Link, part: &Part, metrics: &Metrics) -> Infallible {
    if !part.watches_shared {
        return std::future::pending().await;
    }
    let mut counts = Counts::of(&part.queue, metrics);
    loop {
        if let Err(error) = counts.count(link).await {
            tracing::debug!(error = crate::error_chain(&error), "cannot count the queues");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The same on a connection of its own, which the caller closes: while everything is held, queues grow though nobody consumes.
pub(super) async fn keep_counted_without_consumer(
    amqp: &Amqp,
    part: &Part,
    metrics: &Metrics,
    link: &mut Option<Link>,
) -> Infallible {
    if !part.watches_shared {
        return std::future::pending().await;
    }
    loop {
        match connect(amqp, Purpose::Counting).await {
            Ok(opened) => {
                let (link, mut counts) = (link.insert(opened), Counts::of(&part.queue, metrics));
                while counts.count(link).await.is_ok() {
                    tokio::time::sleep(EVERY).await;
                }
            }
            Err(error) => tracing::debug!(error = crate::error_chain(&error), "cannot connect to count the queues"),
        }
        *link = None;
        tokio::time::sleep(EVERY).await;
    }
}

/// The metrics of queues, which are removed with it.
struct Counts<'a> {
    queues: Vec<Counted>,
    metrics: &'a Metrics,
}

impl<'a> Counts<'a> {
    fn of(queue: &Queue, metrics: &'a Metrics) -> Self {
        let counted = |name: String, kind| Counted { label: QueueLabel { queue: name }, kind, asked: Asked::Now };
        let kind = |gets_events| if gets_events { Kind::GetsMessages } else { Kind::IsEmptied };
        let shards = queue.all_shards().map(|shard| counted(shard.queue, kind(shard.gets_events)));
        let others = [
            counted(queue.dead_queue.clone(), Kind::GetsMessages),
            counted(queue.unrouted_queue.clone(), Kind::Unrouted),
        ];
        Self { queues: shards.chain(others).collect(), metrics }
    }

    /// Counts each queue.
    ///
    /// # Errors
    ///
    /// The broker does not answer about one of them.
    async fn count(&mut self, link: &Link) -> Result<(), QueueError> {
        let mut counted = Ok(());
        for queue in &mut self.queues {
            counted = counted.and(queue.count(link, self.metrics).await);
        }
        counted
    }
}

impl Drop for Counts<'_> {
    fn drop(&mut self) {
        self.queues.iter().for_each(|queue| queue.hide(self.metrics));
    }
}

/// A queue whose metrics are kept.
struct Counted {
    label: QueueLabel,
    kind: Kind,
    asked: Asked,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    GetsMessages,
    /// Nobody needs to take it while it is empty.
    IsEmptied,
    /// It keeps what no queue takes, and has a metric of its own: it has no consumers, and its messages wait for no worker.
    Unrouted,
}

/// Whether the broker is asked about a queue.
#[derive(Clone, Copy)]
enum Asked {
    Now,
    /// It does not exist.
    From(Instant),
    /// The broker does not show it to this user, and would log every further question as an error.
    Never,
}

impl Counted {
    async fn count(&mut self, link: &Link, metrics: &Metrics) -> Result<(), QueueError> {
        match self.asked {
            Asked::From(time) if Instant::now() < time => return Ok(()),
            Asked::Never => return Ok(()),
            Asked::Now | Asked::From(_) => {}
        }
        let answer = ask(link, &self.label.queue).await.inspect_err(|_| self.hide(metrics))?;
        match answer {
            Ok(depth) => {
                self.asked = Asked::Now;
                self.show(depth, metrics);
            }
            Err(error) => {
                self.hide(metrics);
                if is_forbidden(&error) {
                    self.asked = Asked::Never;
                } else if is_missing(&error) {
                    self.asked = Asked::From(Instant::now() + MISSING_AGAIN);
                }
            }
        }
        Ok(())
    }

    /// A queue that gets no events and has none is not shown: that nobody consumes it would look like a fault.
    fn show(&self, depth: Depth, metrics: &Metrics) {
        if self.kind == Kind::Unrouted {
            metrics.unrouted.set(Some(depth.messages.into()));
            return;
        }
        if self.kind == Kind::IsEmptied && depth.messages == 0 && depth.consumers == 0 {
            return self.hide(metrics);
        }
        metrics.queue_messages.get_or_create(&self.label).set(depth.messages.into());
        metrics.queue_consumers.get_or_create(&self.label).set(depth.consumers.into());
    }

    fn hide(&self, metrics: &Metrics) {
        if self.kind == Kind::Unrouted {
            metrics.unrouted.set(None);
            return;
        }
        metrics.queue_messages.remove(&self.label);
        metrics.queue_consumers.remove(&self.label);
    }
}

/// The broker's answer, which may be a refusal; that closes the channel.
async fn ask(link: &Link, queue: &str) -> Result<lapin::Result<Depth>, QueueError> {
    let channel = link.channel().await?;
    let asked = async { Ok::<_, QueueError>(depth(&channel, queue).await) };
    let depth = link.answer("counting a queue", asked).await?;
    if depth.is_ok() {
        link.answer("closing a channel", channel.close(200, name("done"))).await?;
    }
    Ok(depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(metrics: &Metrics) -> Vec<String> {
        let text = metrics.render(crate::metrics::Format::Classic);
        let unrouted = text.lines().filter(|line| line.starts_with("penr_webhooks_unrouted ")).map(str::to_owned);
        let consumers = text.lines().filter_map(|line| line.strip_prefix("penr_webhooks_queue_consumers{queue=\""));
        let names = consumers.filter_map(|line| Some(line.split_once('"')?.0.to_owned()));
        let mut names: Vec<_> = names.chain(unrouted).collect();
        names.sort();
        names
    }

    #[test]
    fn all_worker_queues_are_shown_but_for_an_empty_one_without_events_that_nobody_takes() {
        let metrics = Metrics::default();
        let counts = Counts::of(&Queue { shards: 2, shard_queues: 3, ..Queue::example() }, &metrics);
        let shown = |messages, consumers| {
            counts.queues.iter().for_each(|queue| queue.show(Depth { messages, consumers }, &metrics));
            shown(&metrics)
        };
        let (first, second, third) = ("events.queue", "events.queue.2", "events.queue.3");
        let (five, none) = ("penr_webhooks_unrouted 5", "penr_webhooks_unrouted 0");
        assert_eq!(shown(5, 1), ["dead.queue", first, second, third, five]);
        assert_eq!(shown(0, 0), ["dead.queue", first, second, none]);
        assert_eq!(shown(5, 0), ["dead.queue", first, second, third, five]);
        assert_eq!(shown(0, 1), ["dead.queue", first, second, third, none]);
    }

    #[test]
    fn no_queue_is_shown_once_counting_ends() {
        let metrics = Metrics::default();
        let counts = Counts::of(&Queue::example(), &metrics);
        counts.queues.iter().for_each(|queue| queue.show(Depth { messages: 5, consumers: 1 }, &metrics));
        assert_eq!(shown(&metrics), ["dead.queue", "events.queue", "penr_webhooks_unrouted 5"]);
        drop(counts);
        assert_eq!(shown(&metrics), [""; 0]);
    }
}

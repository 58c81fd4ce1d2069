//! How many messages and consumers a queue has.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::connection::link::Link;
use super::convert::name;
use super::error::{QueueError, is_forbidden, is_missing};
use super::topology::part::Part;
use crate::config::Queue;
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
/// there to count them. The consumer that watches what all share does so, as long as its connection is open.
pub(super) async fn keep_counted(link: &Link, part: &Part, metrics: &Metrics) -> Infallible {
    if !part.watches_shared {
        return std::future::pending().await;
    }
    let mut queues = counted(&part.queue);
    loop {
        for queue in &mut queues {
            queue.count(link, metrics).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// A queue whose metrics are kept.
struct Counted {
    label: QueueLabel,
    /// False: nobody needs to take it while it is empty.
    gets_messages: bool,
    asked: Asked,
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

fn counted(queue: &Queue) -> Vec<Counted> {
    let counted =
        |name: String, gets_messages| Counted { label: QueueLabel { queue: name }, gets_messages, asked: Asked::Now };
    let shards = queue.all_shards().map(|shard| counted(shard.queue, shard.gets_events));
    shards.chain([counted(queue.dead_queue.clone(), true)]).collect()
}

impl Counted {
    async fn count(&mut self, link: &Link, metrics: &Metrics) {
        match self.asked {
            Asked::From(time) if Instant::now() < time => return,
            Asked::Never => return,
            Asked::Now | Asked::From(_) => {}
        }
        match ask(link, &self.label.queue).await {
            Ok(Ok(depth)) => {
                self.asked = Asked::Now;
                self.show(depth, metrics);
            }
            Ok(Err(error)) => {
                self.hide(metrics);
                if is_forbidden(&error) {
                    self.asked = Asked::Never;
                } else if is_missing(&error) {
                    self.asked = Asked::From(Instant::now() + MISSING_AGAIN);
                }
            }
            Err(error) => {
                tracing::debug!(error = crate::error_chain(&error), queue = self.label.queue, "cannot count a queue");
            }
        }
    }

    /// A queue that gets no events and has none is not shown: that nobody consumes it would look like a fault.
    fn show(&self, depth: Depth, metrics: &Metrics) {
        if !self.gets_messages && depth.messages == 0 && depth.consumers == 0 {
            return self.hide(metrics);
        }
        metrics.queue_messages.get_or_create(&self.label).set(depth.messages.into());
        metrics.queue_consumers.get_or_create(&self.label).set(depth.consumers.into());
    }

    fn hide(&self, metrics: &Metrics) {
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

    #[test]
    fn all_worker_queues_are_shown_but_for_an_empty_one_without_events_that_nobody_takes() {
        let metrics = Metrics::default();
        let queues = counted(&Queue { shards: 2, shard_queues: 3, ..Queue::example() });
        let shown = |messages, consumers| {
            queues.iter().for_each(|queue| queue.show(Depth { messages, consumers }, &metrics));
            let text = metrics.render(crate::metrics::Format::Classic);
            let consumers = text.lines().filter_map(|line| line.strip_prefix("penr_webhooks_queue_consumers{queue=\""));
            let mut names: Vec<_> = consumers.filter_map(|line| Some(line.split_once('"')?.0.to_owned())).collect();
            names.sort();
            names
        };
        let (first, second, third) = ("events.queue", "events.queue.2", "events.queue.3");
        assert_eq!(shown(5, 1), ["dead.queue", first, second, third]);
        assert_eq!(shown(0, 0), ["dead.queue", first, second]);
        assert_eq!(shown(5, 0), ["dead.queue", first, second, third]);
        assert_eq!(shown(0, 1), ["dead.queue", first, second, third]);
    }
}

//! What is bound to what, and in which order. Pure.
//!
//! With several worker queues, events take another way:
//!
//! ```text
//!  one queue       events exchange ─────────────────────▶ worker queue
//!
//!  several queues  events exchange ──▶ shards exchange ─┬▶ worker queue     number 1
//!                                                       ├▶ worker queue.2   each as soon as a worker consumes it
//!                                                       └▶ worker queue.3
//! ```
//!
//! The order of [`bindings`] leads from the first picture to the second, and no event is lost or doubled on the way: as long as
//! only queue 1 is behind the shards exchange, an event that takes both ways comes to the same queue, and RabbitMQ puts it there
//! once. Only the last step removes the old way.

use crate::config::{Queue, Shard};

/// A binding that must be there, or must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    /// The queue or exchange that gets the messages.
    pub(super) to: Destination,
    /// The exchange that they come from.
    pub(super) from: String,
    pub(super) keys: Keys,
    pub(super) wanted: Wanted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    Queue(String),
    Exchange(String),
}

impl Destination {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Queue(name) | Self::Exchange(name) => name,
        }
    }
}

/// With which routing keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    One(&'static str),
    /// One for each event type.
    EventTypes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Bound,
    Unbound,
    /// Not before the other bindings of events are known to be there: events would have no way.
    UnboundAtLast,
}

/// To the exchange that hashes, a routing key says how large a queue's share is. All shares are equal.
const SHARE: Keys = Keys::One("1");

/// The bindings that all consumers of a worker need, in the order in which they are made.
pub(super) fn bindings(queue: &Queue) -> Vec<Binding> {
    let to_queue = |name: &str, from: &str, keys| Binding {
        to: Destination::Queue(name.to_owned()),
        from: from.to_owned(),
        keys,
        wanted: Wanted::Bound,
    };
    let dead = to_queue(&queue.dead_queue, &queue.dead_exchange, Keys::One(""));
    let direct = to_queue(&queue.worker_queue, &queue.events_exchange, Keys::EventTypes);
    if !queue.is_sharded() {
        return vec![dead, direct];
    }
    let first = to_queue(&queue.worker_queue, &queue.shards_exchange, SHARE);
    let shards = Binding { to: Destination::Exchange(queue.shards_exchange.clone()), ..direct.clone() };
    vec![dead, first, shards, Binding { wanted: Wanted::UnboundAtLast, ..direct }]
}

/// The binding of the queue that keeps what no queue takes.
pub(super) fn unrouted_binding(queue: &Queue) -> Binding {
    Binding {
        to: Destination::Queue(queue.unrouted_queue.clone()),
        from: queue.unrouted_exchange.clone(),
        keys: Keys::One(""),
        wanted: Wanted::Bound,
    }
}

/// The binding of a further queue. It is made only while a worker consumes the queue, so that no event waits there for nobody.
pub(super) fn share(queue: &Queue, shard: &Shard) -> Option<Binding> {
    (shard.number > 1).then(|| Binding {
        to: Destination::Queue(shard.queue.clone()),
        from: queue.shards_exchange.clone(),
        keys: SHARE,
        wanted: if shard.gets_events { Wanted::Bound } else { Wanted::Unbound },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(queue: &Queue) -> Vec<String> {
        let show = |binding: &Binding| {
            let Binding { to, from, wanted, .. } = binding;
            format!("{} from {from}: {wanted:?}", to.name())
        };
        let shares = queue.all_shards().filter_map(|shard| share(queue, &shard));
        bindings(queue).into_iter().chain(shares).map(|binding| show(&binding)).collect()
    }

    #[test]
    fn one_queue_takes_all_events_and_several_take_them_by_way_of_their_exchange() {
        let queue = Queue::example();
        assert_eq!(shown(&queue), ["dead.queue from dead: Bound", "events.queue from events: Bound"]);
        let queue = Queue { shards: 2, shard_queues: 3, ..queue };
        let expected = [
            "dead.queue from dead: Bound",
            "events.queue from shards: Bound",
            "shards from events: Bound",
            "events.queue from events: UnboundAtLast",
            "events.queue.2 from shards: Bound",
            "events.queue.3 from shards: Unbound",
        ];
        assert_eq!(shown(&queue), expected);
    }
}

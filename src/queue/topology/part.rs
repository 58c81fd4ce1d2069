//! The part of the topology that one consumer declares, binds and watches.

use super::entities::{Entity, entities};
use crate::config::{Queue, Shard};
use crate::event::Catalogue;

/// What one consumer of a worker needs at the broker. Each consumer declares all of it when it attaches.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) queue: Queue,
    pub(crate) catalogue: Catalogue,
    /// The queue that it consumes.
    pub(crate) shard: Shard,
    /// Whether it also watches what all consumers of the worker share. One of them does: each check costs the broker requests.
    pub(crate) watches_shared: bool,
}

impl Part {
    /// The worker queue is among them: every event without another queue goes there.
    pub(super) fn entities(&self) -> Vec<Entity> {
        let others: Vec<_> = self.queue.all_shards().filter(|shard| self.is_of_others(shard)).collect();
        let is_needed = |entity: &Entity| !others.iter().any(|shard| entity.is_queue(&shard.queue));
        entities(&self.queue).into_iter().filter(is_needed).collect()
    }

    fn is_of_others(&self, shard: &Shard) -> bool {
        shard.number > 1 && shard.number != self.shard.number
    }
}

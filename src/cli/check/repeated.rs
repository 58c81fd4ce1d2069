//! Finds ids that stand twice among many messages, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// The ids of the messages so far.
#[derive(Debug)]
pub(super) struct SeenIds {
    /// By the hash of an id, the line in which it stood first. Two of a million ids have the same hash in one run of thirty million.
    lines: HashMap<u64, u64>,
    hasher: RandomState,
    most: usize,
    /// An id was not kept, since there were too many.
    pub(super) is_full: bool,
}

impl SeenIds {
    /// Nothing is seen yet. Of further ids than `most` it is not known whether they stand twice.
    pub(super) fn new(most: usize) -> Self {
        Self { lines: HashMap::new(), hasher: RandomState::new(), most, is_full: false }
    }

    /// The line in which this id stood before, if it did.
    pub(super) fn earlier(&mut self, id: &str, line: u64) -> Option<u64> {
        let hash = self.hasher.hash_one(id);
        let earlier = self.lines.get(&hash).copied();
        if earlier.is_none() {
            match self.lines.len() < self.most {
                true => drop(self.lines.insert(hash, line)),
                false => self.is_full = true,
            }
        }
        earlier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_again_as_long_as_there_is_room_for_it() {
        let mut seen = SeenIds::new(2);
        assert_eq!(["a", "b", "a"].map(|id| seen.earlier(id, 7)), [None, None, Some(7)]);
        assert!(!seen.is_full);
        assert_eq!(["c", "c", "b"].map(|id| seen.earlier(id, 8)), [None, None, Some(7)]);
        assert!(seen.is_full);
    }
}

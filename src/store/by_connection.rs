//! Keeps a value for each pooled connection. The pool gives connections no ids, so the time when a connection was opened
//! serves as its id.

use std::collections::HashMap;
use std::time::Instant;

/// The pool does not report closed connections. When there are this many values, all are dropped, of which most belong to
/// closed connections.
const FORGOTTEN_AT: usize = 1024;

pub(super) struct ByConnection<T>(HashMap<Instant, T>);

impl<T> Default for ByConnection<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> ByConnection<T> {
    pub(super) fn note(&mut self, opened: Instant, what: T) {
        if self.0.len() >= FORGOTTEN_AT && !self.0.contains_key(&opened) {
            self.0.clear();
        }
        self.0.insert(opened, what);
    }

    pub(super) fn of(&self, opened: Instant) -> Option<&T> {
        self.0.get(&opened)
    }

    /// Each connection's time of opening and its value.
    pub(super) fn all(&self) -> impl Iterator<Item = (Instant, &T)> {
        self.0.iter().map(|(opened, what)| (*opened, what))
    }
}

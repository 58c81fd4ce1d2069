//! What the store knows of each pooled connection. The pool gives connections no names: each is named by when it was opened.

use std::collections::HashMap;
use std::time::Instant;

/// So many connections are forgotten at once: by then most of them were closed, and the pool does not tell which.
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

    /// When each was opened, and what is known of it.
    pub(super) fn all(&self) -> impl Iterator<Item = (Instant, &T)> {
        self.0.iter().map(|(opened, what)| (*opened, what))
    }
}

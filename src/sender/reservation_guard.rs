//! The place of one request in the pool of connections, given back when the request ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::reservations::Reservations;

/// Lets one request use the pool, until it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    all: Arc<Mutex<Reservations>>,
    host: u64,
}

impl Reservation {
    /// A place for a request to `host`; `None` if all are taken.
    pub(super) fn new(all: &Arc<Mutex<Reservations>>, host: u64, now: Instant) -> Option<Self> {
        let has_place = lock(all).enter(host, now);
        has_place.then(|| Self { all: all.clone(), host })
    }

    /// Notes that a connection was opened which the request does not use.
    pub(super) fn note_opened_for_nobody(&self) {
        lock(&self.all).opened_for_nobody(self.host, Instant::now());
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.all).leave(self.host, Instant::now());
    }
}

fn lock(all: &Mutex<Reservations>) -> MutexGuard<'_, Reservations> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

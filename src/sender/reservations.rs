//! Bounds the connections that the HTTP client's pool keeps open, over all hosts. Pure: the caller brings the clock.
//!
//! The pool bounds only the idle connections of each host, and does not report when it closes one. So their number is
//! estimated: the pool opens a connection only when a request finds none idle, and closes one that was idle for too long.
//! A host therefore has at most as many connections as it had requests in flight at once within the longest idle time. That
//! many places are reserved for the host. When all places are reserved, further requests must use a client without a pool.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Hosts that are remembered after they got no place.
const MOST_REFUSED: usize = 65_536;

#[derive(Debug, Clone, Copy)]
pub(super) struct ReservationLimits {
    /// Connections of all hosts together.
    pub total: usize,
    /// Connections of one host; the pool itself closes those beyond.
    pub per_host: usize,
    /// How long the pool may keep a connection idle. The window below has this length.
    pub longest_idle: Duration,
}

#[derive(Debug)]
pub(super) struct Reservations {
    limits: ReservationLimits,
    hosts: HashMap<u64, Host>,
    /// Hosts that got no place in this window.
    refused: HashSet<u64>,
    /// Places of all hosts.
    reserved: usize,
    window_began: Instant,
}

/// Requests in flight to one host that use the pool: now, and the most at once in this window and in the one before.
#[derive(Debug, Default, Clone, Copy)]
struct Host {
    now: usize,
    peak: usize,
    peak_before: usize,
}

impl Host {
    fn places(&self, limits: &ReservationLimits) -> usize {
        self.peak.max(self.peak_before).min(limits.per_host)
    }
}

impl Reservations {
    pub(super) fn new(limits: ReservationLimits, now: Instant) -> Self {
        Self { limits, hosts: HashMap::new(), refused: HashSet::new(), reserved: 0, window_began: now }
    }

    /// Whether a request to this host may use the pool. If so, the caller must call [`leave`](Self::leave) at its end.
    pub(super) fn enter(&mut self, host: u64, now: Instant) -> bool {
        self.turn_window(now);
        let mut known = self.hosts.get(&host).copied().unwrap_or_default();
        let before = known.places(&self.limits);
        known.now += 1;
        known.peak = known.peak.max(known.now);
        let more = known.places(&self.limits) - before;
        if self.limits.per_host == 0
            || self.reserved + more > self.limits.total
            || self.is_kept_for_others(host, before)
        {
            return false;
        }
        self.reserved += more;
        self.hosts.insert(host, known);
        true
    }

    /// A request that was let in has ended.
    pub(super) fn leave(&mut self, host: u64, now: Instant) {
        self.turn_window(now);
        if let Some(known) = self.hosts.get_mut(&host) {
            known.now = known.now.saturating_sub(1);
        }
    }

    /// The pool opened a connection that no request uses: the request got another one that became idle meanwhile.
    pub(super) fn opened_for_nobody(&mut self, host: u64, now: Instant) {
        self.turn_window(now);
        if let Some(known) = self.hosts.get_mut(&host) {
            let before = known.places(&self.limits);
            known.peak += 1;
            self.reserved += known.places(&self.limits) - before;
        }
    }

    /// Whether this host must leave the place to others: the second half of the places is for hosts that come twice within a
    /// window. Many hosts with one request each would otherwise take the places of busy ones.
    fn is_kept_for_others(&mut self, host: u64, places: usize) -> bool {
        if places > 0 || self.reserved < self.limits.total / 2 || self.refused.contains(&host) {
            return false;
        }
        if self.refused.len() >= MOST_REFUSED {
            self.refused.clear();
        }
        self.refused.insert(host);
        true
    }

    /// Begins a new window if this one is over, and frees the places of connections that must be closed by now.
    fn turn_window(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.window_began);
        if passed < self.limits.longest_idle {
            return;
        }
        // If two windows have passed, no request came in the second.
        let nobody_came = passed >= 2 * self.limits.longest_idle;
        for host in self.hosts.values_mut() {
            host.peak_before = if nobody_came { host.now } else { host.peak };
            host.peak = host.now;
        }
        self.hosts.retain(|_, host| host.peak_before > 0);
        self.reserved = self.hosts.values().map(|host| host.places(&self.limits)).sum();
        self.refused.clear();
        self.window_began = now;
    }
}

#[cfg(test)]
mod tests;

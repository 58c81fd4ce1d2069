//! Decides which hosts keep their connections open, so that their number is bounded over all hosts. Pure: the caller
//! brings the clock.
//!
//! The HTTP client's pool bounds the idle connections of one host, knows no total, and says nothing when it closes one.
//! But it opens a connection only when a request finds none idle, takes the one that was used last, and closes what was
//! idle for long. So a host has at most as many as it had requests in flight at once, within the time for which one may
//! stay idle. That many places are reserved for it; when all are taken, further requests must use a client without a
//! pool.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Hosts that are remembered as turned away.
const MOST_REFUSED: usize = 65_536;

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Places of all hosts together.
    pub total: usize,
    /// The pool itself closes what a host has beyond.
    pub per_host: usize,
    /// No connection stays idle for longer.
    pub longest_idle: Duration,
}

#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    hosts: HashMap<u64, Host>,
    /// Those that were turned away in this window.
    refused: HashSet<u64>,
    taken: usize,
    window_began: Instant,
}

/// Requests in flight to one host that use the pool: now, and at once at most in this window and the one before.
#[derive(Debug, Default, Clone, Copy)]
struct Host {
    now: usize,
    peak: usize,
    peak_before: usize,
}

impl Host {
    fn places(&self, limits: &Limits) -> usize {
        self.peak.max(self.peak_before).min(limits.per_host)
    }
}

impl Places {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, hosts: HashMap::new(), refused: HashSet::new(), taken: 0, window_began: now }
    }

    /// Whether a request to this host may use the pool; then [`leave`](Self::leave) tells of its end.
    pub(super) fn enter(&mut self, host: u64, now: Instant) -> bool {
        self.turn_window(now);
        let mut known = self.hosts.get(&host).copied().unwrap_or_default();
        let before = known.places(&self.limits);
        known.now += 1;
        known.peak = known.peak.max(known.now);
        let more = known.places(&self.limits) - before;
        if self.limits.per_host == 0 || self.taken + more > self.limits.total || self.is_kept_for_others(host, before) {
            return false;
        }
        self.taken += more;
        self.hosts.insert(host, known);
        true
    }

    pub(super) fn leave(&mut self, host: u64, now: Instant) {
        self.turn_window(now);
        if let Some(known) = self.hosts.get_mut(&host) {
            known.now = known.now.saturating_sub(1);
        }
    }

    /// The pool opened a connection to this host that no request has used: another one became idle meanwhile.
    pub(super) fn opened_for_nobody(&mut self, host: u64, now: Instant) {
        self.turn_window(now);
        if let Some(known) = self.hosts.get_mut(&host) {
            let before = known.places(&self.limits);
            known.peak += 1;
            self.taken += known.places(&self.limits) - before;
        }
    }

    /// The second half of the places is for hosts that come twice within a window, so that a crowd of hosts with one
    /// request each does not take the places from those who use them.
    fn is_kept_for_others(&mut self, host: u64, places: usize) -> bool {
        if places > 0 || self.taken < self.limits.total / 2 || self.refused.contains(&host) {
            return false;
        }
        if self.refused.len() >= MOST_REFUSED {
            self.refused.clear();
        }
        self.refused.insert(host);
        true
    }

    /// Gives back the places that no connection can need any more.
    fn turn_window(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.window_began);
        if passed < self.limits.longest_idle {
            return;
        }
        // Nobody came in the window before, if a second one has passed as well.
        let nobody_came = passed >= 2 * self.limits.longest_idle;
        for host in self.hosts.values_mut() {
            host.peak_before = if nobody_came { host.now } else { host.peak };
            host.peak = host.now;
        }
        self.hosts.retain(|_, host| host.peak_before > 0);
        self.taken = self.hosts.values().map(|host| host.places(&self.limits)).sum();
        self.refused.clear();
        self.window_began = now;
    }
}

#[cfg(test)]
mod tests;

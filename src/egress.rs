//! Decides whether this machine's connection to the internet is down, by a broken NAT gateway, firewall or default route.
//! Pure: the caller brings the clock.
//!
//! It is down when attempts at many hosts of many accounts reach nobody and no receiver at all answers. The dead receivers of
//! one account prove nothing; one answer from any receiver proves that the connection works.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::delivery::{AttemptError, Outcome, Phase};
use crate::ids::AccountId;

#[cfg(test)]
mod tests;

/// An outage begins only when no receiver has answered for this long.
pub const WINDOW: Duration = Duration::from_secs(10);
/// How long a failure counts: longer than [`WINDOW`], because all failures of an outage may come at once just after the last
/// answer.
const COUNTED_FOR: Duration = Duration::from_secs(12);
/// An outage needs failures of so many accounts and so many hosts.
const ACCOUNTS: usize = 5;
const HOSTS: usize = 10;
/// So many accounts and hosts with failures may be the beginning of an outage.
const DOUBTFUL_ACCOUNTS: usize = 2;
const DOUBTFUL_HOSTS: usize = 3;

/// What an attempt shows about the connection to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The receiver sent something: an answer, a TLS alert, even invalid data.
    Answered,
    /// Nobody was reached. In an outage lookups of names fail, too, and open connections get no answer.
    Unreached,
    /// Nothing was sent.
    Nothing,
}

impl Sign {
    /// What this outcome shows.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Answered(_) => Self::Answered,
            Outcome::Failed(AttemptError::CutOff) => Self::Unreached,
            Outcome::Failed(error) => match error.phase() {
                Some(Phase::Tls | Phase::Protocol) => Self::Answered,
                Some(Phase::Connect | Phase::Timeout | Phase::Dns) => Self::Unreached,
                None => Self::Nothing,
            },
        }
    }
}

/// The state of the connection to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// It works.
    Well,
    /// Some receivers cannot be reached. The cause will be known within [`WINDOW`].
    Doubtful,
    /// It is down.
    Out,
}

/// The connection to the internet, judged by the attempts.
#[derive(Debug, Default)]
pub struct Egress {
    /// By account: hosts that could not be reached since the last answer, the latest last. At most [`HOSTS`] of each account.
    failed: HashMap<AccountId, VecDeque<(Instant, String)>>,
    /// When a receiver answered last.
    answered: Option<Instant>,
    /// When the present outage began.
    out_since: Option<Instant>,
}

impl Egress {
    /// A receiver answered. Returns how long the outage was, if this ends one.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.failed.clear();
        self.answered = Some(now);
        self.out_since.take().map(|since| now - since)
    }

    /// A host could not be reached. Returns the state, in which an outage may begin.
    pub fn unreached(&mut self, account: &AccountId, host: &str, now: Instant) -> Reachability {
        let hosts = self.failed.entry(account.clone()).or_default();
        hosts.retain(|(_, known)| known != host);
        hosts.push_back((now, host.to_owned()));
        if hosts.len() > HOSTS {
            hosts.pop_front();
        }
        self.reachability(now)
    }

    /// The state now. Begins an outage if the conditions for one are met.
    pub fn reachability(&mut self, now: Instant) -> Reachability {
        if self.out_since.is_some() {
            return Reachability::Out;
        }
        self.failed.retain(|_, hosts| hosts.back().is_some_and(|(at, _)| now - *at < COUNTED_FOR));
        let recent = self.failed.values().flatten().filter(|(at, _)| now - *at < COUNTED_FOR);
        let (accounts, hosts) = (self.failed.len(), recent.map(|(_, host)| host).collect::<BTreeSet<_>>().len());
        let silent = self.answered.is_none_or(|at| now - at >= WINDOW);
        if silent && accounts >= ACCOUNTS && hosts >= HOSTS {
            self.out_since = Some(now);
            return Reachability::Out;
        }
        match accounts >= DOUBTFUL_ACCOUNTS && hosts >= DOUBTFUL_HOSTS {
            true => Reachability::Doubtful,
            false => Reachability::Well,
        }
    }

    /// Whether there is an outage.
    pub fn is_out(&self) -> bool {
        self.out_since.is_some()
    }
}

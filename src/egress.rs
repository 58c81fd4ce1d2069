//! Decides whether the way out of this machine is broken: a NAT gateway, a firewall, a default route. Pure: the caller
//! brings the clock.
//!
//! The way out is broken when receivers of many accounts on many hosts cannot be connected to and nobody answers. One
//! account's dead receivers say nothing about the others', and one answer of anybody says that the way out is well.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::delivery::{AttemptError, Outcome};
use crate::ids::AccountId;

#[cfg(test)]
mod tests;

/// An outage is one only when nobody has answered for so long.
pub const WINDOW: Duration = Duration::from_secs(10);
/// A failure counts for longer than that: all that fails at the beginning of an outage may fail at once, just after the last answer.
const COUNTED_FOR: Duration = Duration::from_secs(12);
const ACCOUNTS: usize = 5;
const HOSTS: usize = 10;
/// Failures of so many accounts and hosts may be the beginning of an outage.
const DOUBTFUL_ACCOUNTS: usize = 2;
const DOUBTFUL_HOSTS: usize = 3;

/// What an attempt says about the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Something came back: an answer, an alert of TLS, even nonsense.
    Answered,
    /// Nobody was reached. Without a way out names are not found, either, and connections that were open fall silent.
    Unreached,
    /// It was never tried.
    Nothing,
}

impl Sign {
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Answered(_) | Outcome::Failed(AttemptError::Tls | AttemptError::Protocol) => Self::Answered,
            Outcome::Failed(
                AttemptError::Connect | AttemptError::Timeout | AttemptError::Dns | AttemptError::CutOff,
            ) => Self::Unreached,
            Outcome::Failed(AttemptError::BlockedAddress | AttemptError::InvalidUrl | AttemptError::Internal) => {
                Self::Nothing
            }
        }
    }
}

/// What is known about the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Well,
    /// Some receivers cannot be reached. Whether that is their fault will be known within [`WINDOW`].
    Doubtful,
    Out,
}

/// The way out, as far as attempts tell.
#[derive(Debug, Default)]
pub struct Egress {
    /// Hosts that could not be reached since somebody answered, the latest last: as many of each account as matter.
    failed: HashMap<AccountId, VecDeque<(Instant, String)>>,
    answered: Option<Instant>,
    out_since: Option<Instant>,
}

impl Egress {
    /// Somebody answered. Returns how long the outage took that this ends.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.failed.clear();
        self.answered = Some(now);
        self.out_since.take().map(|since| now - since)
    }

    /// A host could not be reached.
    pub fn unreached(&mut self, account: &AccountId, host: &str, now: Instant) -> Standing {
        let hosts = self.failed.entry(account.clone()).or_default();
        hosts.retain(|(_, known)| known != host);
        hosts.push_back((now, host.to_owned()));
        if hosts.len() > HOSTS {
            hosts.pop_front();
        }
        self.standing(now)
    }

    /// What is known now; an outage begins here.
    pub fn standing(&mut self, now: Instant) -> Standing {
        if self.out_since.is_some() {
            return Standing::Out;
        }
        self.failed.retain(|_, hosts| hosts.back().is_some_and(|(at, _)| now - *at < COUNTED_FOR));
        let recent = self.failed.values().flatten().filter(|(at, _)| now - *at < COUNTED_FOR);
        let (accounts, hosts) = (self.failed.len(), recent.map(|(_, host)| host).collect::<BTreeSet<_>>().len());
        let silent = self.answered.is_none_or(|at| now - at >= WINDOW);
        if silent && accounts >= ACCOUNTS && hosts >= HOSTS {
            self.out_since = Some(now);
            return Standing::Out;
        }
        match accounts >= DOUBTFUL_ACCOUNTS && hosts >= DOUBTFUL_HOSTS {
            true => Standing::Doubtful,
            false => Standing::Well,
        }
    }

    pub fn is_out(&self) -> bool {
        self.out_since.is_some()
    }
}

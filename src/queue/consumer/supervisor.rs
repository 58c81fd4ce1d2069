//! What the consumer remembers from one connection to the next: how long to wait before the next one, and what the log says
//! already.

use std::time::{Duration, Instant};

use super::isolation::Isolation;
use crate::queue::connection::link::reason_without_node;
use crate::queue::error::QueueError;
use crate::queue::topology::unchecked::UncheckedTopology;
use crate::queue::topology::unrouted::Unrouted;
use crate::reconnect::{Outage, Reconnect};
use crate::{error_chain, millis};

/// Between two connections while isolated: a message that cannot be read takes as many connections as its delivery limit.
const ISOLATED_WAIT: Duration = Duration::from_millis(50);
/// The longest wait before a connection. Jitter adds up to half of it, which makes 1.95 s: another node may serve, and
/// deliveries must not stand still for longer than 2 s.
const LONGEST_WAIT: Duration = Duration::from_millis(1300);
const LONGEST_WAIT_AFTER_REFUSAL: Duration = Duration::from_secs(5);
/// A queue that has no leader for longer than this has no quorum: an election takes less.
pub(super) const ELECTION: Duration = Duration::from_secs(8);

pub(super) struct Supervisor {
    /// The queue's name, for the log.
    queue: String,
    pub(super) isolation: Isolation,
    pub(super) unrouted: Unrouted,
    reconnect: Reconnect,
    /// After a refusal, which an operator has to act on. The broker logs each try, and may lock out a user whom it refuses too
    /// often.
    reconnect_after_refusal: Reconnect,
    outage: Outage,
    /// The unchecked part of the topology that was logged last.
    logged_unchecked: UncheckedTopology,
    without_leader_since: Option<Instant>,
}

impl Supervisor {
    pub(super) fn of(queue: &str) -> Self {
        Self {
            queue: queue.to_owned(),
            isolation: Isolation::default(),
            unrouted: Unrouted::default(),
            reconnect: Reconnect::up_to(LONGEST_WAIT),
            reconnect_after_refusal: Reconnect::up_to(LONGEST_WAIT_AFTER_REFUSAL),
            outage: Outage::default(),
            logged_unchecked: UncheckedTopology::default(),
            without_leader_since: None,
        }
    }

    /// The consumer is attached.
    pub(super) fn attached(&mut self, unchecked: &UncheckedTopology) {
        if !unchecked.is_empty() && self.logged_unchecked != *unchecked {
            tracing::warn!(advice = unchecked.remedy(), "{unchecked}");
            self.logged_unchecked = unchecked.clone();
        }
        let isolated = self.isolation.is_on();
        let away_ms = self.outage.end().map(millis);
        self.without_leader_since = None;
        self.reconnect_after_refusal.reset();
        tracing::info!(queue = self.queue, isolated, away_ms, "consumer attached");
    }

    /// A message has come: the next wait is short again.
    pub(super) fn message_came(&mut self) {
        self.reconnect.reset();
    }

    /// Whether the error means that the queue has no quorum, rather than no leader for a moment, or a lost broker. `election`
    /// is how long a queue may be without a leader.
    pub(super) fn has_no_quorum(&mut self, error: &QueueError, election: Duration) -> bool {
        match error {
            QueueError::NoQuorum => true,
            QueueError::NoLeader(_) => self.without_leader_since.get_or_insert_with(Instant::now).elapsed() >= election,
            _ => {
                self.without_leader_since = None;
                false
            }
        }
    }

    /// Logs the loss of the broker, and returns how long to wait before the next connection.
    pub(super) fn wait_after(&mut self, error: &QueueError) -> Duration {
        let is_news = self.is_news(error);
        let wait = match error {
            QueueError::Unreadable(_) => {
                self.isolation.begin(Instant::now());
                ISOLATED_WAIT
            }
            error if error.is_refusal() => self.reconnect_after_refusal.wait(),
            _ => self.reconnect.wait(),
        };
        const LOST: &str = "lost the broker, connecting again";
        let (queue, reason, wait_ms) = (&self.queue, error_chain(error), millis(wait));
        match (is_news, error) {
            (true, QueueError::Forbidden(_)) => {
                tracing::error!(queue, error = reason, "the worker lacks a right at the broker, and waits for it");
            }
            (true, QueueError::NoPlugin(_)) => {
                tracing::error!(queue, error = reason, "the broker lacks a plugin, and the worker waits for it");
            }
            (true, _) => tracing::warn!(queue, error = reason, wait_ms, "{LOST}"),
            (false, _) => tracing::debug!(queue, error = reason, wait_ms, "{LOST}"),
        }
        wait
    }

    /// Whether the log does not have this reason yet. A broker that restarts resets connections, refuses them, and closes
    /// them: all of that is one reason. A message that cannot be read ends many connections in a row, of which only the first
    /// is logged.
    fn is_news(&mut self, error: &QueueError) -> bool {
        let reason = if error.is_away() { "away".to_owned() } else { reason_without_node(error) };
        let is_news = self.outage.is_news(&reason);
        is_news && !(self.isolation.is_on() && matches!(error, QueueError::Unreadable(_)))
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPHardError};

    use super::*;

    #[test]
    fn a_queue_without_a_leader_has_no_quorum_after_an_election_and_a_lost_broker_says_nothing_about_it() {
        let refusal = || {
            let error = AMQPError::new(AMQPHardError::INTERNALERROR.into(), "nodedown".into());
            lapin::Error::from(lapin::ErrorKind::ProtocolError(error))
        };
        let lost = || QueueError::Unavailable(anyhow::anyhow!("refused"));
        let mut supervisor = Supervisor::of("q");
        assert!(supervisor.has_no_quorum(&QueueError::NoQuorum, ELECTION));
        assert!(!supervisor.has_no_quorum(&QueueError::of_get(refusal()), ELECTION));
        assert!(supervisor.has_no_quorum(&QueueError::of_get(refusal()), Duration::ZERO));
        assert!(!supervisor.has_no_quorum(&lost(), Duration::ZERO));
        assert!(supervisor.without_leader_since.is_none());
    }
}

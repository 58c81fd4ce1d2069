//! Isolation: the consumer takes one message at a time, so that a message that cannot be processed harms no other.
//!
//! Such a message ends the connection, since the AMQP library cannot read it, or it ends the whole process. Either way it comes
//! back. While the consumer is isolated the broker delivers only that message, so its delivery limit makes a dead letter of
//! that message alone. The worker then parks deliveries instead of attempting them: the next message does not wait for a
//! receiver.
//!
//! ```text
//!  state     left when ─▶ next state
//!  Unknown   the process has just started: the oldest message was delivered more than 20 times ─▶ Isolated
//!                                          reading that message ended the connection ─▶ Isolated
//!                                          neither, or the queue is empty ─▶ Normal
//!  Normal    a message that cannot be read ended the connection ─▶ Isolated
//!  Isolated  no such message came for 2 s, or for longer if that was too short before ─▶ Normal
//! ```

use std::time::{Duration, Instant};

use lapin::BasicProperties;

use crate::queue::headers::delivery_count;

/// How long isolation lasts without a message that cannot be read. If the message comes again within `SOON` after isolation
/// ended, the time was too short to reach it, and the next isolation lasts twice as long, up to `MAX_DOUBLINGS` times. Too
/// short an isolation is harmful: when the message ends a connection that is not isolated, the broker counts a delivery of
/// every message on that connection, and the delivery limit would soon take those messages, too.
const ISOLATED_FOR: Duration = Duration::from_secs(2);
const MAX_DOUBLINGS: u32 = 5;
const SOON: Duration = Duration::from_secs(10);
/// The oldest message may have ended the process before us if it was delivered more often than this. Only the oldest one is
/// suspected: where the broker was lost many times, all messages have high counts. Every version of RabbitMQ counts what comes
/// back with a connection, and so with a process that was killed; from 4.3 on it does not count what we return by `nack`.
const SUSPICIOUS_DELIVERIES: i64 = 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum IsolationState {
    #[default]
    Unknown,
    Normal,
    Isolated,
}

#[derive(Debug, Default)]
pub(super) struct Isolation {
    state: IsolationState,
    ended: Option<Instant>,
    /// How many isolations in a row ended before the message came again.
    too_short: u32,
}

impl Isolation {
    /// Whether to look at the oldest message before consuming: this process has just started, and does not know why the one
    /// before it ended.
    pub(super) fn is_unknown(&self) -> bool {
        self.state == IsolationState::Unknown
    }

    pub(super) fn is_on(&self) -> bool {
        self.state == IsolationState::Isolated
    }

    /// After the look at the oldest message, if there is one.
    pub(super) fn looked_at(&mut self, oldest: Option<&BasicProperties>) {
        self.state = match oldest.is_some_and(|oldest| delivery_count(oldest) > SUSPICIOUS_DELIVERIES) {
            true => IsolationState::Isolated,
            false => IsolationState::Normal,
        };
    }

    /// How many unsettled messages the consumer may have.
    pub(super) fn prefetch(&self, normal: u16) -> u16 {
        if self.is_on() { 1 } else { normal }
    }

    /// When an isolation that begins now will end.
    pub(super) fn end_after(&self, now: Instant) -> Instant {
        now + ISOLATED_FOR * 2_u32.pow(self.too_short)
    }

    /// Isolation has lasted its time without an unreadable message.
    pub(super) fn end(&mut self, now: Instant) {
        self.state = IsolationState::Normal;
        self.ended = Some(now);
    }

    /// A message that cannot be read has ended the connection.
    pub(super) fn begin(&mut self, now: Instant) {
        let ended_lately = self.ended.is_some_and(|ended| now.saturating_duration_since(ended) < SOON);
        self.too_short = match self.state == IsolationState::Normal && ended_lately {
            true => (self.too_short + 1).min(MAX_DOUBLINGS),
            false => 0,
        };
        self.state = IsolationState::Isolated;
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;
    use crate::queue::headers::DELIVERY_COUNT;

    fn delivered(times: i64) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(times));
        BasicProperties::default().with_headers(headers)
    }

    #[test]
    fn only_an_oldest_message_that_was_delivered_often_isolates_a_new_process() {
        let is_on_after = |oldest: Option<BasicProperties>| {
            let mut isolation = Isolation::default();
            assert!(isolation.is_unknown());
            isolation.looked_at(oldest.as_ref());
            isolation.is_on()
        };
        let (usual, often) = (delivered(SUSPICIOUS_DELIVERIES), delivered(SUSPICIOUS_DELIVERIES + 1));
        assert_eq!([None, Some(usual), Some(often)].map(is_on_after), [false, false, true]);
    }

    #[test]
    fn an_isolation_that_ended_too_early_is_twice_as_long_the_next_time_up_to_a_bound() {
        let mut isolation = Isolation::default();
        isolation.looked_at(None);
        let mut now = Instant::now();
        let mut next_lasts = |after: Duration| {
            now += after;
            isolation.begin(now);
            let lasts = isolation.end_after(now) - now;
            assert_eq!(isolation.prefetch(100), 1);
            now += lasts;
            isolation.end(now);
            lasts
        };
        let early: Vec<_> = (0..8).map(|_| next_lasts(SOON / 2).as_secs()).collect();
        assert_eq!(early, [2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(next_lasts(SOON), ISOLATED_FOR);
    }
}

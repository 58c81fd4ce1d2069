//! The result of a delivery's turn, as the worker gives it to the store to be recorded.

use std::time::{Duration, Instant};

use crate::delivery::{Attempt, ClosedReason, Delivery, Trigger};
use crate::retry::Step;

/// The result of one delivery's turn.
#[derive(Debug)]
pub struct TurnResult {
    pub delivery: Delivery,
    /// The number of the delivery's claim; `None` if the delivery came straight from its broker message.
    pub claim: Option<i64>,
    pub ending: Ending,
    /// When a worker received the event, if the delivery had no attempt before this turn.
    pub received: Option<Instant>,
}

impl AsRef<Self> for TurnResult {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// How a turn ended.
#[derive(Debug)]
pub enum Ending {
    /// An attempt was made, and this is the next step.
    Attempted(Attempt, Step),
    /// The delivery was closed without an attempt.
    ClosedUnattempted(ClosedReason),
    /// The delivery is stored, to be claimed when its receiver has room.
    Parked,
}

impl TurnResult {
    /// The wait before the next attempt, if there is one.
    pub(super) fn wait(&self) -> Option<Duration> {
        match &self.ending {
            Ending::Attempted(_, Step::RetryIn(wait) | Step::RepeatIn(wait)) => Some(*wait),
            Ending::Parked => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Why the delivery is closed, if it is.
    pub(super) fn closed_reason(&self) -> Option<ClosedReason> {
        match &self.ending {
            Ending::Attempted(_, step) => step.closes(),
            Ending::ClosedUnattempted(reason) => Some(*reason),
            Ending::Parked => None,
        }
    }

    /// How long ago a worker received the event.
    pub(super) fn waited(&self) -> Duration {
        self.received.map_or(Duration::ZERO, |received| received.elapsed())
    }

    pub(super) fn succeeded(&self) -> bool {
        matches!(self.ending, Ending::Attempted(_, Step::Succeeded))
    }

    /// The number of attempts that count; one that failed through our own fault does not.
    pub(super) fn attempts_made(&self) -> i32 {
        let made = match &self.ending {
            Ending::Attempted(_, Step::RepeatIn(_)) | Ending::ClosedUnattempted(_) | Ending::Parked => {
                self.delivery.attempt - 1
            }
            Ending::Attempted(..) => self.delivery.attempt,
        };
        i32::try_from(made).unwrap_or(i32::MAX)
    }

    /// The attempt that was made, if one was.
    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        match &self.ending {
            Ending::Attempted(attempt, _) => Some(attempt),
            Ending::ClosedUnattempted(_) | Ending::Parked => None,
        }
    }

    /// Why the next attempt will be made.
    pub(super) fn next_trigger(&self) -> Trigger {
        match &self.ending {
            Ending::Parked => self.delivery.trigger,
            Ending::Attempted(..) | Ending::ClosedUnattempted(_) => Trigger::Retry,
        }
    }
}

/// One array for a column of `unnest`: a value of each result.
pub(super) fn collect<'a, T>(results: &[&'a TurnResult], value: impl Fn(&'a TurnResult) -> T) -> Vec<T> {
    results.iter().map(|result| value(result)).collect()
}

#[cfg(test)]
impl TurnResult {
    /// A turn of the webhook with this number and an event with this body.
    pub(crate) fn example(webhook: u128, activation: i32, body: &'static [u8], ending: Ending) -> Self {
        use crate::delivery::{EventRow, Trigger};
        use crate::event::Event;
        use jiff::civil::Date;
        use uuid::Uuid;

        use crate::ids::{AccountId, DeliveryId, EventId, EventType, WebhookId};
        use crate::snapshot::Snapshot;

        let id = WebhookId(Uuid::from_u128(webhook));
        let event = Event {
            id: EventId::parse("evt_1").unwrap(),
            event_type: EventType::parse("content.created").unwrap(),
            account_id: AccountId::parse("acc_1").unwrap(),
            body: body.into(),
            trace: None,
        };
        let delivery = Delivery {
            id: DeliveryId::of(id, &event.id),
            row: EventRow::new(event, Date::default(), Uuid::nil()).into(),
            webhook: Snapshot::off(id, activation).into(),
            trigger: Trigger::Event,
            attempt: 1,
        };
        Self { delivery, claim: None, ending, received: None }
    }
}

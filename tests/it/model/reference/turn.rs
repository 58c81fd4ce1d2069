//! A delivery that a worker has in hand, and what becomes of it when the worker is done with it.

use penr_webhooks::delivery::{ClosedReason, Trigger};

use super::ATTEMPTS;
use crate::model::step::{Answer, Pair};

/// What a worker has in hand.
#[derive(Debug, Clone, Default)]
pub struct Hand {
    pub turns: Vec<Turn>,
    /// A batch whose answer was lost, and whether it was committed.
    pub(super) unsure: Option<(Vec<Turn>, bool)>,
}

/// A delivery in a worker's hand.
#[derive(Debug, Clone)]
pub struct Turn {
    pub pair: Pair,
    pub attempt: u32,
    pub trigger: Trigger,
    pub activation: i32,
    /// Why it must end without an attempt, as far as the worker knows.
    pub closes: Option<ClosedReason>,
    pub(super) origin: Origin,
    pub(super) ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The message's index. `None` once its channel was lost: the broker hands the message out again, and this worker has
    /// nothing to ack.
    Message(Option<usize>),
    Claim(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Attempted(Answer),
    NotAttempted(ClosedReason),
    Parked,
}

/// What follows from a turn.
pub(super) enum Next {
    Done,
    Waits { due: bool, trigger: Trigger },
    Closes(ClosedReason),
}

impl Turn {
    pub fn is_open(&self) -> bool {
        self.ending.is_none()
    }

    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.origin, Origin::Message(_))
    }

    pub(super) fn can_be_attempted(&self) -> bool {
        self.is_open() && self.closes.is_none()
    }

    pub(super) fn can_be_parked(&self) -> bool {
        self.can_be_attempted() && self.is_fresh()
    }

    pub(super) fn can_be_closed(&self) -> bool {
        self.is_open() && self.closes.is_some()
    }

    pub(super) fn can_be_released(&self) -> bool {
        self.is_open() && !self.is_fresh()
    }

    pub(super) fn next(&self) -> Next {
        match self.ending.expect("it has ended") {
            Ending::Attempted(Answer::Ok) => Next::Done,
            Ending::Attempted(Answer::Gone) => Next::Closes(ClosedReason::Disabled),
            Ending::Attempted(Answer::Error) if self.attempt == ATTEMPTS => Next::Closes(ClosedReason::Exhausted),
            Ending::Attempted(_) => Next::Waits { due: false, trigger: Trigger::Retry },
            Ending::NotAttempted(reason) => Next::Closes(reason),
            Ending::Parked => Next::Waits { due: true, trigger: self.trigger },
        }
    }

    /// Our own failure costs no attempt.
    pub(super) fn attempts_made(&self) -> u32 {
        match self.ending.expect("it has ended") {
            Ending::Attempted(Answer::Ok | Answer::Error | Answer::Gone) => self.attempt,
            _ => self.attempt - 1,
        }
    }
}

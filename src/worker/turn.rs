//! A turn: a delivery that may be attempted now, and where it came from.

use std::time::Instant;

use super::share::{MessageShare, Report, Reported};
use crate::delivery::Delivery;
use crate::store::{Ending, TurnResult};

pub(super) struct Turn {
    pub(super) delivery: Delivery,
    pub(super) origin: Origin,
    /// Taken just before its webhook was read, so that its age is never underestimated. A claimed delivery was claimed then,
    /// too: an age that is too small would let an attempt begin after the end of the claim's lease.
    pub(super) looked_up: Instant,
    /// Until when its request may begin, if it was granted: see `pacing`.
    pub(super) granted_until: Option<Instant>,
}

/// Where a delivery came from, and so what has to be done when its turn is over.
pub(super) enum Origin {
    /// A broker message, which is acked when all its deliveries are recorded.
    Message(MessageShare),
    /// A row in Postgres, claimed under this number.
    Claim(i64),
}

impl Turn {
    pub(super) fn over(self, ending: Ending) -> Report {
        let (claim, share) = match self.origin {
            Origin::Message(share) => (None, Some(share)),
            Origin::Claim(number) => (Some(number), None),
        };
        Report::TurnOver(Reported { turn_result: TurnResult { delivery: self.delivery, claim, ending }, share })
    }

    /// What gives a claim back. `None` for a turn from a broker message: dropping the turn returns the message.
    pub(super) fn release(&self) -> Option<Report> {
        match self.origin {
            Origin::Message(_) => None,
            Origin::Claim(number) => Some(Report::Released(self.delivery.id, number)),
        }
    }

    pub(super) fn is_claimed(&self) -> bool {
        matches!(self.origin, Origin::Claim(_))
    }

    /// Whether the broker will hand the message out again whatever is done here: its channel has closed.
    pub(super) fn has_lost_its_message(&self) -> bool {
        matches!(&self.origin, Origin::Message(share) if !share.is_usable())
    }
}

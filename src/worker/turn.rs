//! A turn: a delivery that may be attempted now, and where it came from.

use std::time::Instant;

use super::share::{MessageShare, Report, Reported};
use crate::delivery::Delivery;
use crate::store::{Ending, TurnResult};
use crate::trace_context::TraceContext;

pub(super) struct Turn {
    pub(super) delivery: Delivery,
    pub(super) origin: Origin,
    /// Taken just before its webhook was read, so that its age is never underestimated. A claimed delivery was claimed then,
    /// too: an age that is too small would let an attempt begin after the end of the claim's lease.
    pub(super) looked_up: Instant,
    pub(super) grant: Grant,
    /// When a worker received the event, if the delivery had no attempt yet.
    pub(super) received: Option<Instant>,
}

/// Whether PostgreSQL granted a turn's request: see `pacing`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grant {
    None,
    /// The request may begin until then.
    Until(Instant),
    /// The schema knew no paces, so the operator's ceiling does not hold.
    NoPaces,
}

impl Grant {
    /// Whether a request may begin. `own_pace`: the webhook itself has a pace, not only the operator's ceiling.
    pub(super) fn holds(self, own_pace: bool, now: Instant) -> bool {
        match self {
            Self::None => false,
            Self::Until(until) => now < until,
            Self::NoPaces => !own_pace,
        }
    }
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
        let turn_result = TurnResult { delivery: self.delivery, claim, ending, received: self.received };
        Report::TurnOver(Reported { turn_result, share })
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

    /// The span that its attempt is a child of.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        let consumed = match &self.origin {
            Origin::Message(share) => share.span(),
            Origin::Claim(_) => None,
        };
        consumed.or(self.delivery.event().trace)
    }

    /// Whether the broker will hand the message out again whatever is done here: its channel has closed.
    pub(super) fn has_lost_its_message(&self) -> bool {
        matches!(&self.origin, Origin::Message(share) if !share.is_usable())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_grant_ends_and_a_ceiling_needs_none_while_the_schema_knows_no_paces() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        assert!(!Grant::None.holds(false, now));
        assert!(Grant::Until(later).holds(true, now) && !Grant::Until(later).holds(true, later));
        assert!(Grant::NoPaces.holds(false, later), "however long the turn waited in its lane");
        assert!(!Grant::NoPaces.holds(true, now), "the schema was migrated, and the webhook got a pace");
    }
}

//! What goes into lanes and what comes out: offers, started turns and what a turn says about its receiver.

use std::time::Instant;

use super::probe::Pause;
use crate::ids::WebhookId;

/// What becomes of a fresh turn that is offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer<T> {
    /// The caller attempts it now.
    Start(Start<T>),
    /// It waits in its lane.
    Waits,
    /// Its receiver cannot take it soon: the caller parks it in the database.
    Park(T),
}

/// A turn that the caller attempts now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start<T> {
    pub(crate) slot: Slot,
    pub(crate) turn: T,
}

/// What a started turn occupies in its lane until [`Lanes::ended`](super::Lanes::ended).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(super) webhook: WebhookId,
    pub(super) kind: Kind,
    /// The turn came from a broker message, and so counts as in hand.
    pub(super) fresh: bool,
    pub(super) began: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Usual,
    /// The attempt tests a receiver that has failed or asked for time.
    Probe,
}

/// What a turn says about its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feedback {
    Succeeded,
    Failed,
    /// Nothing: it was not attempted, or failed through our own fault.
    Nothing,
    /// No turn of this webhook can be signed now. The lane is probed like one whose receiver has failed often enough.
    Unsignable,
    /// The receiver asked for time: in this attempt, or, as the database says, in one of another worker.
    Paused(Pause),
}

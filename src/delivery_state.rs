//! The state of a delivery as customers see it, made of the rows that are left of it.

use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::delivery::ClosedReason;
use crate::snapshot::Standing;

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It will be attempted.
    Pending,
    /// An attempt succeeded.
    Delivered,
    /// The last attempt of its schedule failed; also a test that failed, which has one attempt.
    Exhausted,
    /// The webhook was switched off or deleted while the delivery waited.
    Cancelled,
    /// We had disabled the webhook.
    Disabled,
    /// The result of its attempt could not be stored.
    Unrecordable,
}

/// Which deliveries a list has, by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WantedState {
    Only(DeliveryState),
    /// Every state but `delivered`.
    Undelivered,
}

impl WantedState {
    /// All of them with their names in the API.
    pub(crate) fn all() -> impl Iterator<Item = (&'static str, Self)> {
        let states = DeliveryState::ALL.map(|state| (state.as_str(), Self::Only(state)));
        states.into_iter().chain([("undelivered", Self::Undelivered)])
    }

    pub(crate) fn takes(self, state: DeliveryState) -> bool {
        match self {
            Self::Only(wanted) => wanted == state,
            Self::Undelivered => state != DeliveryState::Delivered,
        }
    }

    /// Whether a delivery without an attempt may be in such a state.
    pub(crate) fn may_be_unattempted(self) -> bool {
        self != Self::Only(DeliveryState::Delivered)
    }
}

impl PartialSchema for WantedState {
    fn schema() -> RefOr<Schema> {
        let names = Self::all().map(|(name, _)| name);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}

impl ToSchema for WantedState {}

/// What is left of a delivery, as far as its state depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Remains<'a> {
    /// The activation of the webhook that its pending row was made in.
    pub pending: Option<i32>,
    /// The reason in its closed row.
    pub closed: Option<&'a str>,
    /// Whether one of its attempts succeeded.
    pub succeeded: bool,
    /// Whether another attempt was to follow its newest one.
    pub to_be_continued: bool,
}

impl DeliveryState {
    pub(crate) const ALL: [Self; 6] =
        [Self::Pending, Self::Delivered, Self::Exhausted, Self::Cancelled, Self::Disabled, Self::Unrecordable];

    /// The name in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Exhausted => ClosedReason::Exhausted.as_str(),
            Self::Cancelled => ClosedReason::Cancelled.as_str(),
            Self::Disabled => ClosedReason::Disabled.as_str(),
            Self::Unrecordable => ClosedReason::Unrecordable.as_str(),
        }
    }

    /// The state of a delivery, when its webhook has this activation and standing (`None`: it was deleted).
    ///
    /// First the pending row, but only if it will be attempted; then the closed row; then the newest attempt. A success deletes
    /// both rows, and retention forgets closed deliveries whose events are gone.
    pub(crate) fn of(remains: Remains<'_>, webhook: Option<(i32, Standing)>) -> Self {
        let waits = remains.pending.map(|activation| ClosedReason::of(Standing::for_delivery(activation, webhook)));
        match (waits, remains.closed) {
            (Some(None), _) => Self::Pending,
            (_, Some(reason)) => Self::closed_as(reason),
            (Some(Some(reason)), None) => reason.into(),
            (None, None) if remains.succeeded => Self::Delivered,
            (None, None) if remains.to_be_continued => Self::Cancelled,
            (None, None) => Self::Exhausted,
        }
    }

    /// A reason that only a newer release knows counts as cancelled.
    fn closed_as(reason: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == reason).unwrap_or(Self::Cancelled)
    }
}

impl From<ClosedReason> for DeliveryState {
    fn from(reason: ClosedReason) -> Self {
        match reason {
            ClosedReason::Exhausted => Self::Exhausted,
            ClosedReason::Cancelled => Self::Cancelled,
            ClosedReason::Disabled => Self::Disabled,
            ClosedReason::Unrecordable => Self::Unrecordable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Option<(i32, Standing)> = Some((3, Standing::Active));

    #[test]
    fn a_pending_row_is_pending_only_while_it_will_be_attempted() {
        let of = |activation, webhook| {
            DeliveryState::of(Remains { pending: Some(activation), ..Remains::default() }, webhook)
        };
        assert_eq!(of(3, NOW), DeliveryState::Pending);
        assert_eq!(of(2, NOW), DeliveryState::Cancelled);
        assert_eq!(of(3, Some((3, Standing::Off))), DeliveryState::Cancelled);
        assert_eq!(of(3, Some((3, Standing::Disabled))), DeliveryState::Disabled);
        assert_eq!(of(3, None), DeliveryState::Cancelled);
    }

    #[test]
    fn what_waits_comes_before_what_was_closed_and_that_before_the_log() {
        let all = Remains { pending: Some(3), closed: Some("exhausted"), succeeded: true, to_be_continued: false };
        assert_eq!(DeliveryState::of(all, NOW), DeliveryState::Pending);
        assert_eq!(DeliveryState::of(Remains { pending: Some(2), ..all }, NOW), DeliveryState::Exhausted);
        assert_eq!(DeliveryState::of(Remains { pending: None, ..all }, NOW), DeliveryState::Exhausted);
        let logged = Remains { pending: None, closed: None, ..all };
        assert_eq!(DeliveryState::of(logged, NOW), DeliveryState::Delivered);
        assert_eq!(DeliveryState::of(Remains { succeeded: false, ..logged }, NOW), DeliveryState::Exhausted);
        let forgotten = Remains { succeeded: false, to_be_continued: true, ..logged };
        assert_eq!(DeliveryState::of(forgotten, NOW), DeliveryState::Cancelled);
    }

    #[test]
    fn every_reason_for_closing_is_a_state_of_the_same_name() {
        for reason in
            [ClosedReason::Exhausted, ClosedReason::Cancelled, ClosedReason::Disabled, ClosedReason::Unrecordable]
        {
            let state = DeliveryState::from(reason);
            assert_eq!(DeliveryState::closed_as(reason.as_str()), state);
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}

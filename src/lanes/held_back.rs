//! Why a lane may start no further request now, and how often each limit was the reason.

use std::time::{Duration, Instant};

use crate::ids::WebhookId;

/// A limit that has not held a lane back for this long is reported anew.
pub(super) const REPORTED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Why a lane has no room, and so when it is worth to look at the lane again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBack {
    /// The webhook has `max_in_flight_per_webhook` requests in flight. Until one of them ends.
    PerWebhookCap,
    /// The lane has its share of all requests, this many in flight. Until the share is larger or one of them ends.
    Share { in_flight: usize },
    /// The receiver is slow, and the last quarter of all requests is not for slow receivers. Until more are free.
    Reserve,
    /// `max_in_flight` requests are in flight. Until any request ends.
    Full,
    /// The lane's window is used up. Until the window opens, or one of the lane's requests ends.
    Window { opens: Instant },
    /// The receiver has just recovered from failures. Until one of the lane's requests ends.
    Recovery,
    /// The receiver's pause is just over. The limit doubles every few seconds; the lane is looked at again sooner.
    RecoveryFromPause { look_again: Instant },
    /// The receiver fails, and the next probe is at this time.
    Probe { next: Instant },
    /// The receiver fails, and a request is in flight: a probe goes alone. Until that request ends.
    ProbeAlone,
    /// The receiver asked for time.
    Pause { until: Instant },
}

impl HeldBack {
    /// The limit that is the reason.
    pub(crate) fn by(self) -> HeldBackBy {
        match self {
            Self::PerWebhookCap => HeldBackBy::PerWebhookCap,
            Self::Share { .. } => HeldBackBy::Share,
            Self::Reserve => HeldBackBy::Reserve,
            Self::Full => HeldBackBy::Full,
            Self::Window { .. } => HeldBackBy::Window,
            Self::Recovery | Self::RecoveryFromPause { .. } => HeldBackBy::Recovery,
            Self::Probe { .. } | Self::ProbeAlone => HeldBackBy::Probe,
            Self::Pause { .. } => HeldBackBy::Pause,
        }
    }
}

/// What limits a lane, as the table in the module's head lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBackBy {
    PerWebhookCap,
    Share,
    Reserve,
    Full,
    Window,
    Recovery,
    Probe,
    Pause,
}

impl HeldBackBy {
    /// In the order of the variants.
    pub(crate) const ALL: [Self; 8] = [
        Self::PerWebhookCap,
        Self::Share,
        Self::Reserve,
        Self::Full,
        Self::Window,
        Self::Recovery,
        Self::Probe,
        Self::Pause,
    ];

    /// As the metric's label and the log name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::PerWebhookCap => "per_webhook_cap",
            Self::Share => "share",
            Self::Reserve => "reserve",
            Self::Full => "full",
            Self::Window => "window",
            Self::Recovery => "recovery",
            Self::Probe => "probe",
            Self::Pause => "pause",
        }
    }
}

/// The lanes that were held back since the last report. The lanes collect it while they are locked; the caller counts and
/// logs it after the unlock.
#[derive(Debug, Default)]
pub(crate) struct HeldBackReport {
    counts: [u64; HeldBackBy::ALL.len()],
    /// Lanes that a limit began to hold back.
    pub(crate) begun: Vec<HeldBackLane>,
}

/// A lane that a limit began to hold back, and what it had then.
#[derive(Debug)]
pub(crate) struct HeldBackLane {
    pub(crate) webhook: WebhookId,
    pub(crate) by: HeldBackBy,
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
}

impl HeldBackReport {
    pub(super) fn count(&mut self, by: HeldBackBy) {
        self.counts[by as usize] += 1;
    }

    /// How often lanes with turns had no room, by reason; reasons that did not occur are left out.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (HeldBackBy, u64)> {
        HeldBackBy::ALL.into_iter().zip(self.counts).filter(|(_, count)| *count > 0)
    }
}

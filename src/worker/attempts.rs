//! What the tasks of a worker share to attempt deliveries, and how they report the end of a turn to the recorder.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::egress_outage::EgressOutage;
use super::holds::Holds;
use super::lookups::Lookups;
use super::pacing::Pacing;
use super::share::Report;
use super::stalls::Stalls;
use super::turn::Turn;
use super::unopened::Unopened;
use crate::delivery::ClosedReason;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::queue::Settled;
use crate::retry::RetryPolicy;
use crate::secret::Keyring;
use crate::sender::Sender;
use crate::store::{Ending, Store};
use crate::telemetry::Tracer;

pub(super) struct Attempts {
    pub(super) sender: Sender,
    pub(super) store: Store,
    pub(super) keyring: Keyring,
    pub(super) retry: RetryPolicy,
    /// A webhook is read again before an attempt if it was read longer ago.
    pub(super) lookup_lifetime: Duration,
    pub(super) lookups: Lookups,
    /// How old a claim may be when its attempt begins: its lease must not end before the attempt does.
    pub(super) claim_lifetime: Duration,
    pub(super) unopened: Unopened,
    pub(super) outage: EgressOutage,
    pub(super) holds: Arc<Holds>,
    pub(super) lanes: Mutex<Lanes<Turn>>,
    /// Wakes the intake when fewer fresh turns are in hand.
    pub(super) fewer_in_hand: Notify,
    /// The pace of webhooks that have none, or a higher one.
    pub(super) max_per_second: Option<NonZeroU32>,
    pub(super) pacing: Mutex<Pacing>,
    pub(super) stalls: Stalls,
    pub(super) metrics: Metrics,
    pub(super) tracer: Tracer,
    pub(super) under_way: TaskTracker,
    /// Ends attempts that are under way, unrecorded.
    pub(super) abandon: CancellationToken,
    pub(super) reports: mpsc::Sender<Report>,
    /// Where broker messages go of which a share was dropped.
    pub(super) returns: mpsc::UnboundedSender<Settled>,
}

impl Attempts {
    pub(super) fn lanes(&self) -> MutexGuard<'_, Lanes<Turn>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn report(&self, report: Report) {
        // The recorder ends after all attempts, except when it gives up.
        let _ = self.reports.send(report).await;
    }

    /// Gives claims back. While the recorder is stuck there may be no room for that, and a stop must not wait for it: such a
    /// claim ends with its lease.
    pub(super) fn try_release<'a>(&self, turns: impl IntoIterator<Item = &'a Turn>) {
        for report in turns.into_iter().filter_map(Turn::release) {
            let _ = self.reports.try_send(report);
        }
    }

    /// Has turns wait in the database that left their lane.
    pub(super) async fn turn_all_away(&self, turns: Vec<Turn>) {
        for turn in turns {
            self.fewer_in_hand.notify_one();
            self.turn_away(turn).await;
        }
    }

    /// Has a turn wait in the database: a fresh delivery is parked there, a claimed one is given back.
    pub(super) async fn turn_away(&self, turn: Turn) {
        match turn.release() {
            Some(report) => self.report(report).await,
            None => self.park(turn).await,
        }
    }

    pub(super) async fn park(&self, turn: Turn) {
        let trace_id = turn.delivery.event().trace_id().map(tracing::field::display);
        tracing::debug!(delivery_id = %turn.delivery.id.0, trace_id, "parked");
        self.metrics.parked.inc();
        self.report(turn.over(Ending::Parked)).await;
    }

    /// Reports a delivery that ends without an attempt.
    pub(super) async fn close(&self, turn: Turn, reason: ClosedReason) {
        self.metrics.closed.count(reason.as_str());
        tracing::info!(
            webhook_id = %turn.delivery.webhook.id,
            delivery_id = %turn.delivery.id.0,
            trace_id = turn.delivery.event().trace_id().map(tracing::field::display),
            reason = reason.as_str(),
            "closed a delivery"
        );
        self.report(turn.over(Ending::ClosedUnattempted(reason))).await;
    }
}

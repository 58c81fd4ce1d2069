//! Pauses that the database tells of: another worker's attempt was asked for time.

use std::time::Instant;

use super::probe::{Pause, Probe};
use super::room::Lanes;
use crate::ids::WebhookId;
use crate::snapshot::ReceiverId;

impl<T> Lanes<T> {
    /// Until when nothing of a webhook is claimed or started, if its receiver asked for time.
    pub(crate) fn paused_until(&self, webhook: WebhookId, now: Instant) -> Option<Instant> {
        self.lanes.get(&webhook).filter(|lane| lane.is_paused(now))?.probe.as_ref().map(Probe::next)
    }

    /// The database says that the webhook is paused. Returns the turns that waited in its lane: the caller parks them, or
    /// gives them back.
    pub(crate) fn pause(&mut self, webhook: WebhookId, pause: Pause, now: Instant) -> Vec<T> {
        let interval = self.limits.probe_interval;
        let lane = self.lane(webhook, now);
        lane.pause(pause, lane.in_flight, interval, now);
        self.empty(webhook)
    }

    /// The database says that the webhook is not paused. The database may not have the newest pause yet, so this ends the
    /// pause only if the webhook has another receiver now than the one that asked for time.
    pub(crate) fn not_paused(&mut self, webhook: WebhookId, receiver: ReceiverId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&webhook).filter(|lane| lane.is_paused(now)) else { return };
        if lane.probe.as_mut().is_some_and(|probe| probe.end_pause_of_another(receiver, now)) {
            self.enqueue_again(webhook);
        }
    }
}

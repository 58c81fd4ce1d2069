//! Writes batches of results, in parts that Postgres takes, until it has taken or refused all of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::kept_health::{HealthWrite, KeptHealth};
use super::portion::Portion;
use super::share::{MessageShare, Report, Reported};
use super::spans;
use super::stalls::{DatabaseWait, Stalls};
use crate::config::{HealthThresholds, Settings};
use crate::delivery::{ClosedReason, Outcome};
use crate::error_chain;
use crate::metrics::{Metrics, observe_since, observe_size};
use crate::queue::Settled;
use crate::store::{Ending, Store, StoreError, TurnResult};
use crate::telemetry::Tracer;

/// Bytes of event bodies that one transaction writes. The driver keeps a buffer of the largest that a connection ever
/// wrote, for each connection of the pool and as long as it lives.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

pub(super) struct Writer {
    store: Store,
    health: HealthThresholds,
    stalls: Stalls,
    metrics: Metrics,
    tracer: Tracer,
    /// What results say about webhooks whose rows somebody holds.
    kept: Mutex<KeptHealth>,
    /// Results written by one transaction.
    portion: Mutex<Portion>,
}

impl Writer {
    pub(super) fn new(settings: &Settings, store: Store, stalls: Stalls, metrics: Metrics, tracer: Tracer) -> Self {
        let (kept, portion) = (Mutex::default(), Portion::of(settings.worker.batch).into());
        Self { store, health: settings.health.clone(), stalls, metrics, tracer, kept, portion }
    }

    /// Returns the messages that can be settled afterwards. Batches are numbered in the order of these calls.
    pub(super) fn write(&self, reports: Vec<Report>) -> impl Future<Output = Vec<Settled>> {
        let number = self.kept().number();
        self.write_batch(number, reports)
    }

    async fn write_batch(&self, number: u64, reports: Vec<Report>) -> Vec<Settled> {
        let (mut results, mut settled, mut released) = (Vec::with_capacity(reports.len()), Vec::new(), Vec::new());
        for report in reports {
            match report {
                Report::TurnOver(reported) => results.push(reported),
                Report::Settled(message) => settled.push(message),
                Report::Released(delivery, claim) => released.push((delivery, claim)),
            }
        }
        if !results.is_empty() {
            settled.extend(self.record(number, results).await);
        }
        if !released.is_empty() {
            // If this fails, the claims end with their leases.
            let _ = self.store.release(&released).await;
        }
        settled
    }

    /// Writes all results. A part that takes too long is tried again with fewer results, a part that the database refuses
    /// is halved until the result is found that it refuses. Returns the messages that can be settled now.
    async fn record(&self, number: u64, results: Vec<Reported>) -> Vec<Settled> {
        let (mut done, mut stall) = (Vec::new(), self.stalls.wait());
        let mut parts = by_size(results);
        while let Some(mut part) = parts.pop() {
            let size = self.portion().size();
            if part.len() > size {
                parts.push(part.split_off(size));
            }
            match self.until_answered(number, &part, &mut stall).await {
                Ok(()) => done.extend(shares(part).filter_map(MessageShare::recorded)),
                // The portion is smaller now.
                Err(late) if late.ran_out_of_time() => parts.push(part),
                Err(refused) if part.len() == 1 => match reduce(&mut part[0].turn_result, &refused) {
                    Reduced::TryAgain => parts.push(part),
                    Reduced::NothingLeft => done.extend(shares(part).filter_map(MessageShare::unrecorded)),
                },
                Err(_) => {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                }
            }
        }
        done
    }

    /// Tries to write results until the database has taken or refused them, or had no time for so many at once.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] when the database will never take all of these results. An error that
    /// [`ran_out_of_time`](StoreError::ran_out_of_time) when there are too many of them; nothing was written then.
    async fn until_answered(
        &self,
        number: u64,
        results: &[Reported],
        stall: &mut DatabaseWait<'_>,
    ) -> Result<(), StoreError> {
        loop {
            let began = Instant::now();
            let mut health_write = self.kept().with(number, results);
            let mut span = spans::record(&self.tracer, results);
            let error = match self.store.record(results, &mut health_write.observations, &self.health).await {
                Ok(()) => {
                    stall.over();
                    self.written(results, health_write, began);
                    return Ok(());
                }
                Err(error @ StoreError::Refused(_)) => {
                    if let Some(span) = &mut span {
                        span.failed("refused");
                    }
                    stall.over();
                    self.kept().refused(health_write);
                    return Err(error);
                }
                Err(error) => error,
            };
            if let Some(mut span) = span.take() {
                span.failed("unavailable");
            }
            stall.after("cannot record, holding the results", &error).await;
            if self.was_recorded(results, stall).await {
                stall.over();
                results.iter().for_each(|reported| reported.turn_result.delivery.row.mark_stored());
                self.kept().written(health_write);
                return Ok(());
            }
            self.not_written(health_write, &error);
            if error.ran_out_of_time() && results.len() > 1 {
                self.portion().ran_out_of_time(results.len());
                return Err(error);
            }
        }
    }

    fn written(&self, results: &[Reported], health_write: HealthWrite, began: Instant) {
        observe_since(&self.metrics.record_duration, began);
        observe_size(&self.metrics.record_batch_size, results.len());
        self.metrics.recorded.inc_by(results.len() as u64);
        self.portion().ended();
        self.kept().written(health_write);
    }

    /// Whether a transaction was committed whose answer was lost. Nothing is written again before that is known.
    async fn was_recorded(&self, results: &[Reported], stall: &mut DatabaseWait<'_>) -> bool {
        loop {
            match self.store.is_recorded(results).await {
                Ok(recorded) => return recorded,
                Err(error) => stall.after("cannot ask what was recorded", &error).await,
            }
        }
    }

    pub(super) fn keeps_health(&self) -> bool {
        !self.kept().is_empty()
    }

    /// Tries once more to write the health of webhooks whose rows somebody held.
    pub(super) async fn write_kept_health(&self) {
        let number = self.kept().number();
        let Some(mut health_write) = self.kept().alone(number) else { return };
        match self.store.record_health(&mut health_write.observations, &self.health).await {
            Ok(()) => self.kept().written_alone(health_write),
            Err(StoreError::Refused(error)) => {
                tracing::error!(error = error_chain(error.as_ref()), "the database refuses the health of webhooks");
                self.kept().refused(health_write);
            }
            Err(error) => {
                tracing::debug!(error = error_chain(&error), "cannot write the health of webhooks yet");
                self.not_written(health_write, &error);
            }
        }
    }

    fn not_written(&self, health_write: HealthWrite, error: &StoreError) {
        match error.ran_out_of_time() {
            true => self.kept().ran_out_of_time(health_write),
            false => self.kept().not_written(health_write),
        }
    }

    fn kept(&self) -> MutexGuard<'_, KeptHealth> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn portion(&self) -> MutexGuard<'_, Portion> {
        self.portion.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shares(results: Vec<Reported>) -> impl Iterator<Item = MessageShare> {
    results.into_iter().filter_map(|reported| reported.share)
}

/// Splits results so that the event bodies of each part fit into one transaction. The first part comes last, for parts are
/// taken from the end.
fn by_size(mut results: Vec<Reported>) -> Vec<Vec<Reported>> {
    let mut parts = Vec::new();
    while !results.is_empty() {
        let rest = results.split_off(fitting(&results));
        parts.push(std::mem::replace(&mut results, rest));
    }
    parts.reverse();
    parts
}

/// How many results, from the first on, fit into one transaction; at least one.
fn fitting(results: &[Reported]) -> usize {
    let mut bytes = 0;
    let fits = |reported: &&Reported| {
        let row = &reported.turn_result.delivery.row;
        bytes += if row.is_stored() { 0 } else { row.event.body.len() };
        bytes <= MAX_BATCH_BYTES
    };
    results.iter().take_while(fits).count().max(1)
}

enum Reduced {
    TryAgain,
    /// The broker message is returned, and becomes a dead letter in the end.
    NothingLeft,
}

/// Takes something away from a result that the database refuses: first what the receiver wrote, then the attempt.
fn reduce(turn_result: &mut TurnResult, refused: &StoreError) -> Reduced {
    let (delivery_id, error) = (turn_result.delivery.id.0, error_chain(refused));
    let trace_id = turn_result.delivery.event().trace_id().map(tracing::field::display);
    if let Ending::Attempted(attempt, _) = &mut turn_result.ending {
        if let Outcome::Answered(answer) = &mut attempt.outcome
            && (answer.snippet.take().is_some() | answer.headers.take().is_some())
        {
            tracing::error!(%delivery_id, trace_id, error, "the database refuses a result; recording it without its answer");
            return Reduced::TryAgain;
        }
        tracing::error!(%delivery_id, trace_id, error, "the database refuses a result; closing its delivery");
        turn_result.ending = Ending::ClosedUnattempted(ClosedReason::Unrecordable);
        return Reduced::TryAgain;
    }
    tracing::error!(%delivery_id, trace_id, error, "the database refuses to close a delivery");
    Reduced::NothingLeft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_split_before_its_bodies_outgrow_a_transaction() {
        let body = |bytes: usize| &*vec![b'x'; bytes].leak();
        let bodies = [1, MAX_BATCH_BYTES - 1, 1, MAX_BATCH_BYTES + 1, 1];
        let ending = || Ending::ClosedUnattempted(ClosedReason::Cancelled);
        let reported = |bytes| Reported { turn_result: TurnResult::example(1, 1, body(bytes), ending()), share: None };
        let taken_in_order = by_size(bodies.into_iter().map(reported).collect()).into_iter().rev();
        let parts: Vec<usize> = taken_in_order.map(|part| part.len()).collect();
        assert_eq!(parts, [2, 1, 1, 1]);
    }
}

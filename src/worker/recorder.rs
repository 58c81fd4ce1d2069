//! Writes results in batches, then acks. The order is the promise: what is acked is recorded.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::kept::{Kept, Try};
use super::portion::Portion;
use super::share::Share;
use super::stalls::{Stall, Stalls};
use crate::config::{HealthThresholds, Settings};
use crate::delivery::{ClosedReason, Outcome};
use crate::error_chain;
use crate::ids::DeliveryId;
use crate::metrics::Metrics;
use crate::queue::{Acknowledger, Settled};
use crate::store::{Ending, Store, StoreError, TurnResult};

/// What the rest of the worker tells the recorder.
#[derive(Debug)]
pub(super) enum Report {
    /// A turn is over; the share belongs to the broker message it came from.
    Finished(TurnResult, Option<Share>),
    /// A broker message needs nothing recorded.
    Settled(Settled),
    /// A claim is given back.
    Released(DeliveryId, i64),
}

/// Event bodies written by one transaction. The driver keeps a buffer of the largest that a connection ever wrote, for each
/// connection of the pool and as long as it lives.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Transactions at a time.
const WRITERS: usize = 2;

/// Between the beginnings of two transactions, unless a whole batch waits: what one costs hardly depends on how much is in
/// it. After an idle moment nothing waits.
const WRITES_APART: Duration = Duration::from_millis(5);

/// Batches of recorded messages whose acks may wait for the connection to the broker. Beyond that nothing is recorded:
/// a connection that takes nothing ends within two heartbeats.
const BATCHES_UNACKED: usize = 64;

/// Between tries to write the health of webhooks whose rows somebody holds, if no results come that try it too.
const HEALTH_APART: Duration = Duration::from_millis(250);

/// The same at the end.
const LAST_HEALTH_APART: Duration = Duration::from_millis(100);

pub(super) struct Recorder {
    pub(super) writer: Writer,
    pub(super) batch: usize,
    /// For how long the health of webhooks is written at the end: a stop waits neither for who holds a row nor for the
    /// database.
    pub(super) last_health: Duration,
    pub(super) give_up: CancellationToken,
    pub(super) acknowledger: Acknowledger,
}

pub(super) struct Writer {
    store: Store,
    health: HealthThresholds,
    stalls: Stalls,
    metrics: Metrics,
    /// What the results of a webhook say about it, while somebody holds its row.
    kept: Mutex<Kept>,
    /// Results written by one transaction.
    portion: Mutex<Portion>,
}

/// Broker messages with a delivery that will not be recorded.
type Returned = mpsc::UnboundedReceiver<Settled>;

/// Results of a batch whose shares lie beside them.
type Results = (Vec<TurnResult>, Vec<Option<Share>>);

impl Recorder {
    /// Runs until nobody can report any more, or until told to give up.
    pub(super) async fn run(self, mut reports: mpsc::Receiver<Report>, mut returned: Returned) {
        let Self { writer, batch, last_health, give_up, acknowledger } = self;
        let (done, settled) = mpsc::channel(BATCHES_UNACKED);
        let record = record_all(&writer, batch, last_health, &mut reports, done);
        // Side by side: what is written next does not wait for acks.
        let both = async { tokio::join!(record, acknowledger.run(settled, &mut returned)) };
        give_up.run_until_cancelled(both).await;
    }
}

/// While one transaction commits the next one is written.
async fn record_all(
    writer: &Writer,
    batch: usize,
    last_health: Duration,
    reports: &mut mpsc::Receiver<Report>,
    done: mpsc::Sender<Vec<Settled>>,
) {
    let (mut in_hand, mut written, mut ended) = (Vec::with_capacity(batch), FuturesUnordered::new(), false);
    let (mut earliest, mut health_written) = (Instant::now(), FuturesUnordered::new());
    let mut health = tokio::time::interval(HEALTH_APART);
    health.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What is kept of webhooks' health is not waited for here, for a stop must not.
    while !ended || !written.is_empty() {
        tokio::select! {
            // Record before ack: repeating an attempt is harmless, losing one is not.
            Some(settled) = written.next() => {
                // The acknowledger ends after us.
                let _ = done.send(settled).await;
            }
            Some(()) = health_written.next() => {}
            _ = health.tick(), if writer.keeps_health() && written.len() + health_written.len() < WRITERS => {
                health_written.push(writer.write_kept_health());
            }
            received = gather(reports, &mut in_hand, batch, earliest),
                if !ended && written.len() + health_written.len() < WRITERS =>
            {
                ended = received == 0;
                earliest = Instant::now() + WRITES_APART;
                if !ended {
                    written.push(writer.write(std::mem::take(&mut in_hand)));
                }
            }
        }
    }
    drop(done);
    let last = async {
        while health_written.next().await.is_some() {}
        while writer.keeps_health() {
            writer.write_kept_health().await;
            tokio::time::sleep(LAST_HEALTH_APART).await;
        }
    };
    let _ = tokio::time::timeout(last_health, last).await;
}

/// Takes what was reported until `earliest`, or the first report after it; a whole batch at once. Returns 0 when nobody
/// can report any more.
async fn gather(
    reports: &mut mpsc::Receiver<Report>,
    in_hand: &mut Vec<Report>,
    batch: usize,
    earliest: Instant,
) -> usize {
    if reports.len() < batch {
        tokio::time::sleep_until(earliest.into()).await;
    }
    reports.recv_many(in_hand, batch).await
}

impl Writer {
    pub(super) fn new(settings: &Settings, store: Store, stalls: Stalls, metrics: Metrics) -> Self {
        let (kept, portion) = (Mutex::default(), Portion::of(settings.worker.batch).into());
        Self { store, health: settings.health.clone(), stalls, metrics, kept, portion }
    }

    /// Returns the messages that are done by it. Batches are numbered in the order of these calls.
    fn write(&self, reports: Vec<Report>) -> impl Future<Output = Vec<Settled>> {
        let number = self.kept().number();
        self.write_batch(number, reports)
    }

    async fn write_batch(&self, number: u64, reports: Vec<Report>) -> Vec<Settled> {
        let (mut results, mut settled, mut released) = (Results::default(), Vec::new(), Vec::new());
        for report in reports {
            match report {
                Report::Finished(finished, share) => results.extend([(finished, share)]),
                Report::Settled(message) => settled.push(message),
                Report::Released(delivery, claim) => released.push((delivery, claim)),
            }
        }
        if !results.0.is_empty() {
            settled.extend(self.record(number, results).await);
        }
        if !released.is_empty() {
            // Without it the lease ends later.
            let _ = self.store.release(&released).await;
        }
        settled
    }

    /// Writes all of it, split where the database refuses a part or takes too long for it, and returns the messages that
    /// are done by it.
    async fn record(&self, number: u64, results: Results) -> Vec<Settled> {
        let (mut done, mut stall) = (Vec::new(), None);
        let mut parts = by_weight(results);
        while let Some((mut finished, mut shares)) = parts.pop() {
            let size = self.portion().size();
            if finished.len() > size {
                parts.push((finished.split_off(size), shares.split_off(size)));
            }
            match self.until_answered(number, &finished, &mut stall).await {
                Ok(()) => done.extend(shares.into_iter().flatten().filter_map(Share::recorded)),
                // What took too long: the portion is smaller now.
                Err(late) if late.ran_out_of_time() => parts.push((finished, shares)),
                Err(refused) if finished.len() == 1 => match reduced(finished.remove(0), &refused) {
                    Some(less) => parts.push((vec![less], shares)),
                    None => done.extend(shares.into_iter().flatten().filter_map(Share::unrecorded)),
                },
                Err(_) => {
                    let half = finished.len() / 2;
                    parts.push((finished.split_off(half), shares.split_off(half)));
                    parts.push((finished, shares));
                }
            }
        }
        done
    }

    /// Holds the results until the database has taken or refused them, or had no time for so many at once.
    async fn until_answered(
        &self,
        number: u64,
        finished: &[TurnResult],
        stall: &mut Option<Stall>,
    ) -> Result<(), StoreError> {
        loop {
            let began = Instant::now();
            let mut tried = self.kept().with(number, finished);
            let error = match self.store.record(finished, &mut tried.observations, &self.health).await {
                Ok(()) => {
                    Stalls::over(stall);
                    self.metrics.record_duration.observe(began.elapsed().as_secs_f64());
                    self.metrics.recorded.inc_by(finished.len() as u64);
                    self.portion().ended();
                    self.kept().written(tried);
                    return Ok(());
                }
                Err(error @ StoreError::Refused(_)) => {
                    Stalls::over(stall);
                    self.kept().refused(tried);
                    return Err(error);
                }
                Err(error) => error,
            };
            self.stalls.wait(stall, "cannot record, holding the results", &error).await;
            if self.was_recorded(finished, stall).await {
                Stalls::over(stall);
                finished.iter().for_each(|finished| finished.delivery.row.mark_stored());
                self.kept().written(tried);
                return Ok(());
            }
            self.not_written(tried, &error);
            if error.ran_out_of_time() && finished.len() > 1 {
                self.portion().ran_out_of_time(finished.len());
                return Err(error);
            }
        }
    }

    /// The commit may have happened without its answer: nothing is repeated before that is known.
    async fn was_recorded(&self, finished: &[TurnResult], stall: &mut Option<Stall>) -> bool {
        loop {
            match self.store.is_recorded(finished).await {
                Ok(recorded) => return recorded,
                Err(error) => self.stalls.wait(stall, "cannot ask what was recorded", &error).await,
            }
        }
    }

    fn keeps_health(&self) -> bool {
        !self.kept().is_empty()
    }

    /// Tries once more to write the health of webhooks whose rows somebody held.
    async fn write_kept_health(&self) {
        let number = self.kept().number();
        let Some(mut tried) = self.kept().alone(number) else { return };
        match self.store.record_health(&mut tried.observations, &self.health).await {
            Ok(()) => self.kept().written_alone(tried),
            Err(StoreError::Refused(error)) => {
                tracing::error!(error = error_chain(error.as_ref()), "the database refuses the health of webhooks");
                self.kept().refused(tried);
            }
            Err(error) => {
                tracing::debug!(error = error_chain(&error), "cannot write the health of webhooks yet");
                self.not_written(tried, &error);
            }
        }
    }

    fn not_written(&self, tried: Try, error: &StoreError) {
        match error.ran_out_of_time() {
            true => self.kept().ran_out_of_time(tried),
            false => self.kept().not_written(tried),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn portion(&self) -> MutexGuard<'_, Portion> {
        self.portion.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Splits results so that each part's event bodies fit into one transaction that ends in time.
fn by_weight((finished, shares): Results) -> Vec<Results> {
    let mut parts = vec![Results::default()];
    let mut bytes = 0;
    for (finished, share) in finished.into_iter().zip(shares) {
        let row = &finished.delivery.row;
        bytes += if row.is_stored() { 0 } else { row.event.body.len() };
        if bytes > MAX_BATCH_BYTES {
            bytes = row.event.body.len();
            parts.push(Results::default());
        }
        parts.last_mut().expect("it begins with one").extend([(finished, share)]);
    }
    // The last is taken first.
    parts.reverse();
    parts
}

/// What is left of a result that the database refuses: first its snippet goes, then its attempt. `None` when nothing is
/// left: its broker message is returned and becomes a dead letter in the end.
fn reduced(mut finished: TurnResult, refused: &StoreError) -> Option<TurnResult> {
    let (delivery_id, error) = (finished.delivery.id.0, error_chain(refused));
    if let Ending::Attempted(attempt, _) = &mut finished.ending {
        if let Outcome::Answered(answer) = &mut attempt.outcome
            && answer.snippet.take().is_some()
        {
            tracing::error!(%delivery_id, error, "the database refuses a result; recording it without its snippet");
            return Some(finished);
        }
        tracing::error!(%delivery_id, error, "the database refuses a result; closing its delivery");
        finished.ending = Ending::ClosedUnattempted(ClosedReason::Unrecordable);
        return Some(finished);
    }
    tracing::error!(%delivery_id, error, "the database refuses to close a delivery");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_split_before_its_bodies_outgrow_a_transaction() {
        let body = |bytes: usize| &*vec![b'x'; bytes].leak();
        let bodies = [1, MAX_BATCH_BYTES - 1, 1, MAX_BATCH_BYTES + 1, 1];
        let end = || Ending::ClosedUnattempted(ClosedReason::Cancelled);
        let results: Results =
            bodies.iter().map(|bytes| (TurnResult::example(1, 1, body(*bytes), end()), None)).unzip();
        let taken_in_order = by_weight(results).into_iter().rev();
        let parts: Vec<usize> = taken_in_order.map(|(finished, _)| finished.len()).collect();
        assert_eq!(parts, [2, 1, 1, 1]);
    }
}

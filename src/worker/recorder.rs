//! Gathers what is reported into batches, has them written, and then acks. The order is the promise: what is acked is
//! recorded. `docs/architecture.md` shows the same way with the names of all functions on it.
//!
//! ```text
//!  attempt ── Report ──► gather: a batch every 5 ms, or a full one at once
//!                          │
//!                          ▼        transactions of the writer, two at a time
//!                        write ──► by_size ──► until_answered ──► recorded ──► MessageShare::recorded
//!                                    ▲             │ out of time: fewer at a time        │
//!                                    └─────────────┘ refused: halved, then reduced       │ the message's last share
//!                                                                                        ▼
//!                                        acknowledger ◄── done ◄── Settled: acked, returned or a dead letter
//! ```

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::share::Report;
use super::writer::Writer;
use crate::metrics::Metrics;
use crate::queue::{Recorded, Settled, acknowledge};

/// Transactions at a time: the next is written while one commits.
const WRITERS: usize = 2;

/// Between the beginnings of two transactions, unless a whole batch waits: a transaction costs about the same whatever is
/// in it. The first report after an idle moment is written at once.
const WRITES_APART: Duration = Duration::from_millis(5);

/// Batches of recorded messages whose acks may wait for the connection to the broker. While there are more, nothing is
/// recorded: a connection that takes nothing ends within two heartbeats.
const BATCHES_UNACKED: usize = 64;

/// Between tries to write the health of webhooks whose rows somebody holds, if no results come that try it too.
const HEALTH_APART: Duration = Duration::from_millis(250);

/// The same while the worker stops.
const LAST_HEALTH_APART: Duration = Duration::from_millis(100);

pub(super) struct Recorder {
    pub(super) writer: Writer,
    /// Reports per batch.
    pub(super) batch: usize,
    /// The longest time that a stop spends on writing webhooks' health, though rows are locked or the database is away.
    pub(super) last_health: Duration,
    pub(super) give_up: CancellationToken,
    /// How many consumers take events. Each has its own connection to the broker.
    pub(super) consumers: usize,
    pub(super) metrics: Metrics,
}

/// Writes of webhooks' health that are under way.
type HealthWrites<'a> = FuturesUnordered<BoxFuture<'a, ()>>;

/// Broker messages with a delivery that will not be recorded.
type Returned = mpsc::UnboundedReceiver<Settled>;

impl Recorder {
    /// Runs until nobody can report any more, or until told to give up.
    pub(super) async fn run(self, mut reports: mpsc::Receiver<Report>, mut returned: Returned) {
        let Self { writer, batch, last_health, give_up, consumers, metrics } = self;
        let (done, settled) = mpsc::channel(BATCHES_UNACKED);
        let record = async {
            let health_under_way = record_all(&writer, batch, &mut reports, done).await;
            let _ = tokio::time::timeout(last_health, write_last_health(&writer, health_under_way)).await;
        };
        // Side by side: what is written next does not wait for acks.
        let both = async { tokio::join!(record, acknowledge(consumers, settled, &mut returned, &metrics)) };
        give_up.run_until_cancelled(both).await;
    }
}

/// Writes until nobody can report any more and all results are written. Returns what is still writing health then: a stop
/// must not wait for that without a bound.
async fn record_all<'a>(
    writer: &'a Writer,
    batch: usize,
    reports: &mut mpsc::Receiver<Report>,
    done: mpsc::Sender<Recorded>,
) -> HealthWrites<'a> {
    let (mut in_hand, mut written, mut ended) = (Vec::with_capacity(batch), FuturesUnordered::new(), false);
    let (mut earliest, mut health_written) = (Instant::now(), HealthWrites::new());
    let mut health = tokio::time::interval(HEALTH_APART);
    health.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !ended || !written.is_empty() {
        tokio::select! {
            // Record before ack: repeating an attempt is harmless, losing one is not.
            Some(messages) = written.next() => {
                // The acknowledger ends after this task.
                let _ = done.send(Recorded { at: Instant::now(), messages }).await;
            }
            Some(()) = health_written.next() => {}
            _ = health.tick(), if writer.keeps_health() && written.len() + health_written.len() < WRITERS => {
                health_written.push(writer.write_kept_health().boxed());
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
    health_written
}

/// Tries to write the health of webhooks until nothing is kept of it.
async fn write_last_health(writer: &Writer, mut under_way: HealthWrites<'_>) {
    while under_way.next().await.is_some() {}
    while writer.keeps_health() {
        writer.write_kept_health().await;
        tokio::time::sleep(LAST_HEALTH_APART).await;
    }
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

//! The worker: takes events, attempts their deliveries, records the results, and only then acks.
//!
//! ```text
//!  consumer ─► intake ─► matching ─► admission ─► lanes ─► attempt ─► recorder ─► writer ─► Postgres
//!                 └─► redelivered ───┘   ▲                  │  ▲          └─► acknowledger ─► RabbitMQ
//!                                        │                  ▼  │
//!  Postgres ─────────► due ──────────────┘              egress_outage
//! ```
//!
//! The first attempt of a delivery runs straight from its broker message, further ones are claimed from Postgres. Both
//! share the requests in flight, which the lanes divide between webhooks. One recorder writes all results and owns all acks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::ids::ProcessId;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::queue::{
    Consumer, HoldOffReasons, Incoming, Part as TopologyPart, QueueError, Settled, StandingReport, Taking,
};
use crate::sender::Sender;
use crate::store::{Store, StoreError};
use crate::telemetry::{Telemetry, Tracer};
use crate::upkeep::Upkeep;

mod admission;
mod attempt;
mod attempts;
mod due;
mod egress_outage;
mod grants;
mod holds;
mod intake;
mod kept_health;
mod lookups;
mod matching;
mod notices;
mod oldest_transactions;
mod pacing;
mod portion;
mod recorder;
mod redelivered;
mod releases;
mod saturation;
mod share;
mod spans;
mod stalls;
mod turn;
mod unopened;
mod writer;

use attempts::Attempts;
use egress_outage::EgressOutage;
use holds::Holds;
use lookups::Lookups;
use pacing::Pacing;
use recorder::Recorder;
use stalls::Stalls;
use unopened::Unopened;
use writer::Writer;

/// Runs until `stop`, then ends within `shutdown.grace`: finishes and records what is in flight, and gives the rest back.
///
/// # Errors
///
/// When the schema is another product's or was changed by hand, when a pooler keeps no sessions, when a setting cannot be
/// used, when a queue or an exchange is declared with other arguments, or when a task has panicked. An outage of a server
/// is no error: the worker waits for its end.
pub(crate) async fn run(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    process: ProcessId,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let sender = Sender::new(&settings.sender)?;
    let stalls = Stalls::new(metrics.clone());
    match stop.run_until_cancelled(wait_for_schema(&store, &stalls)).await {
        None => return Ok(()),
        Some(found) => found?,
    }
    let holds = Arc::new(Holds::new(metrics.clone(), stop.clone()));
    if stop.run_until_cancelled(holds.read_first(&store, &stalls)).await.is_none() {
        return Ok(());
    }
    metrics.in_flight_limit.set(i64::try_from(settings.worker.limits().in_flight).unwrap_or(i64::MAX));
    metrics.prefetch.set(settings.worker.prefetch.into());
    let telemetry = Telemetry::start(&settings.otel, process, &metrics)?;
    let tracer = telemetry.tracer.clone();
    let parts = Parts::start(&settings, Shared { process, store, sender, metrics, stalls, holds, tracer }, &stop)?;
    parts.until_stopped(&stop, settings.shutdown_grace, telemetry).await
}

/// Waits until the database is there and migrated.
///
/// # Errors
///
/// When waiting does not help: the schema is another product's, or a pooler keeps no sessions.
async fn wait_for_schema(store: &Store, stalls: &Stalls) -> Result<(), StoreError> {
    let mut stall = stalls.wait();
    while let Err(error) = store.check_usable().await {
        if let StoreError::Schema(_) | StoreError::Sessions(_) = error {
            return Err(error);
        }
        stall.after("the worker cannot start yet", &error).await;
    }
    stall.over();
    Ok(())
}

async fn probe_egress(attempts: Arc<Attempts>) {
    attempts.outage.probe_regularly().await;
}

/// Keeps what is held known, and carries out releases, until the stop.
async fn follow_holds(
    attempts: Arc<Attempts>,
    rate: u32,
    hold_off: watch::Sender<HoldOffReasons>,
    stop: CancellationToken,
) {
    let releases = stop.run_until_cancelled(releases::run(&attempts, rate));
    tokio::join!(attempts.holds.follow(&attempts.store, hold_off), releases);
}

/// What several parts use.
struct Shared {
    process: ProcessId,
    store: Store,
    sender: Sender,
    metrics: Metrics,
    stalls: Stalls,
    holds: Arc<Holds>,
    tracer: Tracer,
}

/// The tasks of a running worker, each owned here.
struct Parts {
    /// One for each queue that the worker takes events from.
    consumers: Vec<JoinHandle<Result<(), QueueError>>>,
    intake: JoinHandle<()>,
    due: JoinHandle<()>,
    saturation: JoinHandle<()>,
    egress_probes: JoinHandle<()>,
    oldest_transactions: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    hold_off: JoinHandle<()>,
    holds: JoinHandle<()>,
    notices: JoinHandle<()>,
    recorder: JoinHandle<()>,
    attempts: Arc<Attempts>,
    /// Ends attempts that are under way, unrecorded.
    abandon: CancellationToken,
    /// Ends the recorder, though not all results are written.
    give_up: CancellationToken,
    /// Tells the consumer that no message will be settled any more: it may close its channel.
    settled: CancellationToken,
}

impl Parts {
    fn start(settings: &Settings, shared: Shared, stop: &CancellationToken) -> anyhow::Result<Self> {
        let worker = settings.worker.clone();
        let (abandon, give_up, settled): (CancellationToken, CancellationToken, CancellationToken) = Default::default();
        let (hold_off, held_off) = watch::channel(HoldOffReasons { operator: shared.holds.has_all(), database: false });
        let (messages, incoming) = mpsc::channel::<Incoming>(worker.batch);
        // An attempt that finds no room here keeps its slot: so a stuck database stops the intake.
        let (reports, reported) = mpsc::channel(worker.max_in_flight + worker.batch);
        let (returns, returned) = mpsc::unbounded_channel();
        let attempts = attempts(settings, &shared, stop, &abandon, Outlets { reports, returns })?;
        let Shared { process, store, metrics, stalls, tracer, .. } = shared;
        let consumers = consumers(settings, (process, &metrics), Feed { messages, held_off, stop, settled: &settled });
        let intake = intake::Intake {
            parser: settings.events.clone(),
            attempts: attempts.clone(),
            batch: worker.batch,
            retention: settings.retention.attempts,
            stop: stop.clone(),
        };
        let due = due::Due { attempts: attempts.clone(), worker: worker.clone(), stop: stop.clone() };
        let recorder = Recorder {
            writer: Writer::new(settings, store.clone(), stalls.clone(), metrics.clone(), tracer),
            batch: worker.batch,
            last_health: Deadlines::reserve(settings.shutdown_grace) / 3,
            give_up: give_up.clone(),
            consumers: consumers.len(),
            metrics: metrics.clone(),
        };
        let notices = notices::Notices {
            store: store.clone(),
            amqp: settings.amqp.clone(),
            queue: settings.queue.clone(),
            lease: settings.worker.lease,
            stop: stop.clone(),
        };
        let retention = Some(settings.retention.clone());
        let upkeep = Upkeep { store: store.clone(), metrics: metrics.clone(), retention };
        let part = Part { stop };
        Ok(Self {
            consumers: consumers.into_iter().map(|consumer| part.spawn(consumer.run())).collect(),
            intake: part.spawn(intake.run(incoming)),
            due: part.spawn(due.run()),
            saturation: part.spawn(saturation::run(attempts.clone(), stop.clone())),
            egress_probes: part.spawn(probe_egress(attempts.clone())),
            oldest_transactions: part.spawn(oldest_transactions::run(store, metrics, stop.clone())),
            upkeep: part.spawn(upkeep.run(stop.clone())),
            holds: part.spawn(follow_holds(attempts.clone(), settings.recover.rate, hold_off.clone(), stop.clone())),
            hold_off: part.spawn(stalls.hold_off_when_long(worker.give_back_after, hold_off, stop.clone())),
            notices: part.spawn(notices.run()),
            recorder: part.spawn(recorder.run(reported, returned)),
            attempts,
            abandon,
            give_up,
            settled,
        })
    }

    async fn until_stopped(
        mut self,
        stop: &CancellationToken,
        grace: Duration,
        telemetry: Telemetry,
    ) -> anyhow::Result<()> {
        stop.cancelled().await;
        let deadlines = Deadlines::within(grace);
        tracing::info!(in_flight = self.attempts.under_way.len(), "stopping");
        let mut ended = Vec::new();
        // Turns that wait in the lanes are not started any more.
        self.attempts.give_back_waiting();
        let Self {
            intake, due, saturation, egress_probes, oldest_transactions, upkeep, hold_off, holds, notices, ..
        } = &mut self;
        for task in [intake, due, saturation, egress_probes, oldest_transactions, upkeep, hold_off, holds, notices] {
            ended.push(timeout_at(deadlines.attempts, &mut *task).await);
            if ended.last().is_some_and(Result::is_err) {
                task.abort();
                // Until the task has really ended it holds the sender of reports, and the recorder does not end.
                let _ = task.await;
            }
        }
        // Turns may have come into the lanes while the tasks ended: give these back, too.
        self.attempts.give_back_waiting();
        self.finish_attempts(deadlines.attempts).await;
        ended.push(Ok(self.finish_recording(deadlines.recording).await));
        self.settled.cancel();
        let consumed = timeout_at(deadlines.end, join_all(self.consumers));
        let (consumed, ()) = tokio::join!(consumed, telemetry.flush(deadlines.end));
        for panicked in ended.into_iter().flatten() {
            panicked.context("a part of the worker panicked")?;
        }
        tracing::info!("stopped");
        match consumed {
            Ok(consumed) => consumed.into_iter().try_for_each(|one| Ok(one.context("a consumer panicked")??)),
            // The broker did not close the connection in time. Everything was settled before.
            Err(_) => Ok(()),
        }
    }

    async fn finish_attempts(&mut self, deadline: Instant) {
        self.attempts.under_way.close();
        if timeout_at(deadline, self.attempts.under_way.wait()).await.is_ok() {
            return;
        }
        let abandoned = self.attempts.under_way.len();
        tracing::warn!(abandoned, "requests still in flight are abandoned; their events will be delivered again");
        self.abandon.cancel();
        self.attempts.under_way.wait().await;
    }

    /// Waits for the recorder, which ends when nobody can report any more.
    async fn finish_recording(&mut self, deadline: Instant) -> Result<(), JoinError> {
        let (closed, _) = mpsc::channel(1);
        match Arc::get_mut(&mut self.attempts) {
            Some(attempts) => attempts.reports = closed,
            None => tracing::error!("a task still holds the attempts"),
        }
        if let Ok(ended) = timeout_at(deadline, &mut self.recorder).await {
            return ended;
        }
        tracing::warn!("not every result could be recorded; those events will be delivered again");
        self.give_up.cancel();
        (&mut self.recorder).await
    }
}

/// What all consumers of the worker share.
struct Feed<'a> {
    messages: mpsc::Sender<Incoming>,
    held_off: watch::Receiver<HoldOffReasons>,
    stop: &'a CancellationToken,
    settled: &'a CancellationToken,
}

/// A consumer for each queue that the worker takes events from.
fn consumers(settings: &Settings, (process, metrics): (ProcessId, &Metrics), feed: Feed<'_>) -> Vec<Consumer> {
    let shards = settings.worker.shards_taken(&settings.queue);
    let prefetch = settings.worker.prefetch_of_each(shards.len());
    let standings = StandingReport::of_each(shards.iter().map(|shard| shard.queue.clone()), metrics);
    let consumer = |(index, (shard, standing))| {
        let (queue, catalogue) = (settings.queue.clone(), settings.events.catalogue.clone());
        Consumer {
            amqp: settings.amqp.clone(),
            part: TopologyPart { queue, catalogue, shard, watches_shared: index == 0 },
            taking: Taking { process, consumer: index, prefetch, metrics: metrics.clone() },
            messages: feed.messages.clone(),
            standing,
            hold_off: feed.held_off.clone(),
            stop: feed.stop.clone(),
            settled: feed.settled.clone(),
        }
    };
    shards.into_iter().zip(standings).enumerate().map(consumer).collect()
}

/// Where attempts send what becomes of their turns.
struct Outlets {
    reports: mpsc::Sender<share::Report>,
    returns: mpsc::UnboundedSender<Settled>,
}

fn attempts(
    settings: &Settings,
    shared: &Shared,
    stop: &CancellationToken,
    abandon: &CancellationToken,
    Outlets { reports, returns }: Outlets,
) -> anyhow::Result<Arc<Attempts>> {
    let Shared { store, sender, metrics, stalls, holds, tracer, .. } = shared;
    let worker = &settings.worker;
    Ok(Arc::new(Attempts {
        sender: sender.clone(),
        store: store.clone(),
        keyring: settings.keyring()?.clone(),
        retry: settings.retry.clone(),
        lookup_lifetime: worker.lookup_lifetime,
        lookups: Lookups::new(worker.lookup_lifetime),
        claim_lifetime: worker.lease.saturating_sub(settings.sender.timeout + settings.sender.body_timeout),
        unopened: Unopened::new(metrics.clone()),
        outage: EgressOutage::new(metrics.clone(), stop.clone()),
        holds: holds.clone(),
        lanes: Mutex::new(Lanes::new(worker.limits())),
        fewer_in_hand: Notify::new(),
        max_per_second: settings.sender.max_per_second,
        pacing: Mutex::new(Pacing::new(settings.sender.max_per_second)),
        stalls: stalls.clone(),
        metrics: metrics.clone(),
        tracer: tracer.clone(),
        under_way: TaskTracker::new(),
        abandon: abandon.clone(),
        reports,
        returns,
    }))
}

/// Spawns the tasks of a worker. When one of them ends, whatever the reason, all are told to stop.
struct Part<'a> {
    stop: &'a CancellationToken,
}

impl Part<'_> {
    fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let stop = self.stop.clone().drop_guard();
        tokio::spawn(async move {
            let ended = task.await;
            drop(stop);
            ended
        })
    }
}

/// How the grace is divided: most of it for the attempts, the rest (at most 3 s) to record, ack and close.
struct Deadlines {
    attempts: Instant,
    recording: Instant,
    end: Instant,
}

impl Deadlines {
    /// The part of the grace that is kept to record, ack and close.
    fn reserve(grace: Duration) -> Duration {
        (grace / 5).min(Duration::from_secs(3))
    }

    fn within(grace: Duration) -> Self {
        let reserve = Self::reserve(grace);
        let end = Instant::now() + grace;
        Self { attempts: end - reserve, recording: end - reserve / 3, end }
    }
}

//! The worker: takes events, attempts their deliveries, records what came of them, and only then acks.
//!
//! Intake matches events in micro-batches; the first attempt of a delivery runs straight from its broker message, later
//! ones are claimed from Postgres. Both share the room for requests in flight. One recorder writes all results and owns
//! all acks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::queue::{Acknowledger, Consumer, Incoming};
use crate::sender::Sender;
use crate::store::{Store, StoreError};
use crate::upkeep::Upkeep;

mod attempts;
mod due;
mod intake;
mod kept;
mod lookups;
mod notices;
mod owed;
mod portion;
mod pulse;
mod recorder;
mod redelivered;
mod share;
mod snapshots;
mod stalls;
mod unopened;
mod way_out;

use attempts::Attempts;
use lookups::Lookups;
use recorder::{Recorder, Writer};
use stalls::Stalls;
use unopened::Unopened;
use way_out::WayOut;

/// Runs until `stop`, then ends within `shutdown.grace`: what is in flight is finished and recorded, the rest given
/// back. Errors only for what waiting cannot cure.
pub async fn run(settings: Settings, store: Store, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<()> {
    let sender = Sender::new(&settings.sender)?;
    let stalls = Stalls::new(metrics.clone());
    match stop.run_until_cancelled(wait_for_schema(&store, &stalls)).await {
        None => return Ok(()),
        Some(found) => found?,
    }
    let parts = Parts::start(&settings, Shared { store, sender, metrics, stalls }, &stop)?;
    parts.until_stopped(&stop, settings.shutdown_grace).await
}

/// Until the database is there and migrated. No waiting makes another product's schema ours, or a pooler keep sessions.
async fn wait_for_schema(store: &Store, stalls: &Stalls) -> Result<(), StoreError> {
    let mut stall = None;
    while let Err(error) = store.check_usable().await {
        if let StoreError::Schema(_) | StoreError::Sessions(_) = error {
            return Err(error);
        }
        stalls.wait(&mut stall, "the worker cannot start yet", &error).await;
    }
    Stalls::over(&mut stall);
    Ok(())
}

/// What several parts use.
struct Shared {
    store: Store,
    sender: Sender,
    metrics: Metrics,
    stalls: Stalls,
}

/// The tasks of a running worker, each owned here.
struct Parts {
    consumer: JoinHandle<Result<(), crate::queue::QueueError>>,
    intake: JoinHandle<()>,
    due: JoinHandle<()>,
    pulse: JoinHandle<()>,
    probes: JoinHandle<()>,
    snapshots: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    patience: JoinHandle<()>,
    notices: JoinHandle<()>,
    recorder: JoinHandle<()>,
    attempts: Arc<Attempts>,
    /// Attempts under way end unrecorded.
    abandon: CancellationToken,
    /// The recorder stops trying.
    give_up: CancellationToken,
    /// Whatever will be settled is settled.
    settled: CancellationToken,
}

impl Parts {
    fn start(
        settings: &Settings,
        Shared { store, sender, metrics, stalls }: Shared,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let worker = settings.worker.clone();
        let (abandon, give_up, settled) = Default::default();
        let (hold_off, held_off) = watch::channel(false);
        let (messages, incoming) = mpsc::channel::<Incoming>(worker.batch);
        // An attempt that finds no room here keeps its room in flight: a stuck database stops the intake.
        let (reports, reported) = mpsc::channel(worker.max_in_flight + worker.batch);
        let (returns, returned) = mpsc::unbounded_channel();
        let attempts = Arc::new(Attempts {
            sender,
            store: store.clone(),
            keyring: settings.keyring()?.clone(),
            retry: settings.retry.clone(),
            lookup_lifetime: worker.lookup_lifetime,
            lookups: Lookups::new(worker.lookup_lifetime),
            claim_lifetime: worker.lease.saturating_sub(settings.sender.timeout + settings.sender.body_timeout),
            unopened: Unopened::new(metrics.clone()),
            way_out: WayOut::new(metrics.clone(), stop.clone()),
            lanes: Mutex::new(Lanes::new(worker.limits())),
            room: Notify::new(),
            stalls: stalls.clone(),
            metrics: metrics.clone(),
            under_way: TaskTracker::new(),
            abandon: CancellationToken::clone(&abandon),
            reports,
            returns,
        });
        let consumer = Consumer {
            amqp: settings.amqp.clone(),
            queue: settings.queue.clone(),
            catalogue: settings.events.catalogue.clone(),
            prefetch: worker.prefetch,
            messages,
            metrics: metrics.clone(),
            hold_off: held_off,
            stop: stop.clone(),
            settled: CancellationToken::clone(&settled),
        };
        let intake = intake::Intake {
            parser: settings.events.clone(),
            attempts: attempts.clone(),
            batch: worker.batch,
            retention: settings.retention.attempts,
            stop: stop.clone(),
        };
        let due = due::Due { attempts: attempts.clone(), worker: worker.clone(), stop: stop.clone() };
        let recorder = Recorder {
            writer: Writer::new(settings, store.clone(), stalls.clone(), metrics.clone()),
            batch: worker.batch,
            last_health: Deadlines::reserve(settings.shutdown_grace) / 3,
            give_up: CancellationToken::clone(&give_up),
            acknowledger: Acknowledger::default(),
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
            consumer: part.spawn(consumer.run()),
            intake: part.spawn(intake.run(incoming)),
            due: part.spawn(due.run()),
            pulse: part.spawn(pulse::run(attempts.clone(), stop.clone())),
            probes: part.spawn(way_out::run(attempts.clone())),
            snapshots: part.spawn(snapshots::run(store, metrics, stop.clone())),
            upkeep: part.spawn(upkeep.run(stop.clone())),
            patience: part.spawn(stalls.watch(worker.give_back_after, hold_off, stop.clone())),
            notices: part.spawn(notices.run()),
            recorder: part.spawn(recorder.run(reported, returned)),
            attempts,
            abandon,
            give_up,
            settled,
        })
    }

    async fn until_stopped(mut self, stop: &CancellationToken, grace: Duration) -> anyhow::Result<()> {
        stop.cancelled().await;
        let deadlines = Deadlines::within(grace);
        tracing::info!(in_flight = self.attempts.under_way.len(), "stopping");
        let mut ended = Vec::new();
        // What waits in the lanes now is not started any more.
        self.attempts.give_back_waiting();
        let Self { intake, due, pulse, probes, snapshots, upkeep, patience, notices, .. } = &mut self;
        for task in [intake, due, pulse, probes, snapshots, upkeep, patience, notices] {
            ended.push(timeout_at(deadlines.attempts, &mut *task).await);
            if ended.last().is_some_and(Result::is_err) {
                task.abort();
                // Until it has really ended it holds what reports to the recorder.
                let _ = task.await;
            }
        }
        // And what came into them meanwhile.
        self.attempts.give_back_waiting();
        self.finish_attempts(deadlines.attempts).await;
        ended.push(Ok(self.finish_recording(deadlines.recording).await));
        self.settled.cancel();
        let consumed = timeout_at(deadlines.end, self.consumer).await;
        for panicked in ended.into_iter().flatten() {
            panicked.context("a part of the worker panicked")?;
        }
        tracing::info!("stopped");
        match consumed {
            Ok(consumed) => Ok(consumed.context("the consumer panicked")??),
            // The broker did not say goodbye in time; everything was settled before.
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

    /// The recorder ends by itself once nobody can report any more.
    async fn finish_recording(&mut self, deadline: Instant) -> Result<(), JoinError> {
        let (unheard, _) = mpsc::channel(1);
        match Arc::get_mut(&mut self.attempts) {
            Some(attempts) => attempts.reports = unheard,
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

/// Starts tasks without which the others are worth nothing: when one ends, all stop.
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

/// How the grace is divided: most of it for the attempts, the rest to record, ack and close.
struct Deadlines {
    attempts: Instant,
    recording: Instant,
    end: Instant,
}

impl Deadlines {
    /// What is kept of the grace to record, ack and close.
    fn reserve(grace: Duration) -> Duration {
        (grace / 5).min(Duration::from_secs(3))
    }

    fn within(grace: Duration) -> Self {
        let reserve = Self::reserve(grace);
        let end = Instant::now() + grace;
        Self { attempts: end - reserve, recording: end - reserve / 3, end }
    }
}

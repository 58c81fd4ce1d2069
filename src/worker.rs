//! The worker: takes events, attempts their deliveries, records what came of them, and only then acks.
//!
//! Intake matches events in micro-batches; the first attempt of a delivery runs straight from its broker message, later
//! ones are claimed from Postgres. Both share the room for requests in flight. One recorder writes all results and owns
//! all acks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::error_chain;
use crate::ops::{self, Readiness};
use crate::queue::{Consumer, Incoming};
use crate::reconnect::Reconnect;
use crate::sender::Sender;
use crate::store::Store;

mod attempts;
mod due;
mod intake;
mod notices;
mod recorder;
mod share;
mod upkeep;

use attempts::Attempts;
use recorder::Recorder;

/// Runs until `stop`, then ends within `shutdown.grace`: what is in flight is finished and recorded, the rest given
/// back. Errors only for what waiting cannot cure.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let store = Store::new(&settings.database)?;
    let sender = Sender::new(&settings.sender)?;
    let attached = watch::Sender::new(false);
    let readiness = Readiness { attached: attached.subscribe(), store: store.clone() };
    let _ops = ops::serve(settings.ops_listen, readiness).await?;
    if !wait_for_schema(&store, &stop).await {
        return Ok(());
    }
    let parts = Parts::start(&settings, store, sender, attached, &stop)?;
    parts.until_stopped(&stop, settings.shutdown_grace).await
}

/// Whether the database is there and migrated; `false` if we were stopped before.
async fn wait_for_schema(store: &Store, stop: &CancellationToken) -> bool {
    let mut reconnect = Reconnect::default();
    loop {
        let Some(checked) = stop.run_until_cancelled(store.check_schema()).await else { return false };
        let Err(error) = checked else { return true };
        tracing::warn!(error = error_chain(&error), "waiting for the database");
        if stop.run_until_cancelled(tokio::time::sleep(reconnect.wait())).await.is_none() {
            return false;
        }
    }
}

/// The tasks of a running worker, each owned here.
struct Parts {
    consumer: JoinHandle<Result<(), crate::queue::QueueError>>,
    intake: JoinHandle<()>,
    due: JoinHandle<()>,
    upkeep: JoinHandle<()>,
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
        store: Store,
        sender: Sender,
        attached: watch::Sender<bool>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let keyring = Arc::new(settings.keyring()?.clone());
        let worker = settings.worker.clone();
        let (abandon, give_up, settled) = Default::default();
        let (messages, incoming) = mpsc::channel::<Incoming>(worker.batch);
        // An attempt that finds no room here keeps its room in flight: a stuck database stops the intake.
        let (reports, reported) = mpsc::channel(2 * worker.max_in_flight + worker.batch);
        let attempts = Arc::new(Attempts {
            sender,
            store: store.clone(),
            keyring: keyring.clone(),
            retry: settings.retry.clone(),
            lookup_lifetime: worker.lookup_lifetime,
            room: Arc::new(Semaphore::new(worker.max_in_flight)),
            under_way: TaskTracker::new(),
            abandon: CancellationToken::clone(&abandon),
            reports,
        });
        let consumer = Consumer {
            amqp: settings.amqp.clone(),
            queue: settings.queue.clone(),
            catalogue: settings.events.catalogue.clone(),
            prefetch: worker.prefetch,
            messages,
            attached,
            stop: stop.clone(),
            settled: CancellationToken::clone(&settled),
        };
        let intake = intake::Intake {
            parser: settings.events.clone(),
            store: store.clone(),
            keyring: keyring.clone(),
            attempts: attempts.clone(),
            batch: worker.batch,
            stop: stop.clone(),
        };
        let due = due::Due { store: store.clone(), keyring, attempts: attempts.clone(), worker, stop: stop.clone() };
        let batch = settings.worker.batch;
        let recorder = Recorder::new(store.clone(), settings.health.clone(), batch, CancellationToken::clone(&give_up));
        let notices = notices::Notices {
            store: store.clone(),
            amqp: settings.amqp.clone(),
            queue: settings.queue.clone(),
            lease: settings.worker.lease,
            stop: stop.clone(),
        };
        let part = Part { stop };
        Ok(Self {
            consumer: part.spawn(consumer.run()),
            intake: part.spawn(intake.run(incoming)),
            due: part.spawn(due.run()),
            upkeep: part.spawn(upkeep::run(store, settings.retention.clone(), stop.clone())),
            notices: part.spawn(notices.run()),
            recorder: part.spawn(recorder.run(reported)),
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
        for task in [&mut self.intake, &mut self.due, &mut self.upkeep, &mut self.notices] {
            ended.push(timeout_at(deadlines.attempts, &mut *task).await);
            if ended.last().is_some_and(Result::is_err) {
                task.abort();
                // Until it has really ended it holds what reports to the recorder.
                let _ = task.await;
            }
        }
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
    fn within(grace: Duration) -> Self {
        let reserve = (grace / 5).min(Duration::from_secs(3));
        let end = Instant::now() + grace;
        Self { attempts: end - reserve, recording: end - reserve / 3, end }
    }
}

//! Reads once a second what operators hold, and tells the rest of the worker. Carries out releases: see `releases`.
//!
//! What was read last stands while the database cannot be asked. No attempt is made before the first reading.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stalls::Stalls;
use crate::error_chain;
use crate::hold::HeldWebhooks;
use crate::ids::{AccountId, WebhookId};
use crate::metrics::Metrics;
use crate::queue::HoldOffReasons;
use crate::store::{Store, StoreError};

const READ_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two readings while a release goes on.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// After this long without a reading, while other statements succeed, the operator is told.
const TOLD_AFTER: Duration = Duration::from_secs(10);
/// How often a turn looks whether its message has gone back to the broker.
const LOOKED_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Holds {
    state: watch::Sender<State>,
    /// Somebody has changed a hold.
    changed: Notify,
    metrics: Metrics,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    held: HeldWebhooks,
    /// How often `held` has changed.
    change: u64,
    counted: Counted,
}

/// What the log says of holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    holds: usize,
    releasing: usize,
    everything: bool,
}

impl Holds {
    pub(super) fn new(metrics: Metrics, stop: CancellationToken) -> Self {
        Self { state: watch::Sender::default(), changed: Notify::new(), metrics, stop }
    }

    /// Whether nothing may be sent to this webhook.
    pub(super) fn has(&self, webhook: WebhookId, account: &AccountId) -> bool {
        self.state.borrow().held.has(webhook, account)
    }

    /// Whether no events are taken from the broker.
    pub(super) fn has_all(&self) -> bool {
        self.state.borrow().held.all.is_some()
    }

    /// Whether nothing may be sent at all.
    pub(super) fn has_every_webhook(&self) -> bool {
        self.state.borrow().held.has_every_webhook()
    }

    /// What is held, for many questions in a row.
    pub(super) fn now(&self) -> HeldNow<'_> {
        HeldNow(self.state.borrow())
    }

    /// Waits while everything is held, until `is_over`, or a stop. For a turn from a broker message, which the consumer gives back
    /// then: were it given back here, the broker would hand it out again before the consumer has ended.
    pub(super) async fn while_all(&self, is_over: impl Fn() -> bool) {
        while self.has_all() && !is_over() {
            if self.stop.run_until_cancelled(tokio::time::sleep(LOOKED_EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// Waits until a hold is being released.
    pub(super) async fn releasing(&self) {
        if self.state.subscribe().wait_for(|state| state.counted.releasing > 0).await.is_err() {
            std::future::pending().await
        }
    }

    /// A hold has changed: it is read soon.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Reads the holds for the first time. Waits until the database answers.
    pub(super) async fn read_first(&self, store: &Store, stalls: &Stalls) {
        let mut stall = stalls.wait();
        while let Err(error) = self.read(store).await {
            stall.after("the worker does not know yet what is held", &error).await;
        }
        stall.over();
    }

    /// Reads the holds until the stop. While everything is held, the consumer is told to hold off.
    pub(super) async fn follow(&self, store: &Store, hold_off: watch::Sender<HoldOffReasons>) {
        let mut failing: Option<Failing> = None;
        loop {
            let all = self.has_all();
            hold_off.send_if_modified(|reasons| std::mem::replace(&mut reasons.operator, all) != all);
            let wait = async {
                tokio::time::sleep(READ_AGAIN_AFTER).await;
                let _ = tokio::time::timeout(READ_EVERY - READ_AGAIN_AFTER, self.changed.notified()).await;
            };
            // A stop does not wait for a database that does not answer.
            let next = async {
                wait.await;
                self.read(store).await
            };
            let Some(read) = self.stop.run_until_cancelled(next).await else { return };
            match read {
                Ok(()) if failing.take().is_some_and(|failing| failing.is_told) => {
                    tracing::info!("what is held can be read again");
                }
                Ok(()) => {}
                Err(error) => failing.get_or_insert_with(Failing::new).note(&error, store),
            }
        }
    }

    async fn read(&self, store: &Store) -> Result<(), StoreError> {
        let holds = store.holds().await?;
        let of_accounts = store.webhooks_of_held_accounts(&holds).await?;
        let held = HeldWebhooks::new(&holds, of_accounts);
        let now = jiff::Timestamp::now();
        let ages = holds.iter().map(|hold| now.duration_since(hold.since).as_secs_f64());
        self.metrics.oldest_hold.set(ages.fold(0.0, f64::max));
        self.metrics.holds.set(i64::try_from(holds.len()).unwrap_or(i64::MAX));
        self.metrics.held_all.set(held.all.is_some().into());
        if held.is_empty() {
            // The sweep would find that out later.
            self.metrics.held.set(0);
        }
        let counted = Counted {
            holds: holds.len(),
            releasing: holds.iter().filter(|hold| hold.release.is_some()).count(),
            everything: held.all.is_some(),
        };
        let Counted { holds, releasing, everything } = counted;
        self.metrics.releases.set(i64::try_from(releasing).unwrap_or(i64::MAX));
        if self.state.borrow().counted != counted {
            tracing::info!(holds, releasing, everything, "what is held has changed");
        }
        self.state.send_modify(|state| {
            let change = state.change + u64::from(state.held != held);
            *state = State { held, change, counted };
        });
        Ok(())
    }
}

/// What is held, while this is borrowed: only for a moment.
pub(super) struct HeldNow<'a>(watch::Ref<'a, State>);

impl HeldNow<'_> {
    /// A number that is another one after what is held has changed.
    pub(super) fn change(&self) -> u64 {
        self.0.change
    }

    /// Whether deliveries of a webhook are to be left where they wait, as far as that is known without its account.
    pub(super) fn seems_to_have(&self, webhook: WebhookId) -> bool {
        self.0.held.seems_to_have(webhook)
    }
}

/// Readings that fail.
struct Failing {
    since: Instant,
    is_told: bool,
}

impl Failing {
    fn new() -> Self {
        Self { since: Instant::now(), is_told: false }
    }

    /// If the database does not answer at all, other parts tell the operator.
    fn note(&mut self, error: &StoreError, store: &Store) {
        let error = error_chain(error);
        let long = self.since.elapsed() >= TOLD_AFTER;
        if long && !self.is_told && store.has_answered_since((Instant::now() - TOLD_AFTER / 2).into_std()) {
            self.is_told = true;
            tracing::error!(error, "cannot read what operators hold; what was read last stands");
        } else {
            tracing::debug!(error, "cannot read what operators hold");
        }
    }
}

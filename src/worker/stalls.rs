//! Knows since when something in this worker has been waiting for the database, whatever part it is.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::reconnect::Reconnect;
use crate::store::StoreError;
use crate::{error_chain, millis};

/// Being busy is told of only after this long: mostly it passes.
const BUSY_TOLD_AFTER: Duration = Duration::from_secs(10);
/// The longest wait before trying again what others stood in the way of, and what could not be written: neither costs the
/// database much.
const BUSY_WAIT: Duration = Duration::from_secs(1);
const READ_ONLY_WAIT: Duration = Duration::from_secs(2);
/// The longest wait for a database that is away, ±50 %: a try that fails may take as long as a connection may, and the
/// next one has to find the server that has taken over within seconds of its doing so.
const AWAY_WAIT: Duration = Duration::from_secs(2);

/// Shared by all parts that cannot go on without the database.
#[derive(Debug, Clone)]
pub(super) struct Stalls {
    state: watch::Sender<State>,
    metrics: Metrics,
    busy_told_after: Duration,
    /// Whoever waits is waited for by nobody else, unless the database is away for all.
    aside: bool,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    /// How many of them because of a database that is not there, or takes nothing.
    away: usize,
    /// How many of them keep everything from going on, and since when there have been any.
    holding: usize,
    since: Option<Instant>,
    /// What an operator was told, and has to be told the end of.
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Busy,
    Away,
    Denied,
}

/// One part's wait. It ends well through [`Stalls::over`]; merely dropped, by a stop or because nothing is left to ask,
/// it says nothing.
#[derive(Debug)]
pub(super) struct Stall {
    stalls: Stalls,
    reconnect: Reconnect,
    since: Instant,
    away: bool,
    holding: bool,
    /// It ended with a statement that succeeded.
    well: bool,
}

impl Stalls {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { state: watch::Sender::default(), metrics, busy_told_after: BUSY_TOLD_AFTER, aside: false }
    }

    /// For a part beside the others. That a statement of its own finds no time, or meets a lock, is no reason to give
    /// back what the broker handed out: others go on. A database that is away is.
    pub(super) fn aside(&self) -> Self {
        Self { aside: true, ..self.clone() }
    }

    /// After a statement of a part failed: waits a little, longer each time. The part keeps its stall until one
    /// succeeds, and then has it [`over`](Self::over).
    pub(super) async fn wait(&self, stall: &mut Option<Stall>, part: &'static str, error: &StoreError) {
        let stall = stall.get_or_insert_with(|| self.begin());
        tracing::debug!(error = error_chain(error), "{part}");
        stall.goes_on(error);
        let wait = stall.reconnect.wait();
        tokio::time::sleep(match error {
            StoreError::Busy(_) => wait.min(BUSY_WAIT),
            StoreError::ReadOnly(_) => wait.min(READ_ONLY_WAIT),
            _ => wait,
        })
        .await;
    }

    /// After a statement of a part has succeeded: nothing of it waits any more.
    pub(super) fn over(stall: &mut Option<Stall>) {
        let Some(mut stall) = stall.take() else { return };
        stall.well = true;
    }

    fn begin(&self) -> Stall {
        self.state.send_modify(|state| state.waiting += 1);
        let (reconnect, since) = (Reconnect::up_to(AWAY_WAIT), Instant::now());
        Stall { stalls: self.clone(), reconnect, since, away: false, holding: false, well: false }
    }

    /// Says when results have waited so long that their broker messages should go back, and when nobody waits any more.
    pub(super) async fn watch(self, patience: Duration, hold_off: watch::Sender<bool>, stop: CancellationToken) {
        let mut state = self.state.subscribe();
        let mut wait = async || {
            let begun = state.wait_for(|state| state.since.is_some()).await.ok()?.since;
            let deadline = begun.expect("it was waited for") + patience;
            let over = state.wait_for(|state| state.since.is_none());
            if tokio::time::timeout_at(deadline, over).await.is_err() {
                hold_off.send_replace(true);
                state.wait_for(|state| state.since.is_none()).await.ok()?;
                hold_off.send_replace(false);
            }
            Some(())
        };
        while let Some(Some(())) = stop.run_until_cancelled(wait()).await {}
    }
}

impl Stall {
    fn goes_on(&mut self, error: &StoreError) {
        let long = self.since.elapsed() >= self.stalls.busy_told_after;
        self.stalls.state.clone().send_modify(|state| {
            let away = !matches!(error, StoreError::Busy(_));
            self.count_as(state, away);
            self.hold(state, away || !self.stalls.aside);
            let news = match error {
                // The operations address tells of it, in all roles alike.
                StoreError::ReadOnly(_) => None,
                StoreError::Busy(_) => (long && state.told.is_none()).then_some(Told::Busy),
                StoreError::Denied(_) => (state.told != Some(Told::Denied)).then_some(Told::Denied),
                _ => matches!(state.told, None | Some(Told::Busy)).then_some(Told::Away),
            };
            let error = error_chain(error);
            match news {
                // Waiting does not end this: somebody has to do something.
                Some(Told::Denied) => tracing::error!(error, "waiting until the database's role may do its work"),
                Some(Told::Away) => tracing::warn!(error, "waiting for the database"),
                Some(Told::Busy) => tracing::warn!(error, "statements wait for others' locks or take too long"),
                None => return,
            }
            state.told = news;
        });
    }

    fn count_as(&mut self, state: &mut State, away: bool) {
        state.away = state.away + usize::from(away) - usize::from(self.away);
        self.away = away;
        self.stalls.metrics.database_waiting.set(i64::from(state.away > 0));
    }

    fn hold(&mut self, state: &mut State, holding: bool) {
        state.holding = state.holding + usize::from(holding) - usize::from(self.holding);
        self.holding = holding;
        match state.holding {
            0 => state.since = None,
            _ => drop(state.since.get_or_insert_with(Instant::now)),
        }
    }
}

impl Drop for Stall {
    /// In one step, so that of several stalls that end at once one is the last.
    fn drop(&mut self) {
        self.stalls.state.clone().send_modify(|state| {
            let waited_ms = millis(state.since.unwrap_or(self.since).elapsed());
            self.count_as(state, false);
            self.hold(state, false);
            state.waiting -= 1;
            if state.waiting > 0 {
                return;
            }
            match state.told.take().filter(|_| self.well) {
                Some(Told::Away | Told::Denied) => tracing::info!(waited_ms, "the database takes what waited"),
                Some(Told::Busy) => tracing::info!(waited_ms, "statements succeed again"),
                None => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> StoreError {
        StoreError::Unavailable(anyhow::anyhow!("it is away"))
    }

    fn busy() -> StoreError {
        StoreError::Busy(anyhow::anyhow!("somebody has locked it"))
    }

    fn told(stalls: &Stalls) -> Option<Told> {
        stalls.state.borrow().told
    }

    #[tokio::test]
    async fn the_last_part_to_go_on_ends_the_wait() {
        let stalls = Stalls::new(Metrics::default());
        let since = || stalls.state.borrow().since;
        let (mut one, mut other) = (None, None);
        stalls.wait(&mut one, "one", &away()).await;
        let begun = since();
        stalls.wait(&mut other, "other", &away()).await;
        Stalls::over(&mut one);
        assert!(begun.is_some());
        assert_eq!(since(), begun);
        Stalls::over(&mut other);
        assert_eq!((since(), told(&stalls)), (None, None));
    }

    #[tokio::test]
    async fn a_busy_database_is_waited_for_but_is_not_away() {
        let stalls = Stalls::new(Metrics::default());
        let mut stall = None;
        stalls.wait(&mut stall, "one", &busy()).await;
        assert!(stalls.state.borrow().since.is_some());
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (0, None));
        stalls.wait(&mut stall, "one", &away()).await;
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (1, Some(Told::Away)));
        stalls.wait(&mut stall, "one", &busy()).await;
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (0, Some(Told::Away)));
    }

    #[tokio::test]
    async fn a_missing_right_is_told_whatever_was_told_before_and_once() {
        let stalls = Stalls::new(Metrics::default());
        let denied = StoreError::Denied(anyhow::anyhow!("permission denied for table attempts"));
        let mut stall = None;
        stalls.wait(&mut stall, "one", &away()).await;
        stalls.wait(&mut stall, "one", &denied).await;
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (1, Some(Told::Denied)));
        stalls.wait(&mut stall, "one", &away()).await;
        assert_eq!(told(&stalls), Some(Told::Denied));
        Stalls::over(&mut stall);
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (0, None));
    }

    #[tokio::test]
    async fn being_busy_for_long_is_told_until_it_is_over() {
        let stalls = Stalls { busy_told_after: Duration::ZERO, ..Stalls::new(Metrics::default()) };
        let mut stall = None;
        stalls.wait(&mut stall, "one", &busy()).await;
        assert_eq!(told(&stalls), Some(Told::Busy));
        Stalls::over(&mut stall);
        assert_eq!(told(&stalls), None);
    }

    #[tokio::test]
    async fn what_waits_aside_holds_the_others_only_while_the_database_is_away() {
        let stalls = Stalls::new(Metrics::default());
        let held = || stalls.state.borrow().since.is_some();
        let (mut aside, mut other) = (None, None);
        stalls.aside().wait(&mut aside, "aside", &busy()).await;
        assert!(!held());
        stalls.aside().wait(&mut aside, "aside", &away()).await;
        assert!(held());
        stalls.aside().wait(&mut aside, "aside", &busy()).await;
        assert!(!held());
        stalls.wait(&mut other, "other", &busy()).await;
        assert!(held());
        Stalls::over(&mut other);
        assert!(!held());
        Stalls::over(&mut aside);
        assert_eq!(stalls.state.borrow().waiting, 0);
    }

    #[tokio::test]
    async fn a_wait_that_a_stop_ends_leaves_nobody_waiting() {
        let stalls = Stalls::new(Metrics::default());
        let mut stall = None;
        stalls.wait(&mut stall, "one", &away()).await;
        drop(stall);
        assert_eq!((stalls.metrics.database_waiting.get(), stalls.state.borrow().since), (0, None));
    }
}

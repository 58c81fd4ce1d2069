//! Counts which parts of the worker wait for the database and since when, and tells the operator once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::queue::HoldOffReasons;
use crate::reconnect::Reconnect;
use crate::store::StoreError;
use crate::{error_chain, millis};

/// A busy database is logged only after this long: mostly it passes.
const BUSY_TOLD_AFTER: Duration = Duration::from_secs(10);
/// The longest wait before a statement is tried again that met a lock or ran out of time.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// The same while the database refuses writes: a try costs it little.
const READ_ONLY_WAIT: Duration = Duration::from_secs(2);
/// The longest wait for a database that is away, ±50 %. A try that fails may take as long as a connection may, and the
/// next one should find the server that has taken over within seconds.
const AWAY_WAIT: Duration = Duration::from_secs(2);

/// Shared by all parts that cannot go on without the database.
#[derive(Debug, Clone)]
pub(super) struct Stalls {
    state: watch::Sender<State>,
    metrics: Metrics,
    busy_told_after: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Parts that wait.
    waiting: usize,
    /// Those of them that wait because the database is away, refuses writes or denies a right.
    away: usize,
    /// Those of them whose waits make the consumer give its messages back once they last long.
    holding: usize,
    /// Since when `holding` has been above 0.
    since: Option<Instant>,
    /// What the log said last, and has to say the end of.
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Busy,
    Away,
    Denied,
}

/// The waits of one part of the worker. The part counts as waiting from its first failed statement until [`over`](Self::over).
/// If this is dropped before, by a stop, the part ceases to count, and the log says nothing.
#[derive(Debug)]
pub(super) struct DatabaseWait<'a> {
    stalls: &'a Stalls,
    holds: Holds,
    stall: Option<Stall>,
}

/// When a part's waits count as `holding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Always,
    WhileAway,
    Never,
}

/// One wait that is under way.
#[derive(Debug)]
struct Stall {
    stalls: Stalls,
    reconnect: Reconnect,
    since: Instant,
    away: bool,
    holding: bool,
    /// It ended with a statement that succeeded.
    ended_well: bool,
}

impl DatabaseWait<'_> {
    /// A statement has failed, so that `part` of the work cannot go on: waits a little, longer each time.
    pub(super) async fn after(&mut self, part: &'static str, error: &StoreError) {
        tokio::time::sleep(self.failed(part, error)).await;
    }

    /// As [`after`](Self::after), but returns how long to wait.
    pub(super) fn failed(&mut self, part: &'static str, error: &StoreError) -> Duration {
        let stall = self.stall.get_or_insert_with(|| self.stalls.begin());
        tracing::debug!(error = error_chain(error), "{part}");
        stall.failed_again(error, self.holds);
        let wait = stall.reconnect.wait();
        match error {
            StoreError::Busy(_) => wait.min(BUSY_WAIT),
            StoreError::ReadOnly(_) => wait.min(READ_ONLY_WAIT),
            _ => wait,
        }
    }

    /// A statement has succeeded.
    pub(super) fn over(&mut self) {
        let Some(mut stall) = self.stall.take() else { return };
        stall.ended_well = true;
    }

    /// Nothing of this part is left to ask: it ceases to count, and the log says nothing.
    pub(super) fn given_up(&mut self) {
        self.stall = None;
    }
}

impl Stalls {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { state: watch::Sender::default(), metrics, busy_told_after: BUSY_TOLD_AFTER }
    }

    /// For a part that others wait for: its waits make the consumer give messages back.
    pub(super) fn wait(&self) -> DatabaseWait<'_> {
        DatabaseWait { stalls: self, holds: Holds::Always, stall: None }
    }

    /// For a part that others do not wait for. When its own statement runs out of time or meets a lock, that is no reason
    /// to give back what the broker handed out; when the database is away, it is.
    pub(super) fn wait_aside(&self) -> DatabaseWait<'_> {
        DatabaseWait { holds: Holds::WhileAway, ..self.wait() }
    }

    /// For a part that only some webhooks need: whatever it waits for, the others go on. If the database is away, other parts
    /// find that, too.
    pub(super) fn wait_apart(&self) -> DatabaseWait<'_> {
        DatabaseWait { holds: Holds::Never, ..self.wait() }
    }

    fn begin(&self) -> Stall {
        self.state.send_modify(|state| state.waiting += 1);
        let (reconnect, since) = (Reconnect::up_to(AWAY_WAIT), Instant::now());
        Stall { stalls: self.clone(), reconnect, since, away: false, holding: false, ended_well: false }
    }

    /// Sets `hold_off` while there have been `holding` parts for longer than `give_back_after`: the consumer then gives its
    /// messages back, and takes new ones when there is no such part any more.
    pub(super) async fn hold_off_when_long(
        self,
        give_back_after: Duration,
        hold_off: watch::Sender<HoldOffReasons>,
        stop: CancellationToken,
    ) {
        let mut state = self.state.subscribe();
        let mut wait = async || {
            let begun = state.wait_for(|state| state.since.is_some()).await.ok()?.since;
            let deadline = begun.expect("it was waited for") + give_back_after;
            let over = state.wait_for(|state| state.since.is_none());
            if tokio::time::timeout_at(deadline, over).await.is_err() {
                hold_off.send_modify(|reasons| reasons.database = true);
                state.wait_for(|state| state.since.is_none()).await.ok()?;
                hold_off.send_modify(|reasons| reasons.database = false);
            }
            Some(())
        };
        while let Some(Some(())) = stop.run_until_cancelled(wait()).await {}
    }
}

impl Stall {
    fn failed_again(&mut self, error: &StoreError, holds: Holds) {
        let long = self.since.elapsed() >= self.stalls.busy_told_after;
        self.stalls.state.clone().send_modify(|state| {
            let away = !matches!(error, StoreError::Busy(_));
            self.count_as(state, away);
            self.hold(state, holds == Holds::Always || away && holds == Holds::WhileAway);
            let news = match error {
                // The task of the operations address logs it, in all roles alike.
                StoreError::ReadOnly(_) => None,
                StoreError::Busy(_) => (long && state.told.is_none()).then_some(Told::Busy),
                StoreError::Denied(_) => (state.told != Some(Told::Denied)).then_some(Told::Denied),
                _ => matches!(state.told, None | Some(Told::Busy)).then_some(Told::Away),
            };
            let error = error_chain(error);
            match news {
                // Waiting does not end this: an operator has to grant the right.
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
    /// In one step, so that exactly one of several stalls that end at once is the last and logs the end.
    fn drop(&mut self) {
        self.stalls.state.clone().send_modify(|state| {
            let waited_ms = millis(state.since.unwrap_or(self.since).elapsed());
            self.count_as(state, false);
            self.hold(state, false);
            state.waiting -= 1;
            if state.waiting > 0 {
                return;
            }
            match state.told.take().filter(|_| self.ended_well) {
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
        let (mut one, mut other) = (stalls.wait(), stalls.wait());
        one.after("one", &away()).await;
        let begun = since();
        other.after("other", &away()).await;
        one.over();
        assert!(begun.is_some());
        assert_eq!(since(), begun);
        other.over();
        assert_eq!((since(), told(&stalls)), (None, None));
    }

    #[tokio::test]
    async fn a_busy_database_is_waited_for_but_is_not_away() {
        let stalls = Stalls::new(Metrics::default());
        let mut wait = stalls.wait();
        wait.after("one", &busy()).await;
        assert!(stalls.state.borrow().since.is_some());
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (0, None));
        wait.after("one", &away()).await;
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (1, Some(Told::Away)));
        wait.after("one", &busy()).await;
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (0, Some(Told::Away)));
    }

    #[tokio::test]
    async fn a_missing_right_is_told_whatever_was_told_before_and_once() {
        let stalls = Stalls::new(Metrics::default());
        let denied = StoreError::Denied(anyhow::anyhow!("permission denied for table attempts"));
        let mut wait = stalls.wait();
        wait.after("one", &away()).await;
        wait.after("one", &denied).await;
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (1, Some(Told::Denied)));
        wait.after("one", &away()).await;
        assert_eq!(told(&stalls), Some(Told::Denied));
        wait.over();
        assert_eq!((stalls.metrics.database_waiting.get(), told(&stalls)), (0, None));
    }

    #[tokio::test]
    async fn being_busy_for_long_is_told_until_it_is_over() {
        let stalls = Stalls { busy_told_after: Duration::ZERO, ..Stalls::new(Metrics::default()) };
        let mut wait = stalls.wait();
        wait.after("one", &busy()).await;
        assert_eq!(told(&stalls), Some(Told::Busy));
        wait.over();
        assert_eq!(told(&stalls), None);
    }

    #[tokio::test]
    async fn what_waits_aside_holds_the_others_only_while_the_database_is_away() {
        let stalls = Stalls::new(Metrics::default());
        let held = || stalls.state.borrow().since.is_some();
        let (mut aside, mut other) = (stalls.wait_aside(), stalls.wait());
        aside.after("aside", &busy()).await;
        assert!(!held());
        aside.after("aside", &away()).await;
        assert!(held());
        aside.after("aside", &busy()).await;
        assert!(!held());
        other.after("other", &busy()).await;
        assert!(held());
        other.over();
        assert!(!held());
        aside.over();
        assert_eq!(stalls.state.borrow().waiting, 0);
    }

    #[tokio::test]
    async fn what_waits_apart_is_told_and_never_holds_the_others() {
        let stalls = Stalls::new(Metrics::default());
        let mut apart = stalls.wait_apart();
        apart.after("apart", &busy()).await;
        apart.after("apart", &away()).await;
        assert_eq!((stalls.state.borrow().since, told(&stalls)), (None, Some(Told::Away)));
        apart.over();
        assert_eq!(told(&stalls), None);
    }

    #[tokio::test]
    async fn a_wait_that_a_stop_ends_leaves_nobody_waiting() {
        let stalls = Stalls::new(Metrics::default());
        let mut wait = stalls.wait();
        wait.after("one", &away()).await;
        drop(wait);
        assert_eq!((stalls.metrics.database_waiting.get(), stalls.state.borrow().since), (0, None));
    }
}

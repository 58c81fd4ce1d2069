//! Limits the number of open connections. At the limit a new caller gets the place of the connection that has waited
//! longest, since it was opened or last answered, for a complete request head. A connection whose request is being
//! answered, or whose caller has not read the whole answer yet, is never closed for another.

use std::collections::{BTreeSet, HashMap};
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// All open connections.
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    most: usize,
    table: Mutex<Table>,
    /// Wakes whoever waits in `open`: a connection has closed, has begun to wait, or was told to close and does not.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Entry>,
    /// The connections that are [`ConnectionState::Waiting`], the longest waiting first.
    waiting: BTreeSet<(Instant, u64)>,
    /// The number of connections that are [`ConnectionState::Closing`].
    closing: usize,
}

struct Entry {
    state: ConnectionState,
    close: Arc<Notify>,
}

#[derive(Debug, Clone, Copy)]
enum ConnectionState {
    /// Waits for a complete head, since then.
    Waiting(Instant),
    /// Waits, and was told to close for another. If a complete head comes first, it is answered all the same.
    Closing,
    /// So many [`Busy`] guards exist: for requests that are being answered, and for an answer that was not read yet.
    Busy(u32),
}

/// One open connection. It counts towards the limit until the last clone of its `Arc` is dropped.
pub(super) struct Connection {
    shared: Arc<Shared>,
    number: u64,
    close: Arc<Notify>,
}

/// Until it is dropped, the connection is not closed for another.
pub(super) struct Busy(Arc<Connection>);

impl Connections {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Shared { most, table: Mutex::default(), changed: Notify::new() }))
    }

    /// Waits for room and opens one more. Only one task may wait here: only one is woken.
    pub(super) async fn open(&self) -> Arc<Connection> {
        loop {
            match self.open_or_close_another() {
                Some(opened) => return opened,
                None => self.0.changed.notified().await,
            }
        }
    }

    fn open_or_close_another(&self) -> Option<Arc<Connection>> {
        let mut table = self.0.lock();
        if table.open.len() < self.0.most {
            let (number, close) = (table.next, Arc::<Notify>::default());
            table.next += 1;
            table.open.insert(number, Entry { state: ConnectionState::Busy(0), close: close.clone() });
            table.set(number, ConnectionState::Waiting(Instant::now()));
            return Some(Arc::new(Connection { shared: self.0.clone(), number, close }));
        }
        let longest = table.waiting.first().copied().filter(|_| table.closing == 0);
        if let Some((_, number)) = longest {
            table.set(number, ConnectionState::Closing);
        }
        None
    }
}

impl Connection {
    /// Returns when this connection must close for another and still waits for a complete head.
    pub(super) async fn must_close(&self) {
        loop {
            self.close.notified().await;
            // Lets bytes that have arrived be read first: the runtime sees them between two polls of a task.
            tokio::task::yield_now().await;
            if matches!(self.shared.lock().state(self.number), ConnectionState::Closing) {
                return;
            }
        }
    }

    /// Since when it has waited for a complete head; `None` if it is busy or must close.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        match self.shared.lock().state(self.number) {
            ConnectionState::Waiting(since) => Some(since),
            ConnectionState::Closing | ConnectionState::Busy(_) => None,
        }
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        let mut table = self.shared.lock();
        let state = table.state(self.number);
        table.set(
            self.number,
            ConnectionState::Busy(if let ConnectionState::Busy(reasons) = state { reasons + 1 } else { 1 }),
        );
        if let ConnectionState::Closing = state {
            // Another connection must close instead.
            self.shared.changed.notify_one();
        }
        Busy(self.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Connection { shared, number, .. } = &*self.0;
        let mut table = shared.lock();
        match table.state(*number) {
            ConnectionState::Busy(reasons) if reasons > 1 => table.set(*number, ConnectionState::Busy(reasons - 1)),
            _ => {
                table.set(*number, ConnectionState::Waiting(Instant::now()));
                shared.changed.notify_one();
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        table.set(self.number, ConnectionState::Busy(0));
        table.open.remove(&self.number);
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn state(&self, number: u64) -> ConnectionState {
        self.open.get(&number).expect("a connection is in the table until it is dropped").state
    }

    fn set(&mut self, number: u64, state: ConnectionState) {
        let entry = self.open.get_mut(&number).expect("a connection is in the table until it is dropped");
        match replace(&mut entry.state, state) {
            ConnectionState::Waiting(since) => _ = self.waiting.remove(&(since, number)),
            ConnectionState::Closing => self.closing -= 1,
            ConnectionState::Busy(_) => {}
        }
        match state {
            ConnectionState::Waiting(since) => _ = self.waiting.insert((since, number)),
            ConnectionState::Closing => {
                self.closing += 1;
                entry.close.notify_one();
            }
            ConnectionState::Busy(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn opened(connections: &Connections) -> Option<Arc<Connection>> {
        connections.open().now_or_never()
    }

    fn must_close(connection: &Connection) -> bool {
        let mut closing = std::pin::pin!(connection.must_close());
        // The first poll lets what has arrived be read.
        closing.as_mut().now_or_never().is_some() || closing.now_or_never().is_some()
    }

    #[test]
    fn at_the_limit_the_longest_waiting_closes_and_none_before() {
        let connections = Connections::new(3);
        let open: Vec<_> = (0..3).map(|_| opened(&connections).unwrap()).collect();
        assert!(!open.iter().any(|connection| must_close(connection)));
        // This one was answered last.
        drop(open[0].busy());
        assert!(opened(&connections).is_none());
        assert_eq!([0, 1, 2].map(|number: usize| must_close(&open[number])), [false, true, false]);
    }

    #[test]
    fn the_room_of_one_that_closed_is_given_on_and_no_second_one_closes_for_it() {
        let connections = Connections::new(2);
        let (first, second) = (opened(&connections).unwrap(), opened(&connections).unwrap());
        assert!(opened(&connections).is_none() && opened(&connections).is_none());
        assert!(must_close(&first) && !must_close(&second));
        drop(first);
        assert!(opened(&connections).is_some());
        assert!(!must_close(&second));
    }

    #[test]
    fn one_whose_head_has_come_meanwhile_stays_and_another_closes() {
        let connections = Connections::new(2);
        let (first, second) = (opened(&connections).unwrap(), opened(&connections).unwrap());
        assert!(opened(&connections).is_none());
        let answering = first.busy();
        assert!(!must_close(&first));
        assert!(opened(&connections).is_none());
        assert!(must_close(&second));
        drop(answering);
        assert!(!must_close(&first));
    }

    #[tokio::test]
    async fn while_all_are_busy_nobody_closes_until_one_is_answered() {
        let connections = Connections::new(1);
        let only = opened(&connections).unwrap();
        let (answering, writing) = (only.busy(), only.busy());
        let mut waiting = std::pin::pin!(connections.open());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(answering);
        assert!(waiting.as_mut().now_or_never().is_none() && !must_close(&only));
        drop(writing);
        assert!(waiting.as_mut().now_or_never().is_none() && must_close(&only));
        drop(only);
        waiting.await;
    }

    proptest! {
        /// Connections open, are answered and close in any order; those told to close do so at once or later.
        #[test]
        fn never_more_are_open_than_may_be_and_who_waits_for_room_gets_it_unless_all_are_busy(
            most in 1..5_usize,
            steps in prop::collection::vec((0..4_u8, 0..5_usize), 0..60),
        ) {
            let connections = Connections::new(most);
            let mut open: Vec<(Arc<Connection>, Vec<Busy>)> = Vec::new();
            for (step, which) in steps {
                let chosen = which % open.len().max(1);
                match step {
                    0 => {
                        if let Some(new) = opened(&connections) {
                            open.push((new, Vec::new()));
                        } else {
                            prop_assert_eq!(open.len(), most);
                            let all_busy = open.iter().all(|(_, busy)| !busy.is_empty());
                            let closing = open.iter().filter(|(one, _)| must_close(one)).count();
                            prop_assert_eq!(closing, usize::from(!all_busy));
                            open.retain(|(one, busy)| {
                                let state = one.shared.lock().state(one.number);
                                !matches!(state, ConnectionState::Closing) || !busy.is_empty()
                            });
                            if let Some(new) = opened(&connections) {
                                open.push((new, Vec::new()));
                            } else {
                                prop_assert!(all_busy);
                            }
                        }
                    }
                    1 if !open.is_empty() => {
                        let busy = open[chosen].0.busy();
                        open[chosen].1.push(busy);
                    }
                    2 if !open.is_empty() => drop(open[chosen].1.pop()),
                    3 if !open.is_empty() => drop(open.swap_remove(chosen)),
                    _ => {}
                }
                prop_assert!(open.len() <= most);
                let table = connections.0.lock();
                prop_assert_eq!(table.open.len(), open.len());
                let idle = open.iter().filter(|(_, busy)| busy.is_empty()).count();
                prop_assert_eq!(table.waiting.len() + table.closing, idle);
            }
        }
    }
}

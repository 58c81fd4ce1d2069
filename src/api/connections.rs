//! Knows which connections are open and what each is doing, so that at the limit a new caller finds room: the connection
//! that has waited longest for a whole head of a request, since it was opened or last answered, is closed for it. One
//! whose request is being answered, or whose caller has not taken the whole answer yet, never is.

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
    /// Wakes whoever waits for room: a connection has gone, has begun to wait, or does not close after all.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Entry>,
    /// Those that are [`Doing::Waiting`], the longest first.
    waiting: BTreeSet<(Instant, u64)>,
    /// How many are [`Doing::Closing`].
    closing: usize,
}

struct Entry {
    doing: Doing,
    close: Arc<Notify>,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// For a whole head, since then.
    Waiting(Instant),
    /// Waiting as well, and told to close for somebody else. A whole head that comes first is answered all the same.
    Closing,
    /// As many guards hold it: requests that are being answered, and an answer that was not taken yet.
    Busy(u32),
}

/// One open connection. It counts as open until all clones of its `Arc` are dropped.
pub(super) struct Connection {
    shared: Arc<Shared>,
    number: u64,
    close: Arc<Notify>,
}

/// Keeps a connection from being closed for somebody else until it is dropped.
pub(super) struct Busy(Arc<Connection>);

impl Connections {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Shared { most, table: Mutex::default(), changed: Notify::new() }))
    }

    /// One more, as soon as there is room. For one task alone: only one is woken when there is some.
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
            table.open.insert(number, Entry { doing: Doing::Busy(0), close: close.clone() });
            table.set(number, Doing::Waiting(Instant::now()));
            return Some(Arc::new(Connection { shared: self.0.clone(), number, close }));
        }
        let longest = table.waiting.first().copied().filter(|_| table.closing == 0);
        if let Some((_, number)) = longest {
            table.set(number, Doing::Closing);
        }
        None
    }
}

impl Connection {
    /// Returns when somebody else needs the room and this connection still waits for a whole head.
    pub(super) async fn must_close(&self) {
        loop {
            self.close.notified().await;
            // What has arrived is read first: the runtime learns of it between two polls of a task.
            tokio::task::yield_now().await;
            if matches!(self.shared.lock().doing(self.number), Doing::Closing) {
                return;
            }
        }
    }

    /// Since when it has waited for a whole head, unless it is busy or must close.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        match self.shared.lock().doing(self.number) {
            Doing::Waiting(since) => Some(since),
            Doing::Closing | Doing::Busy(_) => None,
        }
    }

    /// Something is being done for its caller.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        let mut table = self.shared.lock();
        let doing = table.doing(self.number);
        table.set(self.number, Doing::Busy(if let Doing::Busy(reasons) = doing { reasons + 1 } else { 1 }));
        if let Doing::Closing = doing {
            // Another must close in its place.
            self.shared.changed.notify_one();
        }
        Busy(self.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Connection { shared, number, .. } = &*self.0;
        let mut table = shared.lock();
        match table.doing(*number) {
            Doing::Busy(reasons) if reasons > 1 => table.set(*number, Doing::Busy(reasons - 1)),
            _ => {
                table.set(*number, Doing::Waiting(Instant::now()));
                shared.changed.notify_one();
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        table.set(self.number, Doing::Busy(0));
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
    fn doing(&self, number: u64) -> Doing {
        self.open.get(&number).expect("a connection is in the table until it is dropped").doing
    }

    fn set(&mut self, number: u64, doing: Doing) {
        let entry = self.open.get_mut(&number).expect("a connection is in the table until it is dropped");
        match replace(&mut entry.doing, doing) {
            Doing::Waiting(since) => _ = self.waiting.remove(&(since, number)),
            Doing::Closing => self.closing -= 1,
            Doing::Busy(_) => {}
        }
        match doing {
            Doing::Waiting(since) => _ = self.waiting.insert((since, number)),
            Doing::Closing => {
                self.closing += 1;
                entry.close.notify_one();
            }
            Doing::Busy(_) => {}
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
        // It was answered last.
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
        /// Connections open, are answered and close as it comes, and whoever is told to close does so at once or later.
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
                                let doing = one.shared.lock().doing(one.number);
                                !matches!(doing, Doing::Closing) || !busy.is_empty()
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

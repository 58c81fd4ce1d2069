//! Opens the pool's connections. A new connection goes to the caller that has waited longest.
//!
//! An opening continues when the caller that wanted it has gone, and its connection serves the next caller. So, if a login
//! takes longer than callers wait, all but the first callers are served. And callers that give up soon do not open more
//! connections than the pool allows: another opening begins only if more callers wait than openings are under way, and no
//! spare connection is left.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_postgres::Connect;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, Error};

use super::session::{Opened, Sessions};
use super::tasks::Tasks;

/// Shared by the pool, which asks for connections, and the store, which drops spare ones after a failover.
#[derive(Clone)]
pub(super) struct Openings {
    sessions: Sessions,
    tasks: Arc<Tasks>,
    queue: Arc<Queue<Result<Opened, Error>>>,
}

/// A connection as the pool takes it, and the task that drives it.
type Driven = (Client, JoinHandle<()>);

tokio::task_local! {
    /// The backend of the connection that was opened for this task's request to the pool. The pool itself returns the
    /// connection alone.
    static BACKEND: Cell<Option<String>>;
}

/// Runs a request to the pool, and also returns the backend of the connection that was opened for it, if one was.
pub(super) async fn with_backend<T>(asking: impl Future<Output = T>) -> (T, Option<String>) {
    let mut asking = pin!(BACKEND.scope(Cell::default(), asking));
    let answer = asking.as_mut().await;
    (answer, asking.take_value().and_then(Cell::into_inner))
}

fn hand_on(opened: Result<Opened, Error>) -> Result<Driven, Error> {
    let Opened { client, drive, backend } = opened?;
    let _ = BACKEND.try_with(|noted| noted.set(backend));
    Ok((client, drive))
}

/// The callers that wait for a connection, and the connections to come.
struct Queue<T>(Mutex<State<T>>);

struct State<T> {
    waiting: VecDeque<oneshot::Sender<T>>,
    under_way: usize,
    /// Connections whose callers went away before they were open.
    spare: Vec<T>,
}

/// What a caller that asks for a connection gets.
enum Ticket<T> {
    /// A spare connection.
    Served(T),
    /// A place in the queue, and an opening to start if one more is needed.
    Waits { connection: oneshot::Receiver<T>, opening: Option<UnderWay<T>> },
}

/// An opening. It counts as under way until it is dropped, which hands its connection to a caller.
struct UnderWay<T> {
    queue: Arc<Queue<T>>,
    brought: Option<T>,
    counts: bool,
}

impl Openings {
    pub(super) fn new(sessions: Sessions, tasks: Arc<Tasks>) -> Self {
        Self { sessions, tasks, queue: Arc::default() }
    }

    /// Drops the spare connections.
    pub(super) fn drop_spare(&self) {
        self.queue.lock().spare.clear();
    }

    async fn open(sessions: Sessions, mut opening: UnderWay<Result<Opened, Error>>) {
        loop {
            if let Ok(opened) = timeout(sessions.bound(), sessions.open()).await {
                opening.brought = Some(opened);
                return;
            }
            // Callers that came meanwhile still have time to wait.
            match opening.continue_if_wanted() {
                Some(wanted) => opening = wanted,
                None => return,
            }
        }
    }
}

impl Connect for Openings {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Result<Driven, Error>> + Send + '_>> {
        let usable = |opened: &Result<Opened, Error>| matches!(opened, Ok(opened) if !opened.client.is_closed());
        match self.queue.take_ticket(usable) {
            Ticket::Served(opened) => Box::pin(async { hand_on(opened) }),
            Ticket::Waits { connection, opening } => {
                if let Some(opening) = opening {
                    self.tasks.spawn(Self::open(self.sessions.clone(), opening));
                }
                Box::pin(async {
                    match connection.await {
                        Ok(opened) => hand_on(opened),
                        // The store is being dropped. The pool bounds this wait too.
                        Err(_) => pending().await,
                    }
                })
            }
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Mutex::new(State { waiting: VecDeque::new(), under_way: 0, spare: Vec::new() }))
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_ticket(self: &Arc<Self>, usable: impl Fn(&T) -> bool) -> Ticket<T> {
        let mut state = self.lock();
        state.spare.retain(usable);
        if let Some(spare) = state.spare.pop() {
            return Ticket::Served(spare);
        }
        let (sender, connection) = oneshot::channel();
        state.waiting.push_back(sender);
        let opening = (state.still_waiting() > state.under_way).then(|| {
            state.under_way += 1;
            UnderWay { queue: self.clone(), brought: None, counts: true }
        });
        Ticket::Waits { connection, opening }
    }
}

impl<T> State<T> {
    fn still_waiting(&mut self) -> usize {
        self.waiting.retain(|place| !place.is_closed());
        self.waiting.len()
    }
}

impl<T> UnderWay<T> {
    /// Continues this opening, unless the others under way are enough for the callers that wait.
    fn continue_if_wanted(mut self) -> Option<Self> {
        // Counting and leaving happen under one lock: a caller that came in between would rely on an opening that ends.
        let mut state = self.queue.lock();
        let wanted = state.still_waiting() >= state.under_way;
        if !wanted {
            state.under_way -= 1;
        }
        drop(state);
        self.counts = wanted;
        wanted.then_some(self)
    }
}

impl<T> Drop for UnderWay<T> {
    fn drop(&mut self) {
        if !self.counts {
            return;
        }
        // Leaving and handing over happen under one lock, for the same reason.
        let mut state = self.queue.lock();
        state.under_way -= 1;
        let Some(mut brought) = self.brought.take() else { return };
        while let Some(place) = state.waiting.pop_front() {
            match place.send(brought) {
                Ok(()) => return,
                Err(unsent) => brought = unsent,
            }
        }
        state.spare.push(brought);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Waits = (oneshot::Receiver<u32>, Option<UnderWay<u32>>);

    fn wait(queue: &Arc<Queue<u32>>) -> Waits {
        match queue.take_ticket(|_| true) {
            Ticket::Waits { connection, opening } => (connection, opening),
            Ticket::Served(_) => panic!("there is nothing yet"),
        }
    }

    fn bring(opening: Option<UnderWay<u32>>, number: u32) {
        opening.expect("one is under way").brought = Some(number);
    }

    #[test]
    fn what_is_opened_serves_whoever_waits_longest() {
        let queue = Arc::new(Queue::default());
        let ((mut first, opening), (mut second, another)) = (wait(&queue), wait(&queue));
        bring(another, 2);
        assert_eq!((first.try_recv().ok(), second.try_recv().ok()), (Some(2), None));
        bring(opening, 1);
        assert_eq!(second.try_recv().ok(), Some(1));
    }

    #[test]
    fn a_crowd_that_does_not_wait_opens_one_connection() {
        let queue = Arc::new(Queue::default());
        let (impatient, opening) = wait(&queue);
        drop(impatient);
        for _ in 0..10 {
            assert!(wait(&queue).1.is_none());
        }
        bring(opening, 7);
        assert!(matches!(queue.take_ticket(|_| true), Ticket::Served(7)));
    }

    #[test]
    fn a_spare_connection_that_was_closed_serves_nobody() {
        let queue = Arc::new(Queue::default());
        let (impatient, opening) = wait(&queue);
        drop(impatient);
        bring(opening, 7);
        assert!(matches!(queue.take_ticket(|_| false), Ticket::Waits { opening: Some(_), .. }));
    }

    #[test]
    fn an_opening_that_takes_too_long_goes_on_for_those_who_came_meanwhile() {
        let queue = Arc::new(Queue::default());
        let (impatient, opening) = wait(&queue);
        drop(impatient);
        let (mut later, _) = wait(&queue);
        let opening = opening.and_then(UnderWay::continue_if_wanted);
        bring(opening, 7);
        assert_eq!(later.try_recv().ok(), Some(7));
        let (impatient, opening) = wait(&queue);
        drop(impatient);
        assert!(opening.and_then(UnderWay::continue_if_wanted).is_none());
        assert!(wait(&queue).1.is_some());
    }

    #[tokio::test]
    async fn whoever_asks_the_pool_learns_the_backend_of_the_connection_that_was_opened_for_it() {
        let opened = |backend: &'static str| async move {
            tokio::task::yield_now().await;
            BACKEND.with(|noted| noted.set(Some(backend.to_owned())));
            tokio::task::yield_now().await;
        };
        let ((_, one), (_, two), (_, none)) =
            tokio::join!(with_backend(opened("1")), with_backend(opened("2")), with_backend(async {}));
        assert_eq!((one.as_deref(), two.as_deref(), none), (Some("1"), Some("2"), None));
    }

    #[test]
    fn an_opening_that_fails_without_a_word_is_begun_again_by_the_next() {
        let queue = Arc::new(Queue::default());
        let (_place, opening) = wait(&queue);
        drop(opening);
        assert!(wait(&queue).1.is_some());
    }
}

//! Opens the pool's connections, each for whoever waits longest.
//!
//! An opening outlives the request that wanted it: what it brings serves the next one. So a server whose login takes longer
//! than a request may wait answers all but the first, and a crowd of impatient requests opens no more connections than the
//! pool may have: another opening begins only while more wait than are under way, and none is spare.

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

/// Shared by the pool, which asks for connections, and the store, which may want to be rid of spare ones.
#[derive(Clone)]
pub(super) struct Openings {
    sessions: Sessions,
    tasks: Arc<Tasks>,
    queue: Arc<Queue<Result<Opened, Error>>>,
}

/// A connection as the pool takes it, and what drives it.
type Driven = (Client, JoinHandle<()>);

tokio::task_local! {
    /// The backend of the connection that the pool was given last, by whoever asked the pool: the pool hands on the
    /// connection alone.
    static BACKEND: Cell<Option<String>>;
}

/// Runs what asks the pool for a connection, and returns also the backend of the connection that was opened for it.
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

/// Who waits for a connection, and what is to come.
struct Queue<T>(Mutex<State<T>>);

struct State<T> {
    waiting: VecDeque<oneshot::Sender<T>>,
    under_way: usize,
    /// Opened for somebody who did not wait for it.
    spare: Vec<T>,
}

/// What somebody who wants a connection gets.
enum Place<T> {
    Served(T),
    Waits { place: oneshot::Receiver<T>, opening: Option<UnderWay<T>> },
}

/// Counts as under way until it is dropped, which hands over what it has brought.
struct UnderWay<T> {
    queue: Arc<Queue<T>>,
    brought: Option<T>,
    counts: bool,
}

impl Openings {
    pub(super) fn new(sessions: Sessions, tasks: Arc<Tasks>) -> Self {
        Self { sessions, tasks, queue: Arc::default() }
    }

    /// Has nobody get a connection that was opened before.
    pub(super) fn forget_spare(&self) {
        self.queue.lock().spare.clear();
    }

    async fn open(sessions: Sessions, mut opening: UnderWay<Result<Opened, Error>>) {
        loop {
            if let Ok(opened) = timeout(sessions.bound(), sessions.open()).await {
                opening.brought = Some(opened);
                return;
            }
            // Those who came meanwhile have time left.
            match opening.unless_unwanted() {
                Some(wanted) => opening = wanted,
                None => return,
            }
        }
    }
}

impl Connect for Openings {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Result<Driven, Error>> + Send + '_>> {
        let usable = |opened: &Result<Opened, Error>| matches!(opened, Ok(opened) if !opened.client.is_closed());
        match self.queue.take_place(usable) {
            Place::Served(opened) => Box::pin(async { hand_on(opened) }),
            Place::Waits { place, opening } => {
                if let Some(opening) = opening {
                    self.tasks.spawn(Self::open(self.sessions.clone(), opening));
                }
                Box::pin(async {
                    match place.await {
                        Ok(opened) => hand_on(opened),
                        // All is being dropped. The pool bounds this wait, too.
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

    fn take_place(self: &Arc<Self>, usable: impl Fn(&T) -> bool) -> Place<T> {
        let mut state = self.lock();
        state.spare.retain(usable);
        if let Some(spare) = state.spare.pop() {
            return Place::Served(spare);
        }
        let (sender, place) = oneshot::channel();
        state.waiting.push_back(sender);
        let opening = (state.still_waiting() > state.under_way).then(|| {
            state.under_way += 1;
            UnderWay { queue: self.clone(), brought: None, counts: true }
        });
        Place::Waits { place, opening }
    }
}

impl<T> State<T> {
    fn still_waiting(&mut self) -> usize {
        self.waiting.retain(|place| !place.is_closed());
        self.waiting.len()
    }
}

impl<T> UnderWay<T> {
    /// Goes on, unless the others under way are enough.
    fn unless_unwanted(mut self) -> Option<Self> {
        // One lock for looking and leaving: whoever comes between would count on an opening that is over.
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
        // One lock for leaving and handing over, for the same reason.
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
        match queue.take_place(|_| true) {
            Place::Waits { place, opening } => (place, opening),
            Place::Served(_) => panic!("there is nothing yet"),
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
        assert!(matches!(queue.take_place(|_| true), Place::Served(7)));
    }

    #[test]
    fn a_spare_connection_that_was_closed_serves_nobody() {
        let queue = Arc::new(Queue::default());
        let (impatient, opening) = wait(&queue);
        drop(impatient);
        bring(opening, 7);
        assert!(matches!(queue.take_place(|_| false), Place::Waits { opening: Some(_), .. }));
    }

    #[test]
    fn an_opening_that_takes_too_long_goes_on_for_those_who_came_meanwhile() {
        let queue = Arc::new(Queue::default());
        let (impatient, opening) = wait(&queue);
        drop(impatient);
        let (mut later, _) = wait(&queue);
        let opening = opening.and_then(UnderWay::unless_unwanted);
        bring(opening, 7);
        assert_eq!(later.try_recv().ok(), Some(7));
        let (impatient, opening) = wait(&queue);
        drop(impatient);
        assert!(opening.and_then(UnderWay::unless_unwanted).is_none());
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

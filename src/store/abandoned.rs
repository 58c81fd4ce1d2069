//! Sees to statements whose callers do not wait for the answer any more, so that the server never has more sessions of
//! ours than the pool may have.

use std::any::Any;
use std::future::pending;
use std::sync::{Arc, Mutex as Shared, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, sleep_until, timeout};

use super::StoreError;
use super::answers::Answers;
use super::backends::Activity;
use super::by_connection::ByConnection;
use super::session::Sessions;
use super::tls::Tls;

/// The wish to end a statement reaches the server within this time or not at all.
const CANCEL_BOUND: Duration = Duration::from_secs(1);
/// How often the server is asked which sessions it has, and which of them still have something to do.
const LOOKS_APART: Duration = Duration::from_secs(2);
/// A statement's server is suspected after so long without any answer of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A server that lets nobody in for so long is gone, and with it whatever waited there.
const SILENCE: Duration = Duration::from_secs(30);

/// What becomes of a statement whose caller does not wait for its answer.
pub(super) enum Abandoned {
    /// The server is told to end it, unless it ends in a moment.
    Cancelled,
    /// It goes on, and its connection keeps its place until it has ended: a commit that waits for a synchronous standby must
    /// not be cancelled, for then it is done here and perhaps not there, and whoever asks takes it for safe.
    LeftAlone(Room),
}

/// A value, such as an account's turn, that is dropped only when the statement has ended.
pub(super) type Kept = Arc<dyn Any + Send + Sync>;

/// The right to write, which whoever has it keeps until the commit has been answered.
pub(super) type Room = OwnedSemaphorePermit;

/// A statement that is answered within `moment` needs no end, and its connection goes back to the pool: opening another costs
/// more than most statements. Else the connection keeps its place in the pool until the wish was sent, and is closed even if
/// the statement ended well: the wish may come late, and would end the next one. What its caller wants kept is kept until the
/// statement has ended.
pub(super) async fn cancel(object: Object, tls: Tls, moment: Duration, kept: Option<Kept>) {
    // Answered after the statement.
    if let Ok(Ok(())) = timeout(moment, object.batch_execute("")).await {
        return;
    }
    let token = object.cancel_token();
    match timeout(CANCEL_BOUND, token.cancel_query(tls)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = crate::error_chain(&error), "cannot have a statement ended"),
        Err(_) => tracing::debug!("no answer when having a statement ended"),
    }
    let client = Object::take(object);
    if kept.is_some() {
        let _ = timeout(CANCEL_BOUND, client.batch_execute("")).await;
    }
    drop(client);
}

/// Writes, those of them that were abandoned and go on at the server, and statements whose server may be gone.
pub(super) struct Unanswered {
    sessions: Sessions,
    /// Fewer than the pool has connections, so that questions find one while all writes wait for a standby.
    room: Arc<Semaphore>,
    /// The backend of each connection. One that was forgotten is asked again before it writes.
    backends: Shared<ByConnection<String>>,
    asked: Mutex<Option<Asked>>,
}

/// What became of a question, and when it was asked.
#[derive(Clone)]
struct Asked {
    began: Instant,
    ended: Instant,
    answer: Answer,
}

#[derive(Clone)]
enum Answer {
    /// Of the server that answers now.
    Activity(Arc<Activity>),
    /// Such as too many clients already.
    Refused,
    /// No server answers.
    Silence,
}

impl Unanswered {
    pub(super) fn new(sessions: Sessions, pool_size: usize) -> Self {
        // At least a quarter of the pool is for questions.
        let room = pool_size.saturating_sub(pool_size.div_ceil(4)).max(1);
        Self { sessions, room: Arc::new(Semaphore::new(room)), backends: Shared::default(), asked: Mutex::default() }
    }

    /// Waits for other writes to end. Asked for before a connection is, for who waits here must keep none.
    pub(super) async fn room(&self, bound: Duration) -> Result<Room, StoreError> {
        let room = timeout(bound, self.room.clone().acquire_owned()).await.ok().and_then(Result::ok);
        room.ok_or_else(|| {
            StoreError::Busy(anyhow::anyhow!(
                "transactions before this one still wait for their commits, perhaps for a synchronous standby"
            ))
        })
    }

    pub(super) fn knows_backend(&self, opened: Instant) -> bool {
        self.backends().of(opened).is_some()
    }

    /// The connection that was opened then is served by this backend.
    pub(super) fn note_backend(&self, opened: Instant, backend: String) {
        self.backends().note(opened, backend);
    }

    fn backends(&self) -> MutexGuard<'_, ByConnection<String>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the connection's place in the pool, and the room of its write, until its last answer has come, or its
    /// connection has ended, or its backend is gone from the server or idle.
    pub(super) async fn see_out(self: Arc<Self>, object: Object, _room: Room) {
        let backend = self.backends().of(Object::metrics(&object).created).cloned();
        let ended = async {
            // Answered after everything that was sent before.
            let _ = object.batch_execute("").await;
        };
        tokio::select! {
            () = ended => {}
            () = self.until_gone(backend) => {}
        }
        drop(Object::take(object));
    }

    async fn until_gone(&self, backend: Option<String>) {
        let began = Instant::now();
        let mut answered = began;
        loop {
            sleep(LOOKS_APART).await;
            match self.look(began).await.answer {
                Answer::Silence if answered.elapsed() < SILENCE => {}
                Answer::Silence => return,
                Answer::Activity(found) if backend.as_ref().is_some_and(|backend| found.has_seen_out(backend)) => {
                    return;
                }
                Answer::Activity(_) | Answer::Refused => answered = Instant::now(),
            }
        }
    }

    /// For a statement that began then and had no answer within [`PATIENCE`], on the connection that was opened then:
    /// returns if its server turns out to have been replaced by another one, with the time when that one was looked for.
    /// A server that answers other statements is not suspected.
    pub(super) async fn until_replaced(&self, opened: Instant, began: Instant, answers: &Answers) -> Instant {
        let known = self.backends().of(opened).cloned();
        let Some(backend) = known else { return pending().await };
        loop {
            let heard = answers.last_of_those_open_at(began).map_or(PATIENCE, |last| last.elapsed());
            if heard < PATIENCE {
                sleep(PATIENCE - heard).await;
                continue;
            }
            let asked = self.look(began).await;
            if matches!(&asked.answer, Answer::Activity(found) if found.has_replaced_that_of(&backend)) {
                return asked.began;
            }
            // Does not wait if the look itself took so long: it may have gone to the silent server, and the address may
            // have moved since.
            sleep_until((asked.began + LOOKS_APART).into()).await;
        }
    }

    /// One question for all that wait, in a session of its own: one of those that are open may be another server's. It was
    /// asked after the time given.
    async fn look(&self, after: Instant) -> Asked {
        let came = Instant::now();
        let mut last = self.asked.lock().await;
        if let Some(asked) = last.as_ref().filter(|asked| asked.began >= after)
            && (asked.ended >= came || asked.began.elapsed() < LOOKS_APART)
        {
            return asked.clone();
        }
        let began = Instant::now();
        let answer = timeout(self.sessions.bound(), self.ask()).await.unwrap_or(Answer::Silence);
        last.insert(Asked { began, ended: Instant::now(), answer }).clone()
    }

    async fn ask(&self) -> Answer {
        let found = async {
            let opened = self.sessions.open().await?;
            Activity::of(&opened.client).await
        };
        match found.await {
            Ok(found) => Answer::Activity(found.into()),
            Err(error) if error.as_db_error().is_some() => Answer::Refused,
            Err(_) => Answer::Silence,
        }
    }
}

//! Sees to statements whose callers do not wait for the answer any more, so that the server never has more sessions of
//! ours than the pool may have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::session::Sessions;
use super::tls::Tls;

/// The wish to end a statement reaches the server within this time or not at all.
const CANCEL_BOUND: Duration = Duration::from_secs(1);
/// How often the server is asked whether commits of ours still wait there.
const LOOKS_APART: Duration = Duration::from_secs(2);
/// A server that lets nobody in for so long is gone, and with it whatever waited there.
const SILENCE: Duration = Duration::from_secs(30);

/// What becomes of a statement whose caller does not wait for its answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Abandoned {
    /// The server is told to end it.
    Cancelled,
    /// It goes on, and its connection keeps its place until it has ended: a COMMIT that waits for a synchronous standby must
    /// not be cancelled, for then it is done here and perhaps not there, and whoever asks takes it for safe.
    LeftAlone,
}

/// The connection keeps its place in the pool meanwhile, and is closed even if the statement ended well: the wish may come
/// late, and would end the next one.
pub(super) async fn cancel(object: Object, tls: Tls) {
    let token = object.cancel_token();
    match timeout(CANCEL_BOUND, token.cancel_query(tls)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot have a statement ended"),
        Err(_) => tracing::debug!("no answer when having a statement ended"),
    }
    drop(Object::take(object));
}

/// Transactions that were abandoned and go on at the server.
pub(super) struct Unanswered {
    sessions: Sessions,
    /// While none is left no other transaction begins: it would wait for the same, and questions would find no connection.
    room: Arc<Semaphore>,
    asked: Mutex<Option<(Instant, Answer)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// There are commits of ours that wait, or the server has no room to say so.
    Wait,
    /// They are not at the server that answers now.
    Gone,
    /// No server answers.
    Silence,
}

impl Unanswered {
    pub(super) fn new(sessions: Sessions, pool_size: usize) -> Self {
        // At least a quarter of the pool is for questions.
        let room = pool_size.saturating_sub(pool_size.div_ceil(4)).max(1);
        Self { sessions, room: Arc::new(Semaphore::new(room)), asked: Mutex::default() }
    }

    /// Whether a transaction begun now may find its end.
    pub(super) fn have_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Keeps the connection's place in the pool until its last answer has come, or its connection has ended, or its
    /// transaction is no longer at the server.
    pub(super) async fn see_out(self: Arc<Self>, object: Object) {
        let _room: Option<OwnedSemaphorePermit> = self.room.clone().try_acquire_owned().ok();
        let ended = async {
            // Answered after everything that was sent before.
            let _ = object.batch_execute("").await;
        };
        tokio::select! {
            () = ended => {}
            () = self.until_gone() => {}
        }
        drop(Object::take(object));
    }

    async fn until_gone(&self) {
        let mut answered = Instant::now();
        loop {
            tokio::time::sleep(LOOKS_APART).await;
            match self.look().await {
                Answer::Wait => answered = Instant::now(),
                Answer::Silence if answered.elapsed() < SILENCE => {}
                Answer::Silence | Answer::Gone => return,
            }
        }
    }

    /// One question for all that wait, in a session of its own: one of those that are open may be another server's.
    async fn look(&self) -> Answer {
        let mut asked = self.asked.lock().await;
        if let Some((at, answer)) = *asked
            && at.elapsed() < LOOKS_APART
        {
            return answer;
        }
        let answer = timeout(self.sessions.bound(), self.ask()).await.unwrap_or(Answer::Silence);
        *asked = Some((Instant::now(), answer));
        answer
    }

    async fn ask(&self) -> Answer {
        let found = async {
            let (client, _) = self.sessions.open().await?;
            client.query_one(COMMITS_WAIT, &[]).await?.try_get("waiting")
        };
        match found.await {
            Ok(true) => Answer::Wait,
            Ok(false) => Answer::Gone,
            // Such as too many clients already.
            Err(error) if error.as_db_error().is_some() => Answer::Wait,
            Err(_) => Answer::Silence,
        }
    }
}

/// A wait for a standby has no end in time; all else that a commit waits for has.
const COMMITS_WAIT: &str = "
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE usename = current_user AND datname = current_database() AND application_name = 'penr-webhooks'
            AND pid <> pg_backend_pid() AND state = 'active' AND (query = 'COMMIT' OR wait_event = 'SyncRep')) AS waiting";

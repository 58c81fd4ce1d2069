//! Decides what becomes of statements whose callers no longer wait for the answer: reads are cancelled, writes keep their
//! connection until they have ended. So the server never has more sessions of ours than the pool allows.

use std::any::Any;
use std::future::pending;
use std::sync::{Arc, Mutex as Shared, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, sleep_until, timeout};

use super::answers::Answers;
use super::backends::ServerActivity;
use super::by_connection::ByConnection;
use super::error::StoreError;
use super::session::Sessions;
use super::tls::Tls;

/// The longest wait for the server to take a request to cancel.
const CANCEL_BOUND: Duration = Duration::from_secs(1);
/// How often the server is asked which sessions it has and which of them are busy.
const LOOKS_APART: Duration = Duration::from_secs(2);
/// After this time without an answer, the server is suspected to be gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A server that accepts no session for this long is gone, and so are the statements that waited there.
const SILENCE: Duration = Duration::from_secs(30);

/// What becomes of a statement whose caller no longer waits for the answer.
pub(super) enum Abandoned {
    /// It is cancelled, unless it ends in a moment.
    Cancelled,
    /// It continues, and its connection keeps its place in the pool until it has ended. A commit that waits for a synchronous
    /// standby must not be cancelled: it would then be visible on the primary and perhaps not on the standby, and readers
    /// would take it for safe.
    LeftAlone(WritePermit),
}

/// A value, such as an account's turn, that is dropped only when the statement has ended.
pub(super) type Kept = Arc<dyn Any + Send + Sync>;

/// Permits one write, and is held until its commit has been answered.
pub(super) type WritePermit = OwnedSemaphorePermit;

/// Cancels the statement of a connection. If it is answered within `moment`, nothing is cancelled and the connection goes back
/// to the pool: opening another costs more than most statements. Else the connection keeps its place in the pool until the
/// request to cancel was sent, and is then closed even if the statement ended well: the request may arrive late, and would
/// cancel the next statement. `kept` is dropped when the statement has ended.
pub(super) async fn cancel(object: Object, tls: Tls, moment: Duration, kept: Option<Kept>) {
    // The answer to this comes after that of the statement.
    if let Ok(Ok(())) = timeout(moment, object.batch_execute("")).await {
        return;
    }
    let token = object.cancel_token();
    match timeout(CANCEL_BOUND, token.cancel_query(tls)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = crate::error_chain(&error), "cannot cancel a statement"),
        Err(_) => tracing::debug!("no answer when cancelling a statement"),
    }
    let client = Object::take(object);
    if kept.is_some() {
        let _ = timeout(CANCEL_BOUND, client.batch_execute("")).await;
    }
    drop(client);
}

/// Counts the writes under way, abandoned ones too, and finds out whether the server of a statement is gone.
pub(super) struct Unanswered {
    sessions: Sessions,
    /// Fewer than the pool has connections, so that reads find one while all writes wait for a standby.
    writes: Arc<Semaphore>,
    /// The backend of each connection. If it is missing, it is asked for before the connection writes.
    backends: Shared<ByConnection<String>>,
    last_look: Mutex<Option<Look>>,
}

/// One look at the server, and when it began and ended.
#[derive(Clone)]
struct Look {
    began: Instant,
    ended: Instant,
    result: LookResult,
}

#[derive(Clone)]
enum LookResult {
    /// The server that answers now, and what it is doing.
    Activity(Arc<ServerActivity>),
    /// A server refused the session, such as with too many clients.
    Refused,
    /// No server answers.
    Silence,
}

impl Unanswered {
    pub(super) fn new(sessions: Sessions, pool_size: usize) -> Self {
        // A quarter of the pool, at least, is left for reads.
        let writes = pool_size.saturating_sub(pool_size.div_ceil(4)).max(1);
        Self {
            sessions,
            writes: Arc::new(Semaphore::new(writes)),
            backends: Shared::default(),
            last_look: Mutex::default(),
        }
    }

    /// Waits, up to `bound`, until another write may begin. The caller must not hold a connection meanwhile.
    pub(super) async fn permit(&self, bound: Duration) -> Result<WritePermit, StoreError> {
        let permit = timeout(bound, self.writes.clone().acquire_owned()).await.ok().and_then(Result::ok);
        permit.ok_or_else(|| {
            StoreError::Busy(anyhow::anyhow!(
                "transactions before this one still wait for their commits, perhaps for a synchronous standby"
            ))
        })
    }

    pub(super) fn knows_backend(&self, opened: Instant) -> bool {
        self.backends().of(opened).is_some()
    }

    /// Notes the backend of the connection that was opened at this time.
    pub(super) fn note_backend(&self, opened: Instant, backend: String) {
        self.backends().note(opened, backend);
    }

    fn backends(&self) -> MutexGuard<'_, ByConnection<String>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the connection's place in the pool, and the permit of its write, until its last answer has come, the connection
    /// has ended, or its backend is idle or gone from the server.
    pub(super) async fn hold_until_ended(self: Arc<Self>, object: Object, _permit: WritePermit) {
        let backend = self.backends().of(Object::metrics(&object).created).cloned();
        let ended = async {
            // The answer to this comes after those of all earlier statements.
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
            match self.look(began).await.result {
                LookResult::Silence if answered.elapsed() < SILENCE => {}
                LookResult::Silence => return,
                LookResult::Activity(found) if backend.as_ref().is_some_and(|backend| found.has_finished(backend)) => {
                    return;
                }
                LookResult::Activity(_) | LookResult::Refused => answered = Instant::now(),
            }
        }
    }

    /// Waits until the server of a statement turns out to have been replaced by another, and returns when the look that found
    /// that began. The statement began at `began`, on the connection that was opened at `opened`, and had no answer within
    /// [`PATIENCE`]. While other statements get answers the server is not looked at.
    pub(super) async fn until_replaced(&self, opened: Instant, began: Instant, answers: &Answers) -> Instant {
        let known = self.backends().of(opened).cloned();
        let Some(backend) = known else { return pending().await };
        loop {
            let silent_for = answers.last_of_those_open_at(began).map_or(PATIENCE, |last| last.elapsed());
            if silent_for < PATIENCE {
                sleep(PATIENCE - silent_for).await;
                continue;
            }
            let look = self.look(began).await;
            if matches!(&look.result, LookResult::Activity(found) if found.has_replaced_server_of(&backend)) {
                return look.began;
            }
            // A look that took longer than this may have gone to the silent server, so the next one follows at once.
            sleep_until((look.began + LOOKS_APART).into()).await;
        }
    }

    /// Looks at the server in a new session, since an open one may lead to another server. Callers that wait at the same time
    /// share one look; it began after the given time.
    async fn look(&self, after: Instant) -> Look {
        let came = Instant::now();
        let mut last = self.last_look.lock().await;
        if let Some(look) = last.as_ref().filter(|look| look.began >= after)
            && (look.ended >= came || look.began.elapsed() < LOOKS_APART)
        {
            return look.clone();
        }
        let began = Instant::now();
        let result = timeout(self.sessions.bound(), self.ask()).await.unwrap_or(LookResult::Silence);
        last.insert(Look { began, ended: Instant::now(), result }).clone()
    }

    async fn ask(&self) -> LookResult {
        let found = async {
            let opened = self.sessions.open().await?;
            ServerActivity::of(&opened.client).await
        };
        match found.await {
            Ok(found) => LookResult::Activity(found.into()),
            Err(error) if error.as_db_error().is_some() => LookResult::Refused,
            Err(_) => LookResult::Silence,
        }
    }
}

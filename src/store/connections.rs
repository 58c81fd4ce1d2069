//! Lends pooled connections, and takes back none that is unfit: one on which a statement still runs, or that the server
//! will not serve as it serves a new one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use deadpool_postgres::{TimeoutType, Timeouts};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use super::openings::Openings;
use super::session::Sessions;
use super::tasks::Tasks;
use super::tls::Tls;
use super::{OutOfTime, StoreError};
use crate::config::Database;

/// What only a new connection cures: the server is going, it has become one that may only be read, a pooler before it
/// has given us another's session, or the session holds a plan that the schema has left behind.
const UNFIT: [SqlState; 7] = [
    SqlState::READ_ONLY_SQL_TRANSACTION,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::INVALID_SQL_STATEMENT_NAME,
    SqlState::DUPLICATE_PSTATEMENT,
    // "cached plan must not change result type".
    SqlState::FEATURE_NOT_SUPPORTED,
];

/// All connections are replaced no more often, however many statements find that they may only read.
const RENEWALS_APART: Duration = Duration::from_secs(1);

/// The wish to end a statement reaches the server within this time or not at all.
const CANCEL_BOUND: Duration = Duration::from_secs(1);

/// The pool, and what its connections are made of.
pub(super) struct Connections {
    pool: Pool,
    sessions: Sessions,
    openings: Openings,
    tasks: Arc<Tasks>,
    statement_timeout: Duration,
    /// When the database last answered a statement.
    answered: Mutex<Option<Instant>>,
    /// A connection older than this is not lent again.
    renewed: Arc<Mutex<Instant>>,
    /// When the newest statement began that was given up without an answer.
    unanswered: Arc<Mutex<Option<Instant>>>,
}

impl Connections {
    /// Opens no connection yet.
    pub(super) fn new(settings: &Database) -> Result<Self, StoreError> {
        let (sessions, tasks) = (Sessions::new(settings)?, Arc::<Tasks>::default());
        let openings = Openings::new(sessions.clone(), tasks.clone());
        let renewed = Arc::new(Mutex::new(Instant::now()));
        let unanswered = Arc::<Mutex<Option<Instant>>>::default();
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(tokio_postgres::Config::new(), openings.clone(), config);
        let bound = Some(settings.connect_timeout);
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            .timeouts(Timeouts { wait: bound, create: bound, recycle: bound })
            .pre_recycle(not_older_than(renewed.clone()))
            .pre_recycle(used_since(unanswered.clone()))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        let (statement_timeout, answered) = (settings.statement_timeout, Mutex::default());
        Ok(Self { pool, sessions, openings, tasks, statement_timeout, answered, renewed, unanswered })
    }

    pub(super) async fn lend(self: &Arc<Self>) -> Result<Connection, StoreError> {
        let object = self.pool.get().await.map_err(|error| self.sessions.explain(error.into()))?;
        Ok(Connection { object: Some(object), running: None, home: self.clone() })
    }

    /// A session outside the pool.
    pub(super) async fn own_session(&self) -> Result<Client, StoreError> {
        let late = |_| StoreError::Unavailable(anyhow::anyhow!("no answer while connecting"));
        let opened = timeout(self.sessions.bound(), self.sessions.open()).await.map_err(late);
        let opened =
            opened.and_then(|opened| opened.map_err(StoreError::from)).map_err(|error| self.sessions.explain(error));
        // Its connection ends when the client is dropped.
        Ok(opened?.0)
    }

    /// When the database last answered a statement.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the database has answered lately, and all connections wait for other answers of it: each comes before the
    /// server gives up its statement, or not at all.
    pub(super) fn are_all_busy(&self) -> bool {
        let status = self.pool.status();
        let all_lent = status.size == status.max_size && status.available == 0;
        all_lent && self.last_answer().is_some_and(|last| last.elapsed() <= self.statement_timeout)
    }

    /// Has no connection lent again that is open now: what they may do was decided when they were opened.
    pub(super) fn renew(&self) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.elapsed() >= RENEWALS_APART {
            *renewed = Instant::now();
            self.openings.forget_spare();
        }
    }

    /// After a statement that began then was given up without an answer. A server that is frozen, or that an address has
    /// left, answers on no connection: those that rested meanwhile would each cost somebody the same wait.
    fn note_silence(&self, began: Instant) {
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        *unanswered = (*unanswered).max(Some(began));
        self.openings.forget_spare();
    }

    fn note_answer(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

fn not_older_than(renewed: Arc<Mutex<Instant>>) -> Hook {
    Hook::sync_fn(move |_, metrics| {
        let renewed = *renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if metrics.created < renewed { Err(HookError::message("replaced by a new one")) } else { Ok(()) }
    })
}

/// A connection comes back only after an answer, so one that was lent since then still leads to a server.
fn used_since(unanswered: Arc<Mutex<Option<Instant>>>) -> Hook {
    Hook::sync_fn(move |_, metrics| {
        let unanswered = *unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        let used = metrics.recycled.unwrap_or(metrics.created);
        let rested = unanswered.is_some_and(|began| used < began);
        if rested { Err(HookError::message("it may lead to a server that is gone")) } else { Ok(()) }
    })
}

/// What becomes of a statement whose caller does not wait for its answer.
#[derive(Debug, Clone, Copy)]
enum Abandoned {
    /// The server is told to end it.
    Cancelled,
    /// The connection is closed, which the server notices by itself: a COMMIT that waits for a synchronous standby must not
    /// be cancelled, for then it is done here and perhaps not there, and whoever asks takes it for safe.
    LeftAlone,
}

/// A pooled connection whose use is bounded. It goes back to the pool only if its last statement was answered.
pub(super) struct Connection {
    object: Option<Object>,
    /// The statement that was not answered yet, and when it began.
    running: Option<(Abandoned, Instant)>,
    home: Arc<Connections>,
}

impl Connection {
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Statement, StoreError> {
        self.ask(async |client: &mut Object| client.prepare_cached(sql).await).await
    }

    /// One statement.
    pub(super) async fn ask<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.run(Abandoned::Cancelled, work).await
    }

    /// A transaction.
    pub(super) async fn bounded<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.run(Abandoned::LeftAlone, work).await
    }

    async fn run<T>(
        &mut self,
        abandoned: Abandoned,
        work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let bound = self.home.statement_timeout;
        let object = self.object.as_mut().expect("taken only when it is not used again");
        // Until there is an answer: this future may be dropped at any time.
        self.running = Some((abandoned, Instant::now()));
        let Ok(answer) = timeout(bound, work(object)).await else {
            self.abandon();
            let late = OutOfTime(format!("no answer within {}", humantime::format_duration(bound)));
            return Err(StoreError::Unavailable(late.into()));
        };
        self.running = None;
        match answer {
            Ok(done) => {
                self.home.note_answer();
                Ok(done)
            }
            Err(error) => Err(self.judge(error)),
        }
    }

    /// After an error, which may say that the connection is not to be used again.
    fn judge(&mut self, error: Error) -> StoreError {
        let closed = self.object.as_ref().is_some_and(|object| object.is_closed());
        if closed || error.code().is_some_and(|code| UNFIT.contains(code)) {
            self.discard();
        }
        let error = StoreError::from(error);
        match &error {
            StoreError::ReadOnly(_) => self.home.renew(),
            StoreError::Busy(_) | StoreError::Refused(_) => self.home.note_answer(),
            _ => {}
        }
        error
    }

    /// It does not go back to the pool.
    pub(super) fn discard(&mut self) {
        drop(self.object.take().map(Object::take));
    }

    fn abandon(&mut self) {
        let Some(object) = self.object.take() else { return };
        let (abandoned, began) = self.running.take().unzip();
        // Who goes away sooner may just have lost interest.
        if let Some(began) = began.filter(|began| began.elapsed() >= self.home.statement_timeout / 2) {
            self.home.note_silence(began);
        }
        match abandoned {
            // Without a runtime the process is about to end.
            Some(Abandoned::Cancelled) if Handle::try_current().is_ok() => {
                self.home.tasks.spawn(cancel(object, self.home.sessions.tls()));
            }
            _ => drop(Object::take(object)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.abandon();
        }
    }
}

/// The connection keeps its place in the pool meanwhile, so that the server never has more of ours, and is closed even if
/// the statement ended well: the wish may come late, and would end the next one.
async fn cancel(object: Object, tls: Tls) {
    let token = object.cancel_token();
    match timeout(CANCEL_BOUND, token.cancel_query(tls)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot have a statement ended"),
        Err(_) => tracing::debug!("no answer when having a statement ended"),
    }
    drop(Object::take(object));
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            // All connections are in use by other statements of this process.
            PoolError::Timeout(TimeoutType::Wait) => Self::Busy(error.into()),
            PoolError::Timeout(_) => Self::Unavailable(anyhow::anyhow!("no answer while connecting")),
            error => Self::Unavailable(error.into()),
        }
    }
}

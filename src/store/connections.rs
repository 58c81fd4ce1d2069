//! Lends pooled connections. A connection on which a statement still runs, or that the server no longer serves as it would
//! serve a new one, does not go back to the pool.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use deadpool_postgres::{TimeoutType, Timeouts};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use super::abandoned::{self, Abandoned, Kept, PATIENCE, Unanswered, WritePermit};
use super::answers::Answers;
use super::backends;
use super::error::{OutOfTime, StoreError};
use super::known_columns::KnownColumns;
use super::openings::{Openings, with_backend};
use super::pool_use::MeasuredPool;
use super::recycling::{not_older_than, only_answering, only_fit};
use super::session::Sessions;
use super::tasks::Tasks;
use crate::config::Database;

/// Errors after which a connection is closed: the server is shutting down or has become a standby, a pooler has given us the
/// session of another client, or the session holds a plan for an older schema.
const UNFIT: [SqlState; 8] = [
    SqlState::READ_ONLY_SQL_TRANSACTION,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::INVALID_SQL_STATEMENT_NAME,
    SqlState::DUPLICATE_PSTATEMENT,
    SqlState::PROTOCOL_VIOLATION,
    // "cached plan must not change result type".
    SqlState::FEATURE_NOT_SUPPORTED,
];

/// Errors of a session in which our statements were not prepared: a pooler has exchanged it.
const OF_ANOTHER_SESSION: [SqlState; 3] =
    [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT, SqlState::PROTOCOL_VIOLATION];

/// While a new connection is being opened, the pool is asked for an idle one this often.
const LOOKS_APART: Duration = Duration::from_millis(50);

/// A statement whose caller went away is not cancelled if it ends within this time.
const A_MOMENT: Duration = Duration::from_millis(100);

/// The least time between two renewals of all connections, however many statements find that the server is read-only.
const RENEWALS_APART: Duration = Duration::from_secs(1);

/// The pool of connections, and how new ones are opened.
pub(super) struct Connections {
    pub(super) pool: MeasuredPool,
    sessions: Sessions,
    openings: Openings,
    tasks: Arc<Tasks>,
    unanswered: Arc<Unanswered>,
    statement_timeout: Duration,
    answers: Arc<Answers>,
    /// Connections that were opened before this are not lent again.
    renewed: Arc<Mutex<Instant>>,
    known_columns: KnownColumns,
}

impl Connections {
    /// Opens no connection yet.
    pub(super) fn new(settings: &Database) -> Result<Self, StoreError> {
        let (sessions, tasks) = (Sessions::new(settings)?, Arc::<Tasks>::default());
        let openings = Openings::new(sessions.clone(), tasks.clone());
        let renewed = Arc::new(Mutex::new(Instant::now()));
        let answers = Arc::<Answers>::default();
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(tokio_postgres::Config::new(), openings.clone(), config);
        let bound = Some(settings.connect_timeout);
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            .timeouts(Timeouts { wait: bound, create: bound, recycle: bound })
            .post_create(only_fit(sessions.clone()))
            .pre_recycle(only_fit(sessions.clone()))
            .pre_recycle(not_older_than(renewed.clone()))
            .pre_recycle(only_answering(answers.clone()))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        let pool = MeasuredPool::of(pool);
        let unanswered = Unanswered::new(sessions.clone(), settings.pool_size).into();
        let (statement_timeout, known_columns) = (settings.statement_timeout, KnownColumns::default());
        Ok(Self { pool, sessions, openings, tasks, unanswered, statement_timeout, answers, renewed, known_columns })
    }

    pub(super) async fn lend(self: &Arc<Self>) -> Result<Connection, StoreError> {
        self.lend_until(Instant::now() + self.wait()).await
    }

    /// A connection for a write, and the permit for it.
    pub(super) async fn lend_to_write(self: &Arc<Self>) -> Result<(Connection, WritePermit), StoreError> {
        let deadline = Instant::now() + self.wait();
        let permit = self.unanswered.permit(self.wait()).await?;
        let mut connection = self.lend_until(deadline).await?;
        connection.learn_backend().await?;
        Ok((connection, permit))
    }

    /// The longest wait for a connection.
    fn wait(&self) -> Duration {
        self.pool.timeouts().wait.unwrap_or_default()
    }

    async fn lend_until(self: &Arc<Self>, deadline: Instant) -> Result<Connection, StoreError> {
        if let Some(fault) = self.sessions.backends().recent_fault() {
            return Err(StoreError::Sessions(fault));
        }
        let began = Instant::now();
        let object = self.object(deadline).await;
        self.pool.waits.observe(began.elapsed());
        let object = object.map_err(|error| match (error, self.sessions.backends().fault()) {
            (PoolError::PostCreateHook(_), Some(fault)) => StoreError::Sessions(fault),
            (error, _) => self.sessions.explain(error.into()),
        })?;
        Ok(Connection { object: Some(object), running: None, kept: None, home: self.clone() })
    }

    /// Opens two more sessions and compares them. If the server has no room for them, an answer in the pool is enough: its
    /// sessions were checked when they were opened.
    pub(super) async fn check_sessions(self: &Arc<Self>) -> Result<(), StoreError> {
        let looked = timeout(self.sessions.bound(), self.sessions.compare_two()).await.map_err(|_| not_connected());
        if let Err(error) = looked.and_then(|looked| Ok(looked?))
            && !(self.pool.status().size > 0 && self.answers_in_the_pool().await)
        {
            return Err(error);
        }
        self.sessions.backends().fault().map_or(Ok(()), |fault| Err(StoreError::Sessions(fault)))
    }

    async fn answers_in_the_pool(self: &Arc<Self>) -> bool {
        let answered =
            async { self.lend().await?.ask(async |client: &mut Object| client.batch_execute("").await).await };
        answered.await.is_ok()
    }

    /// An idle connection or a new one, whichever comes first: a pooler may allow no more connections than are open.
    async fn object(&self, deadline: Instant) -> Result<Object, PoolError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeouts = Timeouts { wait: Some(left), create: Some(LOOKS_APART), ..self.pool.timeouts() };
            match with_backend(self.pool.timeout_get(&timeouts)).await {
                // The new connection is still being opened: look for an idle one again.
                (Err(PoolError::Timeout(TimeoutType::Create)), _) if Instant::now() < deadline => {}
                (Ok(object), Some(backend)) => {
                    self.unanswered.note_backend(Object::metrics(&object).created, backend);
                    return Ok(object);
                }
                (ended, _) => return ended,
            }
        }
    }

    /// Waits for the answer of a statement on the connection that was opened at this time.
    async fn answer<T>(&self, opened: Instant, statement: impl Future<Output = T>) -> Result<T, NoAnswer> {
        let (began, bound, mut statement) = (Instant::now(), self.statement_timeout, pin!(statement));
        if let Ok(answer) = timeout(bound.min(PATIENCE), &mut statement).await {
            return Ok(answer);
        }
        let left = bound.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(NoAnswer::InTime);
        }
        tokio::select! {
            answer = timeout(left, statement) => answer.map_err(|_| NoAnswer::InTime),
            by = self.unanswered.until_replaced(opened, began, &self.answers) => Err(NoAnswer::ServerReplaced(by)),
        }
    }

    /// A session outside the pool.
    pub(super) async fn open_session(&self) -> Result<Client, StoreError> {
        let opened = timeout(self.sessions.bound(), self.sessions.open()).await.map_err(|_| not_connected());
        let opened =
            opened.and_then(|opened| opened.map_err(StoreError::from)).map_err(|error| self.sessions.explain(error));
        let client = opened?.client;
        match self.sessions.backends().fault() {
            Some(fault) => Err(StoreError::Sessions(fault)),
            None => Ok(client),
        }
    }

    pub(super) fn known_columns(&self) -> &KnownColumns {
        &self.known_columns
    }

    /// When the database last answered a statement.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.answers.last()
    }

    /// Whether all connections are waiting for answers and the database has given one within the statement timeout.
    pub(super) fn are_all_busy(&self) -> bool {
        let status = self.pool.status();
        let all_lent = status.size == status.max_size && status.available == 0;
        all_lent && self.last_answer().is_some_and(|last| last.elapsed() <= self.statement_timeout)
    }

    /// Lends no connection again that was opened before this time: it may lead to a server that was replaced by another.
    fn retire_opened_before(&self, before: Instant) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if *renewed < before {
            *renewed = before;
            self.openings.drop_spare();
        }
    }

    /// Lends no connection again that is open now: whether a session may write was decided when it was opened.
    pub(super) fn renew(&self) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.elapsed() >= RENEWALS_APART {
            *renewed = Instant::now();
            self.openings.drop_spare();
            self.sessions.forget_last_served();
        }
    }
}

/// Why the wait for a statement's answer ended without one.
enum NoAnswer {
    /// The statement timeout is over.
    InTime,
    /// Another server has taken the place of the one that the statement went to; the look that found it began at this time.
    ServerReplaced(Instant),
}

/// A pooled connection whose use is bounded. It goes back to the pool only if its last statement was answered.
pub(super) struct Connection {
    object: Option<Object>,
    /// The statement that has no answer yet, and when it began.
    running: Option<(Abandoned, Instant)>,
    /// Dropped when the last statement has ended at the server, even if its caller went away before.
    kept: Option<Kept>,
    home: Arc<Connections>,
}

impl Connection {
    pub(super) fn keeping(mut self, kept: Option<Kept>) -> Self {
        self.kept = kept;
        self
    }

    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Statement, StoreError> {
        self.ask(async |client: &mut Object| client.prepare_cached(sql).await).await
    }

    /// One statement that only reads.
    pub(super) async fn ask<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.run(Abandoned::Cancelled, work).await
    }

    /// A transaction, or a statement that writes.
    pub(super) async fn write<T>(
        &mut self,
        permit: WritePermit,
        work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        self.run(Abandoned::LeftAlone(permit), work).await
    }

    /// Asks for the backend of this connection if it is not known from the login or was dropped from the cache: while the
    /// connection waits for a commit, it cannot be asked.
    async fn learn_backend(&mut self) -> Result<(), StoreError> {
        let opened = self.object.as_ref().map(|object| Object::metrics(object).created);
        let Some(opened) = opened.filter(|opened| !self.home.unanswered.knows_backend(*opened)) else { return Ok(()) };
        if let Some(backend) = self.ask(async |client: &mut Object| backends::of(client).await).await? {
            self.home.unanswered.note_backend(opened, backend);
        }
        Ok(())
    }

    async fn run<T>(
        &mut self,
        abandoned: Abandoned,
        work: impl AsyncFnOnce(&mut Object) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let object = self.object.as_mut().expect("taken only when it is not used again");
        // Until there is an answer: this future may be dropped at any time.
        self.running = Some((abandoned, Instant::now()));
        let answer = match self.home.answer(Object::metrics(object).created, work(object)).await {
            Ok(answer) => answer,
            Err(NoAnswer::InTime) => {
                self.abandon();
                let bound = humantime::format_duration(self.home.statement_timeout);
                return Err(StoreError::Unavailable(OutOfTime(format!("no answer within {bound}")).into()));
            }
            Err(NoAnswer::ServerReplaced(looked)) => {
                // There is nothing to cancel and nothing to wait for: the new server does not run the statement.
                self.running = None;
                self.discard();
                self.home.retire_opened_before(looked);
                return Err(StoreError::Unavailable(anyhow::anyhow!(
                    "its server is silent and was replaced by another"
                )));
            }
        };
        self.running = None;
        match answer {
            Ok(done) => {
                self.note_answer();
                Ok(done)
            }
            Err(error) => Err(self.judge(error)),
        }
    }

    /// Maps an error, and closes the connection if the error makes it unfit.
    fn judge(&mut self, error: Error) -> StoreError {
        let closed = self.object.as_ref().is_some_and(|object| object.is_closed());
        if closed || error.code().is_some_and(|code| UNFIT.contains(code)) {
            self.discard();
        }
        self.home.known_columns.forget_if_missing(&error);
        if error.code().is_some_and(|code| OF_ANOTHER_SESSION.contains(code)) {
            self.home.sessions.backends().doubt();
            self.home.renew();
            // The next session that is opened is compared with another, which finds the fault.
            return StoreError::Busy(error.into());
        }
        let error = StoreError::from(error);
        match &error {
            StoreError::ReadOnly(_) => self.home.renew(),
            StoreError::Busy(_) | StoreError::Refused(_) => self.note_answer(),
            _ => {}
        }
        error
    }

    fn note_answer(&self) {
        if let Some(object) = &self.object {
            self.home.answers.note(Object::metrics(object).created);
        }
    }

    /// Closes the connection instead of giving it back to the pool.
    pub(super) fn discard(&mut self) {
        drop(self.object.take().map(Object::take));
    }

    fn abandon(&mut self) {
        let Some(object) = self.object.take() else { return };
        let (abandoned, began) = self.running.take().unzip();
        // A caller that goes away sooner says nothing about the server.
        let late = began.filter(|began| began.elapsed() >= self.home.statement_timeout / 2);
        if late.is_some_and(|began| self.home.answers.note_silence(began)) {
            self.home.openings.drop_spare();
        }
        match abandoned {
            // Without a runtime the process is ending, and nothing can be spawned.
            Some(Abandoned::Cancelled) if Handle::try_current().is_ok() => {
                let moment = if late.is_some() { Duration::ZERO } else { A_MOMENT };
                self.home.tasks.spawn(abandoned::cancel(object, self.home.sessions.tls(), moment, self.kept.take()));
            }
            Some(Abandoned::LeftAlone(permit)) if Handle::try_current().is_ok() => {
                self.home.tasks.spawn(self.home.unanswered.clone().hold_until_ended(object, permit));
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

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            // All connections are in use by other statements of this process.
            PoolError::Timeout(TimeoutType::Wait) => Self::Busy(error.into()),
            PoolError::Timeout(_) => not_connected(),
            error => Self::Unavailable(error.into()),
        }
    }
}

fn not_connected() -> StoreError {
    StoreError::Unavailable(anyhow::anyhow!("no answer while connecting"))
}

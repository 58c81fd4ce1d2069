//! Opens sessions with the same settings, whatever defaults the role, the database and the server have.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Error};
use tokio_util::task::AbortOnDropHandle;

use super::backends::{self, Backend, Backends, InUse, SessionFault, Wanted};
use super::error::StoreError;
use super::keepalive::{IDLE, PROBES, PROBES_APART, SILENCE};
use super::login::Login;
use super::tls::Tls;
use crate::config::Database;

/// How often the server checks that we still wait for a statement's answer.
const CLIENT_CHECKS_APART: Duration = Duration::from_secs(1);
/// The server ends a transaction that is idle for this long, such as after the network failed, and frees its locks.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(4);
/// The longest that comparing a session with another may take, the other's login included.
const COMPARISON: Duration = Duration::from_secs(2);
/// The least and the longest wait for another session's lock.
const LOCK_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// Opens our sessions.
#[derive(Clone)]
pub(super) struct Sessions {
    login: Login,
    /// The longest that opening a session may take, without a comparison.
    bound: Duration,
    /// The statements that set a session up.
    setup: String,
    /// Settings that not every server has; each is tried on its own.
    optional: [String; 2],
    /// The settings that are read back, and the statement that does it.
    wanted: Arc<[Wanted]>,
    question: String,
    backends: Arc<Backends>,
}

/// A session.
pub(super) struct Opened {
    pub(super) client: Client,
    /// The task that drives its connection; it ends when the client is dropped.
    pub(super) drive: JoinHandle<()>,
    /// The backend that serves it, if that is known.
    pub(super) backend: Option<String>,
}

impl Sessions {
    pub(super) fn new(settings: &Database) -> Result<Self, StoreError> {
        let (setup, optional) = (setup(settings.statement_timeout), [tcp(), liveness()]);
        let (login, bound) = (Login::new(settings)?, settings.connect_timeout);
        let (wanted, backends) = (wanted(settings.statement_timeout), Arc::default());
        let question = backends::question(&wanted);
        Ok(Self { login, bound, setup, optional, wanted: wanted.into(), question, backends })
    }

    /// The longest that opening a session may take, if it is compared with another.
    pub(super) fn bound(&self) -> Duration {
        self.bound + COMPARISON
    }

    pub(super) fn tls(&self) -> Tls {
        self.login.tls()
    }

    /// The next session tries the hosts in their original order.
    pub(super) fn forget_last_served(&self) {
        self.login.forget_last_served();
    }

    /// Adds to an error which hosts were tried: see [`Login::explain`].
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        self.login.explain(error)
    }

    /// Opens a session. While it is not known whether a pooler exchanges sessions, it is compared with another one;
    /// [`Backends::fault`] has the result.
    ///
    /// # Errors
    ///
    /// The driver's error, for which [`Sessions::explain`] has the reasons.
    pub(super) async fn open(&self) -> Result<Opened, Error> {
        let ours = self.log_in().await?;
        if self.backends.are_in_doubt() {
            self.compare(&ours).await;
        } else {
            self.check(&ours);
        }
        let LoggedIn { client, drive, backend } = ours;
        Ok(Opened { client, drive: drive.detach(), backend: backend.map(Backend::into_id) })
    }

    /// Opens two sessions, compares them and closes them.
    pub(super) async fn compare_two(&self) -> Result<(), Error> {
        let ours = self.log_in().await?;
        self.compare(&ours).await;
        Ok(())
    }

    /// What is known about the backends of our sessions.
    pub(super) fn backends(&self) -> &Backends {
        &self.backends
    }

    async fn compare(&self, ours: &LoggedIn) {
        let deadline = Instant::now() + COMPARISON;
        let alone = timeout_at(deadline, self.look(ours)).await.ok().flatten();
        let beside = timeout_at(deadline, self.look_beside(ours)).await.ok().flatten();
        tracing::debug!(?alone, ?beside, "looked at a session");
        match (alone, beside) {
            (_, Some(Err(fault))) | (Some(Err(fault)), _) => self.backends.judge(Err(fault)),
            (Some(Ok(())), Some(Ok(()))) => self.backends.judge(Ok(())),
            // The server, or a pooler in session mode, may have no second session for us now. The next one is compared.
            (Some(Ok(())), None) => self.backends.forget_fault(),
            (None, _) => self.check(ours),
        }
    }

    /// Looks at the session alone; `None`, as in `look_beside`, if the backends do not answer.
    async fn look(&self, ours: &LoggedIn) -> Option<Result<(), SessionFault>> {
        backends::look(&ours.client, ours.backend.as_ref()?, &self.wanted).await
    }

    async fn look_beside(&self, ours: &LoggedIn) -> Option<Result<(), SessionFault>> {
        let other = self.log_in().await.ok()?;
        let beside = backends::look_beside(&other.client, &ours.client, ours.backend.as_ref()?).await?;
        // The pooler may have had one backend only until the other session came, so the first look is repeated.
        Some(beside.and(self.look(ours).await?))
    }

    fn check(&self, session: &LoggedIn) {
        if let Some(Err(fault)) = session.backend.as_ref().map(|backend| backend.check(&self.wanted)) {
            self.backends.judge(Err(fault));
        }
    }

    /// Logs in and sets the session up. The settings are sent after the login, because poolers refuse or drop those that come
    /// with it. They are sent together with the statement that reads them back, in one round trip.
    async fn log_in(&self) -> Result<LoggedIn, Error> {
        let (client, connection) = self.login.connect().await?;
        let in_use = Arc::<OnceLock<Option<InUse>>>::default();
        let noted = in_use.clone();
        let drive = async move {
            let mut connection = pin!(connection);
            // Dropped before the connection: once that is closed, a pooler may give the backend to our next session.
            let _in_use = in_use;
            // The caller that waits for an answer gets the error too, and logs it if that is new.
            if let Err(error) = (&mut connection).await {
                tracing::debug!(error = crate::error_chain(&error), "a database session ended");
            }
        };
        // Aborted with this future, if the caller no longer waits for the session.
        let drive = AbortOnDropHandle::new(tokio::spawn(drive));
        let [tcp, liveness] = &self.optional;
        let (set_up, _, _, answer) = tokio::join!(
            client.batch_execute(&self.setup),
            client.batch_execute(tcp),
            client.batch_execute(liveness),
            client.simple_query(&self.question)
        );
        set_up?;
        let backend = answer.ok().and_then(|answer| backends::read(&answer));
        if let Some(backend) = &backend {
            noted.get_or_init(|| self.backends.note(backend));
        }
        Ok(LoggedIn { client, drive, backend })
    }
}

/// A session that was set up.
struct LoggedIn {
    client: Client,
    drive: AbortOnDropHandle<()>,
    /// If the session has answered who serves it.
    backend: Option<Backend>,
}

/// The statement timeout at the server. It is shorter than ours, so that the server ends a statement, and frees its locks,
/// before we stop waiting.
fn server_side(statement_timeout: Duration) -> Duration {
    statement_timeout.mul_f64(0.8)
}

/// The settings that must be in force: without them locks are held for long, days begin at another time than midnight UTC,
/// and concurrent statements fail instead of waiting.
fn wanted(statement_timeout: Duration) -> Vec<Wanted> {
    vec![
        ("statement_timeout", backends::shown(server_side(statement_timeout)).to_string()),
        ("TimeZone", "UTC".to_owned()),
        ("default_transaction_isolation", "read committed".to_owned()),
    ]
}

fn setup(statement_timeout: Duration) -> String {
    let server_side = server_side(statement_timeout);
    let lock_wait = (server_side / 4).clamp(LOCK_WAIT.0, LOCK_WAIT.1);
    let idle_in_transaction = IDLE_IN_TRANSACTION.min(server_side);
    set(&[
        ("statement_timeout", millis(server_side)),
        // Others wait behind a session that waits for a lock. It is better to give up early and to try again with less.
        ("lock_timeout", millis(lock_wait)),
        ("idle_in_transaction_session_timeout", millis(idle_in_transaction)),
        // At a stricter level, concurrent statements fail instead of waiting for each other.
        ("default_transaction_isolation", "read committed".into()),
        ("timezone", "UTC".into()),
        // Compiling a statement would take longer than running any of ours.
        ("jit", "off".into()),
        // A session keeps its plans. One that was made while a table was small must not read or sort the whole table after it
        // has grown. All our statements can use an index.
        ("enable_seqscan", "off".into()),
        ("enable_bitmapscan", "off".into()),
    ])
}

/// Has the server end a session whose client is gone. By default it would keep the session and its locks for hours.
fn tcp() -> String {
    set(&[
        ("tcp_keepalives_idle", IDLE.as_secs().to_string()),
        ("tcp_keepalives_interval", PROBES_APART.as_secs().to_string()),
        ("tcp_keepalives_count", PROBES.to_string()),
        ("tcp_user_timeout", millis(SILENCE)),
    ])
}

/// Has the server end a statement whose client is gone. Linux supports this, other systems may not.
fn liveness() -> String {
    set(&[("client_connection_check_interval", millis(CLIENT_CHECKS_APART))])
}

fn set(settings: &[(&str, String)]) -> String {
    settings.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect()
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_waited_for_longer_than_a_statement_may_take() {
        let of_a_worker = setup(Duration::from_secs(10));
        for setting in ["statement_timeout = '8000'", "lock_timeout = '2000'", "session_timeout = '4000'"] {
            assert!(of_a_worker.contains(setting), "{of_a_worker}");
        }
        let of_a_request = setup(Duration::from_millis(1250));
        for setting in ["statement_timeout = '1000'", "lock_timeout = '500'", "session_timeout = '1000'"] {
            assert!(of_a_request.contains(setting), "{of_a_request}");
        }
    }
}

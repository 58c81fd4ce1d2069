//! Opens sessions and sets them up, all alike whatever the role, the database and the server have as defaults.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Error};
use tokio_util::task::AbortOnDropHandle;

use super::StoreError;
use super::backends::{self, Backend, Backends, InUse, SessionFault, Wanted};
use super::login::Login;
use super::tls::Tls;
use crate::config::Database;

/// A peer that has not been heard for so long is gone, on both sides of a connection.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// The other side of an idle connection is asked after this long, and then so often, so far apart.
pub(super) const IDLE: Duration = Duration::from_secs(10);
pub(super) const PROBES: u32 = 3;
pub(super) const PROBES_APART: Duration = Duration::from_secs(5);
/// How often the server looks whether we still wait for a statement's answer.
const ARE_WE_THERE: Duration = Duration::from_secs(1);
/// A transaction that we do not go on with, because we were cut off, holds its locks for no longer.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(4);
/// What comparing a session with another may take, its login included.
const COMPARISON: Duration = Duration::from_secs(2);
/// Bounds of the wait for somebody else's lock.
const LOCK_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// Makes sessions of ours.
#[derive(Clone)]
pub(super) struct Sessions {
    login: Login,
    bound: Duration,
    setup: String,
    /// Set where the server can; each on its own.
    optional: [String; 2],
    /// What is read back, and the question.
    wanted: Arc<[Wanted]>,
    question: String,
    backends: Arc<Backends>,
}

/// A session.
pub(super) struct Opened {
    pub(super) client: Client,
    /// Drives its connection, and ends when the client is dropped.
    pub(super) drive: JoinHandle<()>,
    /// Who serves it, unless it did not say.
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

    /// The next session tries the hosts in their own order.
    pub(super) fn forget_last_served(&self) {
        self.login.forget_last_served();
    }

    /// Says which hosts were tried and why none served, where an error says no more than that there is no session.
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        self.login.explain(error)
    }

    /// Opens a session. While there are doubts about what stands between us and the server it is compared with another;
    /// [`Backends::fault`] says what was found.
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

    /// Opens two sessions, compares and closes them. Others are opened meanwhile as if all were well.
    pub(super) async fn look_at_two(&self) -> Result<(), Error> {
        let ours = self.log_in().await?;
        self.compare(&ours).await;
        Ok(())
    }

    /// What makes sessions unfit, if that was found when they were last looked at.
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
            // A server, or a pooler in session mode, may have no second session for us. The next one is compared.
            (Some(Ok(())), None) => self.backends.forget_fault(),
            (None, _) => self.check(ours),
        }
    }

    /// `None`, here and below, if it cannot be told.
    async fn look(&self, ours: &LoggedIn) -> Option<Result<(), SessionFault>> {
        backends::look(&ours.client, ours.backend.as_ref()?, &self.wanted).await
    }

    async fn look_beside(&self, ours: &LoggedIn) -> Option<Result<(), SessionFault>> {
        let other = self.log_in().await.ok()?;
        let beside = backends::look_beside(&other.client, &ours.client, ours.backend.as_ref()?).await?;
        // The pooler may have had one backend only until the other came.
        Some(beside.and(self.look(ours).await?))
    }

    fn check(&self, session: &LoggedIn) {
        if let Some(Err(fault)) = session.backend.as_ref().map(|backend| backend.check(&self.wanted)) {
            self.backends.judge(Err(fault));
        }
    }

    /// The settings go to the server together, so that they take one round trip: after the login, because poolers refuse
    /// or drop what is asked for during it. What came of them is read in the same.
    async fn log_in(&self) -> Result<LoggedIn, Error> {
        let (client, connection) = self.login.connect().await?;
        let in_use = Arc::<OnceLock<Option<InUse>>>::default();
        let noted = in_use.clone();
        let drive = async move {
            let mut connection = pin!(connection);
            // Dropped first: a pooler may give the backend to our next session as soon as the connection is closed.
            let _in_use = in_use;
            // Whoever waits for an answer gets the error, and logs it if it is the first of its kind.
            if let Err(error) = (&mut connection).await {
                tracing::debug!(error = crate::error_chain(&error), "a database session ended");
            }
        };
        // Ends with this future, should nobody wait for the session any more.
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
    /// Unless it does not say.
    backend: Option<Backend>,
}

/// The server gives up first, so that an abandoned statement holds no locks.
fn server_side(statement_timeout: Duration) -> Duration {
    statement_timeout.mul_f64(0.8)
}

/// What must have taken: without it locks are held for long, days begin at another time, and statements that meet fail.
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
        // Rather try again, with less at a time, than stand in a queue for a lock and have others queue behind.
        ("lock_timeout", millis(lock_wait)),
        ("idle_in_transaction_session_timeout", millis(idle_in_transaction)),
        // Under any other level, statements that meet fail instead of waiting for each other.
        ("default_transaction_isolation", "read committed".into()),
        ("timezone", "UTC".into()),
        // Compiling a statement takes far longer than any of ours runs.
        ("jit", "off".into()),
        // A plan made while a table was small must not read all of it, or sort it, after it has grown: a session keeps its
        // plans. All our statements have an index to follow.
        ("enable_seqscan", "off".into()),
        ("enable_bitmapscan", "off".into()),
    ])
}

/// So that the server, too, ends a session whose other side is gone: otherwise its locks stay, for hours by default.
fn tcp() -> String {
    set(&[
        ("tcp_keepalives_idle", IDLE.as_secs().to_string()),
        ("tcp_keepalives_interval", PROBES_APART.as_secs().to_string()),
        ("tcp_keepalives_count", PROBES.to_string()),
        ("tcp_user_timeout", millis(SILENCE)),
    ])
}

/// So that the server ends a statement whose answer nobody waits for. Linux has it, other systems may not.
fn liveness() -> String {
    set(&[("client_connection_check_interval", millis(ARE_WE_THERE))])
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

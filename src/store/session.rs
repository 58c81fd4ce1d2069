//! Opens sessions and sets them up, all alike whatever the role, the database and the server have as defaults.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};
use tokio_util::task::AbortOnDropHandle;

use super::StoreError;
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
}

/// A session, and the task that drives its connection.
pub(super) type Opened = (Client, JoinHandle<()>);

impl Sessions {
    pub(super) fn new(settings: &Database) -> Result<Self, StoreError> {
        let (setup, optional) = (setup(settings.statement_timeout), [tcp(), liveness()]);
        Ok(Self { login: Login::new(settings)?, bound: settings.connect_timeout, setup, optional })
    }

    /// The longest that opening a session may take.
    pub(super) fn bound(&self) -> Duration {
        self.bound
    }

    pub(super) fn tls(&self) -> Tls {
        self.login.tls()
    }

    /// Says which hosts were tried and why none served, where an error says no more than that there is no session.
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        self.login.explain(error)
    }

    /// Opens a session. The settings go to the server together, so that they take one round trip: after the login, because
    /// poolers refuse or drop what is asked for during it.
    pub(super) async fn open(&self) -> Result<Opened, Error> {
        let (client, connection) = self.login.connect().await?;
        let drive = async move {
            // Whoever waits for an answer learns of it, and tells of it if that is news.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a database session ended");
            }
        };
        // Ends with this future, should nobody wait for the session any more.
        let drive = AbortOnDropHandle::new(tokio::spawn(drive));
        let [tcp, liveness] = &self.optional;
        let (set_up, _, _) =
            tokio::join!(client.batch_execute(&self.setup), client.batch_execute(tcp), client.batch_execute(liveness));
        set_up?;
        Ok((client, drive.detach()))
    }
}

fn setup(statement_timeout: Duration) -> String {
    // The server gives up first, so that an abandoned statement holds no locks.
    let server_side = statement_timeout.mul_f64(0.8);
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

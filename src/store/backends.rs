//! Finds out whether each of our sessions keeps its own backend (server process), with the settings that we gave it.
//!
//! A pooler in transaction or statement mode lends a backend for each transaction: perhaps another one, with other settings
//! and without our prepared statements. This shows in two sessions with one backend, or in one session that changes its
//! backend. Neither happens with PostgreSQL itself or with a pooler in session mode.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// Sessions that were found unfit are compared again after this time.
const LOOKS_APART: Duration = Duration::from_secs(1);

/// What is known about the backends of a store's sessions.
#[derive(Default)]
pub(super) struct Backends(Mutex<State>);

#[derive(Default)]
struct State {
    /// The backends that serve our sessions now.
    in_use: HashSet<String>,
    fitness: Fitness,
}

/// Whether sessions can be used.
#[derive(Clone, Default)]
enum Fitness {
    /// The next session is compared with another.
    Unknown,
    /// No fault is known.
    #[default]
    Fit,
    Unfit(SessionFault, Instant),
}

/// Why no session can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionFault {
    #[error("a pooler before PostgreSQL lends its sessions for a transaction or a statement only")]
    NotKept,
    #[error("{name} was set to {wanted} and is {found}: something before PostgreSQL drops what a session sets")]
    Setting { name: &'static str, wanted: String, found: String },
}

impl SessionFault {
    /// What to do about it.
    pub const ADVICE: &str =
        "have it use session mode (PgBouncer: pool_mode = session), or have DATABASE_URL name PostgreSQL itself";
}

/// The backend of a session, as its answer to `question` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    /// Unique among all backends of all servers.
    id: String,
    settings: Vec<String>,
}

/// Counts a backend as in use until it is dropped.
pub(super) struct InUse {
    backends: Arc<Backends>,
    id: String,
}

impl Backends {
    /// Has the next session compared with another.
    pub(super) fn doubt(&self) {
        self.lock().fitness = Fitness::Unknown;
    }

    pub(super) fn are_in_doubt(&self) -> bool {
        !matches!(self.lock().fitness, Fitness::Fit)
    }

    pub(super) fn judge(&self, found: Result<(), SessionFault>) {
        self.lock().fitness = match found {
            Ok(()) => Fitness::Fit,
            Err(fault) => Fitness::Unfit(fault, Instant::now()),
        };
    }

    /// After a comparison that found no fault but was not complete: sessions are lent again, and the next one is compared.
    pub(super) fn forget_fault(&self) {
        let mut state = self.lock();
        if matches!(state.fitness, Fitness::Unfit(..)) {
            state.fitness = Fitness::Unknown;
        }
    }

    /// The fault that the last comparison found.
    pub(super) fn fault(&self) -> Option<SessionFault> {
        match &self.lock().fitness {
            Fitness::Unfit(fault, _) => Some(fault.clone()),
            Fitness::Unknown | Fitness::Fit => None,
        }
    }

    /// The same, if it was found so recently that sessions are not compared again.
    pub(super) fn recent_fault(&self) -> Option<SessionFault> {
        match &self.lock().fitness {
            Fitness::Unfit(fault, found) if found.elapsed() < LOOKS_APART => Some(fault.clone()),
            _ => None,
        }
    }

    /// Notes the backend of a session. If it serves another of our sessions at the same time, the next session is compared.
    pub(super) fn note(self: &Arc<Self>, backend: &Backend) -> Option<InUse> {
        let mut state = self.lock();
        if state.in_use.insert(backend.id.clone()) {
            return Some(InUse { backends: self.clone(), id: backend.id.clone() });
        }
        if matches!(state.fitness, Fitness::Fit) {
            state.fitness = Fitness::Unknown;
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.backends.lock().in_use.remove(&self.id);
    }
}

/// A setting's name, and its value as the server shows it.
pub(super) type Wanted = (&'static str, String);

/// The id of a backend as an SQL expression. It is the same in all sessions, whatever `DateStyle` their role has. It does not
/// use ||, because another role may have put an operator of that name on the search path.
macro_rules! backend_id {
    ($pid:literal) => {
        concat!(
            "pg_catalog.format('%s since %s', ",
            $pid,
            ", pg_catalog.to_char(pg_catalog.pg_postmaster_start_time(), 'YYYY-MM-DD HH24:MI:SS.US'))"
        )
    };
}

/// The statement whose answer `read` reads. It is not prepared, because prepared statements fail behind such a pooler.
pub(super) fn question(wanted: &[Wanted]) -> String {
    let settings: String = wanted.iter().map(|(name, _)| format!(", pg_catalog.current_setting('{name}')")).collect();
    format!("SELECT {}{settings}", backend_id!("pg_catalog.pg_backend_pid()"))
}

/// The id of the backend that serves this session.
pub(super) async fn of(session: &Client) -> Result<Option<String>, Error> {
    Ok(read(&session.simple_query(&question(&[])).await?).map(|backend| backend.id))
}

/// What a server is doing.
#[derive(Debug)]
pub(super) struct ServerActivity {
    takes_writes: bool,
    /// Its backends, and whether each is busy.
    busy: HashMap<String, bool>,
}

impl ServerActivity {
    /// Asks the server of this session.
    pub(super) async fn of(session: &Client) -> Result<Self, Error> {
        // The state of other users' backends is hidden. They count as busy: one may be our session from before the user in the
        // address was changed.
        let question = concat!(
            "SELECT ",
            backend_id!("pid"),
            " AS backend, state IS DISTINCT FROM 'idle' AS busy,
                pg_catalog.current_setting('transaction_read_only') = 'off'::text AS takes_writes
            FROM pg_catalog.pg_stat_activity"
        );
        let mut activity = Self { takes_writes: false, busy: HashMap::new() };
        for row in session.query(question, &[]).await? {
            activity.takes_writes = row.try_get("takes_writes")?;
            activity.busy.insert(row.try_get("backend")?, row.try_get("busy")?);
        }
        Ok(activity)
    }

    /// Whether the backend is idle or gone. A standby, to which the address may lead for a moment, does not have the primary's
    /// backends, so only a server that takes writes counts.
    pub(super) fn has_finished(&self, backend: &str) -> bool {
        self.takes_writes && !self.busy.get(backend).is_some_and(|busy| *busy)
    }

    /// Whether this server has replaced the one that the backend was on. A standby does not count: the address may lead to it
    /// for a moment.
    pub(super) fn has_replaced_server_of(&self, backend: &str) -> bool {
        self.takes_writes && !self.busy.contains_key(backend)
    }
}

pub(super) fn read(answer: &[SimpleQueryMessage]) -> Option<Backend> {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })?;
    let settings = (1..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect();
    Some(Backend { id: row.get(0)?.to_owned(), settings })
}

impl Backend {
    pub(super) fn into_id(self) -> String {
        self.id
    }

    /// Whether the settings are as they were set.
    pub(super) fn check(&self, wanted: &[Wanted]) -> Result<(), SessionFault> {
        let differs = wanted.iter().zip(&self.settings).find(|((_, wanted), found)| wanted != *found);
        differs.map_or(Ok(()), |((name, wanted), found)| {
            Err(SessionFault::Setting { name, wanted: wanted.clone(), found: found.clone() })
        })
    }
}

/// Asks a session for its backend twice more: a pooler that lends the backend that was idle longest gives another one. `None`
/// if the session does not answer.
pub(super) async fn look(session: &Client, at_login: &Backend, wanted: &[Wanted]) -> Option<Result<(), SessionFault>> {
    let question = question(wanted);
    let ask = async || read(&session.simple_query(&question).await.ok()?);
    let looks = [at_login, &ask().await?, &ask().await?];
    if looks.iter().any(|backend| backend.id != at_login.id) {
        return Some(Err(SessionFault::NotKept));
    }
    Some(looks.iter().try_for_each(|backend| backend.check(wanted)))
}

/// Asks a session for its backend while another one has a transaction open: a pooler that lends the backend that came back
/// last gives both the same one.
pub(super) async fn look_beside(
    other: &Client,
    session: &Client,
    at_login: &Backend,
) -> Option<Result<(), SessionFault>> {
    let question = question(&[]);
    let ask = async |session: &Client| read(&session.simple_query(&question).await.ok()?);
    // While this transaction is open, a pooler lends its backend to no other session.
    if let Err(error) = other.batch_execute("BEGIN").await {
        return refuses_transactions(&error).then_some(Err(SessionFault::NotKept));
    }
    let others = ask(other).await?;
    // If both have the same backend, the session is not asked: it would wait for the other's transaction.
    let shared = others.id == at_login.id || ask(session).await?.id != at_login.id;
    let _ = other.batch_execute("ROLLBACK").await;
    Some(if shared { Err(SessionFault::NotKept) } else { Ok(()) })
}

/// PgBouncer in statement mode allows no transaction.
fn refuses_transactions(error: &Error) -> bool {
    error.code() == Some(&SqlState::PROTOCOL_VIOLATION)
}

/// A duration as the server shows it: a whole number of the largest possible unit.
pub(super) fn shown(duration: Duration) -> impl fmt::Display {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    let unit = units.iter().find(|(size, _)| millis.is_multiple_of(*size) && millis > 0);
    unit.map_or_else(|| "0".to_owned(), |(size, name)| format!("{}{name}", millis / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(id: &str) -> Backend {
        Backend { id: id.to_owned(), settings: vec!["8s".to_owned(), "UTC".to_owned()] }
    }

    #[test]
    fn two_sessions_in_one_backend_raise_doubts_and_one_after_the_other_none() {
        let backends = Arc::new(Backends::default());
        backends.judge(Ok(()));
        let first = backends.note(&backend("1"));
        let second = backends.note(&backend("2"));
        assert!(!backends.are_in_doubt());
        drop(first);
        let third = backends.note(&backend("1"));
        assert!(!backends.are_in_doubt());
        assert!(backends.note(&backend("2")).is_none());
        assert!(backends.are_in_doubt());
        drop((second, third));
    }

    #[test]
    fn a_server_has_replaced_another_if_it_takes_writes_and_lacks_the_backend() {
        let activity = |takes_writes| ServerActivity {
            takes_writes,
            busy: [("1".to_owned(), true), ("2".to_owned(), false)].into(),
        };
        let (primary, standby) = (activity(true), activity(false));
        assert_eq!(["1", "2", "3"].map(|backend| primary.has_finished(backend)), [false, true, true]);
        assert_eq!(["1", "2", "3"].map(|backend| primary.has_replaced_server_of(backend)), [false, false, true]);
        assert!(
            !standby.has_replaced_server_of("3") && !standby.has_finished("3"),
            "it knows nothing of the primary's"
        );
    }

    #[test]
    fn a_setting_that_did_not_take_is_named_with_its_value() {
        let wanted = |timeout: &str| vec![("statement_timeout", timeout.to_owned()), ("TimeZone", "UTC".to_owned())];
        assert_eq!(backend("1").check(&wanted("8s")), Ok(()));
        let fault = backend("1").check(&wanted("10s")).unwrap_err().to_string();
        assert!(fault.starts_with("statement_timeout was set to 10s and is 8s: "), "{fault}");
    }

    #[test]
    fn durations_are_shown_as_postgres_shows_them() {
        let shown = |millis| shown(Duration::from_millis(millis)).to_string();
        let durations = [0, 960, 1000, 1500, 8000, 60_000, 90_000, 7_200_000, 86_400_000].map(shown);
        assert_eq!(durations, ["0", "960ms", "1s", "1500ms", "8s", "1min", "90s", "2h", "1d"]);
    }
}

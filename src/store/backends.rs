//! Tells whether a session of ours is one at the server, with the settings that we gave it.
//!
//! A pooler in transaction or statement mode lends one of its own sessions for each transaction: another one, with other
//! settings and without our prepared statements. It is seen by two sessions that meet in one backend, or by one that
//! changes its backend; a real server and a pooler in session mode never show either.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// Sessions that were found unfit are looked at again no sooner.
const LOOKS_APART: Duration = Duration::from_secs(1);

/// What is known about the backends of a store's sessions.
#[derive(Default)]
pub(super) struct Backends(Mutex<State>);

#[derive(Default)]
struct State {
    /// Those that serve a session of ours now.
    in_use: HashSet<String>,
    verdict: Verdict,
}

#[derive(Clone, Default)]
enum Verdict {
    Unknown,
    /// As far as is known.
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

/// What a session's backend says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    /// No two backends have the same, also of different servers.
    id: String,
    settings: Vec<String>,
}

/// Counts a backend as in use until it is dropped.
pub(super) struct InUse {
    backends: Arc<Backends>,
    id: String,
}

impl Backends {
    /// Sessions may have changed: they are looked at when the next one is opened.
    pub(super) fn doubt(&self) {
        self.lock().verdict = Verdict::Unknown;
    }

    pub(super) fn are_in_doubt(&self) -> bool {
        !matches!(self.lock().verdict, Verdict::Fit)
    }

    pub(super) fn judge(&self, found: Result<(), SessionFault>) {
        self.lock().verdict = match found {
            Ok(()) => Verdict::Fit,
            Err(fault) => Verdict::Unfit(fault, Instant::now()),
        };
    }

    /// Nothing was found the matter, as far as could be seen: sessions are lent again, and looked at when they are opened.
    pub(super) fn forget_fault(&self) {
        let mut state = self.lock();
        if matches!(state.verdict, Verdict::Unfit(..)) {
            state.verdict = Verdict::Unknown;
        }
    }

    /// What was found when sessions were last looked at.
    pub(super) fn fault(&self) -> Option<SessionFault> {
        match &self.lock().verdict {
            Verdict::Unfit(fault, _) => Some(fault.clone()),
            Verdict::Unknown | Verdict::Fit => None,
        }
    }

    /// The same, if that was so lately that it need not be tried again.
    pub(super) fn recent_fault(&self) -> Option<SessionFault> {
        match &self.lock().verdict {
            Verdict::Unfit(fault, found) if found.elapsed() < LOOKS_APART => Some(fault.clone()),
            _ => None,
        }
    }

    /// Notes which backend serves a session. One that serves another session of ours at the same time raises doubts.
    pub(super) fn note(self: &Arc<Self>, backend: &Backend) -> Option<InUse> {
        let mut state = self.lock();
        if state.in_use.insert(backend.id.clone()) {
            return Some(InUse { backends: self.clone(), id: backend.id.clone() });
        }
        if matches!(state.verdict, Verdict::Fit) {
            state.verdict = Verdict::Unknown;
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

/// A setting, and what the server shows for it once it is set.
pub(super) type Wanted = (&'static str, String);

/// The id of a backend in SQL, the same in all sessions, whatever their role has as `DateStyle`. Not with ||, for which
/// others may have an operator on the search path.
macro_rules! backend_id {
    ($pid:literal) => {
        concat!(
            "pg_catalog.format('%s since %s', ",
            $pid,
            ", pg_catalog.to_char(pg_catalog.pg_postmaster_start_time(), 'YYYY-MM-DD HH24:MI:SS.US'))"
        )
    };
}

/// The question that `read` reads the answer of. Not prepared, for that is what such a pooler breaks.
pub(super) fn question(wanted: &[Wanted]) -> String {
    let settings: String = wanted.iter().map(|(name, _)| format!(", pg_catalog.current_setting('{name}')")).collect();
    format!("SELECT {}{settings}", backend_id!("pg_catalog.pg_backend_pid()"))
}

/// Who serves this session.
pub(super) async fn of(session: &Client) -> Result<Option<String>, Error> {
    Ok(read(&session.simple_query(&question(&[])).await?).map(|backend| backend.id))
}

/// What a server has running.
#[derive(Debug)]
pub(super) struct Activity {
    takes_writes: bool,
    /// Whether each of its backends has something to do.
    busy: HashMap<String, bool>,
}

impl Activity {
    /// Of this session's server.
    pub(super) async fn of(session: &Client) -> Result<Self, Error> {
        // Of other users' backends we may not see the state: they count as busy, for a session that was opened before the
        // user in the address changed may be among them.
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

    /// Whether this server takes writes and the backend has nothing to do there, or is not there any more. A standby, to
    /// which the address may lead for a moment, knows nothing of the primary's backends.
    pub(super) fn has_seen_out(&self, backend: &str) -> bool {
        self.takes_writes && !self.busy.get(backend).is_some_and(|busy| *busy)
    }

    /// Whether this server is used now instead of the backend's. A standby is not: the address may lead to it for a moment.
    pub(super) fn has_replaced_that_of(&self, backend: &str) -> bool {
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

/// Looks at a session once more, as often as it takes to see a pooler that gives out the backend that rested longest.
/// `None` if that cannot be told.
pub(super) async fn look(session: &Client, at_login: &Backend, wanted: &[Wanted]) -> Option<Result<(), SessionFault>> {
    let question = question(wanted);
    let ask = async || read(&session.simple_query(&question).await.ok()?);
    let looks = [at_login, &ask().await?, &ask().await?];
    if looks.iter().any(|backend| backend.id != at_login.id) {
        return Some(Err(SessionFault::NotKept));
    }
    Some(looks.iter().try_for_each(|backend| backend.check(wanted)))
}

/// Looks at a session beside another, to see a pooler that gives out the backend that came back last.
pub(super) async fn look_beside(
    other: &Client,
    session: &Client,
    at_login: &Backend,
) -> Option<Result<(), SessionFault>> {
    let question = question(&[]);
    let ask = async |session: &Client| read(&session.simple_query(&question).await.ok()?);
    // A pooler gives it to nobody else before its transaction ends.
    if let Err(error) = other.batch_execute("BEGIN").await {
        return refuses_transactions(&error).then_some(Err(SessionFault::NotKept));
    }
    let others = ask(other).await?;
    // Not asked for if it would have to wait for the other's transaction.
    let shared = others.id == at_login.id || ask(session).await?.id != at_login.id;
    let _ = other.batch_execute("ROLLBACK").await;
    Some(if shared { Err(SessionFault::NotKept) } else { Ok(()) })
}

/// PgBouncer in statement mode allows no transaction.
fn refuses_transactions(error: &Error) -> bool {
    error.code() == Some(&SqlState::PROTOCOL_VIOLATION)
}

/// A duration as the server shows it: in the largest unit of which it is a multiple.
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
        let activity =
            |takes_writes| Activity { takes_writes, busy: [("1".to_owned(), true), ("2".to_owned(), false)].into() };
        let (primary, standby) = (activity(true), activity(false));
        assert_eq!(["1", "2", "3"].map(|backend| primary.has_seen_out(backend)), [false, true, true]);
        assert_eq!(["1", "2", "3"].map(|backend| primary.has_replaced_that_of(backend)), [false, false, true]);
        assert!(!standby.has_replaced_that_of("3") && !standby.has_seen_out("3"), "it knows nothing of the primary's");
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

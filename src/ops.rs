//! Serves `/livez`, `/readyz` and `/metrics` for the platform, on an address of their own.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::{Format, Metrics};
use crate::reconnect::Outage;
use crate::store::Store;
use crate::{listening, millis};

/// The first line stays `alive`, which probes may look for.
const ALIVE: &str = concat!("alive\nversion: ", env!("CARGO_PKG_VERSION"), "\n");
/// A database is ready if it answered within this time, or if all connections are busy. A probe waits as long for an answer.
const RECENTLY: Duration = Duration::from_secs(2);
/// How often to ask whether the database takes writes. A process that only reads would not notice otherwise.
const WRITES_ASKED_EVERY: Duration = Duration::from_secs(2);

/// The state from which readiness is judged.
#[derive(Clone)]
pub(crate) struct ProbeState {
    pub store: Store,
    pub metrics: Metrics,
    pub role: Role,
    /// Once it is cancelled, the process is not ready for anything.
    pub stop: CancellationToken,
}

/// The roles that a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Worker,
    Api,
    Both,
}

impl Role {
    /// In the order of the variants.
    pub(crate) const ALL: [Self; 3] = [Self::Worker, Self::Api, Self::Both];

    /// As other processes and the metrics name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Api => "api",
            Self::Both => "both",
        }
    }
}

/// Serves until the handle is dropped.
///
/// # Errors
///
/// The address cannot be listened on.
pub(crate) fn serve(listen: SocketAddr, state: ProbeState) -> anyhow::Result<AbortOnDropHandle<()>> {
    let listener = listening::listen("ops.listen", listen)?;
    tracing::info!(address = %listener.local_addr()?, "operations address");
    let state = Arc::new(state);
    let watching = watch_writes(state.clone());
    let router = Router::new()
        .route("/livez", get(|| async { ALIVE }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(state);
    let server = async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(error = crate::error_chain(&error), "the operations address is not served any more");
        }
    };
    let both = async {
        tokio::join!(server, watching);
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(both)))
}

/// Keeps the metric `database_read_only`, and logs once when the database begins to refuse writes and once when it takes
/// them again.
async fn watch_writes(state: Arc<ProbeState>) {
    let mut refused = Outage::default();
    loop {
        match state.store.takes_writes().await {
            Ok(true) => {
                state.metrics.database_read_only.set(0);
                if let Some(after) = refused.end() {
                    tracing::info!(after_ms = millis(after), "the database takes writes again");
                }
            }
            Ok(false) => {
                state.metrics.database_read_only.set(1);
                if refused.is_news("read-only") {
                    tracing::warn!("the database refuses writes");
                }
            }
            // Other parts of the process log a database that does not answer.
            Err(_) => {}
        }
        tokio::time::sleep(WRITES_ASKED_EVERY).await;
    }
}

async fn readyz(State(state): State<Arc<ProbeState>>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let asked = match asked(query.as_deref().unwrap_or_default(), state.role) {
        Ok(asked) => asked,
        Err((status, problem)) => return (status, format!("{problem}\n")),
    };
    // Before the database is asked: a process that stops is not ready, and says so at once.
    if state.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping: yes\n".to_owned());
    }
    let answers = state.store.answers_within(RECENTLY).await;
    let metrics = &state.metrics;
    let seen = Seen {
        attached: metrics.consumer_attached.get() == 1,
        held: metrics.held_all.get() == 1,
        quorum: metrics.queue_without_quorum.get() == 0,
        waiting: metrics.database_waiting.get() != 0,
        answers,
        refused: metrics.database_read_only.get() == 1,
        rights_missing: metrics.rights_missing.get() == 1,
        isolated: metrics.isolated.get() == 1,
        egress_out: metrics.egress_out.get() == 1,
    };
    let (ready, mut lines) = readiness(asked, &seen);
    let away = metrics.queues_away.lock().unwrap_or_else(PoisonError::into_inner).join(", ");
    if asked != Role::Api && !away.is_empty() {
        lines.push_str(&format!("queues away: {away}\n"));
    }
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
}

/// The role that a probe asks for with `?role=`, else that of the process.
fn asked(query: &str, ours: Role) -> Result<Role, (StatusCode, String)> {
    let Some((_, role)) = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "role") else {
        return Ok(ours);
    };
    let asked = match &*role {
        "worker" => Role::Worker,
        "api" => Role::Api,
        _ => return Err((StatusCode::BAD_REQUEST, "role must be worker or api".to_owned())),
    };
    if ours == asked || ours == Role::Both {
        return Ok(asked);
    }
    let ours = if ours == Role::Api { "the API alone" } else { "a worker alone" };
    Err((StatusCode::NOT_FOUND, format!("this process is {ours}, it has no role {role}")))
}

/// The state of the process at one probe.
#[derive(Debug, Clone, Copy)]
struct Seen {
    attached: bool,
    /// Operators hold everything: then the worker takes no events, and that is no fault.
    held: bool,
    quorum: bool,
    /// A part of the worker waits for the database.
    waiting: bool,
    /// The database answers.
    answers: bool,
    /// The database refuses writes.
    refused: bool,
    rights_missing: bool,
    isolated: bool,
    egress_out: bool,
}

/// Whether a role is ready, and the lines that say why or why not.
///
/// A worker needs its queue, unless everything is held, and a database that takes writes. An API needs a database that answers; while writes are
/// refused it still serves reads. A process with both roles is ready when its API is, so that customers reach it; the
/// lines say what its worker lacks.
fn readiness(role: Role, seen: &Seen) -> (bool, String) {
    let word = |ready: bool| if ready { "ready" } else { "not ready" };
    let worker = role != Role::Api;
    let database = seen.answers && (role != Role::Worker || !seen.waiting);
    let consumer = match (role, seen.attached) {
        (_, false) if seen.held => "waiting",
        (Role::Both, false) => "away",
        (_, attached) => word(attached),
    };
    let lines = [
        (worker, format!("consumer: {consumer}\n")),
        (worker && seen.held, "held: all\n".to_owned()),
        (worker && !seen.quorum, "queue: no quorum\n".to_owned()),
        (true, format!("database: {}\n", word(database))),
        (role == Role::Both && database && seen.waiting, "results: waiting for the database\n".to_owned()),
        (seen.refused, "writes: refused\n".to_owned()),
        (seen.rights_missing, "rights: missing\n".to_owned()),
        (seen.isolated, "isolated: yes\n".to_owned()),
        (seen.egress_out, "egress: out\n".to_owned()),
    ];
    let lines = lines.into_iter().filter_map(|(applies, line)| applies.then_some(line)).collect();
    let ready = database && (role != Role::Worker || (seen.attached || seen.held) && seen.quorum && !seen.refused);
    (ready, lines)
}

async fn render(State(state): State<Arc<ProbeState>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::asked_by(&accept.collect::<Vec<_>>().join(","));
    ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "Accept")], state.metrics.render(format))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Seen = Seen {
        attached: true,
        held: false,
        quorum: true,
        waiting: false,
        answers: true,
        refused: false,
        rights_missing: false,
        isolated: false,
        egress_out: false,
    };

    #[test]
    fn a_process_that_serves_customers_is_ready_as_long_as_the_database_answers() {
        type Case = (Seen, [(bool, &'static str); 3]);
        let cases: [Case; 7] = [
            (
                WELL,
                [
                    (true, "consumer: ready\ndatabase: ready\n"),
                    (true, "database: ready\n"),
                    (true, "consumer: ready\ndatabase: ready\n"),
                ],
            ),
            (
                Seen { attached: false, ..WELL },
                [
                    (false, "consumer: not ready\ndatabase: ready\n"),
                    (true, "database: ready\n"),
                    (true, "consumer: away\ndatabase: ready\n"),
                ],
            ),
            (
                Seen { held: true, attached: false, ..WELL },
                [
                    (true, "consumer: waiting\nheld: all\ndatabase: ready\n"),
                    (true, "database: ready\n"),
                    (true, "consumer: waiting\nheld: all\ndatabase: ready\n"),
                ],
            ),
            (
                Seen { quorum: false, ..WELL },
                [
                    (false, "consumer: ready\nqueue: no quorum\ndatabase: ready\n"),
                    (true, "database: ready\n"),
                    (true, "consumer: ready\nqueue: no quorum\ndatabase: ready\n"),
                ],
            ),
            (
                Seen { waiting: true, ..WELL },
                [
                    (false, "consumer: ready\ndatabase: not ready\n"),
                    (true, "database: ready\n"),
                    (true, "consumer: ready\ndatabase: ready\nresults: waiting for the database\n"),
                ],
            ),
            (
                Seen { answers: false, waiting: true, attached: false, ..WELL },
                [
                    (false, "consumer: not ready\ndatabase: not ready\n"),
                    (false, "database: not ready\n"),
                    (false, "consumer: away\ndatabase: not ready\n"),
                ],
            ),
            (
                Seen { refused: true, ..WELL },
                [
                    (false, "consumer: ready\ndatabase: ready\nwrites: refused\n"),
                    (true, "database: ready\nwrites: refused\n"),
                    (true, "consumer: ready\ndatabase: ready\nwrites: refused\n"),
                ],
            ),
        ];
        for (seen, expected) in cases {
            for (role, (ready, lines)) in [Role::Worker, Role::Api, Role::Both].into_iter().zip(expected) {
                assert_eq!(readiness(role, &seen), (ready, lines.to_owned()), "{role:?} {seen:?}");
            }
        }
    }

    #[test]
    fn a_probe_asks_for_a_role_that_the_process_has() {
        assert_eq!(asked("", Role::Both), Ok(Role::Both));
        assert_eq!(asked("verbose&role=worker", Role::Both), Ok(Role::Worker));
        assert_eq!(asked("role=api", Role::Both), Ok(Role::Api));
        assert_eq!(asked("role=api", Role::Api), Ok(Role::Api));
        let refused = |query, ours| asked(query, ours).unwrap_err();
        let sentence = "this process is a worker alone, it has no role api";
        assert_eq!(refused("role=api", Role::Worker), (StatusCode::NOT_FOUND, sentence.to_owned()));
        assert_eq!(refused("role=worker", Role::Api).0, StatusCode::NOT_FOUND);
        assert_eq!(
            refused("role=both", Role::Both),
            (StatusCode::BAD_REQUEST, "role must be worker or api".to_owned())
        );
    }
}

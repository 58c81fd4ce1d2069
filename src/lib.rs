//! Delivers penr.ai's webhooks: consumes events from RabbitMQ, looks up the webhooks that subscribe to them in Postgres
//! and delivers a signed POST to each, at least once, with retry and a log row per attempt.
//! `docs/architecture.md` has pictures: the path and the states of a delivery, lanes, the way to the ack, the lock order.
//!
//! # The path of one delivery
//!
//! ```text
//!  penr.events ─▶ penr.webhooks ─▶ intake ─ micro-batch ─▶ one lookup query ─▶ lanes ─▶ sender ─▶ step (pure)
//!                                  parse                   account × type     per webhook  POST       │
//!       malformed ─▶ penr.webhooks.dead                                           ▲ │ no room: park    ▼
//!                                                                                 │ └──────▶ recorder: one transaction
//!                       due deliveries in Postgres, claimed with a lease ─────────┘          per batch, then ack
//! ```
//!
//! [`worker`] wires it. [`event`] reads a broker message, [`store`] answers who is owed what, [`lanes`] share the requests
//! in flight between webhooks, [`sender`] makes the attempt, [`retry`] decides what follows, the recorder writes it down
//! and acks. An event's first attempts run straight from its broker message; what failed, and what its own receiver keeps
//! waiting, is a row of `pending_deliveries`, which any worker claims when its time has come and its lane has room. A
//! delivery is named by its webhook and its event, so whatever comes twice is recognised. What ends without a success
//! stays as a row of `closed_deliveries`, from which resending and recovering move it back to pending.
//!
//! Customers keep their webhooks through [`api`]: a request passes `exchange` (its id, time limit and line in the log),
//! `auth` (whose token, how often), a route (`webhooks`, `secrets`, `test_sends`, `deliveries`, `stats`), its account's
//! turn if it may keep the database busy for long (`turns`), and a statement of [`store`] that sees the account's own rows
//! alone; whatever goes wrong becomes a `problem`. [`token`] makes and checks the tokens, [`test_send`] sends tests with
//! the worker's own sender.
//!
//! `events` and the log, `attempts`, have a partition per day: [`upkeep`] makes them ahead, in every process, by functions
//! that have the rights of the tables' owner; workers that own the tables drop those past their retention. Whoever reads
//! the log names the days, or walks windows of them, newest first.
//!
//! # Invariants
//!
//! 1. What is acked is recorded: a broker message is acked when, for each of its webhooks, an outcome or a pending or
//!    closed delivery is committed, and is on the synchronous standby where there is one. What was only read is no proof
//!    by itself, for a primary shows rows that its standby does not have yet: an ack that rests on it (a result that was
//!    there already, an event that nobody wants) waits for a commit, too.
//! 2. No database connection and no lock is held during an HTTP call. What a process that is cut off or killed had locked,
//!    Postgres itself frees within seconds.
//! 3. A receiver's answer is data ([`delivery::Outcome`]), never an `Err`.
//! 4. Our own failure, a secret that does not decrypt, a way out that is broken or a stop, never costs a delivery an
//!    attempt.
//! 5. The body sent is the body signed and stored, byte for byte; nothing is ever sent unsigned.
//! 6. Every wait is bounded; every task, and every connection to the broker, is owned by whoever started it and ends
//!    with it.
//! 7. One clock: due times, leases and partition days are Postgres's; workers hand over durations. The one comparison with
//!    our own: retention drops nothing while the two differ by more than a day.
//! 8. One door per outside system: RabbitMQ in [`queue`], and its management plugin in [`management`], Postgres in [`store`],
//!    receivers in [`sender`].
//! 9. What a customer's request reads or writes is chosen by its account in the statement itself ([`store::Scope`]).
//! 10. No result waits for a webhook's row, and locks are taken in one order ([`store`]): a row that somebody holds delays
//!     what concerns it and nothing else.
//! 11. A statement whose size the load decides is bounded: it is asked in parts, smaller ones after one ran out of time, and
//!     finding what is due reads little whatever waits, is dead, or was planned for another size.
//!
//! # Layers
//!
//! Modules stand below in three layers; a module uses its own layer and those above it. The rules are pure: clock,
//! randomness and I/O come as arguments. A test reads the sources and holds both the layers and the doors.

// Rules.
mod address;
mod bounds;
pub mod config;
pub mod delivery;
mod egress;
pub mod event;
pub mod ids;
mod lanes;
pub mod retry;
mod scrub;
pub mod secret;
pub mod signature;
pub mod snapshot;
mod text;
mod timestamps;
mod token;
pub mod webhook;

// Edges.
mod listening;
mod management;
mod metrics;
#[allow(missing_docs)]
pub mod queue;
mod reconnect;
mod rotation;
mod sender;
#[allow(missing_docs)]
pub mod store;
mod tls;

// Services.
mod api;
pub mod cli;
mod ops;
mod test_send;
mod upkeep;
mod worker;

/// A duration in whole milliseconds, as the log shows it.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An error and its causes as one line of text, without repetitions and without passwords. Every error that is logged or
/// printed becomes text here.
fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string);
    // Some libraries repeat the cause in their own text.
    let text = causes.fold(error.to_string(), |text, cause| match text.ends_with(&cause) {
        true => text,
        false => format!("{text}: {cause}"),
    });
    scrub::scrub(&text).into_owned()
}

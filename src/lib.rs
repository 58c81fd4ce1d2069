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
//! `worker` connects these parts. [`event`] reads a broker message, [`store`] finds the webhooks that get the event, `lanes`
//! divide the requests in flight between webhooks, `sender` makes the attempt, [`retry`] decides what follows, and the
//! recorder writes the result and acknowledges the message. An event's first attempts are made straight from its broker
//! message. A delivery that failed, or that waits for its own receiver, becomes a row of `pending_deliveries`, which any
//! worker claims when it is due and its lane has room. The id of a delivery is made of its webhook and its event, so that a
//! repeated message is recognised. A delivery that ends without success becomes a row of `closed_deliveries`, from which it can
//! be resent or recovered.
//!
//! Customers manage their webhooks through `api`. A request passes `exchange` (its id, its time limit and its line in the
//! log), `auth` (its account and how often the account may ask), `idempotency` if it came with a key (whether it was carried
//! out before), a route (`webhooks`, `webhook_changes`, `secrets`, `test_sends`, `deliveries`, `delivery`, `stats`,
//! `event_types`, `sending_addresses`), one of its account's `query_slots` if its queries may take long, and a statement of
//! [`store`] that sees only the rows of that account. Every error becomes a `problem`. `token` makes and checks the tokens; `test_send` sends tests with the
//! same sender as the worker.
//!
//! `events` and the log, `attempts`, have a partition per day. `upkeep` makes partitions ahead in every process, by functions
//! that have the rights of the tables' owner; workers that own the tables drop those past their retention. A query of the log
//! names the days that it reads, or reads the days in groups, the newest first.
//!
//! # Invariants
//!
//! 1. A broker message is acknowledged only when, for each of its webhooks, an outcome or a pending or closed delivery is
//!    committed, also on the synchronous standby where there is one. A row that was only read is no proof: a primary shows rows
//!    that its standby does not have yet. So an acknowledgement that follows from a read (the result was there already, or no
//!    webhook wants the event) waits for a commit, too.
//! 2. No database connection and no lock is held during an HTTP call. If a process is killed or cut off, Postgres itself
//!    releases its locks within seconds.
//! 3. A receiver's answer is data ([`delivery::Outcome`]), never an `Err`.
//! 4. A failure of this service costs no delivery an attempt: a secret that does not decrypt, a broken connection to the
//!    internet, a stop.
//! 5. The body that is sent is the body that is signed and stored, byte for byte. Nothing is sent unsigned.
//! 6. Every wait is bounded. Every task, and every connection to the broker, is owned by the code that started it and ends
//!    with it.
//! 7. Due times, leases and partition days are Postgres's time; workers give durations. The two clocks are compared only for
//!    retention: nothing is dropped while they differ by more than a day.
//! 8. Each outside system has one module that speaks to it: RabbitMQ [`queue`], its management plugin `management`, Postgres
//!    [`store`], receivers `sender`, the collector of traces `telemetry`.
//! 9. The statement itself restricts a customer's request to the rows of the account ([`store::Scope`]).
//! 10. No result waits for a lock on a webhook's row, and locks are taken in one order ([`store`]): a row that somebody locks
//!     delays only what concerns that row.
//! 11. A statement whose size depends on the load is bounded: it is split into parts, and into smaller ones after one took too
//!     long. The query for due deliveries reads few rows, however many wait or are dead, and whatever size it was planned for.
//!
//! # Layers
//!
//! The modules below are in three layers. A module uses its own layer and those above it. Rules are pure: the caller brings
//! clock, randomness and I/O. A test checks the layers, the modules for outside systems, and that no two files use each other.

// Rules.
mod address;
mod advice;
mod bounds;
pub mod config;
pub mod delivery;
mod delivery_state;
mod durations;
mod egress;
pub mod event;
mod figures;
pub mod hold;
pub mod ids;
mod lanes;
mod releases;
pub mod retry;
mod scrub;
pub mod secret;
pub mod signature;
pub mod snapshot;
mod text;
mod timestamps;
mod token;
pub mod trace_context;
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
mod telemetry;
mod tls;

// Services.
mod api;
pub mod cli;
mod ops;
mod presence;
mod test_send;
mod upkeep;
mod webhook_activity;
mod whole_delivery;
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

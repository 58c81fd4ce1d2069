//! Delivers penr.ai's webhooks: consumes events from RabbitMQ, looks up the webhooks that subscribe to them in Postgres
//! and delivers a signed POST to each, at least once, with retry and a log row per attempt.

/// An error and its causes in one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

// Rules: pure.
pub mod address;
pub mod config;
pub mod delivery;
pub mod event;
pub mod retry;
pub mod secret;
pub mod signature;
pub mod text;
pub mod webhook;

// Edges: one door per outside system.
pub mod queue;
pub mod reconnect;
pub mod sender;
pub mod store;

// Services.
pub mod cli;
pub mod worker;
